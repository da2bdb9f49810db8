"""A kind of cluster that the package does not know, as a new launcher would add it: client, launcher, hook.

Its jobs are entries of a dictionary, which outlives every client as a real cluster does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from airflow_distrib import catalogue
from airflow_distrib.core import config as configs
from airflow_distrib.core.config import Check, Config
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState, JobStatus
from airflow_distrib.jobs.launcher import (
    Argument,
    Conclusion,
    Connection,
    Emit,
    JobClient,
    JobWatch,
    Launcher,
    Observation,
    Storage,
    Submission,
)
from airflow_distrib.jobs.pool import SessionPool
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.jobs.waiting import Ending, Waiting
from airflow_distrib.operators.base import DistributedJobOperator
from airflow_distrib.runner.outcome import Outcome


@dataclass
class YardJob:
    """One job of the yard.

    Attributes:
        log: its lines.
        reported: what its ranks reported.
    """

    identity: JobIdentity
    uid: str
    state: JobState = JobState.RUNNING
    log: list[str] = field(default_factory=list)
    reported: list[Outcome] = field(default_factory=list)


# All jobs there are, by name.
JOBS: dict[str, YardJob] = {}
# Sessions that are open now.
OPEN: list[str] = []


class Haul(Config):
    """A function on some carts."""

    carts: int | str = 1

    checks: ClassVar[Mapping[str, Check]] = {"carts": configs.whole(1)}


@dataclass(frozen=True, kw_only=True)
class YardSubmission(Submission):
    """How many carts, of which colour."""

    carts: int
    colour: str

    def shown(self) -> dict[str, Any]:
        return {"carts": self.carts, "colour": self.colour}


@dataclass(frozen=True)
class YardSession:
    """What all share who use a connection."""

    connection: str

    async def close(self) -> None:
        OPEN.remove(self.connection)


class YardJobs(JobClient[YardSubmission]):
    """The yard's job client."""

    async def reserve(self, submission: YardSubmission) -> JobRef:
        return JobRef("yard", submission.name, "", {"colour": submission.colour})

    async def submit(self, submission: YardSubmission, reserved: JobRef, storage: Storage) -> tuple[JobRef, bool]:
        del storage
        existed = submission.name in JOBS
        job = JOBS.setdefault(submission.name, YardJob(submission.identity, f"uid-{len(JOBS)}"))
        return JobRef("yard", reserved.name, job.uid, reserved.address), existed

    async def release(self, reserved: JobRef) -> None:
        JOBS.pop(reserved.name, None)

    async def find(self, reserved: JobRef, identity: JobIdentity) -> JobRef | None:
        job = JOBS.get(reserved.name)
        found = job is not None and job.identity == identity
        return JobRef("yard", reserved.name, job.uid, reserved.address) if found and job else None

    async def status(self, ref: JobRef) -> JobStatus | None:
        job = JOBS.get(ref.name)
        return JobStatus(job.state) if job is not None and job.uid == ref.uid else None

    @contextlib.asynccontextmanager
    async def watch(self, waiting: Waiting, emit: Emit) -> AsyncIterator[YardWatch]:
        yield YardWatch(waiting, emit)

    async def fetch(
        self, submission: YardSubmission, waiting: Waiting, ending: Ending, emit: Emit, storage: Storage
    ) -> Conclusion:
        del submission, storage
        job = JOBS[waiting.ref.name]
        for line in job.log[ending.log.get("lines", 0) :]:
            emit(line)
        return Conclusion(job.state is JobState.SUCCEEDED, ending.problem, {"": job.reported})

    async def cancel(self, ref: JobRef, *, confirm_for: float = 0.0, keep_files: bool = False) -> bool:
        del confirm_for, keep_files
        if ref.name in JOBS and JOBS[ref.name].uid == ref.uid:
            del JOBS[ref.name]
        return True

    async def reap(self, submission: YardSubmission, keep: JobRef | None) -> list[JobRef]:
        mine = submission.identity.task_digest
        old = [
            JobRef("yard", name, job.uid)
            for name, job in JOBS.items()
            if job.identity.task_digest == mine and (keep is None or job.uid != keep.uid)
        ]
        for ref in old:
            await self.cancel(ref)
        return old

    def describe(self, ref: JobRef) -> str:
        return f"yard job {ref.name}"


class YardWatch(JobWatch):
    """Looks at the dictionary."""

    def __init__(self, waiting: Waiting, emit: Emit) -> None:
        self._ref, self._emit = waiting.ref, emit
        self._shown = 0

    def observe(self, now: float) -> Observation:
        del now
        job = JOBS.get(self._ref.name)
        if job is None:
            return Observation(JobStatus(JobState.FAILED, "Deleted"), True)
        for line in job.log[self._shown :]:
            self._emit(line)
        self._shown = len(job.log)
        return Observation(JobStatus(job.state), job.state.finished, outcomes=tuple(job.reported))

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.02))

    def positions(self) -> dict[str, Any]:
        return {"lines": self._shown}


@contextlib.asynccontextmanager
async def connect(connection: Connection) -> AsyncIterator[YardJobs]:
    """The jobs of a connection."""

    async def open_session() -> YardSession:
        OPEN.append(await connection.settings())
        return YardSession(OPEN[-1])

    async with SessionPool.current().session(("yard", connection.id), open_session):
        yield YardJobs()


@dataclass(frozen=True)
class YardLauncher(Launcher[Haul, YardSubmission]):
    """Runs functions on carts."""

    name: ClassVar[str] = "yard"
    connection_argument: ClassVar[str] = "yard_conn_id"
    honours: ClassVar[tuple[str, ...]] = ("keep_job",)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return Argument("yard_conn_id", configs.text), Argument("colour", configs.text, part_of_job=True)

    def render(self, config: Haul, request: JobRequest) -> YardSubmission:
        return YardSubmission(
            identity=request.identity,
            name=request.identity.name(),
            payload=request.payload,
            carts=int(config.carts),
            colour=request.arguments.get("colour") or "grey",
        )

    def connect(self, connection: Connection) -> AbstractAsyncContextManager[YardJobs]:
        return connect(connection)


class YardHook:
    """Reads the connection."""

    default_conn_name = "yard_default"

    def __init__(self, yard_conn_id: str = default_conn_name) -> None:
        self.yard_conn_id = yard_conn_id

    def settings(self) -> str:
        return self.yard_conn_id

    async def asettings(self) -> str:
        return self.yard_conn_id


class HaulOperator(DistributedJobOperator[Haul]):
    """Run a function on carts."""

    config_type = Haul
    launchers = (YardLauncher(),)


LAUNCHER = catalogue.Launcher("yard", "yard.connect", "yard.YardHook", "yard", "Yard")

ENTRY = catalogue.Entry(
    system="Haul",
    operator="yard.HaulOperator",
    config="yard.Haul",
    decorator="haul",
    extra="",
    example="",
    documentation="https://example.com",
    works="functions on carts",
)
