"""One job on Kubernetes, watched until it is over, with its log."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time

from airflow_distrib.core.errors import ClusterError
from airflow_distrib.core.status import JobState, JobStatus
from airflow_distrib.jobs.launcher import Emit, JobWatch, Observation
from airflow_distrib.jobs.waiting import Waiting
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.systems.kubernetes import reports
from airflow_distrib.systems.kubernetes.feed import JobFeed
from airflow_distrib.systems.kubernetes.judge import View, judge
from airflow_distrib.systems.kubernetes.kind import Object
from airflow_distrib.systems.kubernetes.logs import JobLogs
from airflow_distrib.systems.kubernetes.problems import NO_CONTROLLER, Patience, pending
from airflow_distrib.systems.kubernetes.resource import ResourceApi
from airflow_distrib.systems.kubernetes.session import KubernetesSession


class KubernetesWatch(JobWatch):
    """Observes one job through the shared watches."""

    def __init__(
        self, session: KubernetesSession, api: ResourceApi, waiting: Waiting, emit: Emit, feed: JobFeed
    ) -> None:
        self._session, self._api, self._waiting, self._feed = session, api, waiting, feed
        self._kind = api.kind
        self._patience = Patience(**waiting.patience)
        self._logs = JobLogs(session, self._kind, waiting, emit)
        self._events: tuple[Object, ...] = ()
        self._events_pause = session.timing.first_events
        self._ask_events_at = time.monotonic() + self._events_pause
        self._wants_events = False
        self._request: asyncio.Task[None] | None = None
        self._events_error = ""

    @property
    def outage(self) -> float:
        return self._feed.outage

    @property
    def trouble(self) -> str:
        return "the Kubernetes API does not answer"

    def observe(self, now: float) -> Observation:
        self._feed.check()
        view = self._feed.view(self._events)
        seen = Observation(JobStatus(JobState.QUEUED))
        if self._feed.ready:
            seen = judge(self._kind, self._waiting.ref, view, self._patience, now)
        if self._waiting.logs:
            self._logs.see(view.pods)
        self._wants_events = self._is_missing_pods(seen, view)
        return dataclasses.replace(seen, notes=tuple(self._notes(seen, view)))

    def _is_missing_pods(self, seen: Observation, view: View) -> bool:
        """Whether pods are missing or have not started; the reason may be in an event."""
        if seen.status.state.finished or seen.status.state is JobState.SUSPENDED:
            return False
        started = sum(1 for pod in view.pods if (pod.get("status") or {}).get("phase") not in (None, "Pending"))
        return started < self._kind.expected_pods(view.resource or {})

    def _notes(self, seen: Observation, view: View) -> list[tuple[str, str]]:
        state = seen.status.state
        notes = [(state.value, f"{self._kind.kind} {self._waiting.ref.name}: {state.value}")]
        if state is JobState.SUSPENDED:
            notes.append(("wait", "the job is suspended until its queue admits it or its owner resumes it"))
        if not state.finished:
            found = [(f"{name}/{each.reason}", each) for name, each in pending(view.pods)]
            found += [(each.key, each.problem) for each in seen.obstacles if each.problem is not None]
            # Every new job is without a status at first: that is only worth an error, once it has lasted.
            notes += [(key, f"{each.reason}: {each.message}") for key, each in found if each.reason != NO_CONTROLLER]
        if self._events_error:
            notes.append(("events", f"events cannot be read: {self._events_error}"))
        return notes

    async def wait(self, seconds: float) -> None:
        limit = seconds
        if self._wants_events:
            limit = min(seconds, max(0.05, self._ask_events_at - time.monotonic()))
        await self._feed.wait(limit)
        if not self._wants_events:
            self._events = ()
        elif time.monotonic() >= self._ask_events_at:
            self._events_pause = min(self._events_pause * 2, self._session.timing.longest_events)
            self._ask_events_at = time.monotonic() + self._events_pause
            self._request = asyncio.create_task(self._read_events())

    async def _read_events(self) -> None:
        """Events only explain problems, so a failure to read them must not end the job."""
        try:
            async with self._session.event_requests:
                self._events = await self._api.events(self._waiting.ref)
        except ClusterError as error:
            self._events_error = str(error)
        self._feed.changed()

    async def finish(self, seen: Observation) -> tuple[Outcome, ...]:
        await self._logs.finish(self._session.timing.log)
        if seen.outcomes or not seen.status.state.finished:
            return seen.outcomes
        # The watch of pods may lag behind that of jobs; where pods cannot be listed, the worker tries again.
        with contextlib.suppress(ClusterError):
            view = await self._api.view(self._waiting.ref)
            return tuple(reports.of_pods(self._kind, self._waiting.ref.name, view.pods))
        return ()

    def positions(self) -> dict[str, object]:
        return self._logs.positions()

    async def close(self) -> None:
        """Stop watching."""
        if self._request is not None:
            self._request.cancel()
        await self._logs.close()
