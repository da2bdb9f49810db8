"""What a task would start, for people: also as much as is known of it before it runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from airflow_distrib.core import config as configs
from airflow_distrib.core.config import Config
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.launcher import Submission

LATER = "<known at run time>"
# Two numbers stand for each open field in turn; both are within the bounds of most fields.
_FIRST, _SECOND = 61, 161


def readable(value: object) -> Any:
    """Plain containers whose parts have names."""
    if isinstance(value, Config):
        return readable(value.serialize())
    if isinstance(value, Mapping):
        return {str(key): readable(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return readable(value._asdict())
    if isinstance(value, list | tuple):
        return [readable(item) for item in value]
    return str(value) if configs.is_reference(value) else value


def job(
    unknown: list[str], config: object, render: Callable[[Any], Submission], arguments: Mapping[str, object]
) -> dict[str, Any]:
    """A job; where some fields only get their values at run time, as far as they leave it known.

    It is then rendered twice, with other numbers in the open fields: where the two are alike,
    they do not depend on them.
    """
    if not unknown:
        return dict(readable(render(config).shown()))
    given = {name: value for name, value in arguments.items() if value is not None}
    known = {"arguments": readable(given), "known at run time": unknown}
    if not isinstance(config, Config):
        return known
    first, names = _with_stand_ins(config, _FIRST)
    second, _ = _with_stand_ins(config, _SECOND)
    try:
        both = readable(render(first).shown()), readable(render(second).shown())
    except Exception:  # noqa: BLE001 - a renderer that cannot do without a value may fail in any way
        return known
    return {**known, **_common(*both, names)}


def _with_stand_ins(config: Config, number: int) -> tuple[Config, dict[int, str]]:
    """A copy with numbers in the open fields that take one, and what each stands for; other fields keep their text."""
    names: dict[int, str] = {}
    for path in config.templates():
        value: Any = config
        for name in path.split("."):
            value = getattr(value, name)
        change: Any = number + len(names)
        for name in reversed(path.split(".")):
            change = {name: change}
        if configs.is_template(value):
            try:
                config = config.merged(change)
            except ConfigError:
                continue
            names[len(names)] = str(value)
    return config, names


def _common(first: object, second: object, names: Mapping[int, str]) -> Any:
    if first == second and type(first) is type(second):
        return first
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [*first, *(key for key in second if key not in first)]
        return {key: _common(first.get(key), second.get(key), names) for key in keys}
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [_common(*pair, names) for pair in zip(first, second, strict=True)]
    texts = {_with_names(first, _FIRST, names), _with_names(second, _SECOND, names)}
    return texts.pop() if len(texts) == 1 else LATER


def _with_names(value: object, number: int, names: Mapping[int, str]) -> str:
    """A text with the fields' templates instead of the numbers that stand for them."""
    return re.sub(r"\d+", lambda found: names.get(int(found[0]) - number, found[0]), str(value))
