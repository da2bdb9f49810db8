"""What to say about a name that does not exist: where it belongs, or what it may have meant."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from airflow_distrib import catalogue

if TYPE_CHECKING:
    from airflow_distrib.core.config import Config


def similar(name: object, known: Collection[str]) -> str:
    """The known name that a mistyped or shortened one stands for; empty when none is close."""
    by_lower = {each.lower(): each for each in known}
    lower = str(name).lower()
    stem = lower.rstrip("s")
    longer = [each for each in by_lower if len(stem) > 2 and each.startswith(stem)]
    shorter = [each for each in by_lower if len(each) > 2 and lower.startswith(each)]
    close = difflib.get_close_matches(lower, by_lower, 1, 0.78)
    if lower not in by_lower and len(longer) == 1:
        close = longer
    return by_lower[(close or sorted(shorter, key=len))[-1]] if close or shorter else ""


def did_you_mean(name: object, known: Collection[str]) -> str:
    """A question to end a sentence with; empty when nothing is close."""
    found = similar(name, known)
    return f"; did you mean {found!r}?" if found else ""


def fields_of(kind: type[Config]) -> list[str]:
    """Names of a config's fields."""
    return [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type] # every config is one


def about_field(kind: type[Config], name: str) -> str:
    """What is wrong with a field that a config does not have."""
    if name in kind.elsewhere:
        return kind.elsewhere[name]
    if places := [*inside(kind, name), *_around(kind, name)][:2]:
        return f"there is no such field here; write {' or '.join(places)}"
    for entry in catalogue.ENTRIES:
        if entry.config == f"{kind.__module__}.{kind.__name__}" and (place := _of_operator(entry, name)):
            return place
    if close := similar(name, [*fields_of(kind), *kind.renamed]):
        return f"there is no such field; did you mean {kind.renamed.get(close, close)!r}?"
    if deeper := similar(name, _fields_inside(kind)):
        return f"there is no such field; did you mean {next(inside(kind, deeper))}?"
    return f"there is no such field; {_list(kind)}"


def _list(kind: type[Config]) -> str:
    return f"its fields are {', '.join(fields_of(kind))}"


def inside(kind: type[Config], name: str) -> Iterator[str]:
    """Where the configs inside of a config have such a field: ``worker=Replica(requests=...)``."""
    for field, inner in _configs_inside(kind):
        if name in fields_of(inner):
            yield f"{field}={inner.__name__}({name}=...)"
        else:
            yield from (f"{field}={inner.__name__}({place})" for place in inside(inner, name))


def _configs_inside(kind: type[Config]) -> list[tuple[str, type[Config]]]:
    """Fields that hold configs, and of which type."""
    return [(field, check.kind) for field, check in kind.checks.items() if hasattr(check, "kind")]


def _fields_inside(kind: type[Config]) -> list[str]:
    return [name for _, inner in _configs_inside(kind) for name in (*fields_of(inner), *_fields_inside(inner))]


def _around(kind: type[Config], name: str) -> Iterator[str]:
    """Which configs with such a field have this one inside."""
    for entry in catalogue.ENTRIES:
        outer: type[Config] = catalogue.load(entry.config)
        if name in fields_of(outer) and any(inner is kind for _, inner in _configs_inside(outer)):
            yield f"{outer.__name__}({name}=...)"


def _of_operator(entry: catalogue.Entry, name: str) -> str:
    operator: Any = catalogue.load(entry.operator)
    config = entry.config.rpartition(".")[2]
    place: str = operator.place_of(name)
    if not place:
        return ""
    if entry.decorator:
        return f"is no field of {config}; write @task.{entry.decorator}({config}(...), {place})"
    return f"is no field of {config}; write {operator.__name__}(task_config={config}(...), {place})"
