"""Decides whether a job on Kubernetes is over or stuck: pure, from the resource, its pods and its events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState, JobStatus, Problem
from airflow_distrib.jobs.launcher import Observation, Obstacle
from airflow_distrib.runner.outcome import FAILURE, Outcome
from airflow_distrib.systems.kubernetes import problems, reports
from airflow_distrib.systems.kubernetes.kind import Kind, Object, seconds
from airflow_distrib.systems.kubernetes.problems import Patience
from airflow_distrib.systems.kubernetes.resources import RESTARTS

# How long the pods may take to report their outcomes after the job itself has ended.
SETTLE_SECONDS = 4.0
# A pod that should have been gone for this long is on a node that no longer answers.
LOST_SECONDS = 60.0
STALE_EVENT_SECONDS = 300.0


@dataclass(frozen=True)
class View:
    """The state of a job at one moment; ``resource`` is None once it is certainly gone."""

    resource: Object | None
    pods: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()


def judge(kind: Kind, ref: JobRef, view: View, patience: Patience, now: float) -> Observation:
    """Decide whether a job is over, and collect what may keep it from starting."""
    outcomes = tuple(reports.of_pods(kind, ref.name, view.pods))
    status = kind.read(view.resource) if view.resource is not None else JobStatus(JobState.FAILED, problems.DELETED)
    if view.resource is not None and status.state.finished:
        # Also if it is being deleted already: its TTL may be short.
        return _finished(kind, ref, view, status, outcomes, now)
    if view.resource is None or view.resource.get("deleted") or view.resource["metadata"].get("deletionTimestamp"):
        problem = problems.deleted(kind.kind, ref.name, view.pods)
        return Observation(JobStatus(JobState.FAILED, problems.DELETED), True, problem, outcomes)
    if status.state is JobState.SUSPENDED:
        return Observation(status, outcomes=outcomes)
    before = reports.of_pods(kind, ref.name, view.pods, before=True)
    crash = _crash_loop(kind, ref, view, before)
    if crash is not None:
        return Observation(status, True, crash, _joined(outcomes, before))
    obstacles = tuple(
        Obstacle(f"{name}/{problem.reason}", patience.of(problem.reason), problem)
        for name, problem in _problems(kind, view, now)
    )
    return Observation(status, outcomes=outcomes, obstacles=obstacles)


def _finished(
    kind: Kind, ref: JobRef, view: View, status: JobStatus, outcomes: tuple[Outcome, ...], now: float
) -> Observation:
    # Only pods that report and have started their command: a worker that is still waiting for a
    # deleted master will never run.
    running = any(_runs(kind, pod, now) for pod in view.pods if kind.reports(kind.role(ref.name, pod)))
    if status.state is JobState.SUCCEEDED:
        # A PyTorchJob succeeds with its master, an elastic one with its first pod; other ranks may
        # still be working, and may still fail.
        return Observation(status, not running, None, outcomes)
    problem = problems.ended(view.pods)
    if not any(each.kind == FAILURE for each in outcomes):
        # Pods that were restarted until the limit was reached are running again, or were stopped while they did.
        outcomes = _joined(outcomes, reports.of_pods(kind, ref.name, view.pods, before=True))
    if outcomes and not running:
        return Observation(status, True, problem, outcomes)
    # Other ranks are about to fail too, and the error should name the earliest failure.
    ended = kind.ended_at(view.resource or {})
    if ended is None:
        settling = (Obstacle("settling", SETTLE_SECONDS),)
        return Observation(status, False, problem, outcomes, settling)
    rest = ended + SETTLE_SECONDS - now
    return Observation(status, rest <= 0, problem, outcomes, look_again=rest if rest > 0 else None)


def _crash_loop(kind: Kind, ref: JobRef, view: View, before: list[Outcome]) -> Problem | None:
    """Whether pods are restarted for nothing: too often, or after an error that no restart can help."""
    if any(each.recoverable is False for each in before):
        return problems.cannot_recover()
    limit, total = kind.backoff_limit(view.resource or {}), 0
    for pod in view.pods:
        crashes = reports.crashes(kind, pod)
        if kind.reports(kind.role(ref.name, pod)):
            total += crashes
        elif limit is not None and crashes > max(limit, RESTARTS):
            return problems.crash_loop(f"pod {pod['metadata']['name']}", crashes, max(limit, RESTARTS))
    return problems.crash_loop(kind.kind, total, limit) if limit is not None and total > limit else None


def _joined(outcomes: tuple[Outcome, ...], before: list[Outcome]) -> tuple[Outcome, ...]:
    known = {each.to_json() for each in outcomes}
    return (*outcomes, *(each for each in before if each.to_json() not in known))


def _runs(kind: Kind, pod: Object, now: float) -> bool:
    """Whether the main container is running; on a lost node it only seems to be."""
    deleted_at = seconds(pod["metadata"].get("deletionTimestamp"))
    if deleted_at and now > deleted_at + LOST_SECONDS:
        return False
    return not pod.get("deleted") and "running" in (reports.main_status(kind, pod).get("state") or {})


def _problems(kind: Kind, view: View, now: float) -> Iterator[tuple[str, Problem]]:
    """Current problems, each with the name of the object that has it."""
    resource = view.resource or {}
    started = sum(1 for pod in view.pods if _runs(kind, pod, now) or reports.ending(kind, pod) is not None)
    enough = started >= min(kind.enough_pods(resource), kind.expected_pods(resource))
    for name, problem in problems.pending(view.pods):
        if not (enough and problem.reason == problems.UNSCHEDULABLE):
            yield name, problem
    reported = [] if enough else list(_problems_of_events(kind, view, resource, now))
    if not resource.get("status") and not view.pods and not reported:
        # A controller that cannot create pods writes events, but no status.
        yield kind.kind, problems.no_controller_yet(kind.kind)
    yield from reported


def _problems_of_events(kind: Kind, view: View, resource: Object, now: float) -> Iterator[tuple[str, Problem]]:
    started = {pod["metadata"]["name"] for pod in view.pods if _has_started(pod)}
    is_pod = any(pod["metadata"]["name"] == resource["metadata"]["name"] for pod in view.pods)
    if not is_pod and sum(1 for pod in view.pods if not pod.get("deleted")) >= kind.expected_pods(resource):
        # All pods were created, so the job's own events are obsolete. If the job is a Pod itself, its
        # events may be about its volumes.
        started.add(resource["metadata"]["name"])
    for event in view.events:
        about = str((event.get("involvedObject") or {}).get("name", ""))
        # Events stay after the problem is solved: ignore those of pods that have started since.
        if about in started or (view.pods and _is_old(event, now)):
            continue
        if (problem := problems.from_event(event)) is not None:
            yield about, problem


def _has_started(pod: Object) -> bool:
    """Whether any container was ever started, which means that the volumes are mounted."""
    status = pod.get("status") or {}
    ready = any(
        each["type"] == "PodReadyToStartContainers" and each["status"] == "True"
        for each in status.get("conditions") or ()
    )
    statuses = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
    return ready or any(set(each.get("state") or {}) & {"running", "terminated"} for each in statuses)


def _is_old(event: Object, now: float) -> bool:
    """A problem that persists is reported again, at least every few minutes."""
    last = event.get("lastTimestamp") or (event.get("series") or {}).get("lastObservedTime") or event.get("eventTime")
    return bool(last) and seconds(last) < now - STALE_EVENT_SECONDS
