"""Operator for torchrun Elastic."""

from __future__ import annotations

from airflow_distrib.core import config as configs
from airflow_distrib.operators.base import DistributedJobOperator
from airflow_distrib.systems.elastic import kubernetes, slurm
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.elastic.local import cluster_fields, local
from airflow_distrib.systems.kubernetes.launcher import KubernetesLauncher
from airflow_distrib.systems.local.launcher import LocalLauncher
from airflow_distrib.systems.slurm.launcher import SlurmLauncher


def _on_the_worker(config: Elastic) -> bool:
    """One node, without any option that only a cluster can honour."""
    several = not configs.is_template(config.nnodes) and config.max_nodes > 1
    return not (several or cluster_fields(config))


class ElasticOperator(DistributedJobOperator[Elastic]):
    """Run a function under torchrun's elastic agent; see :class:`~airflow_distrib.Elastic`.

    One node runs on the Airflow worker, or in a Pod when ``kubernetes_conn_id``, a command, a
    manifest or any option of Kubernetes is given. Several nodes run as a PyTorchJob of the training-operator,
    or on a Slurm when ``slurm`` or ``ssh_conn_id`` is given. ``launcher="local"`` runs several
    nodes on the worker too, each with an agent of its own, which is a way to try a multi-node
    job.

    Args:
        command, manifest, kubernetes_conn_id, payload_path, patience: on Kubernetes; see
            :class:`~airflow_distrib.PyTorchJobOperator`.
        ssh_conn_id: connection to a login node of a Slurm. Templated.
        slurm: a :class:`~airflow_distrib.Slurm` with what the job needs there; nodes and tasks
            follow from the Elastic config. Templated, in every field.

    Other arguments are those of :class:`~airflow_distrib.operators.base.DistributedJobOperator`.
    """

    config_type = Elastic
    launchers = (
        LocalLauncher(local, _on_the_worker),
        KubernetesLauncher(kubernetes.kubernetes, kubernetes.config_of_manifest),
        SlurmLauncher(slurm.slurm, slurm.ARGUMENTS, where=lambda _: False),
    )
