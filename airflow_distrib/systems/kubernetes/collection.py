"""One list and watch of a Kubernetes collection, for however many jobs wait in it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Protocol

from airflow_distrib.core.errors import DistribError
from airflow_distrib.systems.kubernetes.client import ApiError, KubernetesClient
from airflow_distrib.systems.kubernetes.kind import Manifest, Object
from airflow_distrib.systems.kubernetes.timing import TIMING, Timing

log = logging.getLogger(__name__)

# A page small enough that parsing it does not hold up the event loop.
PAGE = 100


class Gone(Exception):
    """The server no longer has the changes since the watch's resource version: HTTP 410."""


class Listener(Protocol):
    """Follows one job."""

    def changed(self) -> None:
        """Something about the job has changed."""

    def lost(self, found: Manifest) -> None:
        """An object of the job was deleted; this is its last state."""


class CollectionWatch:
    """Keeps a copy of the objects with a label, and notifies listeners when one changes.

    Args:
        job_of: which job an object belongs to.
        slim: the part of an object that is kept in memory.

    Attributes:
        listed_at: monotonic time at which the last complete list was requested.
        down_since: monotonic time since which the server has not answered; None while it does.
        refused: the server's refusal, once it has lasted for ``timing.refused``.
    """

    def __init__(
        self,
        client: KubernetesClient,
        path: str,
        selector: str,
        job_of: Callable[[Object], str],
        slim: Callable[[Object], Manifest],
        timing: Timing = TIMING,
    ) -> None:
        self.path = path
        self.listed_at = 0.0
        self.down_since: float | None = None
        self.refused: DistribError | None = None
        self._refused_since: float | None = None
        self._client = client
        self._selector = selector
        self._job_of, self._slim = job_of, slim
        self._timing = timing
        self._version = ""
        self._objects: dict[str, dict[str, Manifest]] = {}
        self._listeners: dict[str, list[Listener]] = {}
        # In its own context: otherwise its log lines would go to the task that happened to come first.
        self._task = asyncio.get_running_loop().create_task(self._run(), context=contextvars.Context())

    def of(self, job: str) -> dict[str, Manifest]:
        """Objects of a job by name."""
        return self._objects.get(job, {})

    @contextlib.contextmanager
    def listening(self, job: str, listener: Listener) -> Iterator[None]:
        """Notify ``listener`` of every change to an object of ``job``."""
        self._listeners.setdefault(job, []).append(listener)
        try:
            yield
        finally:
            self._listeners[job].remove(listener)
            if not self._listeners[job]:
                del self._listeners[job]

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    # ------------------------------------------------------------------ the loop

    async def _run(self) -> None:
        pause, failures = self._timing.first_pause, 0
        while True:
            try:
                if not self._version:
                    await self._list()
                async for _ in self._watch():
                    pause, failures = self._timing.first_pause, 0
                    self._came_back()
                self._came_back()
            except Gone:
                self._version = ""
                await asyncio.sleep(random.uniform(0, self._timing.first_pause))  # noqa: S311 - no secret
            except Exception as error:  # noqa: BLE001 - the jobs depend on this loop, so it never ends
                self._went_down(error)
                failures += 1
                if failures % 3 == 0:
                    # The resource version itself may be the problem.
                    self._version = ""
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
                pause = min(pause * 2, self._timing.longest_pause)

    def _came_back(self) -> None:
        self.down_since, self._refused_since, self.refused = None, None, None

    def _went_down(self, error: Exception) -> None:
        if self.down_since is None:
            self.down_since = time.monotonic()
            log.warning("watch of %s: %s: %s", self.path, type(error).__name__, error)
        if not isinstance(error, ApiError) or error.status not in (401, 403, 404):
            self._refused_since = None
            return
        # A server that has just restarted may refuse what it allows a moment later.
        self._refused_since = self._refused_since or time.monotonic()
        if time.monotonic() - self._refused_since > self._timing.refused:
            self.refused = error

    async def _list(self) -> None:
        requested_at = time.monotonic()
        query = {"labelSelector": self._selector, "limit": str(PAGE)}
        found: dict[str, Manifest] = {}
        while True:
            try:
                page = await self._client.request("GET", self.path, query=query, attempts=1)
            except ApiError as error:
                if error.status == 410:
                    raise Gone from error
                raise
            found.update({item["metadata"]["name"]: self._slim(item) for item in page["items"]})
            more = page["metadata"].get("continue")
            if not more:
                break
            query = {**query, "continue": more}
            await asyncio.sleep(0)
        self._replace(found)
        self._version = page["metadata"]["resourceVersion"]
        self.listed_at = requested_at
        self._came_back()
        for listeners in list(self._listeners.values()):
            for listener in listeners:
                listener.changed()

    def _replace(self, found: Mapping[str, Manifest]) -> None:
        """Replace all objects by a complete list; those missing from it were deleted in the meantime."""
        known = [(job, item) for job, items in self._objects.items() for item in items.values()]
        current = {item["metadata"]["uid"] for item in found.values()}
        self._objects = {}
        for item in found.values():
            self._objects.setdefault(self._job_of(item), {})[item["metadata"]["name"]] = item
        for job, item in known:
            if item["metadata"]["uid"] not in current:
                self._lose(job, item)

    async def _watch(self) -> AsyncIterator[None]:
        """Apply changes until the server ends the stream; yields after every piece received."""
        query = {
            "labelSelector": self._selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(self._timing.watch + random.randint(0, 60)),  # noqa: S311 - no secret
        }
        try:
            # The server sends a bookmark every minute: if it is silent for longer, the connection is dead.
            async with self._client.stream(self.path, query, quiet_for=150) as pieces:
                self._came_back()
                rest = b""
                async for piece in pieces:
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        self._apply(json.loads(line))
                    yield None
        except ApiError as error:
            if error.status == 410:
                raise Gone from error
            raise

    def _apply(self, event: Object) -> None:
        kind, found = event["type"], event["object"]
        if kind == "ERROR":
            if found.get("code") == 410:
                raise Gone
            raise ApiError(int(found.get("code") or 0), str(found.get("reason")), str(found.get("message")), self.path)
        self._version = found["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return
        kept = self._slim(found)
        job, name = self._job_of(kept), kept["metadata"]["name"]
        if kind == "DELETED":
            items = self._objects.get(job, {})
            items.pop(name, None)
            if not items:
                self._objects.pop(job, None)
            self._lose(job, kept)
        else:
            self._objects.setdefault(job, {})[name] = kept
        for listener in self._listeners.get(job, ()):
            listener.changed()

    def _lose(self, job: str, item: Manifest) -> None:
        for listener in self._listeners.get(job, ()):
            listener.lost({**item, "deleted": True})
