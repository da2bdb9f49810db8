"""One look at a Slurm's queue, for however many jobs wait in it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import time
from collections.abc import Iterator, Mapping

from airflow_distrib.core.errors import ClusterError
from airflow_distrib.core.reference import JobRef
from airflow_distrib.systems.slurm.config import elements
from airflow_distrib.systems.slurm.scheduler import Scheduler
from airflow_distrib.systems.slurm.ssh import Refused
from airflow_distrib.systems.slurm.status import MAY_COME_BACK, Part, of_job
from airflow_distrib.systems.slurm.timing import TIMING, Timing

log = logging.getLogger(__name__)

# A job that may be started again, or that nobody knows, counts only when seen so in this many looks.
CONFIRMATIONS = 2
# How much longer every next pause is.
GROWTH = 1.3


class QueueFeed:
    """What is known of one job.

    Attributes:
        parts: by their keys; empty while nothing is known.
        unknown: how often in a row neither the queue nor the accounting knew it, or all of it.
    """

    def __init__(self, ref: JobRef, timing: Timing = TIMING) -> None:
        self.ref = ref
        self._timing = timing
        self.parts: dict[str, Part] = {}
        self.unknown = 0
        self.unknown_since: float | None = None
        self.asked_at = 0.0
        self._doubted: dict[str, int] = {}
        self._expected = elements(ref.address["array"]) if "array" in ref.address else []
        self.changed = asyncio.Event()

    def see(self, found: Mapping[str, Part], *, asked: bool) -> bool:
        """Take in what a look showed; True if anything is different.

        Args:
            asked: whether the accounting was asked too.
        """
        before = dict(self.parts)
        # Elements that ended are forgotten by the controller one by one.
        ended = {key: part for key, part in self.parts.items() if part.over and key not in found}
        self.parts = {**ended, **{key: self._believed(key, part) for key, part in found.items()}}
        if any(not part.over for part in self.parts.values()) or not self.is_incomplete({}):
            self.unknown, self.unknown_since = 0, None
        elif asked:
            self.unknown += 1
            self.unknown_since = self.unknown_since or time.monotonic()
        self.changed.set()
        return self.parts != before

    def _believed(self, key: str, part: Part) -> Part:
        """An end after which Slurm may start the job again has to be seen more than once."""
        if part.state not in MAY_COME_BACK:
            self._doubted.pop(key, None)
            return part
        self._doubted[key] = self._doubted.get(key, 0) + 1
        if self._doubted[key] >= CONFIRMATIONS:
            return part
        return Part(part.job, part.index, part.component, "COMPLETING", part.reason)

    def is_incomplete(self, found: Mapping[str, Part]) -> bool:
        """Whether the accounting has to be asked: the queue does not show all of the job."""
        known = {**{key: part for key, part in self.parts.items() if part.over}, **found}
        if not known:
            return True
        if not self._expected:
            return False
        covered: set[int] = set()
        for part in known.values():
            if part.index:
                try:
                    covered.update(elements(part.index.strip("[]")))
                except ValueError:
                    # Cut by Slurm, so there are elements that wait.
                    return False
        return not covered.issuperset(self._expected)

    @property
    def is_forgotten(self) -> bool:
        """Whether it has been unknown for long enough to believe it: the accounting is late at times."""
        since = self.unknown_since
        return since is not None and self.unknown >= CONFIRMATIONS and time.monotonic() - since >= self._timing.unknown

    async def wait(self, seconds: float) -> None:
        """Wait for the next look."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.changed.wait()
        self.changed.clear()


class QueueWatch:
    """Looks at one user's queue on one cluster, as long as anybody waits.

    Attributes:
        commands: how many commands were run, for the benchmarks.
        away_since: monotonic time since when Slurm has not answered; None while it does.
        trouble: why, in its own words.
        broken: the error for those who wait, once it has lasted.
    """

    def __init__(self, scheduler: Scheduler, cluster: str, timing: Timing = TIMING) -> None:
        self.commands = 0
        self.away_since: float | None = None
        self.trouble = ""
        self.broken: ClusterError | None = None
        self._scheduler, self._timing = scheduler, timing
        self._cluster = cluster
        self._feeds: dict[str, list[QueueFeed]] = {}
        self._joined = asyncio.Event()
        self._pause = self._timing.shortest_look
        # A context of its own: otherwise its log lines went to whichever task came first.
        self._task = asyncio.get_running_loop().create_task(self._run(), context=contextvars.Context())

    @contextlib.contextmanager
    def following(self, ref: JobRef) -> Iterator[QueueFeed]:
        """Follow one job."""
        feed = QueueFeed(ref, self._timing)
        self._feeds.setdefault(ref.uid, []).append(feed)
        self._joined.set()
        try:
            yield feed
        finally:
            self._feeds[ref.uid].remove(feed)
            if not self._feeds[ref.uid]:
                del self._feeds[ref.uid]

    @property
    def outage(self) -> float:
        """Seconds for which Slurm has not answered; 0 while it does."""
        return time.monotonic() - self.away_since if self.away_since is not None else 0.0

    async def close(self) -> None:
        """Stop looking."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            if not self._feeds:
                await self._joined.wait()
            self._joined.clear()
            try:
                changed = await self._look()
                self.away_since, self.broken = None, None
                self._pause = (
                    self._timing.shortest_look if changed else min(self._pause * GROWTH, self._timing.longest_look)
                )
            except Exception as error:  # noqa: BLE001 - a watch that dies must not take its jobs along
                self._went_away(error)
            await self._rest()

    async def _rest(self) -> None:
        """Pause, but not for a job that has just come in."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pause * random.uniform(0.9, 1.1)):  # noqa: S311 - no secret
                await self._joined.wait()
                self._pause = self._timing.shortest_look
                await asyncio.sleep(self._timing.gather)

    def _went_away(self, error: Exception) -> None:
        now = time.monotonic()
        if self.away_since is None:
            self.away_since = now
            log.warning("queue of %s: %s", self._scheduler.client.settings.place, error)
        self.trouble = str(error)
        limit = self._timing.refused if isinstance(error, Refused) else self._timing.away
        if now - self.away_since > limit:
            self.broken = error if isinstance(error, ClusterError) else ClusterError(f"squeue: {error!r}")
        self._pause = min(self._pause * 2, self._timing.longest_look)
        for feeds in self._feeds.values():
            for feed in feeds:
                feed.changed.set()

    async def _look(self) -> bool:
        waiting = [feed for feeds in self._feeds.values() for feed in feeds]
        found = await self._scheduler.queue(self._cluster)
        self.commands += 1
        shown = {id(feed): of_job(found, feed.ref.uid, feed.ref.name) for feed in waiting}
        now = time.monotonic()
        asked = [feed for feed in waiting if self._is_to_ask(feed, shown[id(feed)], now)]
        past: dict[str, dict[str, Part]] = {}
        if asked:
            past = await self._scheduler.forgotten({feed.ref.uid for feed in asked}, self._cluster)
            self.commands += 1
        changed = False
        for feed in waiting:
            if feed in asked:
                feed.asked_at = now
            known = {**of_job(past, feed.ref.uid, feed.ref.name), **shown[id(feed)]}
            changed |= feed.see(known, asked=feed in asked)
        return changed

    def _is_to_ask(self, feed: QueueFeed, shown: Mapping[str, Part], now: float) -> bool:
        """A job that has ended, and elements of one that goes on, are not always in the queue."""
        return feed.is_incomplete(shown) and (not shown or now - feed.asked_at > self._timing.ask)
