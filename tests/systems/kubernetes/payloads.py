"""These functions make objects of the API in the shapes that Kubernetes 1.34 and training-operator 1.9 use."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow_distrib.core.reference import JobRef
from airflow_distrib.runner import report
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.systems.kubernetes.kind import Manifest

NOW = 1_790_000_000.0
REF = JobRef("kubernetes", "job", "uid-1", {"kind": "pytorchjob", "namespace": "ns"})


def at(seconds: float) -> str:
    """Return the API's text for a time that is so many seconds from now."""
    return datetime.fromtimestamp(NOW + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, since: float = -1, status: str = "True", reason: str = "", message: str = "") -> Manifest:
    """Return a condition of a job or a pod."""
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at(since)}


def job(*conditions: Manifest, age: float = 60, elastic: int | None = None, workers: int = 1) -> Manifest:
    """Return a PyTorchJob of a master and workers, or an elastic one that can run with ``elastic`` workers."""
    specs: Manifest = {"Worker": {"replicas": workers}}
    spec: Manifest = {"pytorchReplicaSpecs": specs}
    if elastic is None:
        specs["Master"] = {"replicas": 1}
    else:
        spec["elasticPolicy"] = {"minReplicas": elastic, "maxReplicas": workers}
    metadata = {"name": "job", "uid": "uid-1", "creationTimestamp": at(-age)}
    return {"metadata": metadata, "spec": spec, "status": {"conditions": list(conditions)} if conditions else {}}


def pod(
    role: str,
    phase: str = "Running",
    state: Manifest | None = None,
    *conditions: Manifest,
    container: str = "pytorch",
    **status: Any,
) -> Manifest:
    """Return a pod of the job whose main container is in the given state."""
    statuses = [] if state is None else [{"name": container, "image": "me/train:1", "state": state}]
    return {
        "metadata": {"name": f"job-{role}", "uid": f"uid-{role}", "creationTimestamp": at(-50)},
        "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": statuses, **status},
    }


def running(role: str) -> Manifest:
    """Return a pod whose container runs."""
    return pod(role, "Running", {"running": {"startedAt": at(-40)}})


def ended(role: str, code: int = 0, message: str = "", reason: str = "", since: float = -1) -> Manifest:
    """Return a pod whose main container has ended."""
    state = {"exitCode": code, "reason": reason or ("Completed" if code == 0 else "Error"), "finishedAt": at(since)}
    return pod(role, "Failed" if code else "Succeeded", {"terminated": {**state, "message": message}})


def reported(role: str, outcome: Outcome, code: int = 0) -> Manifest:
    """Return a pod that has ended and whose termination message holds its outcome."""
    return ended(role, code, report.termination_message(outcome) or "")


def waiting(role: str, reason: str, message: str = "") -> Manifest:
    """Return a pod that has a node, but whose container does not start."""
    bound = condition("PodScheduled", -30)
    return pod(role, "Pending", {"waiting": {"reason": reason, "message": message}}, bound)


def unschedulable(role: str, message: str = "0/3 nodes are available: 3 Insufficient cpu.") -> Manifest:
    """Return a pod for which the scheduler finds no node."""
    return pod(role, "Pending", None, condition("PodScheduled", -30, "False", "Unschedulable", message))


def event(reason: str, message: str, since: float = -30) -> Manifest:
    """Return an event of type Warning."""
    return {"type": "Warning", "reason": reason, "message": message, "firstTimestamp": at(since), "metadata": {}}
