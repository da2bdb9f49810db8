"""Decorators, made from the catalogue: each turns a function into a task of one operator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, overload

from airflow.sdk import XComArg
from airflow.sdk.bases.decorator import DecoratedOperator, Task, _TaskDecorator

from airflow_distrib import catalogue
from airflow_distrib.core import config as configs
from airflow_distrib.core.callers import raises_at_caller
from airflow_distrib.core.config import ConfigT
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.operators import naming
from airflow_distrib.operators.base import DistributedJobOperator
from airflow_distrib.operators.configured import without_configs

P = ParamSpec("P")
R = TypeVar("R")


class _FunctionOperator(DecoratedOperator):
    """Hands the function and its arguments on to the operator it is mixed into."""

    def __init__(self, *, python_callable: Any, op_args: Any = None, op_kwargs: Any = None, **kwargs: Any) -> None:
        call = {"python_callable": python_callable, "op_args": op_args, "op_kwargs": op_kwargs}
        super().__init__(kwargs_to_upstream=call, **call, **kwargs)


class _DecoratedFunction(_TaskDecorator):  # type: ignore[type-arg] # Airflow's own
    """As Airflow's; but an error of a call is raised on the call's line."""

    __call__ = raises_at_caller(_TaskDecorator.__call__)

    def _expand(self, *args: Any, **kwargs: Any) -> Any:
        naming.check(self.operator_class, self.kwargs)
        return super()._expand(*args, **kwargs)


class TaskDecorator(Generic[ConfigT]):
    """``@task.<name>(config)``: the function runs on every rank of a job.

    Serves ``@task.x``, ``@task.x()``, ``@task.x(config)`` and ``@task.x(task_config=config)``.

    Args:
        name: the word after ``@task.``.
        operator: the operator's class; the decorator takes all its arguments.
    """

    def __init__(self, name: str, operator: type[DistributedJobOperator[ConfigT]]) -> None:
        self.name, self.operator = name, operator
        self.__name__ = self.__qualname__ = f"{name}_task"
        self.__doc__ = f"``@task.{name}(config)``: {operator.__doc__}"
        body = {
            "custom_operator_name": f"@task.{name}",
            "template_fields": operator.template_fields,
            "template_fields_renderers": operator.template_fields_renderers,
            "__module__": __name__,
            "__doc__": operator.__doc__,
        }
        self.decorated = type(f"_{operator.__name__}Decorated", (_FunctionOperator, operator), body)

    @overload
    def __call__(self, task_config: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def __call__(
        self,
        task_config: ConfigT | Mapping[str, Any] | XComArg | None = None,
        /,
        *,
        multiple_outputs: bool | None = None,
        **operator_arguments: Any,
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...
    @raises_at_caller
    def __call__(self, task_config: object = None, /, **operator_arguments: Any) -> Any:
        """Make a task.

        What is wrong with the config is raised here, on the decorator's own line, also for tasks
        that are mapped and so only created at run time.

        Args:
            task_config: the config; one without any field set by default.
            multiple_outputs: unfold a returned dict into one XCom per key; taken from the
                return annotation by default.
            operator_arguments: anything that the operator takes.
        """
        options, function = operator_arguments, None
        if callable(task_config) and not isinstance(task_config, type) and not configs.is_reference(task_config):
            function = task_config
        elif task_config is not None:
            if "task_config" in options:
                raise ConfigError("task_config", f"@task.{self.name} got it twice, by position and by name")
            options["task_config"] = task_config
        if "task_config" in options:
            options["task_config"] = self.operator.mappable(options["task_config"])
        arguments = {name: without_configs(value) for name, value in options.items()}
        multiple = arguments.pop("multiple_outputs", None)
        # Airflow takes it from the call of the function.
        of_tasks = {
            name: value for name, value in arguments.items() if name not in ("on_failure_fail_dagrun", "resources")
        }
        naming.check(self.decorated, of_tasks)

        def decorate(function: Callable[..., object]) -> Any:
            inferred: dict[str, Any] = {} if multiple is None else {"multiple_outputs": multiple}
            return _DecoratedFunction(function, self.decorated, kwargs=dict(arguments), **inferred)

        return decorate(function) if function else decorate


@functools.cache
def _decorator(name: str) -> TaskDecorator[Any]:
    entry = next(each for each in catalogue.ENTRIES if each.decorator == name)
    return TaskDecorator(name, catalogue.load(entry.operator))


def __getattr__(name: str) -> Any:
    """``elastic_task`` and the like: only the system that is asked for is loaded.

    A decorated operator's class is found by its own name as well, which Airflow stores.
    """
    for entry in catalogue.ENTRIES:
        if entry.decorator:
            if name == f"{entry.decorator}_task":
                return _decorator(entry.decorator)
            if name == f"_{entry.operator.rpartition('.')[2]}Decorated":
                return _decorator(entry.decorator).decorated
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
