"""Every error this package raises on purpose.

::

    DistribError
    ├── ConfigError             a config holds a value that cannot work (also a ValueError)
    ├── MissingExtra            a library of an extra of this package is not installed
    ├── ClusterError            the cluster refused, or did not answer
    ├── FunctionNotPicklable    the function or an argument cannot be shipped
    └── JobError                the job ran, or tried to, and has no result
        ├── JobTerminated       it was stopped from outside
        ├── JobLost             it was deleted by someone else, or its node went away
        ├── JobPreempted        something more important took its place
        ├── JobTimedOut         it ran longer than it may
        ├── JobNotStarted       its pods never ran: image, quota, no room, a bad spec
        ├── JobFailed           the system says it failed, and no rank said why
        ├── ResultMissing       it ended well but left no result
        └── RankFailed          a rank failed; the earliest one is named

``permanent`` says whether a retry is useless: the operator then fails the task at once,
whatever its ``retries``. All others reach Airflow as they are, for a ``RetryPolicy`` to tell
apart by their classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from airflow_distrib.core.status import Problem, Retry
from airflow_distrib.runner.outcome import Outcome


class DistribError(Exception):
    """Root of this package's errors."""

    permanent = False


class ConfigError(DistribError, ValueError):
    """A field of a config cannot work as given.

    Attributes:
        field: dotted name of the field, such as ``worker.replicas``.
        task: whose field it is, where that is known.
    """

    permanent = True

    def __init__(self, field: str, problem: str, task: str = "") -> None:
        super().__init__(f"{task and f'{task}: '}{field}: {problem}")
        self.field = field
        self.problem = problem
        self.task = task

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, str, str]]:
        return type(self), (self.field, self.problem, self.task)


class FunctionNotPicklable(DistribError, TypeError):
    """The function, or something it uses, cannot be shipped to the ranks."""

    permanent = True


class MissingExtra(DistribError, ImportError):
    """A library that a system needs is not installed where Airflow runs."""

    permanent = True

    def __init__(self, extra: str, module: str) -> None:
        super().__init__(f"{module} is not installed: pip install 'airflow-distrib[{extra}]' where Airflow runs")
        self.extra, self.module = extra, module

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), (self.extra, self.module)


class ClusterError(DistribError):
    """A cluster refused a request, or could not be reached.

    Attributes:
        permanent: True when the same request would be refused again.
    """

    def __init__(self, text: str, *, permanent: bool = False) -> None:
        super().__init__(text)
        self.permanent = permanent


class JobError(DistribError):
    """A job without a result."""


class JobTerminated(JobError):
    """The job was stopped from outside: a kill, a shutdown, a lost worker."""


class ProblemError(JobError):
    """A job that a :class:`~airflow_distrib.core.status.Problem` ended."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.permanent = problem.retry is Retry.CANNOT_HELP
        super().__init__(
            f"{problem.reason}: {problem.message}" + (f"\nWhat to do: {problem.advice}" * bool(problem.advice))
        )

    def __reduce__(self) -> tuple[type[ProblemError], tuple[Problem]]:
        return type(self), (self.problem,)


class JobLost(ProblemError):
    """The job was deleted by someone else, or the node it ran on went away."""


class JobPreempted(ProblemError):
    """A pod had to make room: preempted, evicted, or its node shut down."""


class JobTimedOut(ProblemError):
    """The job ran longer than ``execution_timeout`` or its own deadline allows."""


class JobNotStarted(ProblemError):
    """A pod never ran: no room, no quota, no image, a spec that cannot work."""


class JobFailed(ProblemError):
    """The system says that the job failed, and no rank left word why."""


class ResultMissing(JobError):
    """The job ended well but rank 0 left no result, which is never taken for None."""


class RankFailed(JobError):
    """A rank failed.

    Attributes:
        outcome: what the earliest failing rank left behind: rank, host, time, error type,
            message, traceback and the end of its log.
        others: the outcomes of the other ranks that failed.
        shown: whether its output is in the task's log, so that the text does not repeat it.
    """

    def __init__(
        self, outcome: Outcome, others: Sequence[Outcome] = (), hint: str = "", *, shown: bool = False
    ) -> None:
        self.outcome = outcome
        self.others = tuple(others)
        self.hint = hint
        self.shown = shown
        # Any rank may say so; only the earliest can overrule it.
        said = [each.recoverable for each in (outcome, *self.others)]
        self.permanent = False in said and outcome.recoverable is not True
        super().__init__(self._text())

    def __reduce__(self) -> tuple[type[RankFailed], tuple[Outcome, tuple[Outcome, ...], str], dict[str, Any]]:
        return type(self), (self.outcome, self.others, self.hint), self.__dict__

    def _text(self) -> str:
        first = self.outcome
        who = "the launcher" if first.rank is None else f"rank {first.rank}"
        of = f" of {first.world_size}" if first.world_size and first.rank is not None else ""
        when = datetime.fromtimestamp(first.time, UTC).isoformat(timespec="milliseconds")
        parts = [f"{who}{of} failed first: {first.error_type}: {first.message}", f"on {first.host} at {when}"]
        if self.hint:
            parts.append(f"What to do: {self.hint}")
        if self.shown:
            parts += [line for line in first.traceback.splitlines() if line.startswith('  File "')][-1:]
        elif first.traceback:
            parts.append(f"--- traceback of {who}\n{first.traceback.rstrip()}")
        if first.log_tail and not self.shown:
            # The runner printed the traceback as well, so that it is in the log at its place.
            tail = "\n".join(first.log_tail).rstrip().removesuffix(first.traceback.rstrip()).rstrip()
            parts += [f"--- last lines of {who}\n{tail}"] if tail else []
        if self.others:
            rest = "; ".join(f"rank {each.rank}: {each.error_type}: {each.message:.200}" for each in self.others)
            parts.append(f"--- failed later\n{rest}")
        return "\n".join(parts)
