"""MPIJob as the mpi-operator 0.7 (v2beta1) and the training-operator 1.9 (v1) keep it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from airflow_distrib.backends.kubernetes import conditions
from airflow_distrib.backends.kubernetes.kind import Kind


def expected_pods(resource: Mapping[str, Any]) -> int:
    """Launcher and workers."""
    return conditions.replicas((resource.get("spec") or {}).get("mpiReplicaSpecs") or {})


def is_launcher(role: str) -> bool:
    """Ranks run under the workers' SSH servers and report to the launcher, whose pod tells for all."""
    return role.startswith("launcher")


MPIJOB = Kind(
    key="mpijob",
    api="kubeflow.org/v2beta1",
    kind="MPIJob",
    plural="mpijobs",
    # The launcher's pod is called <name>-launcher-<five letters>, workers <name>-worker-<number>.
    name_limit=46,
    container="mpi",
    read=conditions.read,
    expected_pods=expected_pods,
    reports=is_launcher,
)

MPIJOB_V1 = dataclasses.replace(MPIJOB, key="mpijob-v1", api="kubeflow.org/v1")
