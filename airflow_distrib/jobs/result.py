"""What a finished job means for the task: a return value, or the error to raise."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from airflow_distrib.core.diagnosis import hint_for
from airflow_distrib.core.errors import (
    DistribError,
    JobFailed,
    JobLost,
    JobNotStarted,
    JobPreempted,
    JobTerminated,
    JobTimedOut,
    ProblemError,
    RankFailed,
    ResultMissing,
)
from airflow_distrib.core.status import Problem
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome


def value_of(outcomes_left: Sequence[Outcome], exit_code: int, read: Callable[[str], str]) -> tuple[Any, list[str]]:
    """Return rank 0's value and the warnings about its conversion.

    Args:
        exit_code: of the whole job; a job that ended badly has no value whatever rank 0 says.
        read: reads the text at a ``result_path``.

    Raises:
        RankFailed: the earliest failing rank is named.
        JobTerminated: nobody failed, the job was stopped.
        ResultMissing: the job ended well but rank 0 left nothing.
    """
    error = error_of(outcomes_left, exit_code)
    if error is not None:
        raise error
    first = next((each for each in outcomes_left if each.rank == 0), None)
    if first is None:
        raise ResultMissing("the job ended well but rank 0 left no result")
    text = read(first.result_path) if first.result_path else first.result
    if text is None:
        raise ResultMissing("rank 0 ended well but its outcome holds no result")
    return json.loads(text), list(first.warnings)


def error_of(outcomes_left: Sequence[Outcome], exit_code: int) -> DistribError | None:
    """The error that a job's end stands for; None when it ended well."""
    bad = [each for each in outcomes_left if each.kind != outcomes.SUCCESS]
    if exit_code == 0 and not bad:
        return None
    first = outcomes.earliest_failure(bad)
    if first is None:
        return JobTerminated(f"the job's supervisor ended with exit status {exit_code} and left no word why")
    if first.kind == outcomes.TERMINATED:
        return JobTerminated(first.message or "the job was stopped")
    others = [each for each in bad if each is not first and each.kind == outcomes.FAILURE]
    return RankFailed(first, others, hint_for(first))


# Every other reason is of a job that never ran.
_ENDED = {
    "Cancelled": JobLost,
    "Deleted": JobLost,
    "Forgotten": JobLost,
    "NodeLost": JobLost,
    "Preempted": JobPreempted,
    "TimedOut": JobTimedOut,
}
_NOT_STARTED = frozenset(
    {
        # Slurm's: what its commands and its pending jobs say.
        "AccountNotAllowed",
        "BadConstraints",
        "BootFailed",
        "DependencyNeverSatisfied",
        "InvalidAccount",
        "InvalidQOS",
        "JobHeldAdmin",
        "JobHoldMaxRequeue",
        "LaunchFailed",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSNotAllowed",
        "launch failed requeued held",
        # Kubernetes'.
        "CreateContainerConfigError",
        "CreateContainerError",
        "ImagePullFailed",
        "InvalidImageName",
        "NoController",
        "PodsRefused",
        "QuotaExceeded",
        "SpecRejected",
        "Unschedulable",
        "VolumeNotMounted",
    }
)


def problem_error(problem: Problem) -> ProblemError:
    """The error that a problem stands for."""
    return _ENDED.get(problem.reason, JobNotStarted if problem.reason in _NOT_STARTED else JobFailed)(problem)
