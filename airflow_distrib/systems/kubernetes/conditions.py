"""Status of the resources whose controllers follow Kubeflow's conventions for conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_distrib.core.status import JobState, JobStatus

# The first that is true decides: a finished job keeps Running or Suspended beside it for a
# moment, and a resumed one keeps Suspended with status False.
_ORDER = (
    ("Failed", JobState.FAILED),
    ("Succeeded", JobState.SUCCEEDED),
    ("Suspended", JobState.SUSPENDED),
    ("Restarting", JobState.RUNNING),
    ("Running", JobState.RUNNING),
    ("Created", JobState.QUEUED),
)


def read(resource: Mapping[str, Any]) -> JobStatus:
    """Read ``status.conditions``; a resource that its controller has not seen yet is queued."""
    conditions = (resource.get("status") or {}).get("conditions") or []
    true = {each["type"]: each for each in conditions if each.get("status") == "True"}
    for name, state in _ORDER:
        if name in true:
            return JobStatus(state, str(true[name].get("reason", "")), str(true[name].get("message", "")))
    return JobStatus(JobState.QUEUED)


def replicas(specs: Mapping[str, Any]) -> int:
    """Sum of the replicas of all roles."""
    return sum(int(spec.get("replicas", 1)) for spec in specs.values())
