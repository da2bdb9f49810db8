"""A Pod as a job of its own."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_distrib.core.identity import PREFIX
from airflow_distrib.core.status import JobState, JobStatus
from airflow_distrib.systems.kubernetes.kind import Kind, Manifest, Object, seconds

BACKOFF_LABEL = f"{PREFIX}backoff-limit"

_PHASES = {
    "Pending": JobState.QUEUED,
    "Running": JobState.RUNNING,
    "Succeeded": JobState.SUCCEEDED,
    "Failed": JobState.FAILED,
    # The node does not answer; Kubernetes will eventually decide.
    "Unknown": JobState.RUNNING,
}


def read(resource: Object) -> JobStatus:
    """Read the phase; a pod behind a scheduling gate (Kueue's) is suspended."""
    status = resource.get("status") or {}
    gated = any(each.get("reason") == "SchedulingGated" for each in status.get("conditions") or ())
    state = _PHASES.get(str(status.get("phase") or "Pending"), JobState.RUNNING)
    if gated and state is JobState.QUEUED:
        state = JobState.SUSPENDED
    return JobStatus(state, str(status.get("reason") or ""), str(status.get("message") or ""))


def ended_at(resource: Object) -> float | None:
    """When the last container ended; None if none did."""
    statuses = (resource.get("status") or {}).get("containerStatuses") or ()
    ends = [seconds(((each.get("state") or {}).get("terminated") or {}).get("finishedAt")) for each in statuses]
    return max(ends, default=0.0) or None


def templates(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """The pod itself."""
    if manifest.get("spec") is not None:
        yield "", manifest


def backoff_limit(resource: Object) -> int | None:
    """How often its containers may restart, from a label; Kubernetes itself restarts them for ever."""
    limit = (resource["metadata"].get("labels") or {}).get(BACKOFF_LABEL)
    return None if limit is None else int(limit)


POD = Kind(
    key="pod",
    api="v1",
    kind="Pod",
    plural="pods",
    name_limit=63,
    container="rank",
    read=read,
    keep=lambda _: {},
    expected_pods=lambda _: 1,
    role=lambda *_: "pod",
    ended_at=ended_at,
    templates=templates,
    unsupported=frozenset({"suspend"}),
    # The Pod is the job: it is removed with it, and it is scheduled alone. A job of several nodes that is
    # switched to one need not change these.
    moot=frozenset({"run_policy.clean_pod_policy", "run_policy.ttl_seconds_after_finished", "scheduling_policy"}),
    backoff_limit=backoff_limit,
)
