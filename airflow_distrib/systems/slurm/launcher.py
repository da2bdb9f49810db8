"""The launcher for Slurm, through a login node: one instance for each operator that runs there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from airflow_distrib.core import config as configs
from airflow_distrib.core.config import ConfigT
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.launcher import Argument, Connection, Launcher
from airflow_distrib.jobs.pool import SessionPool
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.systems.slurm.commands import ENVIRONMENT
from airflow_distrib.systems.slurm.jobs import SlurmJobs
from airflow_distrib.systems.slurm.scheduler import NAME
from airflow_distrib.systems.slurm.session import SlurmSession
from airflow_distrib.systems.slurm.ssh import SshClient
from airflow_distrib.systems.slurm.submission import SlurmSubmission


def _elements(name: str, value: object) -> list[int] | str:
    if value == "all":
        return "all"
    if not isinstance(value, Sequence | set) or not all(type(each) is int and each >= 0 for each in value):
        raise ConfigError(name, f'must be a list of numbers such as [0, 1], or "all"; got {value!r}')
    return list(value)


_COMMON = (Argument("ssh_conn_id", configs.text), Argument("log_elements", _elements, templated=False))


@contextlib.asynccontextmanager
async def connect(connection: Connection) -> AsyncIterator[SlurmJobs]:
    """The jobs of a connection, through the client that all share who use it in this event loop."""

    async def open_session() -> SlurmSession:
        return SlurmSession(SshClient(await connection.settings(), connection.settings, prelude=ENVIRONMENT))

    async with SessionPool.current().session((NAME, connection.id), open_session) as session:
        yield SlurmJobs(session)


@dataclass(frozen=True)
class SlurmLauncher(Launcher[ConfigT, SlurmSubmission]):
    """Runs jobs by sbatch.

    Attributes:
        renders: from a complete config to what sbatch is given.
        own: further operator arguments.
        for_functions: whether it runs functions; otherwise scripts.
        where: whether a config is one for Slurm, where the user names no launcher.
    """

    renders: Callable[[ConfigT, JobRequest], SlurmSubmission]
    own: tuple[Argument, ...] = ()
    for_functions: bool = True
    where: Callable[[ConfigT], bool] = lambda _: True

    name: ClassVar[str] = NAME
    connection_argument: ClassVar[str] = "ssh_conn_id"
    honours: ClassVar[tuple[str, ...]] = ("keep_job",)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (*_COMMON, *self.own)

    @property
    def takes(self) -> frozenset[str]:
        return super().takes | ({"python", "result_path"} if self.for_functions else set())

    def suits(self, config: ConfigT) -> bool:
        return self.where(config)

    def render(self, config: ConfigT, request: JobRequest) -> SlurmSubmission:
        return self.renders(config, request)

    def connect(self, connection: Connection) -> contextlib.AbstractAsyncContextManager[SlurmJobs]:
        return connect(connection)
