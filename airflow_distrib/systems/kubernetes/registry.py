"""All kinds of jobs on Kubernetes, and the rights they need: derived from the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from airflow_distrib import catalogue
from airflow_distrib.systems.kubernetes.kind import Kind


class Right(NamedTuple):
    """Verbs that an account must be allowed to use on a resource."""

    group: str
    resource: str
    verbs: tuple[str, ...]


# What every kind of job needs besides its own resource.
_COMMON = (
    Right("", "pods", ("list", "watch")),
    Right("", "pods/log", ("get",)),
    Right("", "events", ("list",)),
    Right("", "secrets", ("create",)),
)


def kinds() -> Iterator[Kind]:
    """Every kind in the catalogue, once."""
    for path in dict.fromkeys(path for entry in catalogue.ENTRIES for path in entry.kinds):
        kind: Kind = catalogue.load(path)
        yield kind


def kind_named(key: str) -> Kind:
    """The kind of a job reference."""
    return next(kind for kind in kinds() if kind.key == key)


def rights() -> tuple[Right, ...]:
    """Every right that the package uses; ``docs/rbac.yaml`` grants exactly these."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for group, resource, verbs in (*_COMMON, *((kind.group, kind.plural, kind.verbs) for kind in kinds())):
        found.setdefault((group, resource), {}).update(dict.fromkeys(verbs))
    return tuple(Right(group, resource, tuple(verbs)) for (group, resource), verbs in found.items())
