"""Logs of pods: every line once, whatever breaks in between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from airflow_distrib.systems.kubernetes.registry import kind_named
from airflow_distrib.core.reference import JobRef
from airflow_distrib.watching.kubernetes import logs
from airflow_distrib.systems.kubernetes.logs import JobLogs, Pace, PodLog, Position
from fake_kubernetes import FakeKubernetes

PATH = "/api/v1/namespaces/ns/pods/job-master-0/log"
REF = JobRef("kubernetes", "job", "uid", {"kind": "pytorchjob", "namespace": "ns"})


def line(number: int, at: str = "") -> str:
    """A line as kubelet writes it; three share each second, and some their very time."""
    time = at or f"2026-11-21T10:00:{number // 3:02d}.{number % 3}5Z"
    return f"{time} line {number}\n"


def pod(role: str, phase: str = "Running", **state: Any) -> dict[str, Any]:
    """A pod with a log."""
    statuses = [{"name": "pytorch", "state": state or {"running": {}}}]
    metadata = {"name": f"job-{role}", "uid": f"uid-{role}"}
    return {"metadata": metadata, "status": {"phase": phase, "containerStatuses": statuses}}


def test_a_log_that_is_read_in_pieces_has_every_line_once() -> None:
    """From a position on, in whole seconds, with lines of the very same time."""

    async def test() -> list[str]:
        shown: list[str] = []
        position = Position()
        async with FakeKubernetes() as api, api.client() as client:
            text = ""
            for number in range(12):
                text += line(number) + line(number + 100, f"2026-11-21T10:00:{number // 3:02d}.{number % 3}5Z")
                api.logs["job-master-0"] = text
                await PodLog(client, PATH, "pytorch", shown.append, position, None).read(follow=False)
                position = Position.from_json(position.to_json())
        return shown

    assert asyncio.run(test()) == [f"line {n}" for number in range(12) for n in (number, number + 100)]


def test_a_followed_log_goes_on_after_a_broken_connection() -> None:
    """And ends with its pod."""

    async def test() -> list[str]:
        shown: list[str] = []
        async with FakeKubernetes() as api, api.client() as client:
            api.logs["job-master-0"] = line(0)
            followed = JobLogs(
                client, kind_named("pytorchjob"), REF, ("master-0",), shown.append, asyncio.Semaphore(5), named=False
            )
            followed.see([pod("master-0"), pod("worker-0"), pod("worker-1", "Pending")])
            for number in range(1, 6):
                await asyncio.sleep(0.2)
                api.cut()
                api.logs["job-master-0"] += line(number)
            api.log_closed.add("job-master-0")
            followed.see([pod("master-0", "Succeeded", terminated={"exitCode": 0})])
            await followed.finish(5)
        return shown

    assert asyncio.run(test()) == [f"line {n}" for n in range(6)]


def test_the_worker_reads_on_where_the_trigger_stopped() -> None:
    """Positions travel in the event."""

    async def test() -> list[str]:
        shown: list[str] = []
        async with FakeKubernetes() as api, api.client() as client:
            kind, streams = kind_named("pytorchjob"), asyncio.Semaphore(5)
            api.logs["job-master-0"] = line(0) + line(1)
            first = JobLogs(client, kind, REF, None, shown.append, streams, named=True)
            await first.rest([pod("master-0")])
            api.logs["job-master-0"] += line(2)
            positions = first.positions()
            second = JobLogs(client, kind, REF, None, shown.append, streams, named=True, positions=positions)
            await second.rest([pod("master-0")])
        return shown

    assert asyncio.run(test()) == ["[master-0] line 0", "[master-0] line 1", "[master-0] line 2"]


def test_results_in_a_log_are_not_shown() -> None:
    """They are for the worker."""

    async def test() -> list[str]:
        shown: list[str] = []
        async with FakeKubernetes() as api, api.client() as client:
            api.logs["job-master-0"] = line(0) + "2026-11-21T10:00:01Z ::airflow-distrib 0123 1/1 eJw=\n"
            await PodLog(client, PATH, "pytorch", shown.append, Position(), None).read(follow=False)
        return shown

    assert asyncio.run(test()) == ["line 0"]


def test_a_log_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so, once."""
    monkeypatch.setattr(logs, "MAX_BYTES", 20)

    async def test() -> list[str]:
        shown: list[str] = []
        async with FakeKubernetes() as api, api.client() as client:
            api.logs["job-master-0"] = "".join(map(line, range(9)))
            await PodLog(client, PATH, "pytorch", shown.append, Position(), None).read(follow=False)
        return shown

    *lines, last = asyncio.run(test())
    assert lines == ["line 0", "line 1"]
    assert "the rest of this log is not shown" in last


def test_when_all_streams_are_taken_logs_are_read_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """More jobs than connections."""
    monkeypatch.setattr(logs, "POLL_SECONDS", 0.05)

    async def test() -> tuple[list[str], int]:
        shown: list[str] = []
        async with FakeKubernetes() as api, api.client() as client:
            api.logs["job-master-0"] = line(0)
            streams = asyncio.Semaphore(1)
            await streams.acquire()
            followed = JobLogs(client, kind_named("pytorchjob"), REF, None, shown.append, streams, named=False)
            followed.see([pod("master-0")])
            await asyncio.sleep(0.2)
            api.logs["job-master-0"] += line(1)
            followed.see([pod("master-0", "Succeeded", terminated={"exitCode": 0})])
            await followed.finish(5)
            return shown, api.requests[f"GET {PATH}"]

    shown, requests = asyncio.run(test())
    assert shown == ["line 0", "line 1"]
    assert requests > 1


def test_a_log_that_is_too_fast_waits_instead_of_being_cut() -> None:
    """After a burst."""
    slept: list[float] = []

    async def test() -> None:
        pace = Pace()
        pace.left = -600.0
        task = asyncio.create_task(pace.spend(300))
        await asyncio.sleep(0.05)
        slept.append(float(not task.done()))
        task.cancel()

    asyncio.run(test())
    assert slept == [1.0]


@pytest.mark.parametrize(
    ("stamp", "sorts_as"),
    [
        ("2026-11-21T10:00:00.5Z", "2026-11-21T10:00:00.500000000"),
        ("2026-11-21T10:00:00Z", "2026-11-21T10:00:00.000000000"),
        ("2026-11-21T12:00:00.123456789+02:00", "2026-11-21T10:00:00.123456789"),
        ("Traceback", None),
        ("2026-11-21", None),
    ],
)
def test_times_sort_whatever_kubelet_left_out(stamp: str, sorts_as: str | None) -> None:
    """Zeros at the end, or UTC."""
    assert logs._sortable(stamp) == sorts_as
