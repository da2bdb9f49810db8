"""Waiting for jobs on a fake login node: one look for all, and the output as it grows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from airflow_distrib.systems.slurm import plan as plans
from airflow_distrib.systems.slurm.config import Sbatch
from airflow_distrib.systems.slurm.jobs import SlurmJobs
from airflow_distrib.systems.slurm.plan import Request
from airflow_distrib.systems.slurm.ssh import Refused, SshClient, SshSettings
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.jobs.pace import MAX_BYTES
from airflow_distrib.watching.slurm import job as waits
from airflow_distrib.watching.slurm import output, queue
from airflow_distrib.systems.slurm.watch import FORGOTTEN, SlurmHub, SlurmWait
from airflow_distrib.systems.slurm.logs import JobOutput, OutputFile, tail
from airflow_distrib.jobs.waiting import Ending, Waiting
from fake_slurm import FakeSlurm, running


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow one another at once."""
    for module, name, value in (
        *((queue, "SHORTEST_SECONDS", 0.05), (queue, "LONGEST_SECONDS", 0.1), (queue, "GATHER_SECONDS", 0.01)),
        *(
            (queue, "ASK_SECONDS", 0.0),
            (queue, "UNKNOWN_SECONDS", 0.2),
            (output, "SHORTEST_SECONDS", 0.05),
            (output, "LONGEST_SECONDS", 0.1),
        ),
        *((waits, "OUTAGE_SECONDS", 0.2), (waits, "_CANCEL_PAUSE", 0.05), (waits, "CONFIRM_SECONDS", 2.0)),
    ):
        monkeypatch.setattr(module, name, value)


class Place:
    """A login node, and a hub that waits for its jobs."""

    def __init__(self, fake: FakeSlurm, hub: SlurmHub, client: SshClient) -> None:
        self.fake, self.hub, self.client = fake, hub, client
        self.said: list[str] = []
        self._count = 0

    async def submit(self, **config: Any) -> JobRef:
        """One more job."""
        self._count += 1
        request = Request(JobIdentity("dag", "run", f"task{self._count}", -1, 1, "scope"))
        plan = plans.of_text(Sbatch(**config), request, "true", lambda folder: [])
        jobs = SlurmJobs(self.client)
        return (await jobs.submit(plan, await jobs.make_folder(plan), None))[0]

    def wait(self, ref: JobRef, **fields: Any) -> asyncio.Task[Ending]:
        """Begin to wait."""
        waiting = Waiting(ref, "c", **fields)
        return asyncio.create_task(SlurmWait(waiting, self.hub, self.client, self.said.append).until_over())

    async def lines(self, count: int) -> list[str]:
        """Lines of output, once there are so many."""
        while True:
            found = [line for line in self.said if "Slurm" not in line]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.02)

    @property
    def watch(self) -> queue.QueueWatch:
        """The one watch."""
        return self.hub.queue("c", self.client, "")


@asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Place]:
    """Start both."""
    async with running(folder) as fake:
        hub = SlurmHub()

        async def settings() -> SshSettings:
            return fake.settings()

        async with hub.client("c", settings) as client:
            yield Place(fake, hub, client)
        await hub.close()


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[Place], Coroutine[Any, Any, None]]], None]:
    """Runs a test with a place of its own."""

    def start(test: Callable[[Place], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with place(tmp_path) as there:
                async with asyncio.timeout(30):
                    await test(there)

        asyncio.run(main())

    return start


def test_many_jobs_are_seen_by_one_look(run: Any) -> None:
    """Through one connection."""

    async def test(here: Place) -> None:
        refs = [await here.submit() for _ in range(20)]
        waiting = [here.wait(ref, logs=False) for ref in refs]
        await asyncio.sleep(0.3)
        state = here.fake.read()
        for job in state["jobs"].values():
            job["state"] = "COMPLETED"
        here.fake.write(state)
        endings = await asyncio.gather(*waiting)
        assert {(each.succeeded, each.problem) for each in endings} == {(True, None)}
        assert here.client.connections == 1
        assert len(here.fake.calls("squeue")) < 20 + 20
        assert here.said.count("Slurm job 1: queued (Resources)") == 1
        assert not any("--jobs" in word for call in here.fake.calls("squeue")[20:] for word in call)

    run(test)


@pytest.mark.parametrize(
    ("state", "believed"), [("FAILED", True), ("TIMEOUT", True), ("PREEMPTED", False), ("NODE_FAIL", False)]
)
def test_an_end_that_slurm_may_take_back_is_looked_at_twice(run: Any, state: str, believed: bool) -> None:
    """It starts such jobs again, if it may."""

    async def test(here: Place) -> None:
        ref = await here.submit()
        with here.watch.following(ref) as feed:
            here.fake.change(ref.uid, state=state)
            await feed.wait(5)
            while not feed.parts:
                await feed.wait(5)
            assert all(part.over for part in feed.parts.values()) is believed
            if not believed:
                here.fake.change(ref.uid, state="PENDING")
                end = time.monotonic() + 5
                while next(iter(feed.parts.values())).state != "PENDING" and time.monotonic() < end:
                    await feed.wait(1)
                assert next(iter(feed.parts.values())).state == "PENDING"

    run(test)


def test_an_arrays_elements_are_remembered_when_slurm_forgets_them(run: Any) -> None:
    """It is over when all of its indexes are."""

    async def test(here: Place) -> None:
        here.fake.set(accounting=False)
        ref = await here.submit(array="0-3")
        waiting = here.wait(ref, logs=False)
        for elements in (
            {"[0-3]": "PENDING"},
            {"0": "COMPLETED", "1": "RUNNING", "[2-3]": "PENDING"},
            {"1": "FAILED", "2": "RUNNING", "3": "RUNNING"},
            {"3": "COMPLETED", "2": "RUNNING"},
        ):
            here.fake.change(ref.uid, elements=elements)
            await asyncio.sleep(0.5)
            assert not waiting.done(), elements
        here.fake.change(ref.uid, elements={"2": "COMPLETED"})
        ending = await waiting
        assert (ending.succeeded, ending.reason) == (False, "FAILED")

    run(test)


@pytest.mark.parametrize("accounting", [True, False])
def test_a_job_that_the_queue_has_forgotten_is_asked_for_elsewhere(run: Any, accounting: bool) -> None:
    """In the accounting; where that is off, a worker finds out from what the job left."""

    async def test(here: Place) -> None:
        here.fake.set(accounting=accounting)
        ref = await here.submit()
        here.fake.change(ref.uid, state="COMPLETED", known=False)
        ending = await here.wait(ref, logs=False)
        expected = (True, "COMPLETED") if accounting else (None, FORGOTTEN)
        assert (ending.succeeded, ending.reason, ending.problem) == (*expected, None)

    run(test)


def test_a_namesake_by_number_is_not_taken_for_the_job(run: Any) -> None:
    """A controller that lost its state counts anew."""

    async def test(here: Place) -> None:
        here.fake.set(accounting=False)
        ref = await here.submit()
        here.fake.change(ref.uid, name="somebody-else", state="COMPLETED")
        ending = await here.wait(ref, logs=False)
        assert (ending.succeeded, ending.reason) == (None, FORGOTTEN)

    run(test)


def test_outages_are_waited_out_and_told_once(run: Any) -> None:
    """Of the controller, and of the login node."""

    async def test(here: Place) -> None:
        ref = await here.submit()
        waiting = here.wait(ref, logs=False)
        await asyncio.sleep(0.2)
        here.fake.set(away=6)
        await asyncio.sleep(0.8)
        port = here.fake.port
        await here.fake.stop()
        await asyncio.sleep(0.6)
        assert not waiting.done()
        await here.fake.start(port)
        here.fake.change(ref.uid, state="COMPLETED")
        ending = await waiting
        assert ending.succeeded
        assert sum("Slurm does not answer" in text for text in here.said) == 1

    run(test)


def test_a_refusal_that_lasts_is_an_error(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody will let this key in again."""
    monkeypatch.setattr(queue, "REFUSED_SECONDS", 0.3)

    async def test(here: Place) -> None:
        ref = await here.submit()
        waiting = here.wait(ref, logs=False)
        await asyncio.sleep(0.2)
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
        bad = here.fake.settings(host_key=other)

        async def renewed() -> SshSettings:
            return bad

        here.client._renew = renewed
        here.fake.cut()
        with pytest.raises(Refused, match="is not the one that is trusted"):
            await waiting

    run(test)


@pytest.mark.parametrize(
    ("reason", "problem"),
    [("DependencyNeverSatisfied", "DependencyNeverSatisfied"), ("PartitionNodeLimit", None), ("Priority", None)],
)
def test_a_job_that_will_never_start_is_given_up(run: Any, reason: str, problem: str | None) -> None:
    """At once where that is certain; others have a minute, or all the time there is."""

    async def test(here: Place) -> None:
        ref = await here.submit()
        here.fake.change(ref.uid, reason=reason)
        waiting = here.wait(ref, logs=False, deadline=time.time() + 1.5)
        ending = await waiting
        assert ending.succeeded is None
        assert ending.problem is not None
        assert ending.problem.reason == (problem or "TimedOut")

    run(test)


def test_output_comes_as_it_is_written(run: Any) -> None:
    """Both streams, whole lines only, and the rest by the worker from where the trigger stopped."""

    async def test(here: Place) -> None:
        ref = await here.submit()
        out, err = Path(ref.address["stdout"]), Path(ref.address["stderr"])
        waiting = here.wait(ref)
        here.fake.change(ref.uid, state="RUNNING")
        out.write_bytes(b"one\ntw")
        assert await here.lines(1) == ["one"]
        with out.open("ab") as file:
            file.write("o \N{SNOWMAN}\nthr".encode())
        # Only then the other stream: which of two is read first is not said.
        await here.lines(2)
        err.write_text("oh\n")
        await here.lines(3)
        here.fake.cut()
        here.fake.change(ref.uid, state="COMPLETED")
        ending = await waiting
        assert await here.lines(3) == ["one", "two \N{SNOWMAN}", "[stderr] oh"]
        with out.open("ab") as file:
            file.write(b"ee")
        here.said.clear()
        rest = JobOutput(here.client, ref, (), here.said.append, named=False, positions=ending.log)
        await rest.rest()
        assert here.said == ["three"]
        assert await tail(here.client, ref, "") == ["oh"]

    run(test)


def test_a_file_that_is_written_anew_is_shown_anew(run: Any) -> None:
    """And it is said so."""

    async def test(here: Place) -> None:
        ref = await here.submit()
        Path(ref.address["stdout"]).write_text("a long first line\n")
        shown = JobOutput(here.client, ref, (), here.said.append, named=False, positions={})
        await shown.rest()
        Path(ref.address["stdout"]).write_text("new\n")
        # The first look may be another login node's, which is behind.
        await shown.rest()
        assert here.said == ["a long first line"]
        shown.start()
        await here.lines(3)
        await shown.close()
        assert here.said == ["a long first line", f"[{ref.address['stdout']} was written anew]", "new"]

    run(test)


def test_elements_of_an_array_are_told_apart(run: Any) -> None:
    """Where there are several to show."""

    async def test(here: Place) -> None:
        ref = await here.submit(array="1-3")
        for element in (1, 2, 3):
            Path(ref.address["stdout"].replace("%a", str(element))).write_text(f"line {element}\n")
        await JobOutput(here.client, ref, ("1", "3"), here.said.append, named=True, positions={}).rest()
        assert here.said == ["[1] line 1", "[3] line 3"]

    run(test)


def test_a_log_without_end_is_cut() -> None:
    """Once, and said so."""
    file = OutputFile("x", shown=MAX_BYTES - 2)
    assert file.take(b"one\ntwo\n")[-1].startswith("[the rest of this log is not shown")


@pytest.mark.parametrize(
    ("data", "last", "found"),
    [
        (b"a\nb\nc", False, [b"a\nb\n"]),
        (b"a\nb\nc", True, [b"a\nb\nc"]),
        (b"a\r50%\rb\n", False, [b"a\r50%\rb\n"]),
        (b"", True, []),
        (b"x" * output.PIECE_BYTES, False, [b"x" * output.PIECE_BYTES]),
        (b"y\n" * 130, False, [b"y\n" * 64, b"y\n" * 64, b"y\n" * 2]),
    ],
)
def test_lines_are_taken_whole_and_some_at_a_time(data: bytes, last: bool, found: list[bytes]) -> None:
    """So that whoever is interrupted has shown just what it says."""
    assert list(output.batches(data, last=last)) == found


def test_a_fast_log_is_shown_whole_between_trigger_and_worker(run: Any) -> None:
    """The trigger shows as much as its pace allows, the worker the rest: no line twice, none lost."""

    async def test(here: Place) -> None:
        ref = await here.submit()
        Path(ref.address["stdout"]).write_text("".join(f"line {number}\n" for number in range(9000)))
        here.fake.change(ref.uid, state="RUNNING")
        waiting = here.wait(ref)
        await here.lines(200)
        here.fake.change(ref.uid, state="COMPLETED")
        ending = await waiting
        rest = JobOutput(here.client, ref, (), here.said.append, named=False, positions=ending.log)
        await rest.rest()
        assert await here.lines(9000) == [f"line {number}" for number in range(9000)]

    run(test)


def test_a_cancel_waits_for_a_controller_that_is_away(run: Any) -> None:
    """And then sees the job gone, folder and all."""

    async def test(here: Place) -> None:
        ref = await here.submit()
        here.fake.set(away=6)
        await SlurmWait(Waiting(ref, "c"), here.hub, here.client, here.said.append).cancel()
        assert here.fake.jobs[ref.uid]["state"] == "CANCELLED"
        assert here.fake.folders() == []
        assert any("trying again" in text for text in here.said)

    run(test)
