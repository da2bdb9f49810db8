"""Everything that is shared by the jobs that wait in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from airflow_distrib.backends.kubernetes.judge import View
from airflow_distrib.backends.kubernetes.kind import Kind
from airflow_distrib.backends.kubernetes.resource import JOB_LABEL, ResourceBackend
from airflow_distrib.clients.kubernetes import KubernetesClient, KubernetesSettings
from airflow_distrib.core.reference import JobRef
from airflow_distrib.watching.kubernetes.collection import CollectionWatch, slim
from airflow_distrib.watching.pool import ClientPool

# Logs followed at once; jobs beyond it have theirs read every few seconds instead.
LOG_STREAMS = 200
# Cancels and look-ups that a mass clear may cause at once.
PARALLEL_CALLS = 20

Settings = Callable[[], Awaitable[KubernetesSettings]]


class JobFeed:
    """What is known of one job, kept up to date by the watches.

    Attributes:
        outage: seconds for which the API server has not answered; 0 while it does.
    """

    def __init__(self, ref: JobRef, jobs: CollectionWatch, pods: CollectionWatch) -> None:
        self._ref = ref
        self._jobs, self._pods = jobs, pods
        self._since = time.monotonic()
        self._asked: dict[str, Any] | None = None
        self._gone = False
        self._last: dict[str, Any] | None = None
        self._past: dict[str, dict[str, Any]] = {}
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    def lost(self, found: dict[str, Any]) -> None:
        if found["metadata"]["uid"] == self._ref.uid:
            self._gone, self._last = True, found
        # A pod's last words outlive it.
        self._past[found["metadata"]["uid"]] = found
        self._changed.set()

    async def begin(self, backend: ResourceBackend) -> None:
        """Find out whether the job is there, if the watch does not tell yet."""
        known = self._jobs.of(self._ref.name).get(self._ref.name)
        if known is None or known["metadata"]["uid"] != self._ref.uid:
            found = await backend.get(self._ref)
            self._asked = slim(found) if found is not None else None
            self._gone = self._gone or found is None
            self._since = time.monotonic()

    @property
    def ready(self) -> bool:
        """Whether both watches have listed what there is."""
        return bool(self._jobs.listed_at and self._pods.listed_at)

    @property
    def outage(self) -> float:
        down = self._jobs.down_since or self._pods.down_since
        return time.monotonic() - down if down is not None else 0.0

    def check(self) -> None:
        """Raise what keeps the watches from working, once it has lasted."""
        for watch in (self._jobs, self._pods):
            if watch.refused is not None:
                raise watch.refused

    def view(self, events: tuple[Mapping[str, Any], ...]) -> View:
        """The job as it is known now."""
        found = self._jobs.of(self._ref.name).get(self._ref.name)
        if found is not None and found["metadata"]["uid"] == self._ref.uid:
            self._asked = None
        elif self._jobs.listed_at > self._since:
            # A list that began after the job did, and does not have it.
            found, self._gone = None, True
        else:
            found = self._asked
        live = self._pods.of(self._ref.name)
        uids = {pod["metadata"]["uid"] for pod in live.values()}
        past = [pod for uid, pod in self._past.items() if uid not in uids and uid != self._ref.uid]
        alone = self._jobs is self._pods
        pods = (*past, *live.values()) if not alone else tuple(self._past.values()) or tuple(live.values())
        # Of a job that is gone the last state counts: it may have ended well before.
        return View(self._last if self._gone else found, pods, events)

    async def wait(self, seconds: float | None) -> bool:
        """Wait for a change; False when there was none in time."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True


class WatchHub:
    """Clients by connection, watches by place: one hub for each event loop."""

    _hubs: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, WatchHub] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self.log_streams = asyncio.Semaphore(LOG_STREAMS)
        self.calls = asyncio.Semaphore(PARALLEL_CALLS)
        self.questions = asyncio.Semaphore(PARALLEL_CALLS)
        self._pool: ClientPool[KubernetesClient] = ClientPool(self._close_watches)
        self._watches: dict[tuple[str, str], CollectionWatch] = {}

    @classmethod
    def current(cls) -> WatchHub:
        """The running loop's hub."""
        return cls._hubs.setdefault(asyncio.get_running_loop(), cls())

    @contextlib.asynccontextmanager
    async def client(self, connection: str, settings: Settings) -> AsyncIterator[KubernetesClient]:
        """The one client of a connection."""

        async def make() -> KubernetesClient:
            return KubernetesClient(await settings(), settings)

        async with self._pool.client(connection, make) as client:
            yield client

    @contextlib.asynccontextmanager
    async def feed(self, connection: str, client: KubernetesClient, kind: Kind, ref: JobRef) -> AsyncIterator[JobFeed]:
        """Follow one job; the watch behind it is shared with all others of its kind and namespace."""
        namespace = ref.address["namespace"]
        pods = self._watch(connection, client, f"/api/v1/namespaces/{namespace}/pods", _by_label)
        jobs = pods
        if kind.path(namespace) != pods.path:
            jobs = self._watch(connection, client, kind.path(namespace), _by_name)
        feed = JobFeed(ref, jobs, pods)
        with contextlib.ExitStack() as stack:
            for watch in {jobs, pods}:
                stack.enter_context(watch.listening(ref.name, feed))
            await feed.begin(ResourceBackend(client, kind))
            yield feed

    def _watch(
        self, connection: str, client: KubernetesClient, path: str, job_of: Callable[[Mapping[str, Any]], str]
    ) -> CollectionWatch:
        key = (connection, path)
        if key not in self._watches:
            self._watches[key] = CollectionWatch(client, path, JOB_LABEL, job_of)
        return self._watches[key]

    async def _close_watches(self, connection: str) -> None:
        # All at once: a client that is opened meanwhile must not find one of them.
        for watch in [self._watches.pop(key) for key in list(self._watches) if key[0] == connection]:
            await watch.close()

    async def close(self) -> None:
        """Close everything at once: before a worker's event loop ends."""
        await self._pool.close()


def _by_name(found: Mapping[str, Any]) -> str:
    return str(found["metadata"]["name"])


def _by_label(found: Mapping[str, Any]) -> str:
    return str(found["metadata"].get("labels", {}).get(JOB_LABEL, ""))
