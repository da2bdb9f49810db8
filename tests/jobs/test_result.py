"""A finished job becomes the task's value, or the error that tells why there is none."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence

import pytest

from airflow_distrib.core.errors import (
    ConfigError,
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
from airflow_distrib.core.status import Category, Problem, Retry
from airflow_distrib.jobs.launcher import Conclusion
from airflow_distrib.jobs.result import problem_error, value_of, value_or_error
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome

GOOD = Outcome(outcomes.SUCCESS, 0, result='{"a": 1}', warnings=["w"])
PEER = Outcome(outcomes.SUCCESS, 1)
BAD = Outcome(outcomes.FAILURE, 1, world_size=2, host="h", time=1.0, error_type="ValueError", message="m")


def read(path: str) -> str:
    """The text at a result_path."""
    return {"/there": "[1]"}[path]


def test_the_value_of_rank_zero_is_the_result() -> None:
    """The warnings of its conversion to JSON come with it, for the task log."""
    assert value_of([PEER, GOOD], 0, read) == ({"a": 1}, ["w"])


def test_a_null_result_is_a_value() -> None:
    """A function may return None, which differs from a job without a result."""
    assert value_of([GOOD._replace(result="null")], 0, read)[0] is None


def test_a_result_that_lies_elsewhere_is_read_there() -> None:
    """A result that is too large for an outcome is as good as any other."""
    assert value_of([GOOD._replace(result=None, result_path="/there")], 0, read)[0] == [1]


@pytest.mark.parametrize(
    ("reported", "code", "error"),
    [
        ([GOOD, BAD], 1, RankFailed),
        ([GOOD, BAD], 0, RankFailed),
        ([GOOD, PEER], 1, JobTerminated),
        ([], 137, JobTerminated),
        ([GOOD, Outcome(outcomes.TERMINATED, None, message="stopped")], 143, JobTerminated),
        ([PEER], 0, ResultMissing),
        ([], 0, ResultMissing),
        ([GOOD._replace(result=None)], 0, ResultMissing),
    ],
)
def test_anything_less_than_a_whole_success_is_an_error(
    reported: Sequence[Outcome], code: int, error: type[Exception]
) -> None:
    """A missing result is never taken for None, and a bad end never for a success."""
    with pytest.raises(error):
        value_of(reported, code, read)


@pytest.mark.parametrize(
    ("first", "later", "permanent"),
    [(None, None, False), (False, None, True), (None, False, True), (True, False, False), (True, None, False)],
)
def test_any_rank_can_rule_out_a_retry(first: bool | None, later: bool | None, permanent: bool) -> None:
    """A later failure may know that the data is at fault, unless the earliest one asks for a retry."""
    peer = BAD._replace(rank=0, time=2.0, recoverable=later)
    with pytest.raises(RankFailed) as caught:
        value_of([peer, BAD._replace(recoverable=first)], 1, read)
    assert caught.value.permanent is permanent


def test_the_error_tells_who_failed_when_and_what_else_did() -> None:
    """A reader finds the cause first, then its traceback and log, and the other failures last."""
    later = BAD._replace(rank=0, time=2.0, message="connection lost")
    killed = BAD._replace(error_type=outcomes.PROCESS_KILLED, message="ended with signal SIGKILL", exit_code=-9)
    with pytest.raises(RankFailed) as caught:
        value_of([later, killed._replace(traceback="T\n", log_tail=["L", "T"])], 1, read)
    text = str(caught.value)
    assert text.startswith(
        "rank 1 of 2 failed first: ProcessKilled: ended with signal SIGKILL\non h at 1970-01-01T00:00:01.000+00:00\n"
    )
    assert "What to do: nobody asked it to stop: the kernel's OOM killer most likely ended it" in text
    assert text.count("T\n") == 1
    assert text.index("traceback of rank 1\nT") < text.index("last lines of rank 1\nL") < text.index("connection lost")


@pytest.mark.parametrize("error", [RankFailed(BAD, [BAD], "hint"), ConfigError("a", "b")])
def test_errors_can_be_pickled(error: Exception) -> None:
    """Airflow passes exceptions between processes."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made on the line itself
    assert (type(copy), str(copy)) == (type(error), str(error))


@pytest.mark.parametrize(
    ("category", "error"),
    [
        (Category.FAILED, JobFailed),
        (Category.LOST, JobLost),
        (Category.NOT_STARTED, JobNotStarted),
        (Category.PREEMPTED, JobPreempted),
        (Category.TIMED_OUT, JobTimedOut),
    ],
)
def test_every_category_of_problem_has_an_error_of_its_own(category: Category, error: type[ProblemError]) -> None:
    """A retry policy can tell a lost node from a bad image by the class, on every system."""
    found = problem_error(Problem("Word", "what was seen", "do this", category=category))
    assert type(found) is error
    assert str(found) == "Word: what was seen\nWhat to do: do this"


def test_there_is_an_error_for_each_category() -> None:
    """A system cannot report a problem for which the task has no error."""
    assert len({type(problem_error(Problem("Word", "seen", category=each))) for each in Category}) == len(Category)


@pytest.mark.parametrize(("retry", "permanent"), [(Retry.MAY_HELP, False), (Retry.CANNOT_HELP, True)])
def test_a_problem_that_no_retry_can_help_fails_the_task_for_good(retry: Retry, permanent: bool) -> None:
    """An image that does not exist will not exist in the next try either."""
    assert problem_error(Problem("Word", "seen", retry=retry)).permanent is permanent


PROBLEM = Problem("NodeLost", "the node went away", category=Category.LOST)


def test_the_value_of_a_single_job_is_rank_zeros(caplog: pytest.LogCaptureFixture) -> None:
    """Warnings about its conversion to JSON are in the task log, so that nobody wonders about a null."""
    with caplog.at_level(logging.WARNING):
        assert value_or_error(Conclusion(True, outcomes={"": [PEER, GOOD]}), returns=True, read=read) == {"a": 1}
    assert caplog.messages == ["w"]


def test_the_value_of_a_job_array_is_the_list_of_its_elements_values() -> None:
    """Each value belongs to its element, whichever element reported first."""
    found = {"1": [GOOD._replace(result="10", warnings=[])], "0": [GOOD._replace(result="0", warnings=[])]}
    conclusion = Conclusion(True, outcomes=found, elements=("0", "1"))
    assert value_or_error(conclusion, returns=True, read=read) == [0, 10]


def test_a_job_array_without_the_result_of_one_element_is_an_error() -> None:
    """A shorter list would assign values to the wrong elements."""
    conclusion = Conclusion(True, outcomes={"0": [GOOD._replace(warnings=[])]}, elements=("0", "1"))
    with pytest.raises(ResultMissing):
        value_or_error(conclusion, returns=True, read=read)


def test_a_job_without_a_function_returns_what_its_system_reports() -> None:
    """A script has no rank 0, and its task still has a value."""
    assert value_or_error(Conclusion(True, report={"job_id": "12"}), returns=False, read=read) == {"job_id": "12"}


def test_a_rank_that_reports_a_failure_is_an_error_also_without_a_function() -> None:
    """A command that failed must not pass for a success because it returns no value."""
    with pytest.raises(RankFailed):
        value_or_error(Conclusion(False, outcomes={"": [BAD]}), returns=False, read=read)


@pytest.mark.parametrize("returns", [True, False])
def test_a_problem_of_the_system_counts_more_than_what_ranks_reported(returns: bool) -> None:
    """Ranks on a node that went away complain about lost connections, which is not the cause."""
    with pytest.raises(JobLost, match="the node went away"):
        value_or_error(Conclusion(False, PROBLEM, outcomes={"": [BAD]}), returns=returns, read=read)


def test_a_problem_that_did_not_keep_the_job_from_succeeding_is_ignored() -> None:
    """A job that looked stuck and then succeeded has a result like any other."""
    conclusion = Conclusion(True, PROBLEM, outcomes={"": [GOOD._replace(warnings=[])]})
    assert value_or_error(conclusion, returns=True, read=read) == {"a": 1}


@pytest.mark.parametrize(("exit_code", "text"), [(137, "exit status 137"), (None, "exit status 1")])
def test_a_job_that_failed_without_any_report_is_an_error_with_its_exit_status(
    exit_code: int | None, text: str
) -> None:
    """The exit status is all that is known of a supervisor that was killed."""
    with pytest.raises(JobTerminated, match=text):
        value_or_error(Conclusion(False, exit_code=exit_code), returns=True, read=read)
