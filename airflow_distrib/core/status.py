"""What a job is doing, the same words for every system."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class JobState(Enum):
    """State of a job; ``UNKNOWN`` is a state of its own and never taken for an end."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    GONE = "gone"
    UNKNOWN = "unknown"

    @property
    def is_over(self) -> bool:
        """True when the job will not change any more."""
        return self in _OVER


_OVER = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.GONE})


@dataclass(frozen=True)
class JobStatus:
    """State of a job with the system's own reason and message."""

    state: JobState
    reason: str = ""
    message: str = ""
