"""The wait for a job, whatever its system: deadline, patience, outages, what the log tells once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from airflow_distrib.core.errors import ClusterError
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import Category, JobState, Problem
from airflow_distrib.jobs.launcher import Emit, JobClient, JobWatch, Observation, Obstacle
from airflow_distrib.jobs.waiting import Ending, Waiting

# A look without any change, in case something was missed.
LOOK_SECONDS = 60.0
# An outage is mentioned after so many seconds.
OUTAGE_SECONDS = 20.0
# How long a cancel is tried while the system does not answer, and the pause between two attempts.
CANCEL_SECONDS, CANCEL_PAUSE = 1800.0, 5.0


async def until_over(client: JobClient[Any], waiting: Waiting, emit: Emit) -> Ending:
    """Wait for a job's end, its deadline, or an obstacle that lasts longer than patience.

    Raises:
        ClusterError: the system has not answered, or refused, for too long.
    """
    async with client.watch(waiting, emit) as watch:
        seen, problem = await _Wait(waiting, watch, emit).decide()
        outcomes = await watch.finish(seen)
        status = seen.status
        succeeded = status.state is JobState.SUCCEEDED if status.state.finished else None
        return Ending(succeeded, status.reason, status.message, problem, outcomes, watch.positions())


class _Wait:
    def __init__(self, waiting: Waiting, watch: JobWatch, emit: Emit) -> None:
        self._waiting, self._watch, self._emit = waiting, watch, emit
        self._noted: set[str] = set()
        self._since: dict[str, float] = {}

    async def decide(self) -> tuple[Observation, Problem | None]:
        deadline = self._waiting.deadline
        while True:
            now = time.time()
            seen = self._watch.observe(now)
            self._note(seen)
            if seen.over:
                return seen, seen.problem
            lasting, limit = self._lasting(seen.obstacles)
            if lasting is not None:
                return seen, lasting.problem or seen.problem
            # A job that has failed settles within seconds; its ranks know better what was wrong.
            if deadline is not None and now >= deadline and seen.status.state is not JobState.FAILED:
                return seen, timed_out(seen.status.state)
            limits = [LOOK_SECONDS, limit, seen.look_again, deadline - now if deadline is not None else None]
            await self._watch.wait(max(0.05, min(each for each in limits if each is not None)))

    def _lasting(self, obstacles: Iterable[Obstacle]) -> tuple[Obstacle | None, float | None]:
        """The first obstacle that has lasted too long; otherwise in how many seconds one will have."""
        if self._watch.outage:
            # What looks stuck is only what was seen last.
            obstacles = [each for each in obstacles if each.problem is None]
        present = {each.key: each for each in obstacles}
        now = time.monotonic()
        # An obstacle that went away and comes back is another one.
        self._since = {key: self._since.get(key, now) for key in present}
        rest = {key: self._since[key] + each.seconds - now for key, each in present.items() if each.seconds is not None}
        lasting = next((present[key] for key, seconds in rest.items() if seconds <= 0), None)
        return lasting, min(rest.values(), default=None)

    def _note(self, seen: Observation) -> None:
        notes = list(seen.notes)
        if self._watch.outage > OUTAGE_SECONDS:
            notes.append(("outage", f"{self._watch.trouble}; still waiting for the job"))
        for key, text in notes:
            if key not in self._noted:
                self._noted.add(key)
                self._emit(text)


def timed_out(state: JobState) -> Problem:
    """A job that was in some state when the task's time was over."""
    text = f"the job was still {state.value} when the task's execution_timeout was over"
    return Problem("TimedOut", text, category=Category.TIMED_OUT)


async def cancel_patiently(client: JobClient[Any], ref: JobRef, emit: Emit, *, keep_files: bool = False) -> None:
    """Cancel a job, also when the system does not answer at once.

    Raises:
        ClusterError: it refuses for good, or has not answered for :data:`CANCEL_SECONDS`.
    """
    end = time.monotonic() + CANCEL_SECONDS
    shown = ""
    while True:
        try:
            gone = await client.cancel(ref, confirm_for=client.confirm_seconds, keep_files=keep_files)
        except ClusterError as error:
            if error.permanent or time.monotonic() > end:
                raise
            if str(error) != shown:
                shown = str(error)
                emit(f"{client.describe(ref)} cannot be cancelled yet: {shown}; trying again")
            await asyncio.sleep(CANCEL_PAUSE)
            continue
        if not gone and client.confirm_seconds:
            emit(f"{client.describe(ref)} was cancelled, but is still ending after {client.confirm_seconds:g} s")
        return
