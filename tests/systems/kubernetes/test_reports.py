"""These tests turn the end of a pod into an outcome: what the rank reported, or what Kubernetes knows of its end."""

from __future__ import annotations

import signal

import pytest

from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.systems.kubernetes import reports
from airflow_distrib.systems.kubernetes.kind import Manifest
from airflow_distrib.systems.pytorchjob.status import PYTORCHJOB
from payloads import ended, pod, reported, running


def test_what_a_pod_reports_itself_comes_first() -> None:
    """Only the pod knows rank, error and traceback."""
    outcome = Outcome(outcomes.FAILURE, 3, error_type="ValueError", message="no")
    assert reports.of_pods(PYTORCHJOB, "job", [reported("worker-2", outcome, 1)]) == [outcome]


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
def test_a_container_that_could_not_report_is_reported_by_what_kubernetes_knows(
    code: int, reason: str, error_type: str, exit_code: int
) -> None:
    """A rank that was killed is still named in the error, by the role of its pod."""
    (found,) = reports.of_pods(PYTORCHJOB, "job", [ended("worker-2", code, "what it printed", reason)])
    assert (found.rank, found.error_type, found.exit_code) == (3, error_type, exit_code)
    assert found.host == "pod job-worker-2"


@pytest.mark.parametrize("silent", [running("master-0"), ended("master-0"), pod("master-0", "Pending")])
def test_a_pod_that_runs_or_ended_well_without_a_message_has_no_outcome(silent: Manifest) -> None:
    """The result may be too large for the message, and is then looked for in the log."""
    assert reports.of_pods(PYTORCHJOB, "job", [silent]) == []


def test_text_that_only_looks_like_an_outcome_is_not_one() -> None:
    """Any container may write its termination message, so a strange one must not hide that it failed."""
    (found,) = reports.of_pods(PYTORCHJOB, "job", [ended("master-0", 1, "z:bm90IHpsaWI=")])
    assert found.error_type == reports.CONTAINER_FAILED
