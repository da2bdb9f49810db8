"""Distributed training and compute from an Airflow DAG.

Names are loaded when they are first used: importing this package, which every DAG file
does, must not import what a system needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_distrib import catalogue

if TYPE_CHECKING:
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
    from airflow_distrib.decorators.tasks import TaskDecorator
    from airflow_distrib.operators.elastic import ElasticOperator
    from airflow_distrib.operators.mpijob import MPIJobOperator
    from airflow_distrib.operators.pytorchjob import PyTorchJobOperator
    from airflow_distrib.operators.slurm import SlurmOperator, SlurmScriptOperator, SlurmShellOperator
    from airflow_distrib.runner.errors import NonRecoverableError, RecoverableError
    from airflow_distrib.systems.elastic.config import Elastic
    from airflow_distrib.systems.kubernetes.options import SchedulingPolicy
    from airflow_distrib.systems.kubernetes.problems import Patience
    from airflow_distrib.systems.kubernetes.resources import (
        CleanPodPolicy,
        Replica,
        Resources,
        RestartPolicy,
        RunPolicy,
    )
    from airflow_distrib.systems.mpijob.config import MPIJob
    from airflow_distrib.systems.pytorchjob.config import PyTorchJob
    from airflow_distrib.systems.slurm.config import Sbatch, Slurm
    from airflow_distrib.systems.slurm.outputs import SlurmOutput

    elastic_task: TaskDecorator[Elastic]
    mpi_job_task: TaskDecorator[MPIJob]
    pytorch_job_task: TaskDecorator[PyTorchJob]
    slurm_task: TaskDecorator[Slurm]

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
    path = catalogue.public().get(name)
    if path is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return catalogue.load(path)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
