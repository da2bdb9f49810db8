"""Operators for MPI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_distrib.backends.kubernetes import manifest as manifests
from airflow_distrib.backends.kubernetes.kind import Rendered
from airflow_distrib.backends.kubernetes.manifest import Task
from airflow_distrib.backends.local.plan import LocalPlan
from airflow_distrib.backends.mpijob import render
from airflow_distrib.backends.mpijob.config import MPIJob
from airflow_distrib.operators.base import KUBERNETES, LOCAL
from airflow_distrib.operators.on_kubernetes import KubernetesJobOperator


class MPIJobOperator(KubernetesJobOperator):
    """Run a function, or a program, on every MPI rank of an :class:`~airflow_distrib.MPIJob`.

    Arguments are those of :class:`~airflow_distrib.operators.on_kubernetes.KubernetesJobOperator`.
    """

    config_type = MPIJob
    launchers = (KUBERNETES, LOCAL)

    @staticmethod
    def config_of_manifest(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        """The number of workers and of their slots, and the version."""
        spec = manifest.get("spec") or {}
        found = {"slots": spec.get("slotsPerWorker"), "api_version": manifest.get("apiVersion")}
        workers = manifests.replicas_of(manifest, "mpiReplicaSpecs", "Worker")
        return {"worker": {"replicas": workers or 1}, **{name: value for name, value in found.items() if value}}

    def local_plan(self, config: MPIJob, rendezvous_id: str) -> LocalPlan:
        """All ranks on this machine, without mpirun."""
        return render.local_plan(config, rendezvous_id)

    def cluster(self, config: MPIJob, task: Task) -> Rendered:
        """An MPIJob."""
        return render.cluster(config, task)
