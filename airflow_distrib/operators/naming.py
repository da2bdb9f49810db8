"""Arguments by their names: which an operator has, what to say about the others, and whose they are."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.bases.operator import BaseOperatorMeta
from airflow.sdk.definitions._internal.contextmanager import DagContext, TaskGroupContext

from airflow_distrib.core import names
from airflow_distrib.core.callers import raises_at_caller, warn
from airflow_distrib.core.config import Config
from airflow_distrib.core.errors import ConfigError


class NamesTheTask(BaseOperatorMeta):
    """Errors of a new operator say whose they are, and where in the user's file."""

    @property
    def __signature__(self) -> inspect.Signature:
        """That of ``__init__``, which Python would look for in ``__call__`` below."""
        signature = inspect.signature(self.__init__)  # type: ignore[misc] # of this very class
        return signature.replace(parameters=[*signature.parameters.values()][1:])

    @raises_at_caller
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except ConfigError as error:
            raise ConfigError(error.field, error.problem, error.task or _task(kwargs)) from None


def _task(arguments: Mapping[str, Any]) -> str:
    """The task that an operator's arguments name."""
    dag = arguments.get("dag") or DagContext.get_current()
    group = arguments.get("task_group") or (TaskGroupContext.get_current(dag) if dag else None)
    task_id = arguments.get("task_id", "")
    if group and not arguments.get("_airflow_from_mapped"):
        task_id = group.child_id(task_id)
    return f"task {task_id!r}" + (f" of DAG {dag.dag_id!r}" if dag else "")


@functools.cache
def arguments_of(operator: Any) -> frozenset[str]:
    """Names of all arguments of an operator's class, Airflow's own among them."""
    return frozenset(
        each.name
        for kind in operator.__mro__
        if issubclass(kind, BaseOperator)
        for each in inspect.signature(kind.__init__).parameters.values()
        if each.kind is each.KEYWORD_ONLY
    )


def check(operator: Any, given: Mapping[str, object]) -> None:
    """Meet arguments that an operator does not have, and Airflow's ``resources``.

    Args:
        operator: its class.

    Raises:
        ConfigError: there is no such argument; says where it belongs, or what it may have meant.
    """
    known = arguments_of(operator)
    config = operator.config_type
    for name in given:
        if name not in known and not name.startswith("_"):
            raise ConfigError(name, _about(operator, name, known))
    if given.get("resources") is not None:
        places = [place for name in config.sizes for place in _places(config, name)]
        warn(
            f"{_task(given)}: Airflow's resources= has no effect on a job; "
            f"write {_with_config(operator, ', '.join(places))}"
        )


def _about(operator: Any, name: str, known: frozenset[str]) -> str:
    """What is wrong with an argument that an operator does not have."""
    config = operator.config_type
    if name in names.fields_of(config) or name in config.renamed:
        place = f"{config.renamed.get(name, name)}=..."
        return f"is a field of {config.__name__}; write {_with_config(operator, place)}"
    for kind in (config, *_configs_of(operator).values()):
        if name in kind.elsewhere:
            return str(kind.elsewhere[name])
    if place := place_of(operator, name):
        return f"there is no such argument; write {place}"
    if place := next(names.inside(config, name), ""):
        return f"there is no such argument; write {_with_config(operator, place)}"
    return f"there is no such argument{names.did_you_mean(name, known)}"


def _configs_of(operator: Any) -> dict[str, type[Config]]:
    """Arguments of an operator that hold configs, but for the task's own."""
    found = {each.name: getattr(each.check, "kind", None) for each in operator.launcher_arguments.values()}
    return {name: kind for name, kind in found.items() if kind is not None}


def _places(config: Any, name: str) -> list[str]:
    return [f"{name}=..."] if name in names.fields_of(config) else list(names.inside(config, name))[:1]


def _with_config(operator: Any, place: str) -> str:
    config = operator.config_type.__name__
    decorator = getattr(operator, "custom_operator_name", "")
    if decorator:
        return f"{decorator}({config}({place}))"
    return f"{operator.__name__}(task_config={config}({place}))"


def place_of(operator: Any, name: str) -> str:
    """How an argument of an operator is written, or a field of a config among its launchers' arguments."""
    if name in arguments_of(operator):
        return f"{name}=..."
    for argument, kind in _configs_of(operator).items():
        if name in names.fields_of(kind):
            return f"{argument}={kind.__name__}({name}=...)"
    return ""
