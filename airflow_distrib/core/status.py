"""Where a job stands, in words that all systems share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class JobState(Enum):
    """States of a job; SUSPENDED jobs wait for a queue (Kueue) or a person."""

    QUEUED = "queued"
    SUSPENDED = "suspended"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def finished(self) -> bool:
        """True once nothing will change any more."""
        return self in (JobState.SUCCEEDED, JobState.FAILED)


@dataclass(frozen=True)
class JobStatus:
    """What a system says of a job.

    Attributes:
        reason: the system's own word for it, such as ``BackoffLimitExceeded``.
        message: the system's own sentence.
    """

    state: JobState
    reason: str = ""
    message: str = ""


class Retry(Enum):
    """What a retry would do about a problem."""

    MAY_HELP = "may help"
    CANNOT_HELP = "cannot help"


class Category(Enum):
    """What kind of end a problem is; each has an error of its own in :mod:`airflow_distrib.core.errors`."""

    FAILED = "failed"
    LOST = "lost"
    NOT_STARTED = "not started"
    PREEMPTED = "preempted"
    TIMED_OUT = "timed out"


@dataclass(frozen=True)
class Problem:
    """Why a job has no result, as the system says rather than a rank.

    Attributes:
        reason: one word to tell problems apart by, such as ``ImagePullFailed``.
        message: what was seen, and where.
        advice: what to do about it.
        retry: whether the same job could succeed later.
    """

    reason: str
    message: str
    advice: str = ""
    retry: Retry = Retry.MAY_HELP
    category: Category = Category.FAILED

    def to_json(self) -> list[str]:
        """As plain JSON values."""
        return [self.reason, self.message, self.advice, self.retry.value, self.category.value]

    @classmethod
    def from_json(cls, values: Sequence[str]) -> Problem:
        """The reverse of :meth:`to_json`."""
        reason, message, advice, retry, category = values
        return cls(reason, message, advice, Retry(retry), Category(category))
