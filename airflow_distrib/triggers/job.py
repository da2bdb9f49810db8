"""The trigger that waits for a job."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_distrib import catalogue
from airflow_distrib.core.errors import ClusterError
from airflow_distrib.jobs.launcher import Connection, Emit, JobClient
from airflow_distrib.jobs.wait import cancel_patiently, until_over
from airflow_distrib.jobs.waiting import Waiting
from airflow_distrib.triggers.pulse import pulse
from airflow_distrib.triggers.states import task_state
from airflow_distrib.triggers.task_log import emitter

log = logging.getLogger(__name__)

# States in which the task goes on to, or comes from, this trigger's own event.
_GOES_ON = frozenset({"scheduled", "queued", "running", "restarting", "up_for_retry", "up_for_reschedule", "None"})

# How long an event waits for the end of a job that is not wanted any more: Airflow's own limit of the
# deferral is a minute later than the trigger's.
END_SECONDS = 35.0

# Kills that go on after Airflow has given up waiting for on_kill.
_killing: set[asyncio.Task[None]] = set()


def connected(waiting: Waiting) -> AbstractAsyncContextManager[JobClient[Any]]:
    """The job client of a launcher and a connection, which all who wait with them share."""
    entry = catalogue.launcher(waiting.ref.launcher)
    settings = catalogue.load(entry.hook)(waiting.connection).asettings
    client: AbstractAsyncContextManager[JobClient[Any]] = catalogue.load(entry.connect)(
        Connection(waiting.connection, settings)
    )
    return client


async def _is_over(client: JobClient[Any], waiting: Waiting) -> bool:
    """Whether the job has ended by itself, or is gone."""
    status = await client.status(waiting.ref)
    return status is None or status.state.finished


class JobTrigger(BaseTrigger):
    """Waits for one job, with its log, and reports how it ended.

    Args:
        waiting: a :class:`~airflow_distrib.jobs.waiting.Waiting` as plain values: connection
            id and address of the job, no credentials.
    """

    def __init__(self, waiting: Mapping[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's
        self.waiting = dict(waiting)
        self._fired = False

    @functools.cached_property
    def _emit(self) -> Emit:
        return emitter(on_worker=False)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"waiting": self.waiting}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait; whatever goes wrong becomes an event, because an exception would lose the job."""
        async with asyncio.TaskGroup() as group:
            # Meanwhile, so that only a job of seconds waits for it.
            group.create_task(pulse().beaten(time.monotonic()))
            try:
                event = await self._wait()
            except Exception as error:
                self.log.exception("Waiting for the job failed")
                event = {"error": f"{type(error).__name__}: {error}"}
        # Airflow cancels what is still running after its event, and takes that for a kill.
        self._fired = True
        yield TriggerEvent(event)  # type: ignore[no-untyped-call] # Airflow's

    async def _wait(self) -> dict[str, Any]:
        waiting = Waiting.from_json(self.waiting)
        async with connected(waiting) as client:
            ending = await until_over(client, waiting, self._emit)
            if ending.succeeded is None and ending.problem is not None:
                # Not wanted any more: it must not hold its nodes until a worker comes.
                await self._end(waiting)
            return ending.to_json()

    async def _end(self, waiting: Waiting) -> None:
        """End the job; the event need not wait for a cluster that does not answer."""

        async def end() -> None:
            try:
                async with connected(waiting) as client:
                    await cancel_patiently(client, waiting.ref, self._emit, keep_files=True)
            except Exception:
                log.exception("Cancelling %s failed", waiting.ref.name)

        task = asyncio.get_running_loop().create_task(end(), context=contextvars.copy_context())
        _killing.add(task)
        task.add_done_callback(_killing.discard)
        await asyncio.wait([task], timeout=END_SECONDS)

    async def on_kill(self) -> None:
        """Cancel the job, if the task was really ended and not only moved to another triggerer.

        Airflow cancels this coroutine about a second after it starts, so the work is a task
        of its own.
        """
        if self._fired:
            return
        task = asyncio.get_running_loop().create_task(self._kill(), context=contextvars.copy_context())
        _killing.add(task)
        task.add_done_callback(_killing.discard)
        await asyncio.shield(task)

    async def _kill(self) -> None:
        waiting = Waiting.from_json(self.waiting)
        try:
            state = await self._state_of_task()
            if state == "deferred":
                log.info("%s: the task is still deferred, so its job goes on", waiting.ref.name)
                return
            async with connected(waiting) as client:
                over = False
                with contextlib.suppress(ClusterError):
                    over = state in _GOES_ON and await _is_over(client, waiting)
                if over:
                    # Another triggerer has seen the end, and a worker is about to read the result.
                    return
                await cancel_patiently(client, waiting.ref, self._emit)
                self.log.info("Cancelled %s: the task is %s", waiting.ref.name, state)
        except Exception:
            log.exception("Cancelling %s failed", waiting.ref.name)

    async def _state_of_task(self) -> str:
        """The task instance's present state; asked again when Airflow does not answer."""
        ti: Any = self.task_instance
        for pause in (1.0, 5.0, 15.0, 0.0):
            try:
                return str(await asyncio.to_thread(task_state, ti.dag_id, ti.run_id, ti.task_id, ti.map_index))
            except Exception:
                log.exception("the state of %s cannot be read", ti.task_id)
                await asyncio.sleep(pause)
        raise RuntimeError("Airflow does not say what state the task is in")
