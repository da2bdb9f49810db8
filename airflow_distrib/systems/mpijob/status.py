"""MPIJob of the mpi-operator 0.7 and 0.8 (v2beta1), and of the training-operator 1.9 (v1)."""

from __future__ import annotations

import dataclasses

from airflow_distrib.systems.kubernetes import kubeflow
from airflow_distrib.systems.kubernetes.kind import Kind

REPLICAS = "mpiReplicaSpecs"


def is_launcher(role: str) -> bool:
    """Ranks run under the workers' SSH servers and report to the launcher, whose pod reports for all."""
    return role.startswith("launcher")


MPIJOB = Kind(
    key="mpijob",
    api="kubeflow.org/v2beta1",
    kind="MPIJob",
    plural="mpijobs",
    # The launcher's pod is called <name>-launcher-<five letters>, workers <name>-worker-<number>.
    name_limit=46,
    container="mpi",
    read=kubeflow.read,
    keep=kubeflow.replica_counts(REPLICAS),
    expected_pods=kubeflow.expected_pods(REPLICAS),
    role=kubeflow.role,
    backoff_limit=kubeflow.backoff_limit,
    reports=is_launcher,
    templates=kubeflow.templates(REPLICAS),
)

MPIJOB_V1 = dataclasses.replace(MPIJOB, key="mpijob-v1", api="kubeflow.org/v1")
