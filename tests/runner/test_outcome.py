"""Outcomes travel as documents, and the earliest failure among them is the one to name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_distrib.core.diagnosis import hint_for
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.errors import NonRecoverableError, RecoverableError
from airflow_distrib.runner.outcome import Outcome, OutcomeUnreadable, earliest_failure, failure_fields, from_json


def failed(rank: int | None, time: float, **fields: object) -> Outcome:
    """A failure at a time."""
    return Outcome(outcomes.FAILURE, rank, time=time, **{"error_type": "ValueError", **fields})  # type: ignore[arg-type]


@given(
    st.builds(
        Outcome,
        kind=st.sampled_from([outcomes.SUCCESS, outcomes.FAILURE]),
        rank=st.none() | st.integers(0, 9999),
        message=st.text(st.characters()),
        traceback=st.text(st.characters()),
        time=st.floats(0, 2e9),
        log_tail=st.lists(st.text()),
    )
)
def test_a_document_comes_back_as_it_was(outcome: Outcome) -> None:
    """Whatever text an error holds survives the way through JSON."""
    assert from_json(outcome.to_json()) == outcome


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"kind": "success"}', '{"format": 99, "kind": "success"}'])
def test_a_text_that_is_no_document_of_this_format_is_an_error(text: str) -> None:
    """A damaged document must never be taken for a success."""
    with pytest.raises(OutcomeUnreadable):
        from_json(text)


def test_fields_of_a_later_version_are_dropped() -> None:
    """A newer runner in an image may report more than this release knows."""
    assert from_json('{"format": 1, "kind": "success", "rank": 0, "energy": 5}') == Outcome(outcomes.SUCCESS, 0)


EARLIEST = [
    ([failed(0, 10.0), failed(1, 9.0)], 1),
    ([failed(2, 10.0), failed(1, 10.0)], 1),
    ([failed(0, 9.5), failed(1, 10.0, error_type=outcomes.PROCESS_KILLED)], 1),
    ([failed(0, 8.0), failed(1, 10.0, error_type=outcomes.PROCESS_KILLED)], 0),
    ([Outcome(outcomes.TERMINATED, 0, time=1.0), failed(1, 10.0)], 1),
    ([failed(None, 1.0), failed(1, 10.0)], 1),
    ([Outcome(outcomes.SUCCESS, 0, time=1.0), failed(1, 10.0)], 1),
]


@pytest.mark.parametrize(("found", "rank"), EARLIEST)
def test_the_earliest_failure_is_named(found: list[Outcome], rank: int) -> None:
    """Killed ranks cannot report at once and get a head start, while stopped ranks and agents are no cause."""
    first = earliest_failure(found)
    assert first is not None
    assert first.rank == rank


def test_there_is_no_failure_among_successes() -> None:
    """A caller can tell a good end from a bad one by it."""
    assert earliest_failure([Outcome(outcomes.SUCCESS, 0)]) is None


@pytest.mark.parametrize(
    ("error", "recoverable"),
    [(RecoverableError("x"), True), (NonRecoverableError("x"), False), (ValueError("x"), None)],
)
def test_an_exception_decides_whether_a_retry_helps(error: Exception, recoverable: bool | None) -> None:
    """Only the two classes made for it decide, and everything else is up to Airflow's retries."""
    assert failure_fields(error)["recoverable"] is recoverable


def test_an_exception_whose_text_cannot_be_made_is_still_reported() -> None:
    """A broken __str__ of a user's exception does not hide the failure."""

    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert "no text" in failure_fields(BrokenError())["message"]


def test_a_text_that_no_encoding_takes_comes_back() -> None:
    """Names of files may hold bytes that are no text."""
    odd = failed(0, 1.0, message="no file bad\udcff.txt")
    assert odd.to_json().isascii()
    assert from_json(odd.to_json()) == odd


def test_an_exception_of_a_dag_file_has_the_name_that_its_author_gave_it() -> None:
    """Airflow's own name of the module, and the function around the class, are no help to anybody."""

    class NoDataError(Exception):
        pass

    NoDataError.__module__ = f"unusual_prefix_{'0f' * 20}_my_dag"
    fields = failure_fields(NoDataError(f"see {NoDataError!r}"))
    assert fields["error_type"] == "NoDataError"
    assert "unusual_prefix" not in fields["message"] + fields["traceback"]
    assert "NoDataError: see <class 'my_dag." in fields["traceback"]


@pytest.mark.parametrize(
    ("kills", "error_type", "advice"),
    [
        (1, outcomes.OUT_OF_MEMORY, "use a smaller batch"),
        (0, outcomes.PROCESS_KILLED, "somebody sent it SIGKILL"),
        (None, outcomes.PROCESS_KILLED, "the kernel's OOM killer most likely ended it"),
    ],
)
def test_a_sigkill_is_put_down_to_memory_only_where_the_kernel_says_so(
    kills: int | None, error_type: str, advice: str
) -> None:
    """Advice about memory sends somebody whose rank was killed by hand the wrong way."""
    killed = failed(
        1, 1.0, error_type=outcomes.PROCESS_KILLED, message="rank 1 ended with signal SIGKILL", exit_code=-9
    )
    judged = outcomes.with_cause_of_kill(killed, kills)
    assert judged.error_type == error_type
    assert advice in hint_for(judged)


def test_a_function_that_needs_airflow_fails_with_an_error_of_its_own_for_good() -> None:
    """Its own error is about a missing module or a database's address, and the next try would meet the same."""
    from airflow.sdk.definitions.context import get_current_context
    from airflow.sdk.exceptions import AirflowException, AirflowSkipException

    def missing() -> None:
        raise ModuleNotFoundError("No module named 'airflow'", name="airflow")

    def skip() -> None:
        raise AirflowSkipException("no data")

    for function in (get_current_context, missing, skip):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - of many kinds
            function()
        fields = failure_fields(caught.value)
        assert (fields["error_type"], fields["recoverable"]) == (outcomes.NEEDS_AIRFLOW, False)
        assert fields["message"].startswith(type(caught.value).__name__)
        assert "op_kwargs" in hint_for(failed(0, 1.0, **fields))
    assert failure_fields(AirflowException("no data"))["error_type"] == "AirflowException"


def test_a_long_traceback_keeps_its_end() -> None:
    """The last lines of a traceback name the fault."""

    def deep(level: int) -> None:
        if level:
            deep(level - 1)
        raise ValueError("the fault " + "x" * 9000)

    with pytest.raises(ValueError, match="the fault") as caught:
        deep(300)
    fields = failure_fields(caught.value)
    assert len(fields["traceback"]) <= outcomes.MAX_TRACEBACK
    assert len(fields["message"]) <= outcomes.MAX_MESSAGE
    assert fields["traceback"].rstrip().endswith("x")
