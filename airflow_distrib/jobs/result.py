"""What a finished job means for the task: a return value, or the error to raise."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence

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
from airflow_distrib.core.status import Category, Problem
from airflow_distrib.jobs.launcher import Conclusion
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome

log = logging.getLogger(__name__)


def value_of(
    reported: Sequence[Outcome],
    exit_code: int,
    read: Callable[[str], str],
    shown: Callable[[int | None], bool] = lambda _: False,
) -> tuple[object, list[str]]:
    """Return rank 0's value and the warnings about its conversion.

    Args:
        exit_code: of the whole job; a job that ended badly has no value whatever rank 0 says.
        read: reads the text at a ``result_path``.
        shown: whether the task's log has the output of a rank.

    Raises:
        RankFailed: the earliest failing rank is named.
        JobTerminated: nobody failed, the job was stopped.
        ResultMissing: the job ended well but rank 0 left nothing.
    """
    error = error_of(reported, exit_code, shown)
    if error is not None:
        raise error
    first = next((each for each in reported if each.rank == 0), None)
    if first is None:
        raise ResultMissing("the job ended well but rank 0 left no result")
    text = read(first.result_path) if first.result_path else first.result
    if text is None:
        raise ResultMissing("rank 0 ended well but its outcome holds no result")
    return json.loads(text), list(first.warnings)


def error_of(
    reported: Sequence[Outcome], exit_code: int, shown: Callable[[int | None], bool] = lambda _: False
) -> DistribError | None:
    """The error that a job's end stands for; None when it ended well."""
    bad = [each for each in reported if each.kind != outcomes.SUCCESS]
    if exit_code == 0 and not bad:
        return None
    first = outcomes.earliest_failure(bad)
    if first is None:
        return JobTerminated(f"the job's supervisor ended with exit status {exit_code} and left no word why")
    if first.kind == outcomes.TERMINATED:
        return JobTerminated(first.message or "the job was stopped")
    others = [each for each in bad if each is not first and each.kind == outcomes.FAILURE]
    return RankFailed(first, others, hint_for(first), shown=shown(first.rank))


_ERRORS: Mapping[Category, type[ProblemError]] = {
    Category.FAILED: JobFailed,
    Category.LOST: JobLost,
    Category.NOT_STARTED: JobNotStarted,
    Category.PREEMPTED: JobPreempted,
    Category.TIMED_OUT: JobTimedOut,
}


def problem_error(problem: Problem) -> ProblemError:
    """The error that a problem stands for."""
    return _ERRORS[problem.category](problem)


def value_or_error(
    found: Conclusion,
    *,
    returns: bool,
    read: Callable[[str], str],
    shown: Callable[[str, int | None], bool] = lambda *_: False,
) -> object:
    """The task's value.

    Args:
        returns: whether rank 0 is to return a value.
        shown: whether the task's log has the output of an element's rank.

    Raises:
        JobError: there is none, and why.
    """
    failed = any(each.kind == outcomes.FAILURE for reported in found.outcomes.values() for each in reported)
    if not found.succeeded and found.problem is not None:
        raise problem_error(found.problem)
    if not returns and not failed:
        return found.report
    code = found.exit_code if found.exit_code is not None else int(not found.succeeded)
    values = []
    for element in found.elements or ("",):
        reported = found.outcomes.get(element, [])
        value, warnings = value_of(reported, code, read, functools.partial(shown, element))
        for warning in warnings:
            log.warning("%s", warning)
        values.append(value)
    return values if found.elements is not None else values[0]
