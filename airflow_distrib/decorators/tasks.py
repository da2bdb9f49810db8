"""Decorators: each turns a function into a task of one operator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar, overload

from airflow.sdk import XComArg
from airflow.sdk.bases.decorator import DecoratedOperator, Task, task_decorator_factory

from airflow_distrib.backends.elastic.config import Elastic
from airflow_distrib.backends.mpijob.config import MPIJob
from airflow_distrib.backends.pytorchjob.config import PyTorchJob
from airflow_distrib.backends.slurm.config import Slurm
from airflow_distrib.core import config as configs
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.operators.base import DistributedJobOperator
from airflow_distrib.operators.configured import without_configs
from airflow_distrib.operators.mpi import MPIJobOperator
from airflow_distrib.operators.pytorch import ElasticOperator, PyTorchJobOperator
from airflow_distrib.operators.slurm import SlurmOperator

P = ParamSpec("P")
R = TypeVar("R")


class _FunctionOperator(DecoratedOperator):
    """Hands the function and its arguments on to the operator it is mixed into."""

    def __init__(self, *, python_callable: Any, op_args: Any = None, op_kwargs: Any = None, **kwargs: Any) -> None:
        call = {"python_callable": python_callable, "op_args": op_args, "op_kwargs": op_kwargs}
        super().__init__(kwargs_to_upstream=call, **call, **kwargs)


def _decorated(operator: type[DistributedJobOperator], name: str) -> type[DecoratedOperator]:
    """Make the operator class behind ``@task.<name>``."""
    body = {
        "custom_operator_name": f"@task.{name}",
        "template_fields": operator.template_fields,
        "template_fields_renderers": operator.template_fields_renderers,
        "__module__": __name__,
        "__doc__": operator.__doc__,
    }
    return type(f"_{operator.__name__}Decorated", (_FunctionOperator, operator), body)


_ElasticOperatorDecorated = _decorated(ElasticOperator, "elastic")
_PyTorchJobOperatorDecorated = _decorated(PyTorchJobOperator, "pytorch_job")
_MPIJobOperatorDecorated = _decorated(MPIJobOperator, "mpi_job")
_SlurmOperatorDecorated = _decorated(SlurmOperator, "slurm")


def _task(
    operator: type[DistributedJobOperator], decorated: Any, name: str, first: Any, options: dict[str, Any]
) -> Any:
    """Serve ``@task.x``, ``@task.x()``, ``@task.x(config)`` and ``@task.x(task_config=config)``.

    What is wrong with the config is said here, on the decorator's own line, also for tasks
    that are mapped and so only made at run time.
    """
    config = operator.config_type
    fields = {field.name for field in dataclasses.fields(config)}  # type: ignore[arg-type] # every config is one
    for option in options:
        if option in fields and option not in operator.template_fields:
            raise ConfigError(
                option, f"is a field of {config.__name__}; write @task.{name}({config.__name__}({option}=...))"
            )
    function = None
    if callable(first) and not isinstance(first, type) and not configs.is_reference(first):
        function = first
    elif first is not None:
        if "task_config" in options:
            raise ConfigError("task_config", f"@task.{name} got it twice, by position and by name")
        options["task_config"] = first
    if "task_config" in options:
        options["task_config"] = operator.mappable(options["task_config"])
    plain = {name: without_configs(value) for name, value in options.items()}
    return task_decorator_factory(python_callable=function, decorated_operator_class=decorated, **plain)


@overload
def elastic_task(task_config: Callable[P, R], /) -> Task[P, R]: ...
@overload
def elastic_task(
    task_config: Elastic | Mapping[str, Any] | XComArg | None = None,
    /,
    *,
    multiple_outputs: bool | None = None,
    **operator_arguments: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def elastic_task(task_config: Any = None, /, **operator_arguments: Any) -> Any:
    """``@task.elastic(Elastic(...))``: the function runs on every rank of torchrun.

    Args:
        task_config: the config; ``Elastic()`` by default.
        multiple_outputs: unfold a returned dict into one XCom per key; taken from the
            return annotation by default.
        operator_arguments: anything that :class:`~airflow_distrib.operators.pytorch.ElasticOperator` takes.
    """
    return _task(ElasticOperator, _ElasticOperatorDecorated, "elastic", task_config, operator_arguments)


@overload
def pytorch_job_task(task_config: Callable[P, R], /) -> Task[P, R]: ...
@overload
def pytorch_job_task(
    task_config: PyTorchJob | Mapping[str, Any] | XComArg | None = None,
    /,
    *,
    multiple_outputs: bool | None = None,
    **operator_arguments: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def pytorch_job_task(task_config: Any = None, /, **operator_arguments: Any) -> Any:
    """``@task.pytorch_job(PyTorchJob(...))``: the function runs on the master and the workers.

    Args:
        task_config: the config.
        multiple_outputs: unfold a returned dict into one XCom per key; taken from the
            return annotation by default.
        operator_arguments: anything that :class:`~airflow_distrib.operators.pytorch.PyTorchJobOperator` takes.
    """
    return _task(PyTorchJobOperator, _PyTorchJobOperatorDecorated, "pytorch_job", task_config, operator_arguments)


@overload
def mpi_job_task(task_config: Callable[P, R], /) -> Task[P, R]: ...
@overload
def mpi_job_task(
    task_config: MPIJob | Mapping[str, Any] | XComArg | None = None,
    /,
    *,
    multiple_outputs: bool | None = None,
    **operator_arguments: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def mpi_job_task(task_config: Any = None, /, **operator_arguments: Any) -> Any:
    """``@task.mpi_job(MPIJob(...))``: the function runs on every MPI rank.

    Args:
        task_config: the config.
        multiple_outputs: unfold a returned dict into one XCom per key; taken from the
            return annotation by default.
        operator_arguments: anything that :class:`~airflow_distrib.operators.mpi.MPIJobOperator` takes.
    """
    return _task(MPIJobOperator, _MPIJobOperatorDecorated, "mpi_job", task_config, operator_arguments)


@overload
def slurm_task(task_config: Callable[P, R], /) -> Task[P, R]: ...
@overload
def slurm_task(
    task_config: Slurm | Mapping[str, Any] | XComArg | None = None,
    /,
    *,
    multiple_outputs: bool | None = None,
    **operator_arguments: Any,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def slurm_task(task_config: Any = None, /, **operator_arguments: Any) -> Any:
    """``@task.slurm(Slurm(...))``: the function runs on every task of a Slurm job.

    Args:
        task_config: the config; ``Slurm()``, one task of the default partition, by default.
        multiple_outputs: unfold a returned dict into one XCom per key; taken from the
            return annotation by default.
        operator_arguments: anything that :class:`~airflow_distrib.operators.slurm.SlurmOperator` takes.
    """
    return _task(SlurmOperator, _SlurmOperatorDecorated, "slurm", task_config, operator_arguments)
