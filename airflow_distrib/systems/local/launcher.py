"""A job of local ranks, from its start to its value."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from typing import Any

from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_distrib.backends.local import job as local
from airflow_distrib.backends.local.plan import LocalPlan
from airflow_distrib.core.errors import JobTerminated
from airflow_distrib.core.record import Action, Phase, next_action
from airflow_distrib.operators.result import value_of
from airflow_distrib.operators.store import RecordStore
from airflow_distrib.runner.lines import prefixed


class LocalRun:
    """Runs one job of local ranks on this worker.

    Args:
        limit: the task's ``execution_timeout``.
    """

    def __init__(self, store: RecordStore, log: Any, limit: timedelta | None) -> None:
        self._store = store
        self._log = log
        self._limit = limit
        self._killed = False
        self.job: local.LocalJob | None = None

    async def run(
        self,
        plan: LocalPlan,
        payload: bytes,
        name: str,
        *,
        python: str | None,
        options: Mapping[str, Any],
        read: Callable[[str], str],
    ) -> Any:
        """Start the ranks, show their output, return rank 0's value."""
        for field in plan.not_applied:
            self._log.warning("task_config: %s has no effect on this job of local ranks", field)
        self._store.write(Phase.SUBMITTING)
        job = await local.LocalJob.start(plan, payload, name=name, python=python, options=options)
        self.job = job
        started = time.monotonic()
        try:
            self._store.write(Phase.SUBMITTED, job.ref)
            if self._killed:
                job.terminate()
            self._log.info("Started %s: %s on %s, supervisor pid %s", name, plan.size, job.host, job.pid)
            async with self._deadline(), _stop_without_parent(job):
                async for line in job.lines():
                    self._log.info("%s", prefixed(line))
                code, left = await job.outcomes()
            # Before anything else can go wrong: from here on nothing of the job is left.
            await job.close()
            if self._killed:
                raise JobTerminated("the job was stopped by SIGTERM")
            self._store.write(Phase.CONSUMED)
            self._log.info("All ranks ended after %.1f s", time.monotonic() - started)
            value, warnings = value_of(left, code, read)
        finally:
            await job.close()
        for warning in warnings:
            self._log.warning("%s", warning)
        return value

    def remove_leftover(self, try_number: int) -> None:
        """End what an earlier try may have left behind; local processes are never adopted."""
        record = self._store.read()
        store = self._store
        action = next_action(record, try_number, store.max_tries, store.spec_hash, outlives_worker=False)
        if record is not None and record.ref is not None and record.ref.system != local.SYSTEM:
            self._log.warning(
                "Try %s ran on %s, as %s: look after it", record.try_number, record.ref.system, record.ref.name
            )
        elif action is Action.REPLACE and record is not None and record.ref is not None:
            host = record.ref.address.get("host")
            if local.remove(record.ref):
                self._log.info("Removed what try %s may have left on %s", record.try_number, host)
            else:
                self._log.warning("Try %s ran on %s; its processes end with its worker", record.try_number, host)

    def kill(self) -> None:
        """Stop the job; called in a signal handler, so it asks and does not wait.

        ``run`` goes on after it, sees the job end and raises.
        """
        self._killed = True
        if self.job is not None:
            self.job.terminate()

    @contextlib.asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        """Hold to ``execution_timeout`` ourselves as well.

        Airflow raises its timeout from a signal handler; when that fires inside a callback
        of the event loop, the loop logs it and goes on.
        """
        seconds = self._limit.total_seconds() + 1 if self._limit else None
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise AirflowTaskTimeout(f"the job ran longer than execution_timeout={self._limit}") from error


@contextlib.asynccontextmanager
async def _stop_without_parent(job: local.LocalJob) -> AsyncIterator[None]:
    """Stop the job when Airflow's supervisor of this task dies: nobody could mark it failed."""
    parent = os.getppid()
    orphaned = False

    async def watch() -> None:
        nonlocal orphaned
        while os.getppid() == parent:  # noqa: ASYNC110 - a parent's death is no event of this loop
            await asyncio.sleep(0.5)
        orphaned = True
        job.terminate()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
    if orphaned:
        raise JobTerminated("the Airflow worker that ran this task is gone")
