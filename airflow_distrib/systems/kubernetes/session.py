"""What the jobs of one connection share in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from airflow_distrib.core.reference import JobRef
from airflow_distrib.systems.kubernetes.client import KubernetesClient
from airflow_distrib.systems.kubernetes.collection import CollectionWatch
from airflow_distrib.systems.kubernetes.feed import JobFeed
from airflow_distrib.systems.kubernetes.kind import Kind, Manifest, Object
from airflow_distrib.systems.kubernetes.manifest import JOB_LABEL
from airflow_distrib.systems.kubernetes.pod import POD
from airflow_distrib.systems.kubernetes.timing import TIMING, Timing

# Logs followed at once; further logs are read every few seconds instead.
LOG_STREAMS = 200
# Cancels and look-ups at once, for example when many tasks are cleared together.
PARALLEL_CALLS = 20


class KubernetesSession:
    """A client, and one watch for each collection."""

    def __init__(self, client: KubernetesClient, timing: Timing | None = None) -> None:
        self.client = client
        self.timing = timing or TIMING
        self.log_streams = asyncio.Semaphore(LOG_STREAMS)
        self.calls = asyncio.Semaphore(PARALLEL_CALLS)
        self.event_requests = asyncio.Semaphore(PARALLEL_CALLS)
        self._watches: dict[str, CollectionWatch] = {}

    @contextlib.asynccontextmanager
    async def feed(
        self, kind: Kind, ref: JobRef, get: Callable[[JobRef], Awaitable[Object | None]]
    ) -> AsyncIterator[JobFeed]:
        """Follow one job, through watches shared with all jobs of its kind and namespace."""
        namespace = ref.address["namespace"]
        pods = self._watch(POD.path(namespace), _by_label, POD.slim)
        jobs = pods
        if kind.path(namespace) != pods.path:
            jobs = self._watch(kind.path(namespace), _by_name, kind.slim)
        feed = JobFeed(ref, kind, jobs, pods)
        with contextlib.ExitStack() as stack:
            for watch in {jobs, pods}:
                stack.enter_context(watch.listening(ref.name, feed))
            await feed.begin(get)
            yield feed

    def _watch(self, path: str, job_of: Callable[[Object], str], slim: Callable[[Object], Manifest]) -> CollectionWatch:
        if path not in self._watches:
            self._watches[path] = CollectionWatch(self.client, path, JOB_LABEL, job_of, slim, self.timing)
        return self._watches[path]

    async def close(self) -> None:
        """Stop watching, then close the client."""
        for watch in self._watches.values():
            await watch.close()
        self._watches.clear()
        await self.client.close()


def _by_name(found: Object) -> str:
    return str(found["metadata"]["name"])


def _by_label(found: Object) -> str:
    return str(found["metadata"].get("labels", {}).get(JOB_LABEL, ""))
