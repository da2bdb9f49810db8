"""A task's legs on a worker, for jobs that outlive it: submit or adopt, then fetch the result."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from airflow_distrib.core.errors import ClusterError, DistribError, JobNotStarted, JobTerminated
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.record import Action, JobRecord, Phase, next_action
from airflow_distrib.core.reference import JobRef
from airflow_distrib.operators.result import problem_error, value_of
from airflow_distrib.operators.store import RecordStore
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.watching.waiting import Ending, Job, Waiting

log = logging.getLogger(__name__)

# A signal handler of Airflow has five seconds before SIGKILL.
KILL_SECONDS = 4.0
# How long a replaced job may take to go, with all its processes, before its successor is submitted.
REPLACE_SECONDS = 120.0

R = TypeVar("R")


@dataclass(frozen=True)
class Order(Generic[R]):
    """What one task wants of the cluster.

    Attributes:
        render: what to submit for a try; adopting an older try's job needs that try's.
        payload: the pickled call, where it travels with the job.
        waiting: how to wait for a job, from its reference.
        keeps: whether the finished job stays, from whether it succeeded.
        returns: whether a value of rank 0 is promised.
        comes_again: whether Airflow will try again after a failure.
    """

    identity: JobIdentity
    render: Callable[[JobIdentity], R]
    payload: bytes | None
    waiting: Callable[[JobRef], Waiting]
    keeps: Callable[[bool], bool]
    returns: bool
    comes_again: bool


class Jobs(ABC, Generic[R]):
    """The jobs of one system through one open client."""

    @abstractmethod
    async def announce(self, order: Order[R]) -> JobRef:
        """Where the job will be, before it is submitted: a reference without a uid."""

    @abstractmethod
    async def submit(self, order: Order[R], announced: JobRef) -> tuple[JobRef, bool]:
        """Create the announced job, or find what an earlier attempt of the same try created."""

    @abstractmethod
    async def find(self, announced: JobRef, identity: JobIdentity) -> JobRef | None:
        """The job that was announced, if it was created and is not on its way out."""

    @abstractmethod
    async def finished(self, ref: JobRef) -> bool | None:
        """Whether it has ended by itself; None when it is gone."""

    async def mend(self, ref: JobRef, order: Order[R], identity: JobIdentity) -> None:
        """Complete a job whose worker died while it was made."""

    @abstractmethod
    async def cancel(self, ref: JobRef, *, confirm_for: float = 0.0, keep_files: bool = False) -> bool:
        """End a job with everything that belongs to it; ending twice is no error.

        Args:
            keep_files: leave what is about to be read, where it outlives the job.
        """

    @abstractmethod
    async def reap(self, order: Order[R], keep: JobRef | None) -> list[JobRef]:
        """Cancel jobs of the task instance's other tries."""

    @abstractmethod
    def waits(self, waiting: Waiting, say: Callable[[str], None]) -> Job:
        """One job, to wait for."""

    @abstractmethod
    async def conclude(self, order: Order[R], waiting: Waiting, ending: Ending, read: Callable[[str], str]) -> Any:
        """The task's value, or its error.

        Raises:
            ClusterError: it cannot be read now; a later try may.
        """

    @abstractmethod
    async def remove(self, ref: JobRef) -> None:
        """Nothing of a finished job is needed any more."""

    async def forget(self, announced: JobRef) -> None:
        """Remove what was made ready for a job that was never submitted."""

    @abstractmethod
    def describe(self, ref: JobRef) -> str:
        """What the log calls it."""


class RemoteRun(ABC, Generic[R]):
    """One leg of a task; ``say`` writes to the task log."""

    system: ClassVar[str]

    def __init__(self, store: RecordStore, say: Callable[[str], None]) -> None:
        self._store = store
        self._say = say
        self._announced: tuple[JobRef, JobIdentity] | None = None
        self.ref: JobRef | None = None
        self.killed = False

    @abstractmethod
    def jobs(self) -> AbstractAsyncContextManager[Jobs[R]]:
        """Connect."""

    # ------------------------------------------------------------------ the two legs

    async def start(
        self, order: Order[R], *, deferrable: bool, read: Callable[[str], str]
    ) -> tuple[Waiting | None, Any]:
        """Submit or adopt; returns what to wait for in a trigger, or None and the result."""
        try:
            async with self.jobs() as jobs:
                ref, existed = await self._submitted(jobs, order)
                await self._check_killed(jobs)
                waiting = order.waiting(ref)
                if deferrable and not (existed and await jobs.finished(ref)):
                    self._store.write(Phase.DEFERRED, ref)
                    return waiting, None
                ending = await jobs.waits(waiting, self._say).until_over()
                await self._check_killed(jobs)
                return None, await self._conclude(jobs, order, waiting, ending, read)
        except Exception:
            await self._leave_nothing(order)
            raise

    async def _leave_nothing(self, order: Order[R]) -> None:
        """After an error that no later try will come back from, there must be no job."""
        there = self.ref is not None or self._announced is not None
        if there and not order.comes_again and not self._store.consumed:
            with contextlib.suppress(ClusterError):
                await self.cancel()

    async def resume(self, order: Order[R], waiting: Waiting, ending: Ending, read: Callable[[str], str]) -> Any:
        """Fetch the result of a job that a trigger has waited for."""
        self.ref = waiting.ref
        self._store.write(Phase.RESUMED, waiting.ref)
        async with self.jobs() as jobs:
            return await self._conclude(jobs, order, waiting, ending, read)

    async def _check_killed(self, jobs: Jobs[R]) -> None:
        if self.killed:
            if self.ref is not None:
                # It may have been created after the handler looked for it.
                await jobs.cancel(self.ref)
            # So that the next try, which may be a user's fresh run, does not look for it.
            self._store.write(Phase.CONSUMED)
            raise JobTerminated("the task was stopped by SIGTERM, and its job cancelled")

    # ------------------------------------------------------------------ submitting

    async def _submitted(self, jobs: Jobs[R], order: Order[R]) -> tuple[JobRef, bool]:
        record = self._store.read()
        # What cannot be rendered must not cancel anything.
        order.render(order.identity)
        adopted = await self._adopted(jobs, order, record)
        if record is not None or order.identity.try_number > 1:
            for old in await jobs.reap(order, adopted):
                self._say(f"Cancelled {old.name}, which another try had left behind")
        if adopted is not None:
            self.ref = adopted
            self._store.write(Phase.SUBMITTED, adopted)
            self._say(f"Adopted {jobs.describe(adopted)}, which goes on from an earlier try")
            return adopted, True
        announced = await jobs.announce(order)
        self._store.write(Phase.SUBMITTING, announced)
        self._announced = (announced, order.identity)
        await self._check_killed(jobs)
        begin = time.monotonic()
        try:
            self.ref, existed = await jobs.submit(order, announced)
        except JobNotStarted:
            # The system refused it: there is nothing to look for.
            self._announced = None
            await jobs.forget(announced)
            raise
        self._store.write(Phase.SUBMITTED, self.ref)
        verb = "Found" if existed else "Created"
        self._say(f"{verb} {jobs.describe(self.ref)} in {time.monotonic() - begin:.2f} s")
        return self.ref, existed

    async def _adopted(self, jobs: Jobs[R], order: Order[R], record: JobRecord | None) -> JobRef | None:
        """The recorded job, if it is to be taken over; one that is not is cancelled."""
        store = self._store
        action = next_action(record, order.identity.try_number, store.max_tries, store.spec_hash, outlives_worker=True)
        if record is None or record.ref is None or record.ref.system != self.system or action is Action.SUBMIT:
            return None
        theirs = dataclasses.replace(order.identity, try_number=record.try_number)
        found = record.ref if record.ref.uid else await jobs.find(record.ref, theirs)
        over = await jobs.finished(found) if found is not None else None
        if found is None or over is None:
            return None
        self.ref = found
        if action is Action.ADOPT:
            if not over:
                await jobs.mend(found, order, theirs)
            return found
        self._say(f"Cancelling {found.name} of try {record.try_number}: a fresh run is wanted")
        await jobs.cancel(found, confirm_for=REPLACE_SECONDS)
        self.ref = None
        return None

    async def is_over(self, ref: JobRef) -> bool:
        """Whether a job has ended by itself, as far as the cluster tells."""
        with contextlib.suppress(ClusterError):
            async with self.jobs() as jobs:
                return bool(await jobs.finished(ref))
        return False

    # ------------------------------------------------------------------ the result

    async def _conclude(
        self, jobs: Jobs[R], order: Order[R], waiting: Waiting, ending: Ending, read: Callable[[str], str]
    ) -> Any:
        """Turn an ending into the task's value or error, and remove what is left of the job."""
        try:
            value = await jobs.conclude(order, waiting, ending, read)
        except ClusterError:
            # The result is there, but cannot be read now: a later try may.
            raise
        except DistribError:
            if ending.problem is not None and ending.succeeded is None:
                # Its time is over, or it is stuck: the trigger may not have been able to end it.
                with contextlib.suppress(ClusterError):
                    await jobs.cancel(waiting.ref, keep_files=True)
            await self._remove(jobs, order, waiting.ref, succeeded=False)
            raise
        await self._remove(jobs, order, waiting.ref, succeeded=True)
        return value

    async def _remove(self, jobs: Jobs[R], order: Order[R], ref: JobRef, *, succeeded: bool) -> None:
        """Nothing of the job is needed any more; that it cannot be removed does not change what came of it."""
        if not order.keeps(succeeded):
            try:
                await jobs.remove(ref)
            except ClusterError as error:
                self._say(f"{ref.name} could not be deleted: {error}")
        self._store.write(Phase.CONSUMED)

    # ------------------------------------------------------------------ ending early

    def kill(self) -> None:
        """Cancel the job from a signal handler: no Airflow calls, a loop and a client of its own."""
        self.killed = True
        if self.ref is None and self._announced is None:
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
        """End the job of this leg, also one that is just being created."""
        async with self.jobs() as jobs:
            if self.ref is not None:
                await jobs.cancel(self.ref)
                return
            assert self._announced is not None
            for _ in range(6):
                if (found := await jobs.find(*self._announced)) is not None:
                    await jobs.cancel(found)
                    return
                await asyncio.sleep(0.5)
            await jobs.forget(self._announced[0])


def value_or_error(
    ending: Ending, left: Sequence[Outcome], *, succeeded: bool, returns: bool, read: Callable[[str], str]
) -> Any:
    """What a job's end and its ranks' outcomes stand for."""
    failed = [each for each in left if each.kind == outcomes.FAILURE]
    if ending.problem is not None and not succeeded and (ending.problem.reason != "Deleted" or not failed):
        raise problem_error(ending.problem)
    if not succeeded and not failed:
        raise problem_error(ending.as_problem())
    if succeeded and not returns and not failed:
        return None
    value, warnings = value_of(left, 0 if succeeded else 1, read)
    for warning in warnings:
        log.warning("%s", warning)
    return value
