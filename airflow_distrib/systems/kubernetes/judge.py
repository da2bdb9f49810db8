"""Whether a job on Kubernetes is over, stuck, or goes on: pure, from the resource, its pods and its events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState, JobStatus, Problem
from airflow_distrib.jobs.launcher import Observation, Obstacle
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.systems.kubernetes import problems, reports
from airflow_distrib.systems.kubernetes.kind import Kind, Object, seconds
from airflow_distrib.systems.kubernetes.problems import Patience

# After the job's own end, how long its pods may take to report how they ended, in seconds.
SETTLE_SECONDS = 4.0
# A pod that should be gone for so long is on a node that does not answer.
LOST_SECONDS = 60.0
STALE_EVENT_SECONDS = 300.0


@dataclass(frozen=True)
class View:
    """What is known of a job at one moment.

    Attributes:
        resource: None once it is certainly gone.
    """

    resource: Object | None
    pods: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()


def judge(kind: Kind, ref: JobRef, view: View, patience: Patience, now: float) -> Observation:
    """Decide whether a job is over, and what might keep it from ever being."""
    outcomes = tuple(reports.of_pods(kind, ref.name, view.pods))
    status = kind.read(view.resource) if view.resource is not None else JobStatus(JobState.FAILED, problems.DELETED)
    if view.resource is not None and status.state.finished:
        # Also where it is being removed: its TTL may be short.
        return _finished(kind, ref, view, status, outcomes, now)
    if view.resource is None or view.resource.get("deleted") or view.resource["metadata"].get("deletionTimestamp"):
        problem = problems.deleted(kind.kind, ref.name, view.pods)
        return Observation(JobStatus(JobState.FAILED, problems.DELETED), True, problem, outcomes)
    if status.state is JobState.SUSPENDED:
        return Observation(status, outcomes=outcomes)
    obstacles = tuple(
        Obstacle(f"{name}/{problem.reason}", patience.of(problem.reason), problem)
        for name, problem in _problems(kind, view, now)
    )
    return Observation(status, outcomes=outcomes, obstacles=obstacles)


def _finished(
    kind: Kind, ref: JobRef, view: View, status: JobStatus, outcomes: tuple[Outcome, ...], now: float
) -> Observation:
    # Only pods that report, and that have got as far as to run their command: a worker that
    # still waits for a master that is gone will never run.
    running = any(_runs(kind, pod, now) for pod in view.pods if kind.reports(kind.role(ref.name, pod)))
    if status.state is JobState.SUCCEEDED:
        # A PyTorchJob succeeds with its master, an elastic one with its first pod; the other
        # ranks' work is not done yet, and may still fail.
        return Observation(status, not running, None, outcomes)
    problem = problems.ended(view.pods)
    if outcomes and not running:
        return Observation(status, True, problem, outcomes)
    # Peers of the rank that failed are about to fail; the earliest is to be named.
    ended = kind.ended_at(view.resource or {})
    if ended is None:
        settling = (Obstacle("settling", SETTLE_SECONDS),)
        return Observation(status, False, problem, outcomes, settling)
    rest = ended + SETTLE_SECONDS - now
    return Observation(status, rest <= 0, problem, outcomes, look_again=rest if rest > 0 else None)


def _runs(kind: Kind, pod: Object, now: float) -> bool:
    """Whether the main container of a pod is at work; on a node that is lost it only seems so."""
    going = seconds(pod["metadata"].get("deletionTimestamp"))
    if going and now > going + LOST_SECONDS:
        return False
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    main: Object = next((each for each in statuses if each["name"] == kind.container), {})
    return not pod.get("deleted") and "running" in (main.get("state") or {})


def _problems(kind: Kind, view: View, now: float) -> Iterator[tuple[str, Problem]]:
    """What is wrong now, and with which object."""
    resource = view.resource or {}
    working = sum(1 for pod in view.pods if _runs(kind, pod, now) or reports.ending(kind, pod) is not None)
    enough = working >= min(kind.enough_pods(resource), kind.expected_pods(resource))
    for name, problem in problems.pending(view.pods):
        if not (enough and problem.reason == problems.UNSCHEDULABLE):
            yield name, problem
    if not resource.get("status") and not view.pods:
        yield kind.kind, problems.not_seen(kind.kind)
    if not enough:
        yield from _problems_of_events(kind, view, resource, now)


def _problems_of_events(kind: Kind, view: View, resource: Object, now: float) -> Iterator[tuple[str, Problem]]:
    started = {pod["metadata"]["name"] for pod in view.pods if _has_started(pod)}
    if sum(1 for pod in view.pods if not pod.get("deleted")) >= kind.expected_pods(resource):
        # All pods are there: what kept them from being created is over.
        started.add(resource["metadata"]["name"])
    for event in view.events:
        about = str((event.get("involvedObject") or {}).get("name", ""))
        # Events are of the past: those of pods that have started since do not count.
        if about in started or (view.pods and _is_old(event, now)):
            continue
        if (problem := problems.from_event(event)) is not None:
            yield about, problem


def _has_started(pod: Object) -> bool:
    """Whether any container was ever started, so that its volumes are there."""
    status = pod.get("status") or {}
    ready = any(
        each["type"] == "PodReadyToStartContainers" and each["status"] == "True"
        for each in status.get("conditions") or ()
    )
    statuses = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
    return ready or any(set(each.get("state") or {}) & {"running", "terminated"} for each in statuses)


def _is_old(event: Object, now: float) -> bool:
    """What still goes wrong is reported again, at least every few minutes."""
    last = event.get("lastTimestamp") or (event.get("series") or {}).get("lastObservedTime") or event.get("eventTime")
    return bool(last) and seconds(last) < now - STALE_EVENT_SECONDS
