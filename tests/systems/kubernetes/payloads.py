"""Objects of the API as tests need them: shapes recorded from Kubernetes 1.34 with training-operator 1.9."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow_distrib.core.reference import JobRef
from airflow_distrib.runner import report
from airflow_distrib.runner.outcome import Outcome

NOW = 1_790_000_000.0
REF = JobRef("kubernetes", "job", "uid-1", {"kind": "pytorchjob", "namespace": "ns"})


def at(seconds: float) -> str:
    """A time of the API, so many seconds from now."""
    return datetime.fromtimestamp(NOW + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(
    kind: str, since: float = -1, status: str = "True", reason: str = "", message: str = ""
) -> dict[str, Any]:
    """A condition of a job or a pod."""
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at(since)}


def job(*conditions: dict[str, Any], age: float = 60, elastic: int | None = None, workers: int = 1) -> dict[str, Any]:
    """A PyTorchJob of a master and workers, or of workers of which some are enough."""
    specs: dict[str, Any] = {"Worker": {"replicas": workers}}
    spec: dict[str, Any] = {"pytorchReplicaSpecs": specs}
    if elastic is None:
        specs["Master"] = {"replicas": 1}
    else:
        spec["elasticPolicy"] = {"minReplicas": elastic, "maxReplicas": workers}
    metadata = {"name": "job", "uid": "uid-1", "creationTimestamp": at(-age)}
    return {"metadata": metadata, "spec": spec, "status": {"conditions": list(conditions)} if conditions else {}}


def pod(
    role: str,
    phase: str = "Running",
    state: dict[str, Any] | None = None,
    *conditions: dict[str, Any],
    container: str = "pytorch",
    **status: Any,
) -> dict[str, Any]:
    """A pod of the job; ``state`` is its main container's."""
    statuses = [] if state is None else [{"name": container, "image": "me/train:1", "state": state}]
    return {
        "metadata": {"name": f"job-{role}", "uid": f"uid-{role}", "creationTimestamp": at(-50)},
        "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": statuses, **status},
    }


def running(role: str) -> dict[str, Any]:
    """A pod at work."""
    return pod(role, "Running", {"running": {"startedAt": at(-40)}})


def ended(role: str, code: int = 0, message: str = "", reason: str = "", since: float = -1) -> dict[str, Any]:
    """A pod whose main container is over."""
    state = {"exitCode": code, "reason": reason or ("Completed" if code == 0 else "Error"), "finishedAt": at(since)}
    return pod(role, "Failed" if code else "Succeeded", {"terminated": {**state, "message": message}})


def told(role: str, outcome: Outcome, code: int = 0) -> dict[str, Any]:
    """A pod that left its outcome as its termination message."""
    return ended(role, code, report.termination_message(outcome) or "")


def waiting(role: str, reason: str, message: str = "") -> dict[str, Any]:
    """A pod on a node whose container does not start."""
    bound = condition("PodScheduled", -30)
    return pod(role, "Pending", {"waiting": {"reason": reason, "message": message}}, bound)


def unschedulable(role: str, message: str = "0/3 nodes are available: 3 Insufficient cpu.") -> dict[str, Any]:
    """A pod without a node."""
    return pod(role, "Pending", None, condition("PodScheduled", -30, "False", "Unschedulable", message))


def event(reason: str, message: str, since: float = -30) -> dict[str, Any]:
    """A warning."""
    return {"type": "Warning", "reason": reason, "message": message, "firstTimestamp": at(since), "metadata": {}}
