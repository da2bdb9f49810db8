"""Judgement of a job on Kubernetes: pure, from the resource, its pods and its events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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

Object = Mapping[str, Any]


@dataclass(frozen=True)
class View:
    """What is known of a job at one moment; ``resource`` is None once it is certainly gone."""

    resource: Object | None
    pods: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()


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
    if view.resource is None or view.resource["metadata"].get("deletionTimestamp"):
        gone = JobStatus(JobState.FAILED, "Deleted")
        return Verdict(gone, True, _deleted(kind, ref, view), left)
    status = kind.read(view.resource)
    if status.state.finished:
        return _finished(kind, ref, view, status, left, now)
    if status.state is JobState.SUSPENDED:
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
    running = any(_runs(kind, pod) for pod in view.pods if kind.reports(role_of(ref.name, pod)))
    if status.state is JobState.SUCCEEDED:
        # A PyTorchJob succeeds with its master, an elastic one with its first pod; the other
        # ranks' work is not done yet, and may still fail.
        return Verdict(status, not running, None, left)
    # Peers of the rank that failed are about to fail; the earliest is to be named.
    wait = (_ended_at(view.resource or {}) or now) + SETTLE_SECONDS - now if running or not left else 0.0
    return Verdict(status, wait <= 0, problem, left, wait if wait > 0 else None)


def _runs(kind: Kind, pod: Object) -> bool:
    """Whether the main container of a pod is at work."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    main: Object = next((each for each in statuses if each["name"] == kind.container), {})
    return not pod.get("deleted") and "running" in (main.get("state") or {})


def _ended_at(resource: Object) -> float:
    status = resource.get("status") or {}
    times = [problems.seconds(status.get("completionTime"))]
    times += [
        problems.seconds(each.get("lastTransitionTime"))
        for each in status.get("conditions") or ()
        if each["type"] in ("Succeeded", "Failed") and each.get("status") == "True"
    ]
    return max(times)


def _going_on(
    kind: Kind, view: View, status: JobStatus, left: tuple[Outcome, ...], patience: Patience, now: float
) -> Verdict:
    waits = []
    for problem, since in _problems(kind, view):
        allowed = patience.of(problem.reason)
        if allowed is None:
            continue
        if since + allowed <= now:
            return Verdict(status, True, problem, left)
        waits.append(since + allowed - now)
    return Verdict(status, left=left, wait=min(waits, default=None))


def _problems(kind: Kind, view: View) -> Iterator[tuple[Problem, float]]:
    resource = view.resource or {}
    running = sum(1 for pod in view.pods if _runs(kind, pod))
    enough = running >= min(kind.enough_pods(resource), kind.expected_pods(resource))
    for _, problem, since in problems.pending(view.pods):
        if not (enough and problem.reason == problems.UNSCHEDULABLE):
            yield problem, since
    created = problems.seconds(resource["metadata"].get("creationTimestamp"))
    if not resource.get("status") and not view.pods:
        yield problems.not_seen(kind.kind, created)
    if len(view.pods) < kind.expected_pods(resource) or not enough:
        yield from _unless_mended(view, problems.from_events(view.events))


def _unless_mended(view: View, found: Iterable[tuple[Problem, float]]) -> Iterator[tuple[Problem, float]]:
    """Events tell of the past: those of pods that run by now do not count."""
    runs = [pod["metadata"]["name"] for pod in view.pods if (pod.get("status") or {}).get("phase") == "Running"]
    for problem, since in found:
        if not any(name in problem.message for name in runs):
            yield problem, since
