"""Operator for MPIJob."""

from __future__ import annotations

from airflow_distrib.operators.base import DistributedJobOperator
from airflow_distrib.systems.kubernetes.launcher import KubernetesLauncher
from airflow_distrib.systems.local.launcher import LocalLauncher
from airflow_distrib.systems.mpijob import render
from airflow_distrib.systems.mpijob.config import MPIJob


class MPIJobOperator(DistributedJobOperator[MPIJob]):
    """Run a function, or a program, on every MPI rank of an :class:`~airflow_distrib.MPIJob`.

    Args:
        command, manifest, kubernetes_conn_id, payload_path, patience: as in
            :class:`~airflow_distrib.PyTorchJobOperator`; mpirun starts a command on every rank, unless the command
            itself calls mpirun.

    Other arguments are those of :class:`~airflow_distrib.operators.base.DistributedJobOperator`.
    """

    config_type = MPIJob
    launchers = (KubernetesLauncher(render.kubernetes, render.config_of_manifest), LocalLauncher(render.local))
