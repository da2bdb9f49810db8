"""When Airflow's scheduler has certainly heard that a deferred task's worker has ended.

An event that comes sooner fails a healthy task: the scheduler queues the task's next run, then hears
of the first worker's end, and takes it for the end of the run that it has just queued. How soon is
too soon depends on how busy the scheduler is, so its own heartbeat is the measure: it beats at the
end of a round of its loop, in which it has asked its executors who has ended.
"""

from __future__ import annotations

import asyncio
import time

from airflow.configuration import conf

# How long a worker may take to exit after it has deferred its task.
EXIT_SECONDS = 3.0
# Without a word of the scheduler an event waits so long; and at most so long for its word.
UNKNOWN_SECONDS, LONGEST_SECONDS = 5.0, 120.0
# Between two questions, which all triggers of a triggerer share.
PAUSE = 1.0


class Pulse:
    """The scheduler's last heartbeat, as the API server tells anybody who asks."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._asked_at = float("-inf")
        self._beat: str | None = None
        self._lock = asyncio.Lock()

    async def last(self) -> str | None:
        """Its time, as text to compare with; None where the API server does not tell."""
        async with self._lock:
            if time.monotonic() - self._asked_at >= PAUSE and self._url is not None:
                self._beat = await self._ask(self._url)
                self._asked_at = time.monotonic()
            return self._beat

    async def _ask(self, url: str) -> str | None:
        try:
            # Airflow's SDK rests on it; it takes a while to import.
            import httpx

            async with httpx.AsyncClient(timeout=5.0) as client:
                answer = (await client.get(url)).raise_for_status().json()
                return str(answer["scheduler"]["latest_scheduler_heartbeat"] or "") or None
        except Exception:  # noqa: BLE001 - nothing that is wrong with it may cost a job its event
            return None

    async def beaten(self, began: float) -> None:
        """Wait for a heartbeat that comes long enough after a trigger began, on the clock of ``time.monotonic``."""
        if time.monotonic() - began > LONGEST_SECONDS:
            return
        await asyncio.sleep(began + EXIT_SECONDS - time.monotonic())
        before = await self.last()
        while before is not None and time.monotonic() - began < LONGEST_SECONDS:
            await asyncio.sleep(PAUSE)
            # A silent API server does not make the event early.
            if (now := await self.last()) is not None and now != before:
                return
        await asyncio.sleep(began + UNKNOWN_SECONDS - time.monotonic())


_pulses: dict[int, Pulse] = {}


def pulse() -> Pulse:
    """The one of the running event loop."""
    key = id(asyncio.get_running_loop())
    if key not in _pulses:
        _pulses.clear()
        _pulses[key] = Pulse(_url())
    return _pulses[key]


def _url() -> str | None:
    """Where the API server tells its health, without authentication."""
    base = conf.get("api", "base_url", fallback="")
    if not base:
        base = conf.get("core", "execution_api_server_url", fallback="").removesuffix("/").removesuffix("/execution")
    return f"{base.rstrip('/')}/api/v2/monitor/health" if base else None
