"""Operators for PyTorch: torchrun Elastic, and PyTorchJob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from airflow_distrib.backends.slurm import plan as plans
from airflow_distrib.backends.slurm.config import Slurm
from airflow_distrib.backends.slurm.plan import Plan, Request
from airflow_distrib.core import config as configs
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.operators.base import KUBERNETES, LOCAL, SLURM
from airflow_distrib.operators.on_kubernetes import KubernetesJobOperator
from airflow_distrib.operators.on_slurm import SlurmJobOperator


class ElasticOperator(KubernetesJobOperator, SlurmJobOperator):
    """Run a function under torchrun's elastic agent; see :class:`~airflow_distrib.Elastic`.

    One node runs on the Airflow worker, or in a Pod when ``kubernetes_conn_id``, an image, a
    command or a manifest is given. Several nodes run as a PyTorchJob of the training-operator,
    or on a Slurm when ``slurm`` or ``ssh_conn_id`` is given. ``launcher="local"`` runs several
    nodes on the worker too, each with an agent of its own, which is a way to try a multi-node
    job.

    Args:
        slurm: a :class:`~airflow_distrib.Slurm` with what the job needs there; nodes and tasks
            follow from the Elastic config. Templated, in every field.

    Other arguments are those of :class:`~airflow_distrib.operators.on_kubernetes.KubernetesJobOperator`
    and :class:`~airflow_distrib.operators.on_slurm.SlurmJobOperator`.
    """

    config_type = Elastic
    launchers = (LOCAL, KUBERNETES, SLURM)
    template_fields: Sequence[str] = (*KubernetesJobOperator.template_fields, "ssh_conn_id", "slurm")
    template_fields_renderers = {**KubernetesJobOperator.template_fields_renderers, "slurm": "json"}

    def __init__(self, *, slurm: Slurm | Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.slurm = slurm if slurm is None or configs.is_template(slurm) else configs.of(Slurm)("slurm", slurm)
        super().__init__(**kwargs)

    def choose_launcher(self, config: Any) -> str:
        """A cluster for several nodes, and where anything but the function asks for one."""
        if self.asked_launcher:
            return super().choose_launcher(config)
        on_slurm, on_kubernetes = self.slurm is not None or bool(self.asked_ssh), bool(self.asked_connection)
        if on_slurm and on_kubernetes:
            raise ConfigError(
                "launcher", "is needed where both slurm (or ssh_conn_id) and kubernetes_conn_id are given"
            )
        if on_slurm:
            return SLURM
        asked = on_kubernetes or self.command is not None or self.manifest is not None
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

    def what_runs(self) -> list[Any]:
        """Also what Slurm is asked for."""
        slurm = self.slurm.serialize() if isinstance(self.slurm, Slurm) else self.slurm
        return [*super().what_runs(), slurm]

    def unknown_fields(self, config: Any) -> list[str]:
        """What templates and upstream tasks still have to say."""
        slurm = self.slurm
        inside = [f"slurm.{name}" for name in slurm.templates()] if isinstance(slurm, Slurm) else []
        return super().unknown_fields(config) + (["slurm"] if configs.is_template(slurm) else inside)

    def slurm_plan(self, config: Elastic, request: Request) -> Plan:
        """One agent on each node, which srun starts."""
        for name in ("command", "manifest"):
            if getattr(self, name) is not None:
                raise ConfigError(name, "is for Kubernetes; scripts on a Slurm have SlurmShellOperator")
        for name in elastic_render.cluster_fields(config):
            raise ConfigError(name, "is for Kubernetes; say what the job needs on a Slurm with slurm=Slurm(...)")
        slurm = configs.of(Slurm)("slurm", self.slurm or {})
        return plans.of_function(slurm, request, elastic=config)

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
