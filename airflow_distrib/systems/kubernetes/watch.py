"""Waiting for one job on Kubernetes until it is over, with its log."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from airflow_distrib.backends.kubernetes import reports
from airflow_distrib.backends.kubernetes.judge import Verdict, View, judge
from airflow_distrib.backends.kubernetes.kinds import kind_named
from airflow_distrib.backends.kubernetes.problems import Patience, pending
from airflow_distrib.backends.kubernetes.resource import ResourceBackend
from airflow_distrib.clients.kubernetes import KubernetesClient
from airflow_distrib.core.errors import ClusterError
from airflow_distrib.core.status import JobState, JobStatus
from airflow_distrib.watching.kubernetes.hub import JobFeed, WatchHub
from airflow_distrib.watching.kubernetes.logs import JobLogs
from airflow_distrib.watching.waiting import Ending, Waiting, timed_out

# A look without any change, in case something was missed.
LOOK_SECONDS = 60.0
# Events tell why pods are missing: how soon to ask for them, and how seldom in the end.
FIRST_EVENTS_SECONDS, LONGEST_EVENTS_SECONDS = 8.0, 240.0
# How long the log may take to catch up once the job is over; the worker reads the rest.
LOG_SECONDS = 15.0
# An outage of the API server is mentioned after so many seconds.
OUTAGE_SECONDS = 20.0


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

    async def cancel(self, *, keep_files: bool = False) -> None:
        """Delete the job; deleting twice is no error."""
        del keep_files  # nothing outlives a resource
        async with self._hub.calls:
            await self._backend.cancel(self._waiting.ref)

    async def is_over(self) -> bool:
        """Whether it has ended by itself, or is gone."""
        async with self._hub.calls:
            found = await self._backend.get(self._waiting.ref)
        return found is None or self._kind.read(found).state.finished

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
                return dataclasses.replace(verdict, over=True, problem=timed_out(verdict.status.state.value))
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
