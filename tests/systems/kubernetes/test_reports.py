"""What becomes of a pod's end."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from airflow_distrib.systems.kubernetes import reports
from airflow_distrib.systems.pytorchjob.status import PYTORCHJOB
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome
from payloads import ended, pod, running, told


def test_a_pods_own_word_comes_first() -> None:
    """It knows rank, error and traceback."""
    said = Outcome(outcomes.FAILURE, 3, error_type="ValueError", message="no")
    assert reports.of_pods(PYTORCHJOB, "job", [told("worker-2", said, 1)]) == [said]


@pytest.mark.parametrize(
    ("code", "reason", "error_type", "exit_code"),
    [
        (137, "OOMKilled", outcomes.OUT_OF_MEMORY, -signal.SIGKILL),
        (137, "Error", outcomes.PROCESS_KILLED, -signal.SIGKILL),
        (139, "Error", outcomes.PROCESS_KILLED, -signal.SIGSEGV),
        (1, "Error", reports.CONTAINER_FAILED, 1),
        (128, "StartError", reports.START_FAILED, 128),
    ],
)
def test_a_container_that_could_not_tell_is_told_of(code: int, reason: str, error_type: str, exit_code: int) -> None:
    """By what Kubernetes says of its end, and the rank that its name gives away."""
    (found,) = reports.of_pods(PYTORCHJOB, "job", [ended("worker-2", code, "what it left", reason)])
    assert (found.rank, found.error_type, found.exit_code) == (3, error_type, exit_code)
    assert found.host == "pod job-worker-2"


@pytest.mark.parametrize("silent", [running("master-0"), ended("master-0"), pod("master-0", "Pending")])
def test_a_pod_that_runs_or_ended_well_without_a_word_has_no_outcome(silent: dict[str, Any]) -> None:
    """A large result is in its log."""
    assert reports.of_pods(PYTORCHJOB, "job", [silent]) == []


def test_text_that_only_looks_like_an_outcome_is_not_one() -> None:
    """Any container may write its termination message."""
    (found,) = reports.of_pods(PYTORCHJOB, "job", [ended("master-0", 1, "z:bm90IHpsaWI=")])
    assert found.error_type == reports.CONTAINER_FAILED
