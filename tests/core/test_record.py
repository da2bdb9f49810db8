"""The stored record of a job decides what the next try does about it."""

from __future__ import annotations

import itertools

import pytest

from airflow_distrib.core.record import Action, JobRecord, Phase, next_action
from airflow_distrib.core.reference import JobRef

REF = JobRef("local", "name", "1:2", {"host": "h"})


def expected(phase: Phase, *, later: bool, cleared: bool, same_spec: bool, outlives: bool) -> Action:
    """The expected action, with its reasons from top to bottom."""
    if phase is Phase.CONSUMED:
        return Action.SUBMIT
    return Action.ADOPT if later and not cleared and same_spec and outlives else Action.REPLACE


@pytest.mark.parametrize(
    ("phase", "recorded", "cleared", "same_spec", "outlives"),
    list(itertools.product(Phase, [1, 2, 3], [True, False], [True, False], [True, False])),
)
def test_every_record_leads_to_the_right_action(
    phase: Phase, recorded: int, cleared: bool, same_spec: bool, outlives: bool
) -> None:
    """A job is adopted only by a later try that wants the same, on a system whose jobs outlive their worker."""
    record = JobRecord(phase, recorded, "spec", "scope", 3, REF)
    action = next_action(record, 2, 5 if cleared else 3, "spec" if same_spec else "other", outlives_worker=outlives)
    wanted = expected(phase, later=recorded <= 2, cleared=cleared, same_spec=same_spec, outlives=outlives)
    assert action is wanted


def test_without_a_record_the_job_is_submitted() -> None:
    """The first try of a task finds nothing stored."""
    assert next_action(None, 1, 0, "spec", outlives_worker=True) is Action.SUBMIT


@pytest.mark.parametrize("ref", [REF, None])
@pytest.mark.parametrize("phase", list(Phase))
def test_a_record_comes_back_as_it_was(phase: Phase, ref: JobRef | None) -> None:
    """It is stored as JSON, and nothing of it may be lost on the way."""
    record = JobRecord(phase, 3, "abc", "scope", 4, ref)
    assert JobRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize("stored", [None, "text", 5, [], {}, {"format": 99, "phase": "submitted"}])
def test_a_record_of_another_version_counts_as_none(stored: object) -> None:
    """An upgrade of this package must not break tasks that are running."""
    assert JobRecord.from_json(stored) is None
