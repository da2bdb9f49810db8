"""A task's part in a job on a worker, whatever its system: submit or adopt, wait, fetch, clean up, cancel."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from typing import Any, Generic, Protocol

from airflow_distrib.core.errors import ClusterError, DistribError, JobNotStarted, JobTerminated
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.record import Action, JobRecord, Phase, next_action
from airflow_distrib.core.reference import JobRef
from airflow_distrib.jobs.launcher import Connection, Emit, JobClient, Launcher, S, Storage
from airflow_distrib.jobs.pool import SessionPool
from airflow_distrib.jobs.result import value_or_error
from airflow_distrib.jobs.wait import until_over
from airflow_distrib.jobs.waiting import Ending, Waiting

log = logging.getLogger(__name__)

# A signal handler of Airflow has five seconds before SIGKILL.
KILL_SECONDS = 4.0
# How long a submission may look for what was forgotten by others.
SWEEP_SECONDS = 10.0
# How long a replaced job may take to go, with all its processes, before its successor is submitted.
REPLACE_SECONDS = 120.0


class Records(Protocol):
    """The record of one task instance's job.

    Attributes:
        max_tries: Airflow's number of the last try.
        spec_hash: digest of what is wanted now.
        consumed: whether the last write said that nothing of the job is needed any more.
    """

    max_tries: int
    spec_hash: str
    consumed: bool

    def read(self) -> JobRecord | None:
        """The last record."""

    def write(self, phase: Phase, ref: JobRef | None = None) -> None:
        """Replace it."""

    def ended(self, identity: JobIdentity) -> bool:
        """Whether a task instance of this Airflow waits for its job no more; False for another Airflow's."""


@dataclass(frozen=True)
class Attempt(Generic[S]):
    """One try's job.

    Attributes:
        render_for: renders the same for another try, whose job is adopted.
        comes_again: whether Airflow will try again after a failure.
        keep_job: "never", "on_failure" or "always".
        deadline: seconds since the epoch at which the try's time is over.
        log_ranks: ranks whose output goes to the task's log; None is all.
    """

    submission: S
    render_for: Callable[[JobIdentity], S]
    comes_again: bool = False
    keep_job: str = "never"
    deadline: float | None = None
    log_ranks: Collection[int] | None = ()

    def shows(self, element: str, rank: int | None) -> bool:
        """Whether the task's log has the output of a rank, in an element of a job array."""
        parts = self.submission.log_parts
        followed = self.submission.log and (not element or parts is None or element in parts)
        return followed and rank is not None and (self.log_ranks is None or rank in self.log_ranks)

    def keeps(self, *, succeeded: bool) -> bool:
        """Whether the finished job stays."""
        return self.keep_job in (("always",) if succeeded else ("always", "on_failure"))


class JobRun(Generic[S]):
    """One stretch of a task on a worker: until it defers, after it has deferred, or all of it.

    Args:
        emit: writes to the task log.
    """

    def __init__(
        self, launcher: Launcher[Any, S], connection: Connection, records: Records, storage: Storage, emit: Emit
    ) -> None:
        self._launcher, self._connection = launcher, connection
        self._records, self._storage, self._emit = records, storage, emit
        self._reserved: tuple[JobRef, JobIdentity] | None = None
        self.ref: JobRef | None = None
        self.killed = False

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[JobClient[S]]:
        """Connect; what is shared within the event loop ends with it."""
        try:
            async with self._launcher.connect(self._connection) as client:
                yield client
        finally:
            await SessionPool.current().close()

    # ------------------------------------------------------------------ before and after the deferral

    async def start(self, attempt: Attempt[S], *, deferrable: bool) -> tuple[Waiting | None, object]:
        """Submit or adopt; returns what to wait for in a trigger, or None and the task's value."""
        defers = deferrable and self._launcher.outlives_worker
        try:
            async with self._client() as client:
                ref, existed = await self._submitted(client, attempt)
                await self._check_killed(client)
                waiting = self.waiting(attempt, ref)
                if defers and not (existed and await _is_over(client, ref)):
                    self._records.write(Phase.DEFERRED, ref)
                    return waiting, None
                ending = await until_over(client, waiting, self._emit)
                await self._check_killed(client)
                return None, await self._fetched(client, attempt, waiting, ending)
        except Exception:
            await self._cancel_unless_adopted_later(attempt)
            raise

    async def resume(self, attempt: Attempt[S], waiting: Waiting, ending: Ending) -> object:
        """Fetch the result of a job that a trigger has waited for."""
        self.ref = waiting.ref
        self._records.write(Phase.RESUMED, waiting.ref)
        async with self._client() as client:
            return await self._fetched(client, attempt, waiting, ending)

    def waiting(self, attempt: Attempt[S], ref: JobRef) -> Waiting:
        """How to wait for a job."""
        submission = attempt.submission
        return Waiting(
            ref,
            self._connection.id,
            deadline=attempt.deadline,
            patience=submission.patience,
            logs=submission.log,
            log_parts=submission.log_parts,
            named=submission.named,
        )

    async def _cancel_unless_adopted_later(self, attempt: Attempt[S]) -> None:
        """After an error that no later try follows there must be no job."""
        exists = self.ref is not None or self._reserved is not None
        if exists and not attempt.comes_again and not self._records.consumed:
            with contextlib.suppress(ClusterError):
                await self.cancel()

    async def _check_killed(self, client: JobClient[S]) -> None:
        if self.killed:
            if self.ref is not None:
                # It may have been created after the signal handler looked for it.
                await client.cancel(self.ref)
            # So that the next try, which may be a user's fresh run, does not look for it.
            self._records.write(Phase.CONSUMED)
            raise JobTerminated("the task was stopped by SIGTERM, and its job cancelled")

    # ------------------------------------------------------------------ submitting

    async def _submitted(self, client: JobClient[S], attempt: Attempt[S]) -> tuple[JobRef, bool]:
        record, submission = self._records.read(), attempt.submission
        adopted = await self._adopted(client, attempt, record)
        if record is not None or submission.identity.try_number > 1:
            for old in await client.reap(submission, adopted):
                self._emit(f"Cancelled {old.name}, a job of another try")
        if adopted is not None:
            self.ref = adopted
            self._records.write(Phase.SUBMITTED, adopted)
            self._emit(f"Adopted {client.describe(adopted)} of an earlier try")
            return adopted, True
        reserved = await client.reserve(submission)
        self._records.write(Phase.SUBMITTING, reserved)
        self._reserved = (reserved, submission.identity)
        await self._check_killed(client)
        begin = time.monotonic()
        try:
            self.ref, existed = await client.submit(submission, reserved, self._storage)
        except JobNotStarted:
            # The system refused it: there is nothing to look for.
            self._reserved = None
            await client.release(reserved)
            raise
        self._records.write(Phase.SUBMITTED, self.ref)
        verb = "Found" if existed else "Created"
        self._emit(f"{verb} {client.describe(self.ref)} in {time.monotonic() - begin:.2f} s")
        await self._sweep(client, submission)
        return self.ref, existed

    async def _sweep(self, client: JobClient[S], submission: S) -> None:
        """Remove what others forgot; that it fails, or takes too long, is no matter of this task."""
        try:
            async with asyncio.timeout(SWEEP_SECONDS):
                for text in await client.sweep(submission, self._records.ended):
                    log.info("Removed %s, which was forgotten", text)
        except Exception:
            log.debug("what is forgotten could not be removed", exc_info=True)

    async def _adopted(self, client: JobClient[S], attempt: Attempt[S], record: JobRecord | None) -> JobRef | None:
        """The recorded job, if it is to be adopted; one that is not is cancelled."""
        records, identity = self._records, attempt.submission.identity
        action = next_action(
            record,
            identity.try_number,
            records.max_tries,
            records.spec_hash,
            outlives_worker=self._launcher.outlives_worker,
        )
        if record is None or record.ref is None or action is Action.SUBMIT:
            return None
        if record.ref.launcher != self._launcher.name:
            return None
        theirs = dataclasses.replace(identity, try_number=record.try_number)
        found = record.ref if record.ref.uid else await client.find(record.ref, theirs)
        status = await client.status(found) if found is not None else None
        if found is None or status is None:
            return None
        self.ref = found
        if action is Action.ADOPT:
            if not status.state.finished:
                await client.complete(found, attempt.render_for(theirs))
            return found
        self._emit(f"Cancelling {found.name} of try {record.try_number}, because a fresh run is wanted")
        await client.cancel(found, confirm_for=REPLACE_SECONDS)
        self.ref = None
        return None

    async def is_over(self, ref: JobRef) -> bool:
        """Whether a job has ended by itself, as far as the cluster tells."""
        with contextlib.suppress(ClusterError):
            async with self._client() as client:
                return await _is_over(client, ref)
        return False

    # ------------------------------------------------------------------ the result

    async def _fetched(self, client: JobClient[S], attempt: Attempt[S], waiting: Waiting, ending: Ending) -> object:
        """Turn an ending into the task's value or error, and remove the job."""
        try:
            found = await client.fetch(attempt.submission, waiting, ending, self._emit, self._storage)
            value = value_or_error(
                found, returns=attempt.submission.returns, read=self._storage.read_text, shown=attempt.shows
            )
        except ClusterError:
            # The result is there, but cannot be read now: a later try may.
            raise
        except DistribError:
            if ending.problem is not None and ending.succeeded is None:
                # Its time is over, or it is stuck: the trigger may not have been able to end it.
                with contextlib.suppress(ClusterError):
                    await client.cancel(waiting.ref, keep_files=True)
            await self._clean_up(client, attempt, waiting.ref, succeeded=False)
            raise
        await self._clean_up(client, attempt, waiting.ref, succeeded=True)
        return value

    async def _clean_up(self, client: JobClient[S], attempt: Attempt[S], ref: JobRef, *, succeeded: bool) -> None:
        """Remove a job of which nothing is needed any more; that it cannot be removed does not change its result."""
        kept = attempt.keeps(succeeded=succeeded)
        try:
            await (client.keep(ref) if kept else client.clean_up(ref))
        except ClusterError as error:
            self._emit(f"{ref.name} could not be {'kept' if kept else 'deleted'}: {error}")
        self._records.write(Phase.CONSUMED)

    # ------------------------------------------------------------------ ending early

    def kill(self) -> None:
        """Cancel the job from a signal handler: no Airflow calls, and an event loop of its own."""
        self.killed = True
        if self.ref is None and self._reserved is None:
            return
        thread = threading.Thread(target=self._cancel_in_thread, daemon=True)
        thread.start()
        thread.join(KILL_SECONDS)

    def _cancel_in_thread(self) -> None:
        try:
            asyncio.run(self.cancel())
        except Exception:
            log.exception("the job could not be cancelled")

    async def cancel(self) -> None:
        """End the job of this run, also one that is just being created."""
        async with self._client() as client:
            if self.ref is not None:
                await client.cancel(self.ref)
                return
            assert self._reserved is not None
            for _ in range(6):
                if (found := await client.find(*self._reserved)) is not None:
                    await client.cancel(found)
                    return
                await asyncio.sleep(0.5)
            await client.release(self._reserved[0])

    def abandon(self) -> None:
        """Cancel the recorded job, if it is this launcher's: no later try will adopt it."""
        record = self._records.read()
        if record is None or record.ref is None or record.phase is Phase.CONSUMED or not record.ref.uid:
            return
        if record.ref.launcher != self._launcher.name:
            return
        self.ref = record.ref
        with contextlib.suppress(ClusterError):
            asyncio.run(self.cancel())
        self._records.write(Phase.CONSUMED)

    def keep_or_cancel(self, ref: JobRef, *, adopted_later: bool) -> None:
        """Without a trigger: keep the job for the next try, or cancel it where none will adopt it."""
        if adopted_later:
            self._records.write(Phase.TRIGGER_LOST, ref)
            return
        self.ref = ref
        asyncio.run(self.cancel())
        self._records.write(Phase.CONSUMED)


async def _is_over(client: JobClient[Any], ref: JobRef) -> bool:
    """Whether a job has ended by itself."""
    status = await client.status(ref)
    return status is not None and status.state.finished
