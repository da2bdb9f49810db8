"""One job, as seen by the shared watches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from airflow_distrib.core.reference import JobRef
from airflow_distrib.systems.kubernetes.collection import CollectionWatch
from airflow_distrib.systems.kubernetes.judge import View
from airflow_distrib.systems.kubernetes.kind import Kind, Manifest, Object


class JobFeed:
    """The state of one job, kept up to date by the watches."""

    def __init__(self, ref: JobRef, kind: Kind, jobs: CollectionWatch, pods: CollectionWatch) -> None:
        self._ref, self._kind = ref, kind
        self._jobs, self._pods = jobs, pods
        self._since = time.monotonic()
        # The job as returned by a direct request, until the watch has it.
        self._fetched: Manifest | None = None
        self._gone = False
        self._last: Manifest | None = None
        self._deleted: dict[str, Manifest] = {}
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    def lost(self, found: Manifest) -> None:
        if found["metadata"]["uid"] == self._ref.uid:
            self._gone, self._last = True, found
        # A pod's last report is still needed after the pod is gone.
        self._deleted[found["metadata"]["uid"]] = found
        self._changed.set()

    def _listed(self) -> Manifest | None:
        found = self._jobs.of(self._ref.name).get(self._ref.name)
        return found if found is not None and found["metadata"]["uid"] == self._ref.uid else None

    async def begin(self, get: Callable[[JobRef], Awaitable[Object | None]]) -> None:
        """Request the job, unless the watch already has it."""
        if self._listed() is None:
            found = await get(self._ref)
            self._fetched = self._kind.slim(found) if found is not None else None
            self._gone = self._gone or found is None
            self._since = time.monotonic()

    @property
    def ready(self) -> bool:
        """Whether both watches have received a complete list."""
        return bool(self._jobs.listed_at and self._pods.listed_at)

    @property
    def outage(self) -> float:
        """Seconds for which the API server has not answered; 0 while it does."""
        down = self._jobs.down_since or self._pods.down_since
        return time.monotonic() - down if down is not None else 0.0

    def check(self) -> None:
        """Raise the API server's refusal, once it has lasted."""
        for watch in (self._jobs, self._pods):
            if watch.refused is not None:
                raise watch.refused

    def view(self, events: tuple[Object, ...]) -> View:
        """The current state of the job."""
        found = self._listed()
        if found is not None:
            self._fetched = None
        elif self._jobs.listed_at > self._since:
            # The job existed before this list was requested, and is not in it.
            self._gone = True
        else:
            found = self._fetched
        live = self._pods.of(self._ref.name)
        uids = {pod["metadata"]["uid"] for pod in live.values()}
        deleted = [pod for uid, pod in self._deleted.items() if uid not in uids and uid != self._ref.uid]
        is_pod = self._jobs is self._pods
        pods = (*deleted, *live.values()) if not is_pod else tuple(self._deleted.values()) or tuple(live.values())
        # The last state of a deleted job counts: it may have succeeded before.
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
