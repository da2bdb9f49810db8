"""Waiting for one job on Kubernetes until it is over, with its log."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_distrib.backends.kubernetes import reports
from airflow_distrib.backends.kubernetes.judge import Verdict, View, judge
from airflow_distrib.backends.kubernetes.kinds import kind_named
from airflow_distrib.backends.kubernetes.problems import Patience, pending
from airflow_distrib.backends.kubernetes.resource import ResourceBackend
from airflow_distrib.clients.kubernetes import KubernetesClient
from airflow_distrib.core.errors import ClusterError
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState, JobStatus, Problem, Retry
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.watching.hub import JobFeed, WatchHub
from airflow_distrib.watching.logs import JobLogs

# A look without any change, in case something was missed.
LOOK_SECONDS = 60.0
# Events tell why pods are missing: how soon to ask for them, and how seldom in the end.
FIRST_EVENTS_SECONDS, LONGEST_EVENTS_SECONDS = 8.0, 240.0
# How long the log may take to catch up once the job is over; the worker reads the rest.
LOG_SECONDS = 15.0
# An outage of the API server is mentioned after so many seconds.
OUTAGE_SECONDS = 20.0
# Outcomes that travel in an event: it is a row in Airflow's database.
MAX_OUTCOMES = 12

TIMED_OUT = "TimedOut"


@dataclass(frozen=True)
class Waiting:
    """What to wait for.

    Attributes:
        connection: id of the Airflow connection.
        deadline: seconds since the epoch at which the task's time is over; None is never.
        patience: how long the job may be stuck.
        logs: whether to follow logs at all.
        log_roles: roles of the pods to follow; None is all.
        named: whether to put the pod's role before each line, for commands that have no ranks.
    """

    ref: JobRef
    connection: str
    deadline: float | None = None
    patience: Mapping[str, Any] = field(default_factory=dict)
    logs: bool = True
    log_roles: tuple[str, ...] | None = None
    named: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, without what is at its default: older triggers do not know new names."""
        plain = vars(Waiting(self.ref, self.connection))
        values = {name: value for name, value in vars(self).items() if value != plain[name]}
        if self.log_roles is not None:
            values["log_roles"] = list(self.log_roles)
        return {"ref": self.ref.to_json(), "connection": self.connection, **values}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Waiting:
        """The reverse of :meth:`to_json`; names this version does not know are passed over."""
        known = {each.name for each in dataclasses.fields(cls)}
        values = {name: value for name, value in document.items() if name in known}
        if values.get("log_roles") is not None:
            values["log_roles"] = tuple(values["log_roles"])
        return cls(**{**values, "ref": JobRef.from_json(document["ref"])})


@dataclass(frozen=True)
class Ending:
    """How the waiting ended.

    Attributes:
        succeeded: what the job's own controller says; None when it was not asked.
        outcomes: what the pods reported.
        log: how far each pod's log was shown.
    """

    succeeded: bool | None
    reason: str = ""
    message: str = ""
    problem: Problem | None = None
    outcomes: tuple[Outcome, ...] = ()
    log: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, small enough for a row in a database."""
        problem = self.problem
        return {
            "succeeded": self.succeeded,
            "reason": self.reason,
            "message": self.message[:2000],
            "problem": [problem.reason, problem.message, problem.advice, problem.retry.value] if problem else None,
            "outcomes": [each.to_json() for each in _worth_keeping(self.outcomes)],
            "log": dict(self.log),
        }

    def as_problem(self) -> Problem:
        """What the system said, where nobody else said why."""
        late = "deadline" in self.message.lower() or self.reason == "DeadlineExceeded"
        advice = "raise run_policy.active_deadline_seconds or execution_timeout" if late else ""
        said = self.message or "its controller gives no reason"
        return Problem(TIMED_OUT if late else self.reason or "JobFailed", said, advice)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Ending:
        """The reverse of :meth:`to_json`."""
        told = document.get("problem")
        return cls(
            document.get("succeeded"),
            str(document.get("reason") or ""),
            str(document.get("message") or ""),
            Problem(told[0], told[1], told[2], Retry(told[3])) if told else None,
            tuple(outcomes.from_json(text) for text in document.get("outcomes") or ()),
            dict(document.get("log") or {}),
        )


def _worth_keeping(left: tuple[Outcome, ...]) -> list[Outcome]:
    """Rank 0's outcome, and the earliest failures."""
    failed = sorted((each for each in left if each.kind != outcomes.SUCCESS), key=lambda each: each.time)
    first = [each for each in left if each.rank == 0 and each.kind == outcomes.SUCCESS]
    return [*first, *failed[:MAX_OUTCOMES]]


class JobWait:
    """Waits for one job; ``say`` takes the lines of its log and what is worth knowing about it."""

    def __init__(self, waiting: Waiting, hub: WatchHub, client: KubernetesClient, say: Callable[[str], None]) -> None:
        self._waiting = waiting
        self._hub = hub
        self._client = client
        self._say = say
        self._kind = kind_named(waiting.ref.address["kind"])
        self._backend = ResourceBackend(client, self._kind)
        self._patience = Patience(**waiting.patience)
        self._events: tuple[Mapping[str, Any], ...] = ()
        self._ask_events_at = time.monotonic() + FIRST_EVENTS_SECONDS
        self._events_pause = FIRST_EVENTS_SECONDS
        self._asking: asyncio.Task[None] | None = None
        self._first_seen: dict[str, float] = {}
        self._told: set[str] = set()
        self.logs = JobLogs(
            client, self._kind, waiting.ref, waiting.log_roles, say, hub.log_streams, named=waiting.named
        )

    async def until_over(self) -> Ending:
        """Wait for the job's end, its deadline, or a problem that lasts longer than patience.

        Raises:
            ClusterError: the API server has refused the watch for long.
        """
        waiting = self._waiting
        try:
            async with self._hub.feed(waiting.connection, self._client, self._kind, waiting.ref) as feed:
                verdict = await self._decided(feed)
            await self.logs.finish(LOG_SECONDS)
        finally:
            if self._asking is not None:
                self._asking.cancel()
            await self.logs.close()
        status, left = verdict.status, verdict.left
        if status.state.finished and not left:
            # The watch of pods may be behind that of jobs.
            view = await self._backend.view(waiting.ref)
            left = tuple(reports.of_pods(self._kind, waiting.ref.name, view.pods))
        succeeded = status.state is JobState.SUCCEEDED if status.state.finished else None
        return Ending(succeeded, status.reason, status.message, verdict.problem, left, self.logs.positions())

    async def _decided(self, feed: JobFeed) -> Verdict:
        while True:
            feed.check()
            view = dataclasses.replace(feed.view(self._events), first_seen=self._first_seen)
            now = time.time()
            verdict = Verdict(JobStatus(JobState.QUEUED))
            if feed.ready:
                verdict = judge(self._kind, self._waiting.ref, view, self._patience, now)
            if feed.outage and verdict.over and not verdict.status.state.finished:
                # What looks stuck is only what was seen last.
                verdict = dataclasses.replace(verdict, over=False, problem=None, wait=None)
                self._first_seen.clear()
            self._tell(verdict, view, feed)
            if self._waiting.logs:
                self.logs.see(view.pods)
            if verdict.over:
                return verdict
            deadline = self._waiting.deadline
            if deadline is not None and now >= deadline:
                return dataclasses.replace(verdict, over=True, problem=_timed_out(verdict))
            limits = [LOOK_SECONDS, verdict.wait, deadline - now if deadline is not None else None]
            if wants_events := self._wants_events(verdict, view):
                limits.append(self._ask_events_at - time.monotonic())
            await feed.wait(max(0.05, min(each for each in limits if each is not None)))
            if wants_events and time.monotonic() >= self._ask_events_at:
                self._events_pause = min(self._events_pause * 2, LONGEST_EVENTS_SECONDS)
                self._ask_events_at = time.monotonic() + self._events_pause
                self._asking = asyncio.create_task(self._ask_for_events(feed))
            elif not wants_events:
                self._events = ()

    def _wants_events(self, verdict: Verdict, view: View) -> bool:
        """Pods that are missing, or were not started, have their reason in an event."""
        if verdict.status.state.finished or verdict.status.state is JobState.SUSPENDED:
            return False
        started = sum(1 for pod in view.pods if (pod.get("status") or {}).get("phase") not in (None, "Pending"))
        return started < self._kind.expected_pods(view.resource or {})

    async def _ask_for_events(self, feed: JobFeed) -> None:
        """They only explain; that they cannot be read must not end anything."""
        try:
            async with self._hub.questions:
                self._events = await self._backend.events(self._waiting.ref)
        except ClusterError as error:
            self._say_once(f"events cannot be read: {error}", key="events")
        feed.changed()

    def _tell(self, verdict: Verdict, view: View, feed: JobFeed) -> None:
        """Say once what has changed."""
        status = verdict.status
        self._say_once(f"{self._kind.kind} {self._waiting.ref.name}: {status.state.value}")
        if status.state is JobState.SUSPENDED:
            self._say_once("it is suspended: it waits until its queue, or whoever suspended it, lets it run")
        if not status.state.finished:
            for name, problem, _ in pending(view.pods):
                self._say_once(f"{problem.reason}: {problem.message}", key=f"{name}/{problem.reason}")
        if feed.outage > OUTAGE_SECONDS:
            self._say_once("the Kubernetes API does not answer; waiting for it", key="outage")

    def _say_once(self, text: str, key: str | None = None) -> None:
        if (key or text) not in self._told:
            self._told.add(key or text)
            self._say(text)


def _timed_out(verdict: Verdict) -> Problem:
    state = verdict.status.state.value
    return Problem(TIMED_OUT, f"the job was still {state} when the task's execution_timeout was over")
