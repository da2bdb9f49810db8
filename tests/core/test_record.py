"""The stored record and what follows from it."""

from __future__ import annotations

import itertools

import pytest

from airflow_distrib.core.record import Action, JobRecord, Phase, next_action
from airflow_distrib.core.reference import JobRef

REF = JobRef("local", "name", "1:2", {"host": "h"})

# Phase -> action of the next try, when the same thing is wanted and the system keeps jobs.
NEXT_TRY = {
    Phase.SUBMITTING: Action.ADOPT,
    Phase.SUBMITTED: Action.ADOPT,
    Phase.DEFERRED: Action.ADOPT_IF_OVER,
    Phase.RESUMED: Action.ADOPT,
    Phase.TRIGGER_LOST: Action.ADOPT,
    Phase.CONSUMED: Action.SUBMIT,
}


def expected(phase: Phase, *, later: bool, same_spec: bool, outlives: bool) -> Action:
    """The table, in the order of its reasons."""
    if phase is Phase.CONSUMED:
        return Action.SUBMIT
    if not later or not same_spec or not outlives:
        return Action.REPLACE
    return NEXT_TRY[phase]


@pytest.mark.parametrize(
    ("phase", "recorded", "same_spec", "outlives"),
    list(itertools.product(Phase, [1, 2, 3], [True, False], [True, False])),
)
def test_every_transition(phase: Phase, recorded: int, same_spec: bool, outlives: bool) -> None:
    """All phases, earlier, same and later tries, same and changed specs, both kinds of systems."""
    record = JobRecord(phase, recorded, "spec", "scope", REF)
    action = next_action(record, 2, "spec" if same_spec else "other", outlives_worker=outlives)
    assert action is expected(phase, later=recorded <= 2, same_spec=same_spec, outlives=outlives)


def test_without_a_record_the_job_is_submitted() -> None:
    """The first try."""
    assert next_action(None, 1, "spec", outlives_worker=True) is Action.SUBMIT


@pytest.mark.parametrize("ref", [REF, None])
@pytest.mark.parametrize("phase", list(Phase))
def test_a_record_comes_back_as_it_was(phase: Phase, ref: JobRef | None) -> None:
    """From plain JSON values."""
    record = JobRecord(phase, 3, "abc", "scope", ref)
    assert JobRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize("stored", [None, "text", 5, [], {}, {"format": 99, "phase": "submitted"}])
def test_what_another_version_stored_counts_as_nothing(stored: object) -> None:
    """A record is help, not a condition."""
    assert JobRecord.from_json(stored) is None
