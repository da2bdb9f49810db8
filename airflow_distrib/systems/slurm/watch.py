"""One job on Slurm, watched until it is over, with its output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_distrib.core.status import JobState, JobStatus
from airflow_distrib.jobs.launcher import Emit, JobWatch, Observation, Obstacle
from airflow_distrib.jobs.waiting import Waiting
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.systems.slurm import status
from airflow_distrib.systems.slurm.logs import JobOutput
from airflow_distrib.systems.slurm.queue import QueueFeed, QueueWatch
from airflow_distrib.systems.slurm.session import SlurmSession
from airflow_distrib.systems.slurm.status import Part


class SlurmWatch(JobWatch):
    """Judges what the shared look at the queue knows of one job."""

    def __init__(self, session: SlurmSession, waiting: Waiting, emit: Emit, queue: QueueWatch, feed: QueueFeed) -> None:
        self._waiting, self._queue, self._feed = waiting, queue, feed
        self._output = JobOutput(session.client, waiting, emit, timing=session.timing)
        self._log_seconds = session.timing.log

    @property
    def outage(self) -> float:
        return self._queue.outage

    @property
    def trouble(self) -> str:
        return f"Slurm does not answer ({self._queue.trouble})"

    def observe(self, now: float) -> Observation:
        del now
        if self._queue.broken is not None:
            raise self._queue.broken
        parts = self._feed.parts
        found = status.aggregated(parts.values()) if parts else JobStatus(JobState.QUEUED)
        if self._waiting.logs and any(status.STATES.get(p.state) is not JobState.QUEUED for p in parts.values()):
            self._output.start()
        notes = self._notes(found, parts)
        if found.state.finished and not self._feed.is_incomplete({}):
            return Observation(found, True, notes=notes)
        if self._feed.is_forgotten:
            return Observation(JobStatus(JobState.QUEUED, status.FORGOTTEN), True, notes=notes)
        if found.state.finished:
            # Some elements have ended, and nothing is known of the others yet.
            found = JobStatus(JobState.RUNNING, found.reason, found.message)
        stuck = status.stuck(parts.values())
        obstacles = (Obstacle(stuck[0].reason, stuck[1], stuck[0]),) if stuck else ()
        return Observation(found, obstacles=obstacles, notes=notes)

    def _notes(self, found: JobStatus, parts: Mapping[str, Part]) -> tuple[tuple[str, str], ...]:
        if not parts:
            return ()
        why = f" ({found.message})" if found.state is JobState.QUEUED and found.message else ""
        text = f"Slurm job {self._waiting.ref.uid}: {found.state.value}{why}"
        unknown = {part.state for part in parts.values() if part.state not in status.STATES}
        return (
            (text, text),
            *((state, f"Slurm reports the unknown state {state!r}; still waiting") for state in sorted(unknown)),
        )

    async def wait(self, seconds: float) -> None:
        await self._feed.wait(seconds)

    async def finish(self, seen: Observation) -> tuple[Outcome, ...]:
        del seen  # what ranks reported is in files, which the worker reads
        await self._output.finish(self._log_seconds)
        return ()

    def positions(self) -> dict[str, Any]:
        return self._output.positions()

    async def close(self) -> None:
        """Stop following."""
        await self._output.close()
