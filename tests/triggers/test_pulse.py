"""An event waits for the scheduler to hear of the worker's end, measured by the scheduler's own heartbeat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from airflow_distrib.triggers import pulse
from airflow_distrib.triggers.pulse import Pulse


class Health:
    """An API server that tells the scheduler's last heartbeat."""

    def __init__(self) -> None:
        self.beat: str | None = "1"
        self.asked = 0
        self.status = 200

    async def answer(self, request: web.Request) -> web.Response:
        """What it says."""
        del request
        self.asked += 1
        return web.json_response({"scheduler": {"latest_scheduler_heartbeat": self.beat}}, status=self.status)


@pytest.fixture
async def health(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Health, Pulse]]:
    """It and a pulse that asks it often."""
    monkeypatch.setattr(pulse, "EXIT_SECONDS", 0.2)
    monkeypatch.setattr(pulse, "UNKNOWN_SECONDS", 0.4)
    monkeypatch.setattr(pulse, "PAUSE", 0.02)
    served, application = Health(), web.Application()
    application.router.add_get("/health", served.answer)
    async with TestServer(application) as server:
        yield served, Pulse(str(server.make_url("/health")))


async def test_an_event_waits_for_the_next_heartbeat(health: tuple[Health, Pulse]) -> None:
    """A scheduler that hangs when a task defers does not take the event for the end of another run."""
    served, beating = health
    waiting = asyncio.create_task(beating.beaten(time.monotonic()))
    # Too early: the worker may not have exited when the scheduler asked for the last time.
    await asyncio.sleep(0.1)
    served.beat = "2"
    await asyncio.sleep(0.5)
    assert not waiting.done()
    served.status = 503
    await asyncio.sleep(0.1)
    assert not waiting.done()
    served.status, served.beat = 200, "3"
    await asyncio.wait_for(waiting, 5)


async def test_a_long_job_does_not_ask(health: tuple[Health, Pulse]) -> None:
    """The event of a job that has run for minutes comes at once."""
    served, beating = health
    await beating.beaten(time.monotonic() - pulse.LONGEST_SECONDS - 1)
    assert served.asked == 0


@pytest.mark.parametrize("trouble", ["nobody answers", "there is no scheduler", "no address"])
async def test_an_event_does_not_depend_on_the_api_server(health: tuple[Health, Pulse], trouble: str) -> None:
    """A job whose triggerer cannot ask is not lost: its event waits for a fixed time instead."""
    served, beating = health
    if trouble == "there is no scheduler":
        served.beat = None
    elif trouble == "nobody answers":
        served.status = 500
    else:
        beating = Pulse(None)
    await asyncio.wait_for(beating.beaten(time.monotonic()), 5)


async def test_a_scheduler_that_stays_away_is_not_waited_for_without_end(
    health: tuple[Health, Pulse], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event comes although the scheduler is gone, because the next one has nothing to mistake."""
    monkeypatch.setattr(pulse, "LONGEST_SECONDS", 0.5)
    await asyncio.wait_for(health[1].beaten(time.monotonic()), 5)


async def test_all_triggers_share_the_question(health: tuple[Health, Pulse], monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand jobs that are deferred together ask no more often than one."""
    served, beating = health
    monkeypatch.setattr(pulse, "PAUSE", 60.0)
    assert await asyncio.gather(*(beating.last() for _ in range(1000))) == ["1"] * 1000
    assert served.asked == 1


@pytest.mark.parametrize(
    ("base", "execution", "url"),
    [
        ("https://airflow.example/prefix/", "", "https://airflow.example/prefix/api/v2/monitor/health"),
        ("", "http://localhost:8080/execution/", "http://localhost:8080/api/v2/monitor/health"),
        ("", "", None),
    ],
)
def test_the_api_servers_address_is_airflows(
    monkeypatch: pytest.MonkeyPatch, base: str, execution: str, url: str | None
) -> None:
    """Nothing has to be configured for it."""
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base)
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", execution)
    assert pulse._url() == url
