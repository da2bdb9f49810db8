"""One job as the shared watches know it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from airflow_distrib.core.reference import JobRef
from airflow_distrib.systems.kubernetes.collection import CollectionWatch
from airflow_distrib.systems.kubernetes.judge import View
from airflow_distrib.systems.kubernetes.kind import Kind, Manifest, Object


class JobFeed:
    """What is known of one job, kept up to date by the watches.

    Attributes:
        outage: seconds for which the API server has not answered; 0 while it does.
    """

    def __init__(self, ref: JobRef, kind: Kind, jobs: CollectionWatch, pods: CollectionWatch) -> None:
        self._ref, self._kind = ref, kind
        self._jobs, self._pods = jobs, pods
        self._since = time.monotonic()
        self._asked: Manifest | None = None
        self._gone = False
        self._last: Manifest | None = None
        self._past: dict[str, Manifest] = {}
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    def lost(self, found: Manifest) -> None:
        if found["metadata"]["uid"] == self._ref.uid:
            self._gone, self._last = True, found
        # What a pod last reported outlives it.
        self._past[found["metadata"]["uid"]] = found
        self._changed.set()

    async def begin(self, get: Callable[[JobRef], Awaitable[Object | None]]) -> None:
        """Find out whether the job is there, if the watch does not know yet."""
        known = self._jobs.of(self._ref.name).get(self._ref.name)
        if known is None or known["metadata"]["uid"] != self._ref.uid:
            found = await get(self._ref)
            self._asked = self._kind.slim(found) if found is not None else None
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

    def view(self, events: tuple[Object, ...]) -> View:
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
