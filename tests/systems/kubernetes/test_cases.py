"""These tests judge what a real cluster answered: jobs of every kind, recorded in their ``cases`` folders."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState
from airflow_distrib.jobs.launcher import Observation
from airflow_distrib.systems.kubernetes.judge import View, judge
from airflow_distrib.systems.kubernetes.kind import Kind, Manifest, seconds
from airflow_distrib.systems.kubernetes.pod import POD
from airflow_distrib.systems.kubernetes.problems import Patience
from airflow_distrib.systems.mpijob.status import MPIJOB, MPIJOB_V1
from airflow_distrib.systems.pytorchjob.status import PYTORCHJOB

SYSTEMS = Path(__file__).parent.parent
# The recorded pods are not rendered by this package, which calls the container of a plain Pod "rank".
PLAIN_POD = dataclasses.replace(POD, container="main")
KINDS = {(kind.api, kind.kind): kind for kind in (PLAIN_POD, PYTORCHJOB, MPIJOB, MPIJOB_V1)}

# Ranks that fail together have reported by then, a pod on a lost node has been given up, and the
# events are still of the present: kubelet repeats what goes wrong every two minutes.
LATER_SECONDS = 100.0
DAY = 86400.0
_TIME = re.compile(r'"(\d{4}-\d\d-\d\dT[^"]+Z)"')

QUEUED, SUSPENDED, RUNNING = JobState.QUEUED, JobState.SUSPENDED, JobState.RUNNING
SUCCEEDED, FAILED = JobState.SUCCEEDED, JobState.FAILED


class Expected(NamedTuple):
    """What is known of a recorded job a little later.

    Attributes:
        reason: of the problem that ended the job, or that ends it if it lasts.
    """

    over: bool
    state: JobState
    reason: str | None = None


EXPECTED: Mapping[str, Mapping[str, Expected]] = {
    "kubernetes": {
        "command-not-found": Expected(True, FAILED),
        "config-key-missing": Expected(False, QUEUED, "CreateContainerConfigError"),
        "config-volume-missing": Expected(False, QUEUED, "VolumeNotMounted"),
        "container-creating": Expected(False, QUEUED),
        "container-ended": Expected(False, QUEUED),
        "created": Expected(False, QUEUED),
        "deadline-exceeded": Expected(True, FAILED),
        "deleted": Expected(True, FAILED),
        "deleted-terminating": Expected(True, FAILED, "Deleted"),
        "evicted-by-api": Expected(True, FAILED, "Preempted"),
        "evicted-by-api-terminating": Expected(True, FAILED, "Preempted"),
        "evicted-by-kubelet": Expected(True, FAILED, "Preempted"),
        "evicted-by-kubelet-early": Expected(True, FAILED, "Preempted"),
        "failed": Expected(True, FAILED),
        "image-name-invalid": Expected(False, QUEUED, "InvalidImageName"),
        "image-not-pulled": Expected(False, QUEUED, "ImagePullFailed"),
        "image-pull-failed": Expected(False, QUEUED, "ImagePullFailed"),
        "node-affinity": Expected(True, FAILED, "Preempted"),
        "oom-killed": Expected(True, FAILED),
        "out-of-cpu": Expected(True, FAILED),
        "preempted": Expected(True, FAILED, "Preempted"),
        "preempted-terminating": Expected(True, FAILED, "Preempted"),
        "running": Expected(False, RUNNING),
        "scheduling-gated": Expected(False, SUSPENDED),
        "succeeded": Expected(True, SUCCEEDED),
        "unschedulable": Expected(False, QUEUED, "Unschedulable"),
        "volume-claim-missing": Expected(False, QUEUED, "Unschedulable"),
    },
    "mpijob": {
        "created": Expected(False, QUEUED, "NoController"),
        "deadline-exceeded": Expected(True, FAILED),
        "deadline-passed": Expected(False, RUNNING),
        "failed": Expected(True, FAILED),
        "image-not-pulled": Expected(False, QUEUED, "ImagePullFailed"),
        "launcher-as-worker": Expected(False, RUNNING),
        "launcher-deleted": Expected(True, FAILED),
        "launcher-deleted-terminating": Expected(False, RUNNING),
        "launcher-failed": Expected(False, RUNNING),
        "launcher-pending": Expected(False, QUEUED),
        "retried-failed": Expected(True, FAILED),
        "retrying": Expected(False, RUNNING),
        "running": Expected(False, RUNNING),
        "succeeded": Expected(True, SUCCEEDED),
        "succeeded-workers-running": Expected(True, SUCCEEDED),
        "suspended": Expected(False, SUSPENDED),
        "suspended-pods-terminating": Expected(False, SUSPENDED),
        "suspended-while-running": Expected(False, SUSPENDED),
        "worker-evicted": Expected(True, FAILED),
        "worker-failed": Expected(True, FAILED),
        "workers-pending": Expected(False, QUEUED),
    },
    "pytorchjob": {
        "command-not-found": Expected(True, FAILED),
        "config-key-missing": Expected(False, QUEUED, "CreateContainerConfigError"),
        "container-restarted-too-often": Expected(True, FAILED),
        "container-restarting": Expected(False, RUNNING),
        "created": Expected(False, QUEUED, "NoController"),
        "deadline-exceeded": Expected(True, FAILED),
        "deadline-passed": Expected(False, RUNNING),
        "elastic-one-of-two": Expected(False, RUNNING),
        "elastic-running": Expected(False, RUNNING),
        "failed": Expected(True, FAILED),
        "failed-replica": Expected(True, FAILED),
        "image-not-pulled": Expected(False, QUEUED, "ImagePullFailed"),
        "image-pull-failed": Expected(False, QUEUED, "ImagePullFailed"),
        "oom-killed": Expected(True, FAILED),
        "pod-deleted": Expected(True, FAILED),
        "pod-deleted-ended": Expected(True, FAILED),
        "pod-deleted-terminating": Expected(True, FAILED),
        # The pod that was evicted is gone; whoever watched the job still knows it.
        "pod-evicted": Expected(True, FAILED),
        "pod-evicted-ended": Expected(True, FAILED, "Preempted"),
        "pod-evicted-terminating": Expected(True, FAILED, "Preempted"),
        "pods-pending": Expected(False, QUEUED),
        "quota-refused": Expected(False, QUEUED, "QuotaExceeded"),
        "restarting": Expected(False, RUNNING),
        "running": Expected(False, RUNNING),
        "running-worker-not-started": Expected(False, RUNNING),
        "secret-volume-missing": Expected(False, QUEUED, "VolumeNotMounted"),
        "succeeded": Expected(True, SUCCEEDED),
        "succeeded-pods-cleaned": Expected(True, SUCCEEDED),
        "suspended": Expected(False, SUSPENDED),
        "suspended-pods-terminating": Expected(False, SUSPENDED),
        "suspended-while-running": Expected(False, SUSPENDED),
        "unschedulable": Expected(False, QUEUED, "Unschedulable"),
        "worker-evicted-by-kubelet": Expected(True, FAILED, "Preempted"),
        "worker-running-after-success": Expected(False, SUCCEEDED),
    },
}

# Every role that the recorded pods have: its rank, where the role determines it, and whether it reports outcomes.
ROLES: Mapping[str, Mapping[str, tuple[int | None, bool]]] = {
    "Pod": {"pod": (None, True)},
    "PyTorchJob": {"master-0": (0, True), "worker-0": (1, True), "worker-1": (2, True)},
    "MPIJob": {
        "launcher": (None, True),
        "launcher-0": (None, True),
        "worker-0": (None, False),
        "worker-1": (None, False),
    },
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One recorded job.

    Attributes:
        last: seconds since the epoch of the latest time in the record.
    """

    kind: Kind
    ref: JobRef
    view: View
    last: float

    def observed(self, later: float = LATER_SECONDS) -> Observation:
        """Return what is known of the job so many seconds later."""
        return judge(self.kind, self.ref, self.view, Patience(), self.last + later)

    def slim(self) -> Case:
        """Return the job as the watch keeps it in memory."""
        assert self.view.resource is not None
        pods = tuple(POD.slim(pod) for pod in self.view.pods)
        view = View(self.kind.slim(self.view.resource), pods, self.view.events)
        return dataclasses.replace(self, view=view)


def read(path: Path) -> Case:
    """Read a record."""
    text = path.read_text()
    record: Manifest = json.loads(text)
    resource = record["resource"]
    kind = KINDS[resource["apiVersion"], resource["kind"]]
    metadata = resource["metadata"]
    ref = JobRef("kubernetes", metadata["name"], metadata["uid"], {"kind": kind.key, "namespace": "ns"})
    view = View(resource, tuple(record["pods"]), tuple(record["events"]))
    return Case(kind, ref, view, max(map(seconds, _TIME.findall(text))))


def summary(seen: Observation) -> Expected:
    """Return what the wait makes of an observation: a job that has settled is over."""
    settled = any(each.problem is None for each in seen.obstacles)
    problems = [seen.problem, *(each.problem for each in seen.obstacles)]
    reason = next((each.reason for each in problems if each is not None), None)
    return Expected(seen.over or settled, seen.status.state, reason)


PATHS = sorted(SYSTEMS.glob("*/cases/*.json"))
NAMES = [f"{path.parent.parent.name}/{path.stem}" for path in PATHS]
each_case = pytest.mark.parametrize("path", PATHS, ids=NAMES)


def test_every_record_is_expected_to_mean_something() -> None:
    """A new record is not passed over, and a lost one is missed."""
    assert sorted(NAMES) == sorted(f"{system}/{stem}" for system, stems in EXPECTED.items() for stem in stems)


@each_case
def test_a_recorded_job_is_over_stuck_or_goes_on_as_expected(path: Path) -> None:
    """The judgement is right about what operators and kubelet really write, and not only about what we think."""
    assert summary(read(path).observed()) == EXPECTED[path.parent.parent.name][path.stem]


@each_case
def test_a_recorded_job_that_is_over_stays_over_for_the_same_reason(path: Path) -> None:
    """A triggerer that was down for a day comes to the same result."""
    case = read(path)
    soon = summary(case.observed())
    later = summary(case.observed(DAY))
    assert (later.over, later.state) == (soon.over, soon.state)
    if soon.over:
        assert later == soon


@each_case
def test_what_the_watch_keeps_of_a_recorded_job_is_enough_to_judge_it(path: Path) -> None:
    """Thousands of jobs fit into the memory of a triggerer without any difference to the result."""
    case, slim = read(path), read(path).slim()
    whole, kept = case.view.resource, slim.view.resource
    assert whole is not None
    assert kept is not None
    assert case.kind.read(kept) == case.kind.read(whole)
    assert case.kind.expected_pods(kept) == case.kind.expected_pods(whole)
    assert case.kind.enough_pods(kept) == case.kind.enough_pods(whole)
    assert case.kind.ended_at(kept) == case.kind.ended_at(whole)
    for later in (0.0, LATER_SECONDS, DAY):
        assert slim.observed(later) == case.observed(later)


@each_case
def test_the_role_of_a_recorded_pod_is_read_from_its_labels(path: Path) -> None:
    """An operator may name its pods as it likes, and the logs and errors still name the right rank."""
    case = read(path)
    for pod in case.view.pods:
        renamed = {**pod, "metadata": {**pod["metadata"], "name": "x"}}
        role = case.kind.role(case.ref.name, renamed)
        assert role == case.kind.role(case.ref.name, pod)
        assert ROLES[case.kind.kind][role] == (case.kind.rank(role), case.kind.reports(role))
        if case.kind is PYTORCHJOB:
            # The training-operator puts the same into the name.
            assert pod["metadata"]["name"] == f"{case.ref.name}-{role}"
        elif case.kind is not PLAIN_POD:
            assert pod["metadata"]["name"].startswith(f"{case.ref.name}-{role.partition('-')[0]}-")


def test_a_job_of_workers_alone_counts_them_all_and_needs_the_least() -> None:
    """An elastic job starts with what its policy asks for, also as the watch keeps it."""
    resource = read(SYSTEMS / "pytorchjob/cases/elastic-running.json").slim().view.resource
    assert resource is not None
    assert (PYTORCHJOB.expected_pods(resource), PYTORCHJOB.enough_pods(resource)) == (2, 1)
