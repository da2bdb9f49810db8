"""Operator for PyTorchJob."""

from __future__ import annotations

from airflow_distrib.operators.base import DistributedJobOperator
from airflow_distrib.systems.kubernetes.launcher import KubernetesLauncher
from airflow_distrib.systems.local.launcher import LocalLauncher
from airflow_distrib.systems.pytorchjob import render
from airflow_distrib.systems.pytorchjob.config import PyTorchJob


class PyTorchJobOperator(DistributedJobOperator[PyTorchJob]):
    """Run a function on the master and workers of a :class:`~airflow_distrib.PyTorchJob`.

    Args:
        command: a program of the image and its arguments, instead of a function; the task
            returns None. Templated.
        manifest: a manifest of the system's own resource, merged over what is rendered; may
            stand without a function or command if it says itself what runs. Templated.
        kubernetes_conn_id: connection to the cluster. Templated.
        payload_path: a folder, as path or URL, that the worker writes to and the ranks read
            from, for a function with more than 700 KiB of data. Templated.
        patience: a :class:`~airflow_distrib.Patience`: how long a job may be stuck.

    Other arguments are those of :class:`~airflow_distrib.operators.base.DistributedJobOperator`.
    """

    config_type = PyTorchJob
    launchers = (KubernetesLauncher(render.kubernetes, render.config_of_manifest), LocalLauncher(render.local))
