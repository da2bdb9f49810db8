"""PyTorchJob (kubeflow.org/v1) as the training-operator 1.9 keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_distrib.backends.kubernetes import conditions
from airflow_distrib.backends.kubernetes.kind import Kind


def expected_pods(resource: Mapping[str, Any]) -> int:
    """Masters and workers."""
    return conditions.replicas((resource.get("spec") or {}).get("pytorchReplicaSpecs") or {})


def enough_pods(resource: Mapping[str, Any]) -> int:
    """An elastic job runs with fewer."""
    least = ((resource.get("spec") or {}).get("elasticPolicy") or {}).get("minReplicas")
    return int(least) if least else expected_pods(resource)


def rank(role: str) -> int | None:
    """The master is rank 0, worker n is n + 1; of an elastic job the pods do not tell."""
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
    read=conditions.read,
    expected_pods=expected_pods,
    enough_pods=enough_pods,
    rank=rank,
)
