"""Operators for PyTorch: torchrun Elastic, and PyTorchJob."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_distrib.backends.elastic import cluster as elastic_cluster
from airflow_distrib.backends.elastic import render as elastic_render
from airflow_distrib.backends.elastic.config import Elastic
from airflow_distrib.backends.kubernetes import manifest as manifests
from airflow_distrib.backends.kubernetes.kind import Rendered
from airflow_distrib.backends.kubernetes.manifest import Task
from airflow_distrib.backends.local.plan import LocalPlan
from airflow_distrib.backends.pytorchjob import render as pytorchjob_render
from airflow_distrib.backends.pytorchjob.config import PyTorchJob
from airflow_distrib.core import config as configs
from airflow_distrib.operators.base import KUBERNETES, LOCAL
from airflow_distrib.operators.on_kubernetes import KubernetesJobOperator


class ElasticOperator(KubernetesJobOperator):
    """Run a function under torchrun's elastic agent; see :class:`~airflow_distrib.Elastic`.

    One node runs on the Airflow worker, or in a Pod when ``kubernetes_conn_id``, an image, a
    command or a manifest is given. Several nodes run as a PyTorchJob of the training-operator.
    ``launcher="local"`` runs several nodes on the worker too, each with an agent of its own,
    which is a way to try a multi-node job. Arguments are those of
    :class:`~airflow_distrib.operators.on_kubernetes.KubernetesJobOperator`.
    """

    config_type = Elastic
    launchers = (LOCAL, KUBERNETES)

    def choose_launcher(self, config: Any) -> str:
        """A cluster for several nodes, and where anything but the function asks for one."""
        if self.asked_launcher:
            return super().choose_launcher(config)
        asked = self.asked_connection or self.command is not None or self.manifest is not None
        if isinstance(config, Elastic):
            several = not configs.is_template(config.nnodes) and config.max_nodes > 1
            asked = asked or several or any((config.image, config.pod_template, config.queue, config.requests))
        return KUBERNETES if asked else LOCAL

    @staticmethod
    def config_of_manifest(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        """A PyTorchJob has as many nodes as workers; anything else is one Pod."""
        workers = manifests.replicas_of(manifest, "pytorchReplicaSpecs", "Worker")
        return {} if workers is None else {"nnodes": workers}

    def local_plan(self, config: Elastic, rendezvous_id: str) -> LocalPlan:
        """One agent a node, or the function alone for a single rank."""
        return elastic_render.local_plan(config, rendezvous_id)

    def cluster(self, config: Elastic, task: Task) -> Rendered:
        """A PyTorchJob of workers, or a Pod."""
        return elastic_cluster.cluster(config, task)


class PyTorchJobOperator(KubernetesJobOperator):
    """Run a function on the master and workers of a :class:`~airflow_distrib.PyTorchJob`.

    Arguments are those of :class:`~airflow_distrib.operators.on_kubernetes.KubernetesJobOperator`.
    """

    config_type = PyTorchJob
    launchers = (KUBERNETES, LOCAL)

    @staticmethod
    def config_of_manifest(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        """The number of workers."""
        return {"worker": {"replicas": manifests.replicas_of(manifest, "pytorchReplicaSpecs", "Worker") or 0}}

    def local_plan(self, config: PyTorchJob, rendezvous_id: str) -> LocalPlan:
        """Master and workers as local ranks."""
        return pytorchjob_render.local_plan(config, rendezvous_id)

    def cluster(self, config: PyTorchJob, task: Task) -> Rendered:
        """A PyTorchJob."""
        return pytorchjob_render.cluster(config, task)
