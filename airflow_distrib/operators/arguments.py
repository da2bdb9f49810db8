"""Arguments of a user's function, made fit to travel to where Airflow is not installed."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS

from airflow_distrib.core.errors import ConfigError

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
        "prev_data_interval_end_success",
        "prev_data_interval_start_success",
        "prev_end_date_success",
        "prev_start_date_success",
        "run_id",
        "task_instance_key_str",
        "ts",
        "ts_nodash",
        "ts_nodash_with_tz",
        "try_number",
    }
)


def refuse_live_context(function: Callable[..., Any], args: Collection[Any], kwargs: Mapping[str, Any]) -> None:
    """Reject parameters that would be filled with Airflow's live objects.

    Raises:
        ConfigError: names the parameter and what to pass instead.
    """
    for name in _open_parameters(function, args, kwargs):
        if name in KNOWN_CONTEXT_KEYS - SHIPPABLE_CONTEXT:
            raise ConfigError(
                f"parameter {name!r} of {getattr(function, '__name__', function)}",
                "is an object of Airflow, which ranks cannot use; pass the values you need instead, "
                "such as run_id, ds, params or a template string",
            )


def call_arguments(
    function: Callable[..., Any], args: Collection[Any], kwargs: Mapping[str, Any], context: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Complete the arguments from the context, as TaskFlow does, and make them plain."""
    wanted = _open_parameters(function, args, kwargs)
    offered = {name: context[name] for name in SHIPPABLE_CONTEXT if name in wanted and name in context}
    complete = {**offered, **kwargs}
    return [plain(value) for value in args], {name: plain(value) for name, value in complete.items()}


def _open_parameters(function: Callable[..., Any], args: Collection[Any], kwargs: Mapping[str, Any]) -> set[str]:
    """Parameters that the given arguments leave open."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # some builtins have none
        return set()
    positional = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    given = {*positional[: len(args)], *kwargs}
    named = (each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY))
    return {each.name for each in named} - given


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
