"""The jobs of one connection to a Slurm."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState, JobStatus
from airflow_distrib.jobs.launcher import Conclusion, Emit, JobClient, Storage
from airflow_distrib.jobs.waiting import Ending, Waiting
from airflow_distrib.systems.slurm import status
from airflow_distrib.systems.slurm.fetch import Fetch
from airflow_distrib.systems.slurm.session import SlurmSession
from airflow_distrib.systems.slurm.submission import SlurmSubmission
from airflow_distrib.systems.slurm.watch import SlurmWatch


class SlurmJobs(JobClient[SlurmSubmission]):
    """Jobs of one user, through one session."""

    def __init__(self, session: SlurmSession) -> None:
        self._session, self._scheduler = session, session.scheduler
        # Its folder can only be removed once it is gone.
        self.confirm_seconds = session.timing.confirm

    async def reserve(self, submission: SlurmSubmission) -> JobRef:
        return self._scheduler.reference(submission, await self._scheduler.make_folder(submission))

    async def submit(self, submission: SlurmSubmission, reserved: JobRef, storage: Storage) -> tuple[JobRef, bool]:
        return await self._scheduler.submit(submission, reserved, storage)

    async def release(self, reserved: JobRef) -> None:
        await self._scheduler.give_up(reserved)

    async def find(self, reserved: JobRef, identity: JobIdentity) -> JobRef | None:
        del identity  # the name in the reference determines it
        return await self._scheduler.find(reserved)

    async def status(self, ref: JobRef) -> JobStatus | None:
        parts = await self._scheduler.parts(ref)
        if any(part.state == "CANCELLED" for part in parts.values()):
            return None
        if parts:
            return status.aggregated(parts.values())
        exits = await self._scheduler.exits(ref)
        if not exits:
            return None
        return JobStatus(JobState.FAILED if any(exits.values()) else JobState.SUCCEEDED)

    @contextlib.asynccontextmanager
    async def watch(self, waiting: Waiting, emit: Emit) -> AsyncIterator[SlurmWatch]:
        queue = self._session.queue(waiting.ref.address.get("cluster", ""))
        with queue.following(waiting.ref) as feed:
            watch = SlurmWatch(self._session, waiting, emit, queue, feed)
            try:
                yield watch
            finally:
                await watch.close()

    async def fetch(
        self, submission: SlurmSubmission, waiting: Waiting, ending: Ending, emit: Emit, storage: Storage
    ) -> Conclusion:
        return await Fetch(self._session, submission, waiting, storage).conclusion(ending, emit)

    async def cancel(self, ref: JobRef, *, confirm_for: float = 0.0, keep_files: bool = False) -> bool:
        return await self._scheduler.cancel(ref, confirm_for=confirm_for, keep_files=keep_files)

    async def reap(self, submission: SlurmSubmission, keep: JobRef | None) -> list[JobRef]:
        return await self._scheduler.reap(submission, keep)

    async def clean_up(self, ref: JobRef) -> None:
        await self._scheduler.remove(ref)

    async def keep(self, ref: JobRef) -> None:
        await self._scheduler.disown(ref)

    async def sweep(self, submission: SlurmSubmission, ended: Callable[[JobIdentity], bool]) -> list[str]:
        return await self._scheduler.sweep(submission, ended)

    def describe(self, ref: JobRef) -> str:
        cluster = f" on cluster {ref.address['cluster']}" if "cluster" in ref.address else ""
        return f"Slurm job {ref.uid} ({ref.name}){cluster}"
