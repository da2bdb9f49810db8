"""A job whose containers are restarted for nothing is over, with the error of the rank that failed."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import report
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.systems.kubernetes.judge import View, judge
from airflow_distrib.systems.kubernetes.kind import Kind, Manifest
from airflow_distrib.systems.kubernetes.pod import BACKOFF_LABEL, POD
from airflow_distrib.systems.kubernetes.problems import Patience
from airflow_distrib.systems.mpijob.status import MPIJOB
from airflow_distrib.systems.pytorchjob.status import PYTORCHJOB
from payloads import NOW, REF, at, condition, job, pod, running

FAILED = Outcome(outcomes.FAILURE, 1, host="pod job-worker-0", error_type="ValueError", message="bad", time=NOW)
FATAL = FAILED._replace(error_type="NonRecoverableError", recoverable=False)


def restarted(
    role: str, count: int, outcome: Outcome = FAILED, *, waits: bool = False, container: str = "pytorch"
) -> Manifest:
    """A pod whose main container was restarted, and runs again or waits for its next start."""
    message = report.termination_message(outcome) or ""
    state: Manifest = {"waiting": {"reason": "CrashLoopBackOff"}} if waits else {"running": {"startedAt": at(-1)}}
    found = pod(role, "Running", state, container=container)
    last = {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": at(-2), "message": message}}
    found["status"]["containerStatuses"][0] |= {"restartCount": count, "lastState": last}
    return found


def limited(limit: int | None, *conditions: Manifest) -> Manifest:
    """A running PyTorchJob whose pods may restart so often."""
    found = job(*(conditions or (condition("Running"),)))
    found["spec"]["runPolicy"] = {"backoffLimit": limit}
    return found


def seen(resource: Manifest, *pods: Manifest, kind: Kind = PYTORCHJOB) -> Any:
    """What is known of a job with these pods."""
    return judge(kind, REF, View(resource, pods), Patience(), NOW)


@pytest.mark.parametrize(
    ("limit", "pods", "over"),
    [
        (3, [restarted("master-0", 2), restarted("worker-0", 1)], False),
        (3, [restarted("master-0", 2), restarted("worker-0", 2)], True),
        (3, [running("master-0"), restarted("worker-0", 2, waits=True)], False),
        (3, [running("master-0"), restarted("worker-0", 3, waits=True)], True),
        (0, [running("master-0"), restarted("worker-0", 1)], True),
        (None, [running("master-0"), restarted("worker-0", 99)], False),
    ],
)
def test_a_job_is_over_when_its_pods_have_restarted_too_often(
    limit: int | None, pods: list[Manifest], over: bool
) -> None:
    """The wait ends although the controller still restarts them, and tells what the ranks reported."""
    found = seen(limited(limit), *pods)
    assert found.over is over
    if over:
        assert found.problem.reason == "CrashLoop"
        assert {each.error_type for each in found.outcomes} == {"ValueError"}


def test_an_error_that_no_restart_can_help_ends_the_job_at_once() -> None:
    """A function that raises NonRecoverableError is not called a second time for hours."""
    found = seen(limited(100), running("master-0"), restarted("worker-0", 1, FATAL))
    assert found.over
    assert [(each.rank, each.recoverable) for each in found.outcomes] == [(1, False)]


def test_what_ended_pods_before_they_were_restarted_explains_a_job_that_its_controller_ended() -> None:
    """The error names the exception of the function, and not only that there was a limit."""
    failed = limited(3, condition("Failed", -9, reason="BackoffLimitExceeded"))
    found = seen(failed, running("master-0"), restarted("worker-0", 3))
    assert found.over
    assert [each.error_type for each in found.outcomes] == ["ValueError"]
    stopped = restarted("worker-0", 3)
    message = report.termination_message(Outcome(outcomes.TERMINATED, 1, time=NOW))
    stopped["status"]["containerStatuses"][0]["state"] = {"terminated": {"exitCode": 143, "message": message}}
    assert [each.kind for each in seen(failed, stopped).outcomes] == [outcomes.TERMINATED, outcomes.FAILURE]


def test_a_pod_that_is_a_job_has_its_limit_in_a_label() -> None:
    """Kubernetes itself restarts the containers of a plain Pod for ever."""
    failing = restarted("x", 4, container="rank")
    resource = {"metadata": {"name": "job", "uid": "uid-1", "labels": {BACKOFF_LABEL: "3"}}, "status": {}}
    assert seen({**resource, "status": {"phase": "Running"}}, failing, kind=POD).over
    resource["metadata"]["labels"] = {}
    assert not seen({**resource, "status": {"phase": "Running"}}, failing, kind=POD).over


def test_an_ssh_server_that_does_not_start_ends_an_mpijob() -> None:
    """The launcher would wait for that worker for ever."""
    resource = limited(0)
    resource["spec"] = {"mpiReplicaSpecs": {"Worker": {"replicas": 1}}, "runPolicy": {"backoffLimit": 0}}
    assert not seen(resource, restarted("worker-0", 3, container="mpi"), kind=MPIJOB).over
    found = seen(resource, restarted("worker-0", 4, container="mpi"), kind=MPIJOB)
    assert found.over
    assert found.problem.message.startswith("pod job-worker-0 has ended 4 times")


def test_an_init_container_that_always_fails_ends_the_job() -> None:
    """The function is never reached, and nobody waits for it."""
    stuck = pod("worker-0", "Pending", None)
    stuck["status"]["initContainerStatuses"] = [
        {"name": "fetch", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    ]
    assert seen(limited(3), running("master-0"), stuck).over
