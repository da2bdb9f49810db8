"""Judgement of a job on Kubernetes: pure, from the resource, its pods and its events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_distrib.backends.kubernetes import problems, reports
from airflow_distrib.backends.kubernetes.kind import Kind, role_of
from airflow_distrib.backends.kubernetes.problems import Patience
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState, JobStatus, Problem
from airflow_distrib.runner.outcome import Outcome

# After the job's own end, how long its pods may take to say how they ended, in seconds.
SETTLE_SECONDS = 4.0
# A pod that should be gone for so long is on a node that does not answer.
LOST_SECONDS = 60.0
STALE_EVENT_SECONDS = 300.0

Object = Mapping[str, Any]


@dataclass(frozen=True)
class View:
    """What is known of a job at one moment.

    Attributes:
        resource: None once it is certainly gone.
        first_seen: since when each problem has been seen, kept by whoever waits; without it
            the API's own times count, which may be of an earlier trouble.
    """

    resource: Object | None
    pods: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()
    first_seen: dict[str, float] | None = None


@dataclass(frozen=True)
class Verdict:
    """What follows.

    Attributes:
        over: True when the task can go on to its result.
        problem: why there will be none, when the system tells.
        wait: seconds after which the same view may be judged otherwise; None when only a
            change matters.
    """

    status: JobStatus
    over: bool = False
    problem: Problem | None = None
    left: tuple[Outcome, ...] = ()
    wait: float | None = None


def judge(kind: Kind, ref: JobRef, view: View, patience: Patience, now: float) -> Verdict:
    """Decide whether a job is over, stuck, or goes on."""
    left = tuple(reports.of_pods(kind, ref.name, view.pods))
    status = kind.read(view.resource) if view.resource is not None else JobStatus(JobState.FAILED, "Deleted")
    if view.resource is not None and status.state.finished:
        # Also where it is being removed: its TTL may be short.
        return _finished(kind, ref, view, status, left, now)
    if view.resource is None or view.resource.get("deleted") or view.resource["metadata"].get("deletionTimestamp"):
        return Verdict(JobStatus(JobState.FAILED, "Deleted"), True, _deleted(kind, ref, view), left)
    if status.state is JobState.SUSPENDED:
        if view.first_seen is not None:
            view.first_seen.clear()
        return Verdict(status, left=left)
    return _going_on(kind, view, status, left, patience, now)


def _deleted(kind: Kind, ref: JobRef, view: View) -> Problem:
    cause = problems.ended(view.pods)
    text = f"the {kind.kind} {ref.name} was deleted before its result was read, and not by this task"
    return Problem("Deleted", f"{text}; {cause.message}" if cause else text, "find out who deletes it, then retry")


def _finished(kind: Kind, ref: JobRef, view: View, status: JobStatus, left: tuple[Outcome, ...], now: float) -> Verdict:
    problem = problems.ended(view.pods) if status.state is JobState.FAILED else None
    # Only pods that tell something, and that have got as far as to run their command: a
    # worker that still waits for a master that is gone will never run.
    running = any(_runs(kind, pod, now) for pod in view.pods if kind.reports(role_of(ref.name, pod)))
    if status.state is JobState.SUCCEEDED:
        # A PyTorchJob succeeds with its master, an elastic one with its first pod; the other
        # ranks' work is not done yet, and may still fail.
        return Verdict(status, not running, None, left)
    # Peers of the rank that failed are about to fail; the earliest is to be named.
    wait = _ended_at(view, now) + SETTLE_SECONDS - now if running or not left else 0.0
    return Verdict(status, wait <= 0, problem, left, wait if wait > 0 else None)


def _runs(kind: Kind, pod: Object, now: float) -> bool:
    """Whether the main container of a pod is at work; on a node that is lost it only seems so."""
    going = problems.seconds(pod["metadata"].get("deletionTimestamp"))
    if going and now > going + LOST_SECONDS:
        return False
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    main: Object = next((each for each in statuses if each["name"] == kind.container), {})
    return not pod.get("deleted") and "running" in (main.get("state") or {})


def _ended_at(view: View, now: float) -> float:
    """When it ended; of resources that do not tell, such as a Pod, since when it has been seen so."""
    status = (view.resource or {}).get("status") or {}
    times = [problems.seconds(status.get("completionTime"))]
    times += [
        problems.seconds(each.get("lastTransitionTime"))
        for each in status.get("conditions") or ()
        if each["type"] in ("Succeeded", "Failed") and each.get("status") == "True"
    ]
    seen = now if view.first_seen is None else view.first_seen.setdefault("ended", now)
    return max(times) or seen


def _going_on(
    kind: Kind, view: View, status: JobStatus, left: tuple[Outcome, ...], patience: Patience, now: float
) -> Verdict:
    found = list(_problems(kind, view, now))
    if view.first_seen is not None:
        # What went away and comes back is another trouble.
        present = {_key(name, problem) for name, problem, _ in found}
        for key in set(view.first_seen) - present:
            del view.first_seen[key]
    waits = []
    for name, problem, told_since in found:
        allowed = patience.of(problem.reason)
        if allowed is None:
            continue
        since = told_since if view.first_seen is None else view.first_seen.setdefault(_key(name, problem), now)
        if since + allowed <= now:
            return Verdict(status, True, problem, left)
        waits.append(since + allowed - now)
    return Verdict(status, left=left, wait=min(waits, default=None))


def _key(name: str, problem: Problem) -> str:
    return f"{name}/{problem.reason}"


def _problems(kind: Kind, view: View, now: float) -> Iterator[tuple[str, Problem, float]]:
    """What is wrong now: with what, how, and since when as far as the API tells."""
    resource = view.resource or {}
    working = sum(1 for pod in view.pods if _runs(kind, pod, now) or reports.ending(kind, pod) is not None)
    enough = working >= min(kind.enough_pods(resource), kind.expected_pods(resource))
    for name, problem, since in problems.pending(view.pods):
        if not (enough and problem.reason == problems.UNSCHEDULABLE):
            yield name, problem, since
    created = problems.seconds(resource["metadata"].get("creationTimestamp"))
    if not resource.get("status") and not view.pods:
        yield (kind.kind, *problems.not_seen(kind.kind, created))
    if not enough:
        started = {pod["metadata"]["name"] for pod in view.pods if _has_started(pod)}
        if sum(1 for pod in view.pods if not pod.get("deleted")) >= kind.expected_pods(resource):
            # All pods are there: what kept them from being made is over.
            started.add(resource["metadata"]["name"])
        for event in view.events:
            about = str((event.get("involvedObject") or {}).get("name", ""))
            # Events tell of the past: of pods that have started since, they do not count.
            if about in started or (view.pods and _is_old(event, now)):
                continue
            for problem, since in problems.from_events([event]):
                yield about, problem, since


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
    """What still goes wrong is told again, at least every few minutes."""
    last = event.get("lastTimestamp") or (event.get("series") or {}).get("lastObservedTime") or event.get("eventTime")
    return bool(last) and problems.seconds(last) < now - STALE_EVENT_SECONDS
