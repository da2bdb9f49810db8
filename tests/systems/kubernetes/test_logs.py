"""These tests read and follow the logs of pods: every line is shown once, whatever breaks in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from airflow_distrib.core.reference import JobRef
from airflow_distrib.jobs.pace import Pace
from airflow_distrib.jobs.waiting import Waiting
from airflow_distrib.systems.kubernetes import logs
from airflow_distrib.systems.kubernetes.kind import Kind, Manifest
from airflow_distrib.systems.kubernetes.logs import JobLogs, PodLog, Position
from airflow_distrib.systems.kubernetes.registry import kind_named
from airflow_distrib.systems.kubernetes.session import KubernetesSession
from airflow_distrib.systems.kubernetes.timing import Timing
from fake_kubernetes import FakeKubernetes

PYTORCHJOB: Kind = kind_named("pytorchjob")
PATH = "/api/v1/namespaces/ns/pods/job-master-0/log"
REF = JobRef("kubernetes", "job", "uid", {"kind": "pytorchjob", "namespace": "ns"})


@pytest.fixture
async def api() -> AsyncIterator[FakeKubernetes]:
    """Start a server for one test."""
    async with FakeKubernetes() as server:
        yield server


@pytest.fixture
async def session(api: FakeKubernetes) -> AsyncIterator[KubernetesSession]:
    """Open a session in which a log that cannot be followed is read often."""
    opened = KubernetesSession(api.client(), Timing(log_poll=0.05))
    yield opened
    await opened.close()


def line(number: int, at: str = "") -> str:
    """Return a line as kubelet writes it; three share each second, and some their very time."""
    time = at or f"2026-11-21T10:00:{number // 3:02d}.{number % 3}5Z"
    return f"{time} line {number}\n"


def pod(role: str, phase: str = "Running", **state: Manifest) -> Manifest:
    """Return a pod with a log."""
    statuses = [{"name": "pytorch", "state": state or {"running": {}}}]
    metadata = {"name": f"job-{role}", "uid": f"uid-{role}"}
    return {"metadata": metadata, "status": {"phase": phase, "containerStatuses": statuses}}


def pod_log(session: KubernetesSession, shown: list[str], position: Position | None = None) -> PodLog:
    """Return a reader of the master's log from a position on."""
    return PodLog(session.client, PATH, "pytorch", shown.append, position or Position(), None)


async def test_a_log_that_is_read_in_pieces_has_every_line_once(
    api: FakeKubernetes, session: KubernetesSession
) -> None:
    """No line is lost or repeated although the API only takes whole seconds and lines share their very time."""
    shown: list[str] = []
    position = Position()
    text = ""
    for number in range(12):
        text += line(number) + line(number + 100, f"2026-11-21T10:00:{number // 3:02d}.{number % 3}5Z")
        api.logs["job-master-0"] = text
        await pod_log(session, shown, position).read(follow=False)
        position = Position.from_json(position.to_json())
    assert shown == [f"line {n}" for number in range(12) for n in (number, number + 100)]


async def test_a_followed_log_continues_after_a_broken_connection_and_ends_with_its_pod(
    api: FakeKubernetes, session: KubernetesSession
) -> None:
    """The task log has every line of the chosen rank, and none of the others."""
    shown: list[str] = []
    api.logs["job-master-0"] = line(0)
    api.logs["job-worker-0"] = line(100)
    followed = JobLogs(session, PYTORCHJOB, Waiting(REF, "c", log_parts=("master-0",)), shown.append)
    followed.see([pod("master-0"), pod("worker-0"), pod("worker-1", "Pending")])
    for number in range(1, 6):
        await asyncio.sleep(0.2)
        api.cut()
        api.logs["job-master-0"] += line(number)
    api.log_closed.add("job-master-0")
    followed.see([pod("master-0", "Succeeded", terminated={"exitCode": 0})])
    await followed.finish(5)
    assert shown == [f"line {n}" for n in range(6)]


async def test_the_worker_continues_a_log_where_the_trigger_stopped(
    api: FakeKubernetes, session: KubernetesSession
) -> None:
    """Positions travel with the trigger's event, so that the task log has no gap and no line twice."""
    shown: list[str] = []
    waiting = Waiting(REF, "c", named=True)
    api.logs["job-master-0"] = line(0) + line(1)
    first = JobLogs(session, PYTORCHJOB, waiting, shown.append)
    await first.rest([pod("master-0")])
    api.logs["job-master-0"] += line(2)
    second = JobLogs(session, PYTORCHJOB, waiting, shown.append, first.positions())
    await second.rest([pod("master-0")])
    assert shown == ["[master-0] line 0", "[master-0] line 1", "[master-0] line 2"]


async def test_results_in_a_log_are_not_shown(api: FakeKubernetes, session: KubernetesSession) -> None:
    """A large result is encoded in the log for the worker, and nobody wants to read it there."""
    shown: list[str] = []
    api.logs["job-master-0"] = line(0) + "2026-11-21T10:00:01Z ::airflow-distrib 0123 1/1 eJw=\n"
    await pod_log(session, shown).read(follow=False)
    assert shown == ["line 0"]


async def test_a_log_without_end_is_cut_with_one_notice(
    api: FakeKubernetes, session: KubernetesSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that prints for days does not fill the disk of Airflow, and the reader knows that lines are missing."""
    monkeypatch.setattr(logs, "MAX_BYTES", 20)
    shown: list[str] = []
    api.logs["job-master-0"] = "".join(map(line, range(9)))
    await pod_log(session, shown).read(follow=False)
    *lines, last = shown
    assert lines == ["line 0", "line 1"]
    assert "the rest of this log is not shown" in last


async def test_when_all_streams_are_taken_logs_are_read_now_and_then(
    api: FakeKubernetes, session: KubernetesSession
) -> None:
    """More jobs than connections still have their logs shown while they run."""
    shown: list[str] = []
    api.logs["job-master-0"] = line(0)
    session.log_streams = asyncio.Semaphore(0)
    followed = JobLogs(session, PYTORCHJOB, Waiting(REF, "c"), shown.append)
    followed.see([pod("master-0")])
    await asyncio.sleep(0.2)
    api.logs["job-master-0"] += line(1)
    followed.see([pod("master-0", "Succeeded", terminated={"exitCode": 0})])
    await followed.finish(5)
    assert shown == ["line 0", "line 1"]
    assert api.requests[f"GET {PATH}"] > 1


async def test_a_log_that_is_too_fast_waits_instead_of_being_cut() -> None:
    """One job's flood of lines after a burst does not slow down the logs of all others."""
    pace = Pace()
    pace.left = -600.0
    task = asyncio.create_task(pace.spend(300))
    await asyncio.sleep(0.05)
    assert not task.done()
    task.cancel()


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
def test_times_of_lines_sort_whatever_kubelet_left_out(stamp: str, sorts_as: str | None) -> None:
    """Lines are compared by time although kubelet drops zeros at the end and may write a local zone."""
    assert logs._sortable(stamp) == sorts_as
