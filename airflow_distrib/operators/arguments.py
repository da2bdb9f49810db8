"""Arguments of operators and of users' functions: checked, and made fit to travel to where Airflow is not."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS

from airflow_distrib.core.config import is_template
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.names import did_you_mean
from airflow_distrib.operators.airflow_use import check_airflow_use

T = TypeVar("T")

# Context values that are plain data. Everything else in Airflow's context talks to
# Airflow, which a rank cannot.
SHIPPABLE_CONTEXT = frozenset(
    {
        "data_interval_end",
        "data_interval_start",
        "ds",
        "ds_nodash",
        "expanded_ti_count",
        "logical_date",
        "params",
        "partition_date",
        "partition_key",
        "run_id",
        "task_instance_key_str",
        "ts",
        "ts_nodash",
        "ts_nodash_with_tz",
        "try_number",
    }
)


def check_function(function: object, args: Collection[object], kwargs: Mapping[str, object]) -> None:
    """Reject what cannot run on ranks, and arguments that do not fit.

    Raises:
        ConfigError: it is no function, or a generator; a parameter would be filled with a
            live object of Airflow's, or its code asks Airflow for something; the arguments do not fit the signature.
    """
    if not callable(function):
        raise ConfigError("python_callable", f"must be a function; got {function!r}")
    name = getattr(function, "__name__", type(function).__name__)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError("python_callable", f"{name} is a generator; return a list instead of yielding")
    check_airflow_use(function)
    if is_template(args) or is_template(kwargs):
        return  # an upstream's output: what it holds is known at run time
    open_names = _open_parameters(function, args, kwargs)
    if live := sorted(open_names & (KNOWN_CONTEXT_KEYS - SHIPPABLE_CONTEXT)):
        raise ConfigError(
            f"parameter {live[0]!r} of {name}",
            "is an object of Airflow, which ranks cannot use; pass the values you need instead, "
            "such as run_id, ds, params or a template string",
        )
    signature = _signature(function)
    if signature is not None:
        from_context = dict.fromkeys(open_names & SHIPPABLE_CONTEXT)
        try:
            signature.bind(*args, **from_context, **kwargs)
        except TypeError as error:
            raise ConfigError("op_args and op_kwargs", f"do not fit {name}: {error}") from None


def call_arguments(
    function: Callable[..., object],
    args: Collection[object],
    kwargs: Mapping[str, object],
    context: Mapping[str, object],
) -> tuple[list[object], dict[str, object]]:
    """Complete the arguments from the context, as TaskFlow does, and make them plain."""
    wanted = _open_parameters(function, args, kwargs)
    if _takes_any_keyword(function):
        # def train(**context), as TaskFlow fills it, with what can travel of it.
        wanted |= SHIPPABLE_CONTEXT - _given(function, args, kwargs)
    offered = {name: context[name] for name in SHIPPABLE_CONTEXT & wanted if name in context}
    complete = {**offered, **kwargs}
    return [plain(value) for value in args], {name: plain(value) for name, value in complete.items()}


def _open_parameters(
    function: Callable[..., object], args: Collection[object], kwargs: Mapping[str, object]
) -> set[str]:
    """Parameters that the given arguments leave open."""
    signature = _signature(function)
    parameters = signature.parameters.values() if signature else ()
    named = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    return named - _given(function, args, kwargs)


def _given(function: Callable[..., object], args: Collection[object], kwargs: Mapping[str, object]) -> set[str]:
    """Parameters that the arguments fill, by position or by name."""
    signature = _signature(function)
    parameters = signature.parameters.values() if signature else ()
    positional = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return {*positional[: len(args)], *kwargs}


def _signature(function: Callable[..., object]) -> inspect.Signature | None:
    """None for builtins that do not tell."""
    try:
        return inspect.signature(function)
    except ValueError:
        return None


def _takes_any_keyword(function: Callable[..., object]) -> bool:
    signature = _signature(function)
    return signature is not None and any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())


def plain(value: Any) -> Any:
    """Replace Airflow's own types and pendulum's dates by those of the standard library."""
    if isinstance(value, datetime.datetime) and type(value) is not datetime.datetime:
        return datetime.datetime.fromisoformat(value.isoformat())
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    if type(value) is dict:
        return {key: plain(item) for key, item in value.items()}
    if type(value).__module__.partition(".")[0] == "airflow":
        if hasattr(value, "dump"):  # ParamsDict
            return plain(value.dump())
        if isinstance(value, Sequence) and not isinstance(value, str):  # results of mapped tasks
            return [plain(item) for item in value]
    return value


def optional(check: Callable[[str, object], T], name: str, value: object) -> T | None:
    """The normal form of an argument that may be None."""
    return None if value is None else check(name, value)


def ranks_of(given: object) -> list[int] | None:
    """``"all"`` is None, which is what the runner takes for every rank."""
    if given == "all":
        return None
    if not isinstance(given, Sequence | set) or not all(type(rank) is int and rank >= 0 for rank in given):
        raise ConfigError(
            "log_ranks",
            f'must be a list of numbers such as [0, 1], or "all"; got {given!r}{did_you_mean(given, ["all"])}',
        )
    return list(given)


def check_ranks(chosen: Sequence[int] | None, config: object) -> None:
    """Reject ranks to log that a job does not have, where its size is known.

    Raises:
        ConfigError: such a rank is among ``chosen``.
    """
    size = getattr(config, "world_size", None)
    beyond = [rank for rank in chosen or () if size is not None and rank >= size]
    if beyond:
        raise ConfigError("log_ranks", f"there is no rank {beyond[0]}: this job has {size}, numbered from 0")
