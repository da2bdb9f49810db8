"""What a launcher is: the interface between the common code and one kind of cluster.

A *launcher* renders a config into a *submission* and connects to where it runs. Its *job
client* submits, finds, watches, cancels and cleans up; worker and triggerer use the same one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from airflow_distrib.core.config import Check, ConfigT
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobStatus, Problem
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.jobs.waiting import Ending, Waiting
from airflow_distrib.runner.outcome import Outcome

Emit = Callable[[str], None]


@dataclass(frozen=True)
class Connection:
    """An Airflow connection.

    Attributes:
        id: its id; empty for launchers without one.
        settings: reads it; called again when the credentials it holds are refused.
    """

    id: str
    settings: Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Argument:
    """An operator argument of a launcher's own.

    Attributes:
        check: returns the normal form of a value or raises ConfigError.
        templated: whether it may hold Jinja templates and upstream outputs.
        renderer: how Airflow's *Rendered Template* page shows it.
        runs: whether it is something to run, so that no function is needed.
        excludes_function: whether it cannot stand beside a function.
        part_of_job: whether another value means another job.
    """

    name: str
    check: Check
    templated: bool = True
    renderer: str = ""
    runs: bool = False
    excludes_function: bool = False
    part_of_job: bool = False


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What one try submits, rendered once; every launcher adds its own fields.

    Attributes:
        name: the job's name.
        returns: whether rank 0 is to return a value.
        payload: the pickled call, where it travels with the job.
        log: whether to follow logs at all.
        log_parts: the roles, or array elements, whose logs are followed; None is all.
        named: whether to put the role or element before each log line.
        patience: how long the job may be stuck, by cause.
        ignored: options that were set and have no effect here.
    """

    identity: JobIdentity
    name: str
    returns: bool = True
    payload: bytes | None = field(default=None, repr=False)
    log: bool = True
    log_parts: tuple[str, ...] | None = None
    named: bool = False
    patience: Mapping[str, float | None] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def shown(self) -> dict[str, object]:
        """What is submitted, for people."""
        return {}


@dataclass(frozen=True)
class Obstacle:
    """Something that ends the wait if it lasts.

    Attributes:
        key: the same for as long as it is the same obstacle.
        seconds: how long it may last; None is for ever.
        problem: what it is; None for a job that has ended and whose ranks may still report.
    """

    key: str
    seconds: float | None
    problem: Problem | None = None


@dataclass(frozen=True)
class Observation:
    """What is known of a job at one moment.

    Attributes:
        over: True when nothing more is to be waited for.
        problem: why there is no result, when the system tells.
        outcomes: what its ranks have reported so far.
        look_again: seconds after which the same facts may mean something else.
        notes: what is worth telling once, by key.
    """

    status: JobStatus
    over: bool = False
    problem: Problem | None = None
    outcomes: tuple[Outcome, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    look_again: float | None = None
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Conclusion:
    """What came of a job that is over.

    Attributes:
        problem: why it has no result, if no rank says so.
        outcomes: what its ranks reported, by element of a job array; the key of a single job is "".
        elements: the elements of a job array, in order; None for a single job.
        report: the value of a job without a function.
        exit_code: of the job as a whole.
    """

    succeeded: bool
    problem: Problem | None = None
    outcomes: Mapping[str, list[Outcome]] = field(default_factory=dict)
    elements: tuple[str, ...] | None = None
    report: object = None
    exit_code: int | None = None


class Storage(Protocol):
    """Files where Airflow's object storage leads: paths and URLs that the worker can reach."""

    def read_text(self, place: str) -> str:
        """Read a whole file."""

    def download(self, place: object, local: Path) -> None:
        """Copy a file or a folder to this machine."""

    def upload(self, local: Path, place: str) -> None:
        """Copy a file or a folder from this machine."""


class JobWatch(ABC):
    """One job, watched until it is over; made and closed by :meth:`JobClient.watch`."""

    @property
    def outage(self) -> float:
        """Seconds for which the system has not answered; 0 while it does."""
        return 0.0

    @property
    def trouble(self) -> str:
        """What is wrong during an outage."""
        return ""

    @abstractmethod
    def observe(self, now: float) -> Observation:
        """What is known at ``now``, seconds since the epoch.

        Raises:
            ClusterError: the system has not answered, or refused, for too long.
        """

    @abstractmethod
    async def wait(self, seconds: float) -> None:
        """Wait for a change, at most so long."""

    async def finish(self, seen: Observation) -> tuple[Outcome, ...]:
        """Let the logs catch up; returns what the ranks reported."""
        return seen.outcomes

    def positions(self) -> dict[str, Any]:
        """How far each log was shown."""
        return {}


S = TypeVar("S", bound=Submission)


class JobClient(ABC, Generic[S]):
    """The jobs of one connection.

    Attributes:
        confirm_seconds: how long a cancel should wait to see the job gone, when there is time.
    """

    confirm_seconds = 0.0

    @abstractmethod
    async def reserve(self, submission: S) -> JobRef:
        """Where the job will be, before it is submitted: a reference without a uid."""

    @abstractmethod
    async def submit(self, submission: S, reserved: JobRef, storage: Storage) -> tuple[JobRef, bool]:
        """Create the reserved job, or find what an earlier attempt of the same try created.

        Returns:
            The job, and whether it was there already.

        Raises:
            JobNotStarted: the system refuses the job.
            ClusterError: the system refuses the request, or does not answer.
        """

    async def release(self, reserved: JobRef) -> None:
        """Remove what was prepared for a job that was never submitted."""

    @abstractmethod
    async def find(self, reserved: JobRef, identity: JobIdentity) -> JobRef | None:
        """The reserved job, if it was created and is not being deleted."""

    async def complete(self, ref: JobRef, submission: S) -> None:
        """Complete a job whose worker died while it was created."""

    @abstractmethod
    async def status(self, ref: JobRef) -> JobStatus | None:
        """Where the job stands; None when it is gone, or somebody cancelled it."""

    @abstractmethod
    def watch(self, waiting: Waiting, emit: Emit) -> AbstractAsyncContextManager[JobWatch]:
        """Watch one job."""

    @abstractmethod
    async def fetch(self, submission: S, waiting: Waiting, ending: Ending, emit: Emit, storage: Storage) -> Conclusion:
        """Show the rest of the log and collect the results of a job that is over.

        Raises:
            ClusterError: they cannot be read now; a later try may.
            JobError: they are lost.
        """

    @abstractmethod
    async def cancel(self, ref: JobRef, *, confirm_for: float = 0.0, keep_files: bool = False) -> bool:
        """End a job with everything that belongs to it; cancelling twice is no error.

        Args:
            confirm_for: seconds to wait until it is gone.
            keep_files: keep what is about to be read, where it outlives the job.

        Returns:
            Whether it is known to be gone.
        """

    async def reap(self, submission: S, keep: JobRef | None) -> list[JobRef]:
        """Cancel jobs of the task instance's other tries."""
        del submission, keep
        return []

    async def clean_up(self, ref: JobRef) -> None:
        """Remove what a finished job leaves."""
        await self.cancel(ref)

    async def keep(self, ref: JobRef) -> None:
        """Leave a finished job, as the user wants: nothing later may take it for something forgotten."""

    async def sweep(self, submission: S, ended: Callable[[JobIdentity], bool]) -> list[str]:
        """Remove what was forgotten of finished jobs of other tasks, as much as takes a moment.

        Args:
            ended: whether a task instance of this Airflow waits for its job no more.

        Returns:
            What was removed, for the log.
        """
        del submission, ended
        return []

    @abstractmethod
    def describe(self, ref: JobRef) -> str:
        """What the log calls the job."""


class Launcher(ABC, Generic[ConfigT, S]):
    """Runs the jobs of one system in one way; holds no state.

    Attributes:
        name: "local", or the name of a kind of cluster; users choose by it.
        connection_argument: name of the argument that holds the connection's id; empty without one.
        outlives_worker: whether its jobs go on when the worker dies, so that a task can defer.
        honours: names of the common operator arguments it honours, among those that not every launcher does.
    """

    name: ClassVar[str]
    connection_argument: ClassVar[str] = ""
    outlives_worker: ClassVar[bool] = True
    honours: ClassVar[tuple[str, ...]] = ()

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """Operator arguments of its own."""
        return ()

    @property
    def takes(self) -> frozenset[str]:
        """Names of all operator arguments it honours, among those that not every launcher does."""
        return frozenset({*(each.name for each in self.arguments), *self.honours})

    def suits(self, config: ConfigT) -> bool:
        """Whether it is the right one for a config where the user names none."""
        del config
        return True

    def implied_config(self, arguments: Mapping[str, object]) -> Mapping[str, object] | None:
        """Fields of the config that the arguments already hold; None if they hold none."""
        del arguments
        return None

    @abstractmethod
    def render(self, config: ConfigT, request: JobRequest) -> S:
        """Render a complete config; pure.

        Raises:
            ConfigError: an option that this launcher cannot honour.
        """

    @abstractmethod
    def connect(self, connection: Connection) -> AbstractAsyncContextManager[JobClient[S]]:
        """Open a client, in the running event loop."""
