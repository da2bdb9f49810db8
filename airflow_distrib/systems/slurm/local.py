"""A Slurm config as processes of one machine, to try a DAG without a Slurm."""

from __future__ import annotations

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.runner import spec as specs
from airflow_distrib.systems.local.plan import LocalPlan
from airflow_distrib.systems.slurm.config import Slurm

_APPLIED = ("env", "nodes", "ntasks", "ntasks_per_node")


def local(config: Slurm, request: JobRequest) -> LocalPlan:
    """All tasks as ranks of this machine."""
    del request
    if config.array is not None:
        raise ConfigError("array", "needs a Slurm; local ranks are no job array")
    ignored = tuple(name for name in config.serialize() if name not in _APPLIED)
    return LocalPlan(specs.RANKS, config.tasks or 1, env=config.env or {}, not_applied=ignored)
