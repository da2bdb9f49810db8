"""Distributed training and compute from an Airflow DAG.

Names are loaded when they are first used: importing this package, which every DAG file
does, must not import what a system needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from airflow_distrib.catalogue import PUBLIC

if TYPE_CHECKING:
    from airflow_distrib.backends.elastic.config import Elastic
    from airflow_distrib.backends.kubernetes.options import SchedulingPolicy
    from airflow_distrib.backends.kubernetes.problems import Patience
    from airflow_distrib.backends.mpijob.config import MPIJob
    from airflow_distrib.backends.pytorchjob.config import PyTorchJob
    from airflow_distrib.backends.slurm.config import Sbatch, Slurm
    from airflow_distrib.backends.slurm.outputs import SlurmOutput
    from airflow_distrib.core.errors import (
        ClusterError,
        ConfigError,
        DistribError,
        FunctionNotPicklable,
        JobError,
        JobFailed,
        JobLost,
        JobNotStarted,
        JobPreempted,
        JobTerminated,
        JobTimedOut,
        MissingExtra,
        RankFailed,
        ResultMissing,
    )
    from airflow_distrib.core.resources import CleanPodPolicy, Replica, Resources, RestartPolicy, RunPolicy
    from airflow_distrib.decorators.tasks import elastic_task, mpi_job_task, pytorch_job_task, slurm_task
    from airflow_distrib.operators.mpi import MPIJobOperator
    from airflow_distrib.operators.pytorch import ElasticOperator, PyTorchJobOperator
    from airflow_distrib.operators.slurm import SlurmOperator, SlurmScriptOperator, SlurmShellOperator
    from airflow_distrib.runner.errors import NonRecoverableError, RecoverableError

__version__ = "0.1.0"

__all__ = [
    "CleanPodPolicy",
    "ClusterError",
    "ConfigError",
    "DistribError",
    "Elastic",
    "ElasticOperator",
    "FunctionNotPicklable",
    "JobError",
    "JobFailed",
    "JobLost",
    "JobNotStarted",
    "JobPreempted",
    "JobTerminated",
    "JobTimedOut",
    "MPIJob",
    "MPIJobOperator",
    "MissingExtra",
    "NonRecoverableError",
    "Patience",
    "PyTorchJob",
    "PyTorchJobOperator",
    "RankFailed",
    "RecoverableError",
    "Replica",
    "Resources",
    "RestartPolicy",
    "ResultMissing",
    "RunPolicy",
    "Sbatch",
    "SchedulingPolicy",
    "Slurm",
    "SlurmOperator",
    "SlurmOutput",
    "SlurmScriptOperator",
    "SlurmShellOperator",
    "elastic_task",
    "mpi_job_task",
    "pytorch_job_task",
    "slurm_task",
]


def __getattr__(name: str) -> Any:
    """Load a public name from where it is defined."""
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = PUBLIC[name].rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
