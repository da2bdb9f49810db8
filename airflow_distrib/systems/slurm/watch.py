"""Waiting for one job on Slurm until it is over, with its output."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from airflow_distrib.backends.slurm import status
from airflow_distrib.backends.slurm.commands import ENVIRONMENT
from airflow_distrib.backends.slurm.jobs import SlurmJobs
from airflow_distrib.clients.ssh import SshClient, SshSettings
from airflow_distrib.core.errors import ClusterError
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState, JobStatus, Problem
from airflow_distrib.watching.pool import ClientPool
from airflow_distrib.watching.slurm.output import JobOutput
from airflow_distrib.watching.slurm.queue import QueueFeed, QueueWatch
from airflow_distrib.watching.waiting import Ending, Waiting, timed_out

# A look without any change, for deadlines and patience.
LOOK_SECONDS = 60.0
# How long the log may take to catch up once the job is over; the worker reads the rest.
LOG_SECONDS = 15.0
# An outage is mentioned after so many seconds.
OUTAGE_SECONDS = 20.0
# How long a cancel is tried while Slurm does not answer, and how long its end is waited for.
CANCEL_SECONDS, CONFIRM_SECONDS = 1800.0, 30.0
_CANCEL_PAUSE = 5.0

# What waits is told this of a job that neither the queue nor the accounting knows.
FORGOTTEN = "Forgotten"

Settings = Callable[[], Awaitable[SshSettings]]


class SlurmHub:
    """Clients by connection, queues by cluster: one hub for each event loop."""

    _hubs: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, SlurmHub] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self._pool: ClientPool[SshClient] = ClientPool(self._close_queues)
        self._queues: dict[tuple[str, str], QueueWatch] = {}

    @classmethod
    def current(cls) -> SlurmHub:
        """The running loop's hub."""
        return cls._hubs.setdefault(asyncio.get_running_loop(), cls())

    @contextlib.asynccontextmanager
    async def client(self, connection: str, settings: Settings) -> AsyncIterator[SshClient]:
        """The one client of a connection."""

        async def make() -> SshClient:
            return SshClient(await settings(), settings, prelude=ENVIRONMENT)

        async with self._pool.client(connection, make) as client:
            yield client

    def queue(self, connection: str, client: SshClient, cluster: str) -> QueueWatch:
        """The one watch of a user's queue."""
        key = (connection, cluster)
        if key not in self._queues:
            self._queues[key] = QueueWatch(SlurmJobs(client), cluster)
        return self._queues[key]

    async def _close_queues(self, connection: str) -> None:
        # All at once: a client that is opened meanwhile must not find one of them.
        for queue in [self._queues.pop(key) for key in list(self._queues) if key[0] == connection]:
            await queue.close()

    async def close(self) -> None:
        """Close everything at once: before a worker's event loop ends."""
        await self._pool.close()


class SlurmWait:
    """Waits for one job; ``say`` takes the lines of its output and what is worth knowing about it."""

    def __init__(self, waiting: Waiting, hub: SlurmHub, client: SshClient, say: Callable[[str], None]) -> None:
        self._waiting, self._hub, self._client, self._say = waiting, hub, client, say
        self._told: set[str] = set()
        self._stuck: tuple[str, float] | None = None
        self._output = output_of(client, waiting, say, {})

    async def until_over(self) -> Ending:
        """Wait for the job's end, its deadline, or a problem that lasts.

        Raises:
            ClusterError: Slurm has not answered for hours, or refused for minutes.
        """
        waiting = self._waiting
        queue = self._hub.queue(waiting.connection, self._client, waiting.ref.address.get("cluster", ""))
        try:
            with queue.following(waiting.ref) as feed:
                ending = await self._decided(queue, feed)
            await self._output.finish(LOG_SECONDS)
        finally:
            await self._output.close()
        return Ending(ending.succeeded, ending.reason, ending.message, ending.problem, (), self._output.positions())

    async def _decided(self, queue: QueueWatch, feed: QueueFeed) -> Ending:
        while True:
            if queue.broken is not None:
                raise queue.broken
            now = time.time()
            found = status.aggregated(feed.parts.values()) if feed.parts else JobStatus(JobState.QUEUED)
            self._tell(found, queue, feed)
            if found.state.finished and not feed.is_incomplete({}):
                return Ending(found.state is JobState.SUCCEEDED, found.reason, found.message)
            if feed.is_forgotten:
                return Ending(None, FORGOTTEN)
            problem, wait = self._waits_in_vain(feed, queue)
            if problem is not None:
                return Ending(None, found.reason, problem=problem)
            deadline = self._waiting.deadline
            if deadline is not None and now >= deadline:
                return Ending(None, found.reason, problem=timed_out(found.state.value))
            limits = [LOOK_SECONDS, wait, deadline - now if deadline is not None else None]
            await feed.wait(max(0.05, min(each for each in limits if each is not None)))

    def _waits_in_vain(self, feed: QueueFeed, queue: QueueWatch) -> tuple[Problem | None, float | None]:
        """What keeps the job from ever starting, once it has lasted; otherwise when to look again."""
        found = status.stuck(feed.parts.values())
        if found is None or queue.outage:
            self._stuck = None
            return None, None
        problem, patience = found
        if self._stuck is None or self._stuck[0] != problem.reason:
            self._stuck = (problem.reason, time.monotonic())
        left = self._stuck[1] + patience - time.monotonic()
        return (problem, None) if left <= 0 else (None, left)

    def _tell(self, found: JobStatus, queue: QueueWatch, feed: QueueFeed) -> None:
        """Say once what has changed, and begin to follow the output once there may be some."""
        if feed.parts:
            why = f" ({found.message})" if found.state is JobState.QUEUED and found.message else ""
            self._say_once(f"Slurm job {self._waiting.ref.uid}: {found.state.value}{why}")
        unknown = {part.state for part in feed.parts.values() if part.state not in status.STATES}
        for state in unknown:
            self._say_once(f"Slurm says that the job is {state!r}, which this version does not know; it is waited for")
        if self._waiting.logs and any(status.STATES.get(p.state) is not JobState.QUEUED for p in feed.parts.values()):
            self._output.start()
        if queue.outage > OUTAGE_SECONDS:
            self._say_once(f"Slurm does not answer, waiting for it: {queue.trouble}", key="outage")

    def _say_once(self, text: str, key: str | None = None) -> None:
        if (key or text) not in self._told:
            self._told.add(key or text)
            self._say(text)

    async def cancel(self, *, keep_files: bool = False) -> None:
        """Cancel the job and see it gone; a controller that is away is waited for."""
        await cancel_patiently(SlurmJobs(self._client), self._waiting.ref, self._say, keep_files=keep_files)

    async def is_over(self) -> bool:
        """Whether it has ended by itself, or is gone."""
        parts = await SlurmJobs(self._client).parts(self._waiting.ref)
        return all(part.over for part in parts.values())


def output_of(
    client: SshClient, waiting: Waiting, say: Callable[[str], None], positions: Mapping[str, Any]
) -> JobOutput:
    """The files to show of a job."""
    return JobOutput(client, waiting.ref, waiting.log_roles or (), say, named=waiting.named, positions=positions)


async def cancel_patiently(
    jobs: SlurmJobs, ref: JobRef, say: Callable[[str], None], *, keep_files: bool = False
) -> None:
    """Cancel a job, also when Slurm does not answer at once.

    Raises:
        ClusterError: it has not answered for :data:`CANCEL_SECONDS`.
    """
    end = time.monotonic() + CANCEL_SECONDS
    while True:
        try:
            if not await jobs.cancel(ref, confirm_for=CONFIRM_SECONDS, keep_files=keep_files):
                say(f"Slurm job {ref.uid} was told to end, and has not after {CONFIRM_SECONDS:g} s")
            return
        except ClusterError as error:
            if time.monotonic() > end:
                raise
            say(f"cancelling Slurm job {ref.uid}: {error}; trying again")
        await asyncio.sleep(_CANCEL_PAUSE)
