"""A Pod as a job of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_distrib.backends.kubernetes.kind import Kind
from airflow_distrib.core.status import JobState, JobStatus

_PHASES = {
    "Pending": JobState.QUEUED,
    "Running": JobState.RUNNING,
    "Succeeded": JobState.SUCCEEDED,
    "Failed": JobState.FAILED,
    # The node has not been heard of; Kubernetes decides in the end.
    "Unknown": JobState.RUNNING,
}


def read(resource: Mapping[str, Any]) -> JobStatus:
    """Read the phase; a pod behind a scheduling gate (Kueue's) is suspended."""
    status = resource.get("status") or {}
    gated = any(each.get("reason") == "SchedulingGated" for each in status.get("conditions") or ())
    state = _PHASES.get(str(status.get("phase") or "Pending"), JobState.RUNNING)
    if gated and state is JobState.QUEUED:
        state = JobState.SUSPENDED
    return JobStatus(state, str(status.get("reason") or ""), str(status.get("message") or ""))


POD = Kind(
    key="pod",
    api="v1",
    kind="Pod",
    plural="pods",
    name_limit=63,
    container="rank",
    read=read,
    expected_pods=lambda _: 1,
)
