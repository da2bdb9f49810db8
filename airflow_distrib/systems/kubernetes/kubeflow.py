"""What the resources of Kubeflow's training-operator and mpi-operator have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from airflow_distrib.core.status import JobState, JobStatus
from airflow_distrib.systems.kubernetes.kind import Manifest, Object, pod_name

# Labels that both operators put on pods: apis/kubeflow.org/v1/common_types.go of the
# training-operator 1.9, pkg/apis/kubeflow/v2beta1/constants.go of the mpi-operator 0.8.
REPLICA_TYPE = "training.kubeflow.org/replica-type"
REPLICA_INDEX = "training.kubeflow.org/replica-index"
JOB_ROLE = "training.kubeflow.org/job-role"

# The first that is true decides: a job that has just finished may still be Running or Suspended too,
# and a resumed one keeps Suspended with status False.
_ORDER = (
    ("Failed", JobState.FAILED),
    ("Succeeded", JobState.SUCCEEDED),
    ("Suspended", JobState.SUSPENDED),
    ("Restarting", JobState.RUNNING),
    ("Running", JobState.RUNNING),
    ("Created", JobState.QUEUED),
)


def read(resource: Object) -> JobStatus:
    """Read ``status.conditions``; a resource without any is queued."""
    conditions = (resource.get("status") or {}).get("conditions") or []
    true = {each["type"]: each for each in conditions if each.get("status") == "True"}
    for name, state in _ORDER:
        if name in true:
            return JobStatus(state, str(true[name].get("reason", "")), str(true[name].get("message", "")))
    return JobStatus(JobState.QUEUED)


def role(job: str, pod: Object) -> str:
    """``worker-0`` from the labels; the pod's own name if the operator sets none."""
    labels = pod["metadata"].get("labels") or {}
    name = str(labels.get(REPLICA_TYPE) or labels.get(JOB_ROLE) or "").lower()
    if not name:
        return pod_name(job, pod)
    index = labels.get(REPLICA_INDEX)
    return name if index in (None, "") else f"{name}-{index}"


def replica_counts(field: str, *others: str) -> Callable[[Object], Manifest]:
    """For :attr:`~airflow_distrib.systems.kubernetes.kind.Kind.keep`: how many replicas each role has, and restarts.

    Args:
        field: such as ``pytorchReplicaSpecs``.
        others: fields to keep whole.
    """

    def keep(spec: Object) -> Manifest:
        counts = {name: {"replicas": each.get("replicas", 1)} for name, each in (spec.get(field) or {}).items()}
        policy = {"runPolicy": {"backoffLimit": (spec.get("runPolicy") or {}).get("backoffLimit")}}
        return {field: counts, **policy, **{name: spec[name] for name in others if name in spec}}

    return keep


def backoff_limit(resource: Object) -> int | None:
    """``backoffLimit`` of the run policy."""
    limit = ((resource.get("spec") or {}).get("runPolicy") or {}).get("backoffLimit")
    return None if limit is None else int(limit)


def expected_pods(field: str) -> Callable[[Object], int]:
    """The sum of all roles' replicas."""

    def count(resource: Object) -> int:
        specs = (resource.get("spec") or {}).get(field) or {}
        return sum(int(each.get("replicas", 1)) for each in specs.values())

    return count


def templates(field: str) -> Callable[[Manifest], Iterator[tuple[str, Manifest]]]:
    """The template of every role."""

    def find(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
        for name, each in ((manifest.get("spec") or {}).get(field) or {}).items():
            if each.get("template") is not None:
                yield f"spec.{field}.{name}.template", each["template"]

    return find


def replica_type(name: str, replicas: int, template: Object, restart_policy: str) -> Manifest:
    """One entry of Kubeflow's ``...ReplicaSpecs``."""
    return {name: {"replicas": replicas, "restartPolicy": restart_policy, "template": dict(template)}}


def replicas_of(manifest: Object, field: str, role_name: str) -> object:
    """Replicas of a role in a user's own manifest, which may be of any shape; None if it has no such role."""
    found: object = manifest
    for key in ("spec", field, role_name):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found.get("replicas", 1) if isinstance(found, Mapping) else None
