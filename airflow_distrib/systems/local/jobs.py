"""Jobs of local ranks: started, followed and ended by the worker that they run on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_distrib.core.errors import JobTerminated
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState, JobStatus
from airflow_distrib.jobs.launcher import Conclusion, Emit, JobClient, JobWatch, Observation, Storage, Submission
from airflow_distrib.jobs.waiting import Ending, Waiting
from airflow_distrib.runner.lines import prefixed
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.systems.local.job import LocalJob, end, is_alive
from airflow_distrib.systems.local.plan import LocalPlan

NAME = "local"

# How often the parent of this process is looked at.
_PARENT_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class LocalSubmission(Submission):
    """Processes to start.

    Attributes:
        python: their interpreter; None is the worker's own.
        options: further fields of the runner's spec.
    """

    plan: LocalPlan
    python: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, object]:
        return {
            "spec": self.plan.spec("<a private folder>", None, self.options)._asdict(),
            "environment": self.plan.environment({}, None),
            "not_applied": list(self.plan.not_applied),
        }


class LocalJobs(JobClient[LocalSubmission]):
    """Jobs that this client has started; only their processes know of others."""

    def __init__(self) -> None:
        self._jobs: dict[str, tuple[LocalJob, LocalPlan]] = {}

    async def close(self) -> None:
        """End every job that was started here."""
        for job, _ in self._jobs.values():
            await job.close()

    async def reserve(self, submission: LocalSubmission) -> JobRef:
        return JobRef(NAME, submission.name, "", {"host": socket.gethostname()})

    async def submit(self, submission: LocalSubmission, reserved: JobRef, storage: Storage) -> tuple[JobRef, bool]:
        del storage  # nothing is uploaded
        assert submission.payload is not None
        job = await LocalJob.start(
            submission.plan, submission.payload, python=submission.python, options=submission.options
        )
        ref = JobRef(NAME, reserved.name, job.uid, {"host": job.host, "directory": str(job.directory)})
        self._jobs[ref.uid] = (job, submission.plan)
        return ref, False

    async def find(self, reserved: JobRef, identity: JobIdentity) -> JobRef | None:
        del reserved, identity  # a job that its worker did not note ends with its worker
        return None

    async def status(self, ref: JobRef) -> JobStatus | None:
        here = ref.address.get("host") == socket.gethostname()
        exists = here and (is_alive(ref.uid) or os.path.isdir(ref.address["directory"]))  # noqa: ASYNC240 - a local folder
        return JobStatus(JobState.RUNNING) if exists else None

    @contextlib.asynccontextmanager
    async def watch(self, waiting: Waiting, emit: Emit) -> AsyncIterator[LocalWatch]:
        watch = LocalWatch(self._jobs[waiting.ref.uid][0], emit)
        try:
            yield watch
        finally:
            await watch.close()

    async def fetch(
        self, submission: LocalSubmission, waiting: Waiting, ending: Ending, emit: Emit, storage: Storage
    ) -> Conclusion:
        del submission, emit, storage
        job, _ = self._jobs[waiting.ref.uid]
        if ending.succeeded is None:
            return Conclusion(False, ending.problem)
        code, reported = await job.outcomes()
        # Before anything else can go wrong: from here on nothing of the job remains.
        await job.close()
        return Conclusion(code == 0, None, {"": reported}, exit_code=code)

    async def cancel(self, ref: JobRef, *, confirm_for: float = 0.0, keep_files: bool = False) -> bool:
        """End a job of this worker; one of another client is only asked to end, unless there is time to wait."""
        del keep_files
        if ref.uid in self._jobs:
            await self._jobs[ref.uid][0].close()
            return True
        if ref.address.get("host") != socket.gethostname():
            return False
        return await end(ref.uid, Path(ref.address["directory"]), at_once=confirm_for > 0)

    async def clean_up(self, ref: JobRef) -> None:
        shutil.rmtree(ref.address["directory"], ignore_errors=True)

    def describe(self, ref: JobRef) -> str:
        if ref.uid not in self._jobs:
            return f"local job {ref.name} on {ref.address.get('host')}"
        job, plan = self._jobs[ref.uid]
        return f"local job {ref.name}: {plan.size} on {job.host}, supervisor pid {job.pid}"


class LocalWatch(JobWatch):
    """Passes on the lines of a job until it is over; ends it when Airflow's own process of this task dies."""

    def __init__(self, job: LocalJob, emit: Emit) -> None:
        self._job, self._emit = job, emit
        self._began = time.monotonic()
        self._parent, self._orphaned = os.getppid(), False
        self._over = asyncio.Event()
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._guard())]

    async def _follow(self) -> None:
        try:
            async for line in self._job.lines():
                self._emit(prefixed(line))
            await self._job.wait()
        finally:
            self._over.set()

    async def _guard(self) -> None:
        """Nobody could mark the task failed any more."""
        while os.getppid() == self._parent:  # noqa: ASYNC110 - a parent's death is no event of this loop
            await asyncio.sleep(_PARENT_SECONDS)
        self._orphaned = True
        self._job.terminate()

    def observe(self, now: float) -> Observation:
        del now
        if not self._over.is_set():
            return Observation(JobStatus(JobState.RUNNING))
        if self._orphaned:
            raise JobTerminated("the Airflow worker that ran this task is gone")
        return Observation(JobStatus(JobState.FAILED if self._job.returncode != 0 else JobState.SUCCEEDED), True)

    async def wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()

    async def finish(self, seen: Observation) -> tuple[Outcome, ...]:
        if seen.over:
            how = "The job succeeded" if self._job.returncode == 0 else "The job did not succeed: it ended"
            self._emit(f"{how} after {time.monotonic() - self._began:.1f} s")
        return seen.outcomes

    async def close(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
