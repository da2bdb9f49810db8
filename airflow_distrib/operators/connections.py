"""Airflow connections of launchers: read once, on the worker, because a signal handler cannot ask Airflow."""

from __future__ import annotations

from typing import Any

from airflow_distrib import catalogue
from airflow_distrib.jobs.launcher import Connection
from airflow_distrib.operators.launching import AnyLauncher


def connection_of(operator: Any, launcher: AnyLauncher) -> Connection:
    """The connection that an operator names for a launcher, or its default."""
    entry = catalogue.launcher(launcher.name)
    if not entry.hook:
        return Connection("", _nothing)
    hook_class = catalogue.load(entry.hook)
    conn_id = getattr(operator, launcher.connection_argument) or hook_class.default_conn_name
    settings = hook_class(conn_id).settings()

    async def read() -> object:
        return settings

    return Connection(conn_id, read)


async def _nothing() -> None:
    return None
