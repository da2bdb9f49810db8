"""The launcher for Kubernetes: one instance for each system that runs there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from airflow_distrib.core import config as configs
from airflow_distrib.core.config import ConfigT
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.launcher import Argument, Connection, Launcher
from airflow_distrib.jobs.pool import SessionPool
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.systems.kubernetes.client import KubernetesClient
from airflow_distrib.systems.kubernetes.jobs import KubernetesJobs
from airflow_distrib.systems.kubernetes.kind import Object
from airflow_distrib.systems.kubernetes.manifest import KubernetesSubmission
from airflow_distrib.systems.kubernetes.problems import Patience
from airflow_distrib.systems.kubernetes.resource import NAME
from airflow_distrib.systems.kubernetes.session import KubernetesSession

# A Secret holds 1 MiB, not counting base64 but counting the runner's archive.
MAX_PAYLOAD_BYTES = 700 * 1024


def _manifest(name: str, value: object) -> Object:
    if not isinstance(value, Mapping):
        raise ConfigError(name, f"must be a mapping; got {value!r}")
    return value


ARGUMENTS = (
    Argument("command", configs.words, runs=True, excludes_function=True, part_of_job=True),
    Argument("manifest", _manifest, renderer="json", runs=True, part_of_job=True),
    Argument("kubernetes_conn_id", configs.text),
    Argument("payload_path", configs.location),
    Argument("patience", configs.of(Patience), templated=False),
)


@contextlib.asynccontextmanager
async def connect(connection: Connection) -> AsyncIterator[KubernetesJobs]:
    """The jobs of a connection; all its users in this event loop share one client."""

    async def open_session() -> KubernetesSession:
        return KubernetesSession(KubernetesClient(await connection.settings(), connection.settings))

    async with SessionPool.current().session((NAME, connection.id), open_session) as session:
        yield KubernetesJobs(session)


@dataclass(frozen=True)
class KubernetesLauncher(Launcher[ConfigT, KubernetesSubmission]):
    """Runs jobs as resources of the Kubernetes API.

    Attributes:
        renders: renders the resource of a complete config.
        from_manifest: reads fields of the config from a manifest that is given without a config.
    """

    renders: Callable[[ConfigT, JobRequest], KubernetesSubmission]
    from_manifest: Callable[[Object], Mapping[str, object]]

    name: ClassVar[str] = NAME
    connection_argument: ClassVar[str] = "kubernetes_conn_id"
    honours: ClassVar[tuple[str, ...]] = ("keep_job", "python", "result_path")

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return ARGUMENTS

    def implied_config(self, arguments: Mapping[str, object]) -> Mapping[str, object] | None:
        manifest = arguments.get("manifest")
        return self.from_manifest(manifest) if isinstance(manifest, Mapping) else None

    def render(self, config: ConfigT, request: JobRequest) -> KubernetesSubmission:
        submission = self.renders(config, request)
        payload = submission.payload
        if payload is not None and len(payload) > MAX_PAYLOAD_BYTES:
            raise ConfigError(
                "payload_path",
                f"the function and its arguments take {len(payload) / 1024:.0f} KiB, more than the "
                f"{MAX_PAYLOAD_BYTES // 1024} KiB that fit into a job's Secret; load the data inside the function, or "
                "set payload_path to a location that both the Airflow worker and the ranks can access",
            )
        return submission

    def connect(self, connection: Connection) -> contextlib.AbstractAsyncContextManager[KubernetesJobs]:
        return connect(connection)
