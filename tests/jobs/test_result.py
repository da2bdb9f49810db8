"""From outcomes to a value or an error."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import pytest

from airflow_distrib.core.errors import ConfigError, JobTerminated, RankFailed, ResultMissing
from airflow_distrib.jobs.result import value_of
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome

GOOD = Outcome(outcomes.SUCCESS, 0, result='{"a": 1}', warnings=["w"])
PEER = Outcome(outcomes.SUCCESS, 1)
BAD = Outcome(outcomes.FAILURE, 1, world_size=2, host="h", time=1.0, error_type="ValueError", message="m")


def read(path: str) -> str:
    """Text at a result_path."""
    return {"/there": "[1]"}[path]


def test_the_value_of_rank_zero_is_the_result() -> None:
    """With the warnings of its conversion."""
    assert value_of([PEER, GOOD], 0, read) == ({"a": 1}, ["w"])


def test_null_is_a_value() -> None:
    """A function may return None."""
    assert value_of([GOOD._replace(result="null")], 0, read)[0] is None


def test_a_result_that_lies_elsewhere_is_read_there() -> None:
    """It was too large to travel along."""
    assert value_of([GOOD._replace(result=None, result_path="/there")], 0, read)[0] == [1]


@pytest.mark.parametrize(
    ("left", "code", "error"),
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
    left: Sequence[Outcome], code: int, error: type[Exception]
) -> None:
    """A missing result is never None, and a bad end never a success."""
    with pytest.raises(error):
        value_of(left, code, read)


@pytest.mark.parametrize(
    ("first", "later", "permanent"),
    [(None, None, False), (False, None, True), (None, False, True), (True, False, False), (True, None, False)],
)
def test_any_rank_can_say_that_a_retry_is_useless(first: bool | None, later: bool | None, permanent: bool) -> None:
    """Unless the earliest failure says that it helps."""
    peer = BAD._replace(rank=0, time=2.0, recoverable=later)
    with pytest.raises(RankFailed) as caught:
        value_of([peer, BAD._replace(recoverable=first)], 1, read)
    assert caught.value.permanent is permanent


def test_the_error_tells_who_failed_when_and_what_else_did() -> None:
    """In the order in which a reader wants it."""
    later = BAD._replace(rank=0, time=2.0, message="connection lost")
    killed = BAD._replace(error_type=outcomes.PROCESS_KILLED, message="ended with signal SIGKILL", exit_code=-9)
    with pytest.raises(RankFailed) as caught:
        value_of([later, killed._replace(traceback="T\n", log_tail=["L", "T"])], 1, read)
    text = str(caught.value)
    assert text.splitlines()[0] == (
        "rank 1 of 2 failed first, on h at 1970-01-01T00:00:01.000+00:00: ProcessKilled: ended with signal SIGKILL"
    )
    assert "What to do: nobody asked it to stop: the kernel's OOM killer most likely ended it" in text
    assert text.count("T\n") == 1
    assert text.index("traceback of rank 1\nT") < text.index("last lines of rank 1\nL") < text.index("connection lost")


@pytest.mark.parametrize("error", [RankFailed(BAD, [BAD], "hint"), ConfigError("a", "b")])
def test_errors_can_be_pickled(error: Exception) -> None:
    """Airflow passes them between processes."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made on the line itself
    assert (type(copy), str(copy)) == (type(error), str(error))
