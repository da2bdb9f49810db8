"""The launcher for local ranks: processes of the Airflow worker itself."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import ClassVar

from airflow_distrib.core.config import ConfigT
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.launcher import Connection, Launcher
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.systems.local.jobs import NAME, LocalJobs, LocalSubmission
from airflow_distrib.systems.local.plan import LocalPlan

# Time between SIGTERM and SIGKILL when ranks are stopped.
GRACE_SECONDS = 3.0


@contextlib.asynccontextmanager
async def connect(connection: Connection) -> AsyncIterator[LocalJobs]:
    """Jobs of this worker; they end with the context."""
    del connection
    jobs = LocalJobs()
    try:
        yield jobs
    finally:
        await jobs.close()


@dataclass(frozen=True)
class LocalLauncher(Launcher[ConfigT, LocalSubmission]):
    """Runs jobs as processes of the Airflow worker.

    Attributes:
        renders: from a complete config to processes.
        where: whether a config is one for local ranks, where the user names no launcher.
    """

    renders: Callable[[ConfigT, JobRequest], LocalPlan]
    where: Callable[[ConfigT], bool] = lambda _: True

    name: ClassVar[str] = NAME
    outlives_worker: ClassVar[bool] = False
    honours: ClassVar[tuple[str, ...]] = ("python", "result_path", "termination_grace_seconds")

    def suits(self, config: ConfigT) -> bool:
        return self.where(config)

    def render(self, config: ConfigT, request: JobRequest) -> LocalSubmission:
        if not request.runs_function:
            raise ConfigError("python_callable", f"is required with launcher={self.name!r}, which runs no commands")
        plan = self.renders(config, request)
        return LocalSubmission(
            identity=request.identity,
            name=request.identity.name(),
            payload=request.payload,
            ignored=tuple(f"task_config: {name}" for name in plan.not_applied),
            plan=plan,
            python=request.python,
            options=request.options(GRACE_SECONDS),
        )

    def connect(self, connection: Connection) -> contextlib.AbstractAsyncContextManager[LocalJobs]:
        return connect(connection)
