"""These tests are a table of what the API reports, and of what follows for the job: it is over, stuck, or goes on."""

from __future__ import annotations

import dataclasses

import pytest

from airflow_distrib.core.status import Category, JobState, Problem, Retry
from airflow_distrib.jobs.launcher import Observation, Obstacle
from airflow_distrib.runner.outcome import FAILURE, SUCCESS, Outcome
from airflow_distrib.systems.kubernetes.judge import SETTLE_SECONDS, View, judge
from airflow_distrib.systems.kubernetes.kind import Manifest
from airflow_distrib.systems.kubernetes.pod import POD
from airflow_distrib.systems.kubernetes.problems import Patience
from airflow_distrib.systems.mpijob.status import MPIJOB
from airflow_distrib.systems.pytorchjob.status import PYTORCHJOB
from payloads import NOW, REF, at, condition, ended, event, job, pod, reported, running, unschedulable, waiting

RESULT = reported("master-0", Outcome(SUCCESS, 0, result="1"))
FAILED = reported("worker-0", Outcome(FAILURE, 1, error_type="ValueError"), 1)
RUNNING, SUCCEEDED = condition("Running"), condition("Succeeded", -1)
OVER = condition("Failed", -1, reason="PyTorchJobFailed", message="1 replica failed")
OVER_FOR_LONG = condition("Failed", -60, reason="PyTorchJobFailed", message="1 replica failed")

PATIENCE = Patience()


def observed(
    resource: Manifest | None, *pods: Manifest, events: tuple[Manifest, ...] = (), patience: Patience = PATIENCE
) -> Observation:
    """Return what is known of a PyTorchJob."""
    return judge(PYTORCHJOB, REF, View(resource, pods, events), patience, NOW)


def obstacles(
    resource: Manifest | None, *pods: Manifest, events: tuple[Manifest, ...] = (), patience: Patience = PATIENCE
) -> dict[str, float | None]:
    """Return how many seconds each problem of a PyTorchJob that is not over may last, by the problem's reason."""
    found = observed(resource, *pods, events=events, patience=patience)
    assert (found.over, found.problem) == (False, None)
    return {_problem(each).reason: each.seconds for each in found.obstacles}


def _problem(obstacle: Obstacle) -> Problem:
    assert obstacle.problem is not None
    return obstacle.problem


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
def test_a_job_is_over_when_its_controller_reports_its_end_and_its_pods_have_ended(
    resource: Manifest | None, pods: list[Manifest], over: bool
) -> None:
    """The result is only fetched once no rank can add to it any more."""
    assert observed(resource, *pods).over is over


def test_a_failed_job_is_looked_at_again_when_its_peers_have_had_time() -> None:
    """The wait ends by itself, because nothing in the cluster has to change before the failure can be reported."""
    look_again = observed(job(OVER), FAILED, running("master-0")).look_again
    assert look_again is not None
    assert 0 < look_again <= SETTLE_SECONDS


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
def test_a_stuck_pod_is_an_obstacle_that_may_last_as_long_as_its_patience(
    stuck: Manifest, field: str, reason: str, retry: Retry, text: str
) -> None:
    """A job that waits for a node or an image is given the time that the user grants, and then ends with advice."""
    found = observed(job(condition("Created")), running("master-0"), stuck, patience=PATIENCE.merged({field: 31}))
    assert (found.over, found.problem) == (False, None)
    (obstacle,) = found.obstacles
    assert obstacle.seconds == 31
    problem = _problem(obstacle)
    assert (problem.reason, problem.retry, problem.category) == (reason, retry, Category.NOT_STARTED)
    assert text in problem.message
    assert problem.advice


@pytest.mark.parametrize(("stuck", "field", "reason", "retry", "text"), STUCK)
def test_a_stuck_pod_may_stay_stuck_for_ever_when_its_patience_is_none(
    stuck: Manifest, field: str, reason: str, retry: Retry, text: str
) -> None:
    """A user whose nodes come next week can switch a limit off."""
    assert obstacles(
        job(condition("Created")), running("master-0"), stuck, patience=PATIENCE.merged({field: None})
    ) == {reason: None}


def test_the_same_problem_of_two_pods_is_two_obstacles() -> None:
    """The time of one pod's problem does not count for another's, which may have begun an hour later."""
    pods = [waiting(f"worker-{n}", "ErrImagePull") for n in range(2)]
    keys = [each.key for each in observed(job(RUNNING, workers=2), *pods).obstacles]
    assert keys == ["job-worker-0/ImagePullFailed", "job-worker-1/ImagePullFailed"]


def test_an_image_name_that_cannot_be_right_has_no_patience() -> None:
    """The task fails at once, because no waiting would make the name valid."""
    (obstacle,) = observed(job(condition("Created")), waiting("master-0", "InvalidImageName", "UPPER")).obstacles
    assert obstacle.seconds == 0
    assert (_problem(obstacle).reason, _problem(obstacle).retry) == ("InvalidImageName", Retry.CANNOT_HELP)


@pytest.mark.parametrize(
    ("warning", "reason", "seconds"),
    [
        (
            event("FailedCreatePod", 'pods "job-worker-0" is forbidden: exceeded quota: q, requested: pods=1'),
            "QuotaExceeded",
            5,
        ),
        (event("FailedMount", 'MountVolume.SetUp failed: secret "s" not found'), "VolumeNotMounted", 6),
        (event("FailedCreatePod", "admission webhook denied"), "PodsRefused", 7),
        (event("ValidationError", "must be 1"), "SpecRejected", 0),
    ],
)
def test_an_event_explains_why_pods_are_missing(warning: Manifest, reason: str, seconds: float) -> None:
    """The user learns of a full quota or a missing Secret although no pod has a status that names it."""
    resource = job(condition("Created"))
    assert obstacles(resource, events=(warning,), patience=Patience(quota=5, mount=6, create_container=7)) == {
        reason: seconds
    }


def test_events_of_a_pod_that_has_started_since_do_not_count() -> None:
    """A Secret that comes a second after its pods is no reason to end the job."""
    early = {**event("FailedMount", 'secret "job" not found'), "involvedObject": {"name": "job-master-0"}}
    resource = job(RUNNING, workers=1)
    assert (
        obstacles(
            resource, running("master-0"), pod("worker-0", "Pending"), events=(early,), patience=Patience(mount=5)
        )
        == {}
    )


def test_events_that_are_not_repeated_any_more_do_not_count() -> None:
    """A quota that was full an hour ago must not end a job whose pod now only waits for its image."""
    old = {**event("FailedCreatePod", "exceeded quota: q", -4000), "lastTimestamp": at(-3600)}
    resource = job(condition("Created"))
    assert (
        obstacles(resource, running("master-0"), pod("worker-0", "Pending"), events=(old,), patience=Patience(quota=5))
        == {}
    )


def test_a_controller_that_reports_why_it_cannot_create_pods_is_not_missing() -> None:
    """The training-operator writes no status while a quota is full, and the job has the whole patience for quotas."""
    full = {**event("FailedCreatePod", "exceeded quota: q"), "involvedObject": {"name": "job"}}
    assert obstacles(job(), events=(full,), patience=Patience(quota=1800, no_controller=120)) == {"QuotaExceeded": 1800}


def test_events_of_a_pod_that_is_the_job_itself_count_until_it_starts() -> None:
    """A plain Pod whose Secret is missing ends with that reason, although all pods of the job are there."""
    missing = {**event("FailedMount", 'secret "job" not found'), "involvedObject": {"name": "job-x"}}
    alone = pod("x", "Pending")
    found = judge(POD, REF, View(alone, (alone,), (missing,)), Patience(mount=5), NOW)
    assert [(_problem(each).reason, each.seconds) for each in found.obstacles] == [("VolumeNotMounted", 5)]
    started = pod("x", "Running", {"running": {}}, container="rank")
    assert judge(POD, REF, View(started, (started,), (missing,)), Patience(mount=5), NOW).obstacles == ()


@pytest.mark.parametrize("age", [0.0, 3600.0])
def test_the_patience_for_a_problem_does_not_depend_on_the_age_of_the_pod(age: float) -> None:
    """A container that is restarted after an hour has the same time to pull its image as a new one."""
    stuck = waiting("worker-0", "ErrImagePull", "timeout")
    stuck["metadata"]["creationTimestamp"] = at(-age)
    assert obstacles(job(RUNNING, age=age), running("master-0"), stuck, patience=Patience(image_pull=180)) == {
        "ImagePullFailed": 180
    }


def test_a_problem_that_has_gone_is_no_obstacle_any_more() -> None:
    """Whoever counts the seconds begins anew when it comes back after a good hour."""
    stuck = waiting("worker-0", "ErrImagePull", "timeout")
    assert obstacles(job(RUNNING), running("master-0"), stuck, patience=Patience(image_pull=180)) == {
        "ImagePullFailed": 180
    }
    assert obstacles(job(RUNNING), running("master-0"), running("worker-0"), patience=Patience(image_pull=180)) == {}


def test_a_suspended_job_has_no_obstacles() -> None:
    """A job may wait in Kueue for longer than any patience, and its pods are being removed."""
    assert obstacles(job(condition("Suspended")), unschedulable("worker-0"), patience=Patience(unschedulable=5)) == {}


def test_a_pod_on_a_node_that_is_lost_is_not_waited_for() -> None:
    """A job whose value is there can end although such a pod still seems to run."""
    lost = running("worker-0")
    lost["metadata"]["deletionTimestamp"] = at(-300)
    assert observed(job(SUCCEEDED), RESULT, lost).over


def test_a_resource_that_no_controller_looks_at_is_an_obstacle() -> None:
    """The user learns that the operator is not running instead of waiting for ever."""
    assert obstacles(job(age=60), patience=Patience(no_controller=61)) == {"NoController": 61}
    assert obstacles(job(condition("Created"), age=60), patience=Patience(no_controller=61)) == {}


def test_an_elastic_job_that_has_enough_nodes_ignores_a_missing_one() -> None:
    """The job works with the nodes it has, and grows when there is room."""
    resource = job(RUNNING, elastic=1, workers=2)
    assert obstacles(resource, running("worker-0"), unschedulable("worker-1"), patience=Patience(unschedulable=5)) == {}
    needs_both = job(RUNNING, elastic=2, workers=2)
    found = obstacles(needs_both, running("worker-0"), unschedulable("worker-1"), patience=Patience(unschedulable=5))
    assert found == {"Unschedulable": 5}


@pytest.mark.parametrize(
    ("lost", "reason", "category"),
    [
        (
            pod("worker-0", "Failed", None, reason="Evicted", message="low on memory"),
            "Preempted",
            Category.PREEMPTED,
        ),
        (pod("worker-0", "Failed", None, reason="NodeLost"), "NodeLost", Category.LOST),
        (
            pod(
                "worker-0",
                "Failed",
                None,
                condition("DisruptionTarget", reason="PreemptionByScheduler", message="by x"),
            ),
            "Preempted",
            Category.PREEMPTED,
        ),
    ],
)
def test_what_took_a_pod_away_is_distinguished_from_a_failure(lost: Manifest, reason: str, category: Category) -> None:
    """A retry policy can try a preempted job again, which may well succeed."""
    found = observed(job(OVER_FOR_LONG), FAILED, lost)
    assert found.problem is not None
    assert (found.over, found.problem.reason, found.problem.retry) == (True, reason, Retry.MAY_HELP)
    assert found.problem.category is category


def test_a_deleted_job_is_an_error_unless_it_was_over() -> None:
    """The user learns that somebody else deleted the job, and a short TTL does not turn success into failure."""
    gone = observed(None).problem
    assert gone is not None
    assert (gone.reason, gone.category) == ("Deleted", Category.LOST)
    over = job(SUCCEEDED)
    over["metadata"]["deletionTimestamp"] = "2026-09-21T00:00:00Z"
    assert observed({**over, "deleted": True}, RESULT).problem is None
    going = job(RUNNING)
    going["metadata"]["deletionTimestamp"] = "2026-09-21T00:00:00Z"
    problem = observed(going, running("master-0")).problem
    assert problem is not None
    assert problem.reason == "Deleted"


def test_a_pod_that_is_the_job_itself_and_is_evicted_was_not_deleted_by_somebody() -> None:
    """A retry policy can try a preempted Pod again, and nobody looks for a person who deletes jobs."""
    evicted = pod("x", "Running", {"running": {}}, condition("DisruptionTarget", reason="EvictionByEvictionAPI"))
    evicted["metadata"]["deletionTimestamp"] = at(30)
    name = evicted["metadata"]["name"]
    found = judge(POD, dataclasses.replace(REF, name=name), View(evicted, (evicted,)), Patience(), NOW)
    assert found.problem is not None
    assert (found.over, found.problem.reason, found.problem.category) == (True, "Preempted", Category.PREEMPTED)


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
def test_a_pod_that_is_a_job_has_the_state_of_its_phase(phase: str, state: JobState) -> None:
    """An Elastic job on one node needs no operator in the cluster, because Kubernetes itself reports its state."""
    assert POD.read(pod("x", phase)).state is state


def test_a_pod_behind_a_scheduling_gate_is_suspended() -> None:
    """A Pod that Kueue holds back may wait for longer than any patience."""
    gated = pod("x", "Pending", None, condition("PodScheduled", status="False", reason="SchedulingGated"))
    assert POD.read(gated).state is JobState.SUSPENDED


def test_running_workers_of_an_mpijob_do_not_keep_it_from_ending() -> None:
    """The workers' SSH servers run on for ever, so only the launcher's pod counts."""
    launcher = pod("launcher-abcde", "Succeeded", {"terminated": {"exitCode": 0}}, container="mpi")
    worker = pod("worker-0", "Running", {"running": {}}, container="mpi")
    view = View(job(SUCCEEDED), (launcher, worker))
    assert judge(MPIJOB, REF, view, Patience(), NOW).over


def test_a_pod_that_failed_before_any_container_existed_has_to_settle() -> None:
    """An evicted Pod, or one that kubelet rejects, ends although nothing tells when it ended."""
    gone = pod("x", "Failed", None, reason="OutOfcpu", message="Node didn't have enough resource: cpu")
    del gone["status"]["containerStatuses"]
    found = judge(POD, REF, View(gone, (gone,)), Patience(), NOW)
    assert (found.over, found.status.reason) == (False, "OutOfcpu")
    assert found.obstacles == (Obstacle("settling", SETTLE_SECONDS),)
