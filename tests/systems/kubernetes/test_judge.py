"""When a job is over, stuck, or goes on: a table of what the API says."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_distrib.systems.kubernetes.judge import SETTLE_SECONDS, View, judge
from airflow_distrib.systems.kubernetes.problems import Patience
from airflow_distrib.systems.mpijob.status import MPIJOB
from airflow_distrib.systems.kubernetes.pod import POD
from airflow_distrib.systems.pytorchjob.status import PYTORCHJOB
from airflow_distrib.core.status import JobState, Retry
from airflow_distrib.runner.outcome import FAILURE, SUCCESS, Outcome
from payloads import NOW, REF, at, condition, ended, event, job, pod, running, told, unschedulable, waiting

RESULT = told("master-0", Outcome(SUCCESS, 0, result="1"))
FAILED = told("worker-0", Outcome(FAILURE, 1, error_type="ValueError"), 1)
RUNNING, SUCCEEDED = condition("Running"), condition("Succeeded", -1)
OVER = condition("Failed", -1, reason="PyTorchJobFailed", message="1 replica failed")
OVER_FOR_LONG = condition("Failed", -60, reason="PyTorchJobFailed", message="1 replica failed")


def verdict(resource: Any, *pods: Any, events: tuple[Any, ...] = (), **patience: float) -> Any:
    """Of a PyTorchJob."""
    return judge(PYTORCHJOB, REF, View(resource, pods, events), Patience(**patience), NOW)


@pytest.mark.parametrize(
    ("resource", "pods", "over"),
    [
        (job(), [], False),
        (job(condition("Created")), [running("master-0")], False),
        (job(RUNNING), [running("master-0"), running("worker-0")], False),
        (job(RUNNING), [RESULT, running("worker-0")], False),
        # The master's value is there, but the worker still writes its part.
        (job(SUCCEEDED), [RESULT, running("worker-0")], False),
        (job(SUCCEEDED), [RESULT, ended("worker-0")], True),
        # A worker that waits for a master that is gone never starts.
        (job(SUCCEEDED), [RESULT, pod("worker-0", "Pending", {"waiting": {"reason": "PodInitializing"}})], True),
        (job(SUCCEEDED), [], True),
        # Peers are about to fail as well; the earliest is to be named.
        (job(OVER), [FAILED, running("master-0")], False),
        (job(OVER_FOR_LONG), [FAILED, running("master-0")], True),
        (job(OVER), [FAILED, ended("master-0", 1)], True),
        (job(condition("Suspended")), [], False),
        (job(condition("Suspended", status="False"), RUNNING), [running("master-0")], False),
        (job(condition("Restarting")), [FAILED], False),
        (None, [], True),
    ],
)
def test_when_a_job_is_over(resource: Any, pods: list[Any], over: bool) -> None:
    """By what its controller says, and what its pods still do."""
    assert verdict(resource, *pods).over is over


def test_a_failed_job_is_looked_at_again_when_its_peers_have_had_time() -> None:
    """Nothing needs to change for it."""
    wait = verdict(job(OVER), FAILED, running("master-0")).wait
    assert wait is not None
    assert 0 < wait <= SETTLE_SECONDS


STUCK = [
    (unschedulable("worker-0"), "unschedulable", "Unschedulable", Retry.MAY_HELP, "Insufficient cpu"),
    (
        waiting("worker-0", "ImagePullBackOff", "Back-off"),
        "image_pull",
        "ImagePullFailed",
        Retry.MAY_HELP,
        "me/train:1",
    ),
    (waiting("worker-0", "ErrImagePull", "401"), "image_pull", "ImagePullFailed", Retry.MAY_HELP, "401"),
    (waiting("worker-0", "CreateContainerError", "x"), "create_container", "CreateContainerError", Retry.MAY_HELP, "x"),
    (
        waiting("worker-0", "CreateContainerConfigError", 'secret "s" not found'),
        "container_config",
        "CreateContainerConfigError",
        Retry.CANNOT_HELP,
        'secret "s" not found',
    ),
]


@pytest.mark.parametrize(("stuck", "field", "reason", "retry", "text"), STUCK)
def test_a_stuck_pod_is_borne_for_as_long_as_patience_says(
    stuck: Any, field: str, reason: str, retry: Retry, text: str
) -> None:
    """Then its reason ends the job, with what to do."""
    resource = job(condition("Created"))
    patient = verdict(resource, running("master-0"), stuck, **{field: 31})
    assert (patient.over, round(patient.wait)) == (False, 1)
    found = verdict(resource, running("master-0"), stuck, **{field: 29})
    assert found.over
    assert (found.problem.reason, found.problem.retry) == (reason, retry)
    assert text in found.problem.message
    assert found.problem.advice
    forever = judge(
        PYTORCHJOB, REF, View(resource, (running("master-0"), stuck)), Patience().merged({field: None}), NOW
    )
    assert not forever.over


def test_an_image_name_that_cannot_be_ends_the_job_at_once() -> None:
    """No waiting mends it."""
    found = verdict(job(condition("Created")), waiting("master-0", "InvalidImageName", "UPPER"))
    assert (found.over, found.problem.reason, found.problem.retry) == (True, "InvalidImageName", Retry.CANNOT_HELP)


@pytest.mark.parametrize(
    ("told_by", "reason"),
    [
        (
            event("FailedCreatePod", 'pods "job-worker-0" is forbidden: exceeded quota: q, requested: pods=1'),
            "QuotaExceeded",
        ),
        (event("FailedMount", 'MountVolume.SetUp failed: secret "s" not found'), "VolumeNotMounted"),
        (event("FailedCreatePod", "admission webhook denied"), "PodsRefused"),
        (event("ValidationError", "must be 1"), "SpecRejected"),
    ],
)
def test_events_tell_why_pods_are_missing(told_by: Any, reason: str) -> None:
    """And nothing else does."""
    found = verdict(job(condition("Created")), events=(told_by,), quota=5, mount=5, create_container=5)
    assert (found.over, found.problem.reason) == (True, reason)


def test_events_of_a_pod_that_runs_by_now_do_not_count() -> None:
    """The Secret came a second later."""
    early = {**event("FailedMount", 'secret "job" not found'), "involvedObject": {"name": "job-master-0"}}
    resource = job(RUNNING, workers=1)
    assert not verdict(resource, running("master-0"), pod("worker-0", "Pending"), events=(early,), mount=5).over


def test_events_that_are_not_told_again_are_over() -> None:
    """The quota was full an hour ago; now the pod only waits for its image."""
    old = {**event("FailedCreatePod", "exceeded quota: q", -4000), "lastTimestamp": at(-3600)}
    resource = job(condition("Created"))
    assert not verdict(resource, running("master-0"), pod("worker-0", "Pending"), events=(old,), quota=5).over


def test_patience_begins_when_a_problem_is_seen_and_not_before() -> None:
    """A container that is restarted after an hour may have a bad minute, too."""
    seen: dict[str, float] = {}
    stuck = (running("master-0"), waiting("worker-0", "ErrImagePull", "timeout"))
    for now, over in ((NOW + 5000, False), (NOW + 5170, False), (NOW + 5190, True)):
        view = View(job(RUNNING), stuck, first_seen=seen)
        assert judge(PYTORCHJOB, REF, view, Patience(image_pull=180), now).over is over


def test_a_problem_that_comes_back_is_borne_again() -> None:
    """After a good hour."""
    seen: dict[str, float] = {}
    stuck, well = waiting("worker-0", "ErrImagePull", "timeout"), running("worker-0")
    for now, worker, over in ((NOW, stuck, False), (NOW + 60, well, False), (NOW + 3600, stuck, False)):
        view = View(job(RUNNING), (running("master-0"), worker), first_seen=seen)
        assert judge(PYTORCHJOB, REF, view, Patience(image_pull=180), now).over is over


def test_a_pod_on_a_node_that_is_lost_is_not_waited_for() -> None:
    """It should have been gone for long, and still seems to run."""
    lost = running("worker-0")
    lost["metadata"]["deletionTimestamp"] = at(-300)
    assert verdict(job(SUCCEEDED), RESULT, lost).over


def test_a_resource_that_no_controller_looks_at_is_an_error() -> None:
    """The operator is not running."""
    assert verdict(job(age=60), no_controller=61).over is False
    assert verdict(job(age=60), no_controller=59).problem.reason == "NoController"


def test_an_elastic_job_that_has_enough_nodes_does_not_mind_a_missing_one() -> None:
    """It grows when there is room."""
    resource = job(RUNNING, elastic=1, workers=2)
    assert not verdict(resource, running("worker-0"), unschedulable("worker-1"), unschedulable=5).over
    needs_both = job(RUNNING, elastic=2, workers=2)
    assert verdict(needs_both, running("worker-0"), unschedulable("worker-1"), unschedulable=5).over


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (pod("worker-0", "Failed", None, reason="Evicted", message="low on memory"), "Preempted"),
        (pod("worker-0", "Failed", None, reason="NodeLost"), "NodeLost"),
        (
            pod(
                "worker-0",
                "Failed",
                None,
                condition("DisruptionTarget", reason="PreemptionByScheduler", message="by x"),
            ),
            "Preempted",
        ),
    ],
)
def test_what_took_a_pod_away_is_told_apart_from_a_failure(lost: Any, reason: str) -> None:
    """A retry may well succeed."""
    found = verdict(job(OVER_FOR_LONG), FAILED, lost)
    assert (found.over, found.problem.reason, found.problem.retry) == (True, reason, Retry.MAY_HELP)


def test_a_deleted_job_is_an_error_unless_it_was_over() -> None:
    """Somebody else did it; a TTL may be short."""
    assert verdict(None).problem.reason == "Deleted"
    over = job(SUCCEEDED)
    over["metadata"]["deletionTimestamp"] = "2026-09-21T00:00:00Z"
    assert verdict({**over, "deleted": True}, RESULT).problem is None
    going = job(RUNNING)
    going["metadata"]["deletionTimestamp"] = "2026-09-21T00:00:00Z"
    assert verdict(going, running("master-0")).problem.reason == "Deleted"


@pytest.mark.parametrize(
    ("phase", "state"),
    [
        ("Pending", JobState.QUEUED),
        ("Running", JobState.RUNNING),
        ("Succeeded", JobState.SUCCEEDED),
        ("Failed", JobState.FAILED),
        ("Unknown", JobState.RUNNING),
    ],
)
def test_a_pod_is_a_job_by_its_phase(phase: str, state: JobState) -> None:
    """For Elastic on one node."""
    assert POD.read(pod("x", phase)).state is state


def test_a_pod_behind_a_gate_is_suspended() -> None:
    """As Kueue leaves it."""
    gated = pod("x", "Pending", None, condition("PodScheduled", status="False", reason="SchedulingGated"))
    assert POD.read(gated).state is JobState.SUSPENDED


def test_the_workers_of_an_mpijob_say_nothing() -> None:
    """Their SSH servers run on; the launcher tells for all ranks."""
    launcher = pod("launcher-abcde", "Succeeded", {"terminated": {"exitCode": 0}}, container="mpi")
    worker = pod("worker-0", "Running", {"running": {}}, container="mpi")
    view = View(job(SUCCEEDED), (launcher, worker))
    assert judge(MPIJOB, REF, view, Patience(), NOW).over


def test_a_pod_that_failed_before_any_container_existed_ends_the_wait() -> None:
    """An evicted Pod, or one that kubelet rejects, has neither container statuses nor a time at which it ended."""
    gone = pod("x", "Failed", None, reason="OutOfcpu", message="Node didn't have enough resource: cpu")
    del gone["status"]["containerStatuses"]
    view = View(gone, (gone,), first_seen={})
    first = judge(POD, REF, view, Patience(), NOW)
    assert (first.over, first.wait) == (False, SETTLE_SECONDS)
    later = judge(POD, REF, view, Patience(), NOW + SETTLE_SECONDS)
    assert (later.over, later.status.reason) == (True, "OutOfcpu")
