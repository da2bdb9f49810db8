"""A PyTorchJob as processes of one machine."""

from __future__ import annotations

from airflow_distrib.backends.local.plan import LocalPlan
from airflow_distrib.backends.pytorchjob.config import PyTorchJob
from airflow_distrib.core.resources import Replica
from airflow_distrib.runner import spec as specs

# What only a cluster can give; of the replicas, everything but their number.
_CLUSTER_ONLY = ("image", "run_policy", "shared_memory", "pod_template")


def local_plan(config: PyTorchJob, rendezvous_id: str) -> LocalPlan:
    """Render for the local launcher: master and workers become local ranks in that order."""
    del rendezvous_id  # a PyTorchJob's ranks meet at MASTER_ADDR
    ignored = [name for name in _CLUSTER_ONLY if getattr(config, name) is not None]
    for role in ("master", "worker"):
        replica = getattr(config, role)
        if isinstance(replica, Replica):
            ignored += [f"{role}.{name}" for name in replica.serialize() if name != "replicas"]
    return LocalPlan(specs.RANKS, config.world_size, env=config.env or {}, not_applied=tuple(ignored))
