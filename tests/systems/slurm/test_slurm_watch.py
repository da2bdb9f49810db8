"""Jobs on a fake login node are waited for with one look for all of them, and their output is shown as it grows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.jobs import wait
from airflow_distrib.jobs.launcher import Connection
from airflow_distrib.jobs.pace import MAX_BYTES
from airflow_distrib.jobs.pool import SessionPool
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.jobs.wait import cancel_patiently, until_over
from airflow_distrib.jobs.waiting import Ending, Waiting
from airflow_distrib.systems.slurm import logs, session, shell
from airflow_distrib.systems.slurm.commands import ENVIRONMENT
from airflow_distrib.systems.slurm.config import Sbatch
from airflow_distrib.systems.slurm.jobs import SlurmJobs
from airflow_distrib.systems.slurm.launcher import connect
from airflow_distrib.systems.slurm.logs import JobOutput, OutputFile, tail
from airflow_distrib.systems.slurm.session import SlurmSession
from airflow_distrib.systems.slurm.ssh import Refused, SshClient, SshSettings
from airflow_distrib.systems.slurm.status import FORGOTTEN
from airflow_distrib.systems.slurm.timing import Timing
from fake_slurm import FakeSlurm, LocalStorage, running

pytestmark = pytest.mark.timeout(60)

# One look follows the other at once.
QUICK = Timing(
    shortest_look=0.05,
    longest_look=0.1,
    gather=0.01,
    ask=0.0,
    refused=0.3,
    unknown=0.2,
    shortest_read=0.05,
    longest_read=0.1,
    confirm=2.0,
)


class LoginNode:
    """A login node with a session on it.

    Attributes:
        settings: with which the session connects again; a test may change them.
        shown: lines of the task log.
    """

    def __init__(self, fake: FakeSlurm) -> None:
        self.fake, self.settings = fake, fake.settings()
        self.client = SshClient(self.settings, self.read_settings, prelude=ENVIRONMENT)
        self.session = SlurmSession(self.client, QUICK)
        self.jobs = SlurmJobs(self.session)
        self.shown: list[str] = []
        self._count = 0

    async def read_settings(self) -> SshSettings:
        """Return the present settings, as a hook does."""
        return self.settings

    async def submit(self, **config: Any) -> JobRef:
        """Submit one more job, of a task of its own."""
        self._count += 1
        identity = JobIdentity("dag", "run", f"task{self._count}", -1, 1, "scope")
        request = JobRequest(identity=identity, runs_function=False, arguments={"script": "true"})
        submission = shell.of_shell(Sbatch(**config), request)
        return (await self.jobs.submit(submission, await self.jobs.reserve(submission), LocalStorage()))[0]

    def wait(self, ref: JobRef, **fields: Any) -> asyncio.Task[Ending]:
        """Begin to wait."""
        return asyncio.create_task(until_over(self.jobs, Waiting(ref, "c", **fields), self.shown.append))

    def output(self, ref: JobRef, ending: Ending | None = None, **fields: Any) -> JobOutput:
        """Return the job's output, from where an ended wait has shown it."""
        positions = None if ending is None else ending.log
        return JobOutput(self.client, Waiting(ref, "c", **fields), self.shown.append, positions, QUICK)

    async def mentioned(self, text: str, times: int = 1) -> None:
        """Wait until so many lines contain a text."""
        while sum(text in line for line in self.shown) < times:  # noqa: ASYNC110 - a list is no event
            await asyncio.sleep(0.02)

    async def looked(self) -> None:
        """Wait until a look at the queue that begins after now is over."""
        # One look may have begun before, and only when a third one begins the second is over.
        enough = len(self.fake.calls("squeue")) + 3
        while len(self.fake.calls("squeue")) < enough:  # noqa: ASYNC110 - another process counts
            await asyncio.sleep(0.02)

    async def lines(self, count: int) -> list[str]:
        """Return the lines of output, once there are so many."""
        while True:
            found = [line for line in self.shown if "Slurm" not in line]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.02)


@pytest.fixture
async def login(tmp_path: Path) -> AsyncIterator[LoginNode]:
    """A login node with a session on it."""
    async with running(tmp_path) as fake:
        started = LoginNode(fake)
        yield started
        await started.session.close()
        await SessionPool.current().close()


async def test_many_jobs_are_seen_by_one_look(login: LoginNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tasks that wait in a triggerer share one connection, and one squeue shows all of their jobs."""
    monkeypatch.setattr(session, "TIMING", QUICK)
    refs = [await login.submit() for _ in range(20)]

    async def ending(ref: JobRef) -> Ending:
        async with connect(Connection("c", login.read_settings)) as jobs:
            return await until_over(jobs, Waiting(ref, "c", logs=False), login.shown.append)

    before = len(login.fake.connections)
    waiting = [asyncio.create_task(ending(ref)) for ref in refs]
    await login.mentioned("queued (Resources)", 20)
    login.fake.change(*login.fake.jobs, state="COMPLETED")
    endings = await asyncio.gather(*waiting)
    assert {(each.succeeded, each.problem) for each in endings} == {(True, None)}
    assert len(login.fake.connections) - before == 1
    assert len(login.fake.calls("squeue")) < 20 + 20
    assert login.shown.count("Slurm job 1: queued (Resources)") == 1
    assert not any("--jobs" in word for call in login.fake.calls("squeue")[20:] for word in call)


@pytest.mark.parametrize(
    ("state", "believed"), [("FAILED", True), ("TIMEOUT", True), ("PREEMPTED", False), ("NODE_FAIL", False)]
)
async def test_an_end_that_slurm_may_take_back_is_looked_at_twice(login: LoginNode, state: str, believed: bool) -> None:
    """A job that Slurm starts again after a lost node or a preemption is not taken for one that has ended."""
    ref = await login.submit()
    with login.session.queue("").following(ref) as feed:
        login.fake.change(ref.uid, state=state)
        await feed.wait(5)
        while not feed.parts:
            await feed.wait(5)
        assert all(part.over for part in feed.parts.values()) is believed
        if not believed:
            login.fake.change(ref.uid, state="PENDING")
            end = time.monotonic() + 5
            while next(iter(feed.parts.values())).state != "PENDING" and time.monotonic() < end:
                await feed.wait(1)
            assert next(iter(feed.parts.values())).state == "PENDING"


async def test_an_arrays_elements_are_remembered_when_slurm_forgets_them(login: LoginNode) -> None:
    """A job array is over when every one of its indexes has been seen to end, however early Slurm forgets some."""
    login.fake.set(accounting=False)
    ref = await login.submit(array="0-3")
    waiting = login.wait(ref, logs=False)
    for elements in (
        {"[0-3]": "PENDING"},
        {"0": "COMPLETED", "1": "RUNNING", "[2-3]": "PENDING"},
        {"1": "FAILED", "2": "RUNNING", "3": "RUNNING"},
        {"3": "COMPLETED", "2": "RUNNING"},
    ):
        login.fake.change(ref.uid, elements=elements)
        await login.looked()
        assert not waiting.done(), elements
    login.fake.change(ref.uid, elements={"2": "COMPLETED"})
    ending = await waiting
    assert (ending.succeeded, ending.reason) == (False, "FAILED")


@pytest.mark.parametrize("accounting", [True, False])
async def test_a_job_that_the_queue_has_forgotten_is_asked_for_elsewhere(login: LoginNode, accounting: bool) -> None:
    """The accounting knows how a job ended; where it is off, a worker finds out from what the job wrote."""
    login.fake.set(accounting=accounting)
    ref = await login.submit()
    login.fake.change(ref.uid, state="COMPLETED", known=False)
    ending = await login.wait(ref, logs=False)
    expected = (True, "COMPLETED") if accounting else (None, FORGOTTEN)
    assert (ending.succeeded, ending.reason, ending.problem) == (*expected, None)


async def test_a_namesake_by_number_is_not_taken_for_the_job(login: LoginNode) -> None:
    """The end of a stranger's job is never ours, although a controller that lost its state counts ids anew."""
    login.fake.set(accounting=False)
    ref = await login.submit()
    login.fake.change(ref.uid, name="somebody-else", state="COMPLETED")
    ending = await login.wait(ref, logs=False)
    assert (ending.succeeded, ending.reason) == (None, FORGOTTEN)


async def test_outages_are_waited_out_and_mentioned_once(login: LoginNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of the controller, or of the login node, costs no job and does not flood the log."""
    monkeypatch.setattr(wait, "OUTAGE_SECONDS", 0.2)
    ref = await login.submit()
    waiting = login.wait(ref, logs=False)
    await login.looked()
    login.fake.set(away=1000)
    await login.mentioned("Slurm does not answer")
    login.fake.set(away=0)
    await login.looked()
    port = login.fake.port
    await login.fake.stop()
    await asyncio.sleep(0.6)
    assert not waiting.done()
    await login.fake.start(port)
    login.fake.change(ref.uid, state="COMPLETED")
    ending = await waiting
    assert ending.succeeded
    assert sum("Slurm does not answer" in text for text in login.shown) == 1


async def test_a_refusal_that_lasts_is_an_error(login: LoginNode) -> None:
    """A wait ends with the reason when the login node can no longer be trusted or refuses our key."""
    ref = await login.submit()
    waiting = login.wait(ref, logs=False)
    await login.looked()
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    login.settings = login.fake.settings(host_key=other)
    login.fake.cut()
    with pytest.raises(Refused, match="is not the one that is trusted"):
        await waiting


@pytest.mark.parametrize(
    ("reason", "problem"),
    [("DependencyNeverSatisfied", "DependencyNeverSatisfied"), ("PartitionNodeLimit", None), ("Priority", None)],
)
async def test_a_job_that_will_never_start_is_given_up(login: LoginNode, reason: str, problem: str | None) -> None:
    """A job is given up at once where waiting is certainly in vain; others have a minute, or all the time there is."""
    ref = await login.submit()
    login.fake.change(ref.uid, reason=reason)
    ending = await login.wait(ref, logs=False, deadline=time.time() + (30 if problem else 1.5))
    assert ending.succeeded is None
    assert ending.problem is not None
    assert ending.problem.reason == (problem or "TimedOut")


async def test_output_comes_as_it_is_written(login: LoginNode) -> None:
    """A trigger shows whole lines of both streams, and the worker goes on exactly where the trigger stopped."""
    ref = await login.submit()
    out, err = Path(ref.address["stdout"]), Path(ref.address["stderr"])
    waiting = login.wait(ref)
    login.fake.change(ref.uid, state="RUNNING")
    out.write_bytes(b"one\ntw")
    assert await login.lines(1) == ["one"]
    with out.open("ab") as file:
        file.write("o \N{SNOWMAN}\nthr".encode())
    # Only then the other stream, because either of the two may be read first.
    await login.lines(2)
    err.write_text("oh\n")
    await login.lines(3)
    login.fake.cut()
    login.fake.change(ref.uid, state="COMPLETED")
    ending = await waiting
    assert await login.lines(3) == ["one", "two \N{SNOWMAN}", "[stderr] oh"]
    with out.open("ab") as file:
        file.write(b"ee")
    login.shown.clear()
    await login.output(ref, ending).rest()
    assert login.shown == ["three"]
    assert await tail(login.client, ref, "") == ["oh"]


async def test_a_file_that_is_written_anew_is_shown_anew(login: LoginNode) -> None:
    """A log that a job truncates is shown from its new beginning, with a line that explains the repetition."""
    ref = await login.submit()
    Path(ref.address["stdout"]).write_text("a long first line\n")
    shown = login.output(ref)
    await shown.rest()
    Path(ref.address["stdout"]).write_text("new\n")
    # The first look may be that of another login node, which lags behind.
    await shown.rest()
    assert login.shown == ["a long first line"]
    shown.start()
    await login.lines(3)
    await shown.close()
    assert login.shown == ["a long first line", f"[{ref.address['stdout']} was written anew]", "new"]


async def test_elements_of_an_array_can_be_distinguished(login: LoginNode) -> None:
    """Only the chosen elements are shown, and every line begins with the index of its element."""
    ref = await login.submit(array="1-3")
    for element in (1, 2, 3):
        Path(ref.address["stdout"].replace("%a", str(element))).write_text(f"line {element}\n")
    await login.output(ref, log_parts=("1", "3"), named=True).rest()
    assert login.shown == ["[1] line 1", "[3] line 3"]


def test_a_log_without_end_is_cut() -> None:
    """A job that writes without end cannot fill Airflow's log, and the last line explains why it stops."""
    file = OutputFile("x", shown=MAX_BYTES - 2)
    assert file.take(b"one\ntwo\n")[-1].startswith("[the rest of this log is not shown")


@pytest.mark.parametrize(
    ("data", "last", "found"),
    [
        (b"a\nb\nc", False, [b"a\nb\n"]),
        (b"a\nb\nc", True, [b"a\nb\nc"]),
        (b"a\r50%\rb\n", False, [b"a\r50%\rb\n"]),
        (b"", True, []),
        (b"x" * logs.PIECE_BYTES, False, [b"x" * logs.PIECE_BYTES]),
        (b"y\n" * 130, False, [b"y\n" * 64, b"y\n" * 64, b"y\n" * 2]),
    ],
)
def test_lines_are_taken_whole_and_some_at_a_time(data: bytes, last: bool, found: list[bytes]) -> None:
    """A reader that is interrupted has shown exactly the lines that its position accounts for."""
    assert list(logs.batches(data, last=last)) == found


async def test_a_fast_log_is_shown_whole_between_trigger_and_worker(login: LoginNode) -> None:
    """A trigger shows as much as its pace allows and the worker the rest, so that every line appears exactly once."""
    ref = await login.submit()
    Path(ref.address["stdout"]).write_text("".join(f"line {number}\n" for number in range(9000)))
    login.fake.change(ref.uid, state="RUNNING")
    waiting = login.wait(ref)
    await login.lines(200)
    login.fake.change(ref.uid, state="COMPLETED")
    await login.output(ref, await waiting).rest()
    assert await login.lines(9000) == [f"line {number}" for number in range(9000)]


async def test_a_cancel_waits_for_a_controller_that_is_away(login: LoginNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is not wanted any more ends, and its folder goes, as soon as the controller is back."""
    monkeypatch.setattr(wait, "CANCEL_PAUSE", 0.05)
    ref = await login.submit()
    login.fake.set(away=6)
    await cancel_patiently(login.jobs, ref, login.shown.append)
    assert login.fake.jobs[ref.uid]["state"] == "CANCELLED"
    assert login.fake.folders() == []
    assert any("trying again" in text for text in login.shown)
