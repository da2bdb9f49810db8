"""PyTorchJob (kubeflow.org/v1) of the training-operator 1.9."""

from __future__ import annotations

from airflow_distrib.systems.kubernetes import kubeflow
from airflow_distrib.systems.kubernetes.kind import Kind, Object

REPLICAS = "pytorchReplicaSpecs"

expected_pods = kubeflow.expected_pods(REPLICAS)


def enough_pods(resource: Object) -> int:
    """An elastic job can run with fewer pods."""
    least = ((resource.get("spec") or {}).get("elasticPolicy") or {}).get("minReplicas")
    return int(least) if least else expected_pods(resource)


def rank(role: str) -> int | None:
    """The master is rank 0, worker n is rank n + 1; in an elastic job the role does not determine the rank."""
    name, _, number = role.rpartition("-")
    if name == "master":
        return 0
    return int(number) + 1 if name == "worker" and number.isdecimal() else None


PYTORCHJOB = Kind(
    key="pytorchjob",
    api="kubeflow.org/v1",
    kind="PyTorchJob",
    plural="pytorchjobs",
    # Pods and their services are called <name>-worker-<number>, at most 63 characters.
    name_limit=50,
    # DefaultContainerName in pytorch_types.go: where the operator puts its variables.
    container="pytorch",
    read=kubeflow.read,
    keep=kubeflow.replica_counts(REPLICAS, "elasticPolicy"),
    expected_pods=expected_pods,
    enough_pods=enough_pods,
    role=kubeflow.role,
    backoff_limit=kubeflow.backoff_limit,
    rank=rank,
    templates=kubeflow.templates(REPLICAS),
)
