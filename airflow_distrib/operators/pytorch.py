"""Operators for PyTorch: torchrun Elastic, and PyTorchJob."""

from __future__ import annotations

from typing import Any

from airflow_distrib.backends.elastic import render as elastic_render
from airflow_distrib.backends.elastic.config import Elastic
from airflow_distrib.backends.local.plan import LocalPlan
from airflow_distrib.backends.pytorchjob import render as pytorchjob_render
from airflow_distrib.backends.pytorchjob.config import PyTorchJob
from airflow_distrib.core import config as configs
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.operators.base import LOCAL, DistributedJobOperator


class ElasticOperator(DistributedJobOperator):
    """Run a function under torchrun's elastic agent; see :class:`~airflow_distrib.Elastic`.

    One node runs on the Airflow worker. ``launcher="local"`` runs several nodes there too,
    each with an agent of its own, which is a way to try a multi-node job. Arguments are those
    of :class:`~airflow_distrib.operators.base.DistributedJobOperator`.
    """

    config_type = Elastic

    def check_final(self, config: Any) -> None:
        """Several nodes on one machine are a trial, so they have to be asked for."""
        nodes = config.nnodes
        if not configs.is_template(nodes) and config.max_nodes > 1 and self._asked_launcher != LOCAL:
            raise ConfigError(
                "nnodes",
                f"{nodes!r} nodes need a cluster, which this release cannot reach yet; "
                "launcher='local' runs them on the Airflow worker",
            )

    def local_plan(self, config: Elastic, rendezvous_id: str) -> LocalPlan:
        """One agent a node, or the function alone for a single rank."""
        return elastic_render.local_plan(config, rendezvous_id)


class PyTorchJobOperator(DistributedJobOperator):
    """Run a function on the master and workers of a :class:`~airflow_distrib.PyTorchJob`.

    Arguments are those of :class:`~airflow_distrib.operators.base.DistributedJobOperator`.
    """

    config_type = PyTorchJob
    launchers = ("kubernetes", LOCAL)
    missing_launchers = {
        "kubernetes": "PyTorchJobs on Kubernetes are not part of this release; launcher='local' (or launcher = local "
        "in section [airflow_distrib] of airflow.cfg) runs the ranks on the Airflow worker"
    }

    def local_plan(self, config: PyTorchJob, rendezvous_id: str) -> LocalPlan:
        """Master and workers as local ranks."""
        return pytorchjob_render.local_plan(config, rendezvous_id)
