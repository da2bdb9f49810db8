"""What the ranks of a local job leave behind ends with the job, however that ends, and does not hold it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.runner import process
from airflow_distrib.runner.lines import RankLine
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.elastic.local import local as elastic_plan
from airflow_distrib.systems.local.job import LocalJob
from airflow_distrib.systems.local.jobs import NAME, LocalJobs
from local_jobs import BEGINS, ONE, run

REQUEST = JobRequest(identity=JobIdentity("dag", "run", "task", -1, 1))


async def test_children_that_outlive_their_rank_are_killed() -> None:
    """The whole process group goes, so that no memory and no GPU stays in use."""

    def leave_a_child() -> int:
        import subprocess

        return subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid

    ended = await run(leave_a_child, plan=ONE)
    pid = int(ended.outcomes[0].result or 0)
    assert not Path(f"/proc/{pid}").exists() or process.start_time(pid) is None


@pytest.mark.parametrize("end", ["success", "failure", "stop"])
@pytest.mark.parametrize("way", [{}, {"start_method": "fork"}, {"max_restarts": 1}], ids=["spawned", "forked", "agent"])
async def test_nothing_runs_on_even_in_sessions_of_its_own(way: dict[str, Any], end: str, tmp_path: Path) -> None:
    """Daemons leave the process group, and would go on using the memory and the GPUs of the next try."""

    def leave(end: str) -> None:
        import subprocess
        import time

        code = "import os, sys; open(sys.argv[1] + str(os.getpid()), 'w'); os.execlp('sleep', 'sleep', '600')"
        folder = os.environ["PIDS"] + "/"
        subprocess.Popen([sys.executable, "-c", code, folder], start_new_session=True)
        subprocess.Popen([sys.executable, "-c", code, folder])
        if os.fork() == 0:
            # A daemon, as the textbooks make one.
            os.setsid()
            if os.fork() == 0:
                os.execlp(sys.executable, sys.executable, "-c", code, folder)  # noqa: S606 - that is a daemon
            os._exit(0)
        while len(os.listdir(folder)) < 3:
            time.sleep(0.01)
        print("left", flush=True)
        if end == "failure":
            raise ValueError("no such column")
        if end == "stop":
            time.sleep(600)

    plan = elastic_plan(Elastic(**way, env={"PIDS": str(tmp_path)}), REQUEST)
    ended = await run(
        leave,
        end,
        plan=plan,
        react=lambda job, line: job.terminate() if (line.text, end) == ("left", "stop") else None,
    )
    assert (ended.code == 0) == (end == "success")
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert len(pids) >= 3
    assert [pid for pid in pids if process.start_time(pid) is not None] == []


async def test_a_job_that_cannot_be_ended_is_killed_with_its_sessions(tmp_path: Path) -> None:
    """A supervisor that hangs is killed, and what it would have ended with it."""

    def leave() -> None:
        import subprocess
        import time

        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        print(child.pid, flush=True)
        time.sleep(600)

    left: list[int] = []

    def stop(job: LocalJob, line: RankLine) -> None:
        if BEGINS.fullmatch(line.text):
            return
        left.append(int(line.text))
        os.kill(job.pid, signal.SIGSTOP)
        asyncio.get_running_loop().create_task(job.close())

    with contextlib.suppress(FileNotFoundError):
        await run(leave, plan=ONE, grace_seconds=0.1, react=stop)
    assert [pid for pid in left if process.start_time(pid) is not None] == []
    assert left


async def test_adopted_processes_do_not_pile_up_while_the_job_runs() -> None:
    """Orphans become children of the supervisor, and one that nobody waits for stays a zombie."""

    def orphans() -> int:
        import subprocess
        import time

        supervisor = os.getppid()
        for _ in range(5):
            subprocess.run(["sh", "-c", "sleep 0.05 &"], check=True)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with open(f"/proc/{supervisor}/task/{supervisor}/children") as file:
                found = file.read().split()
            if found == [str(os.getpid())]:
                return 0
            time.sleep(0.05)
        return len(found)

    ended = await run(orphans, plan=ONE)
    assert ended.outcomes[0].result == "0"


async def test_a_child_that_holds_the_output_open_does_not_hold_the_job() -> None:
    """The job is over when its ranks are, although somebody could still write to the log."""

    def leave_a_talking_child() -> None:
        import subprocess

        subprocess.Popen(["sleep", "600"])

    assert (await run(leave_a_talking_child)).code == 0


async def test_a_child_that_floods_the_output_does_not_hold_the_job() -> None:
    """The job ends even while a process writes faster than anybody reads."""

    def leave_a_flood() -> None:
        import subprocess

        subprocess.Popen(["yes", "flood"])

    assert (await run(leave_a_flood, plan=ONE, log_ranks=[])).code == 0


def test_the_job_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    """SIGKILL of the Airflow task leaves no process and no folder on the worker."""
    script = tmp_path / "starter.py"
    script.write_text(
        "import asyncio, time\n"
        "from airflow_distrib.systems.local.job import LocalJob\n"
        "from airflow_distrib.systems.local.plan import LocalPlan\n"
        "from airflow_distrib.core import packing\n"
        "async def go():\n"
        "    payload = packing.pack(time.sleep, [600], {})\n"
        "    job = await LocalJob.start(LocalPlan('ranks', 2), payload, options={})\n"
        "    print(job.pid, job.directory, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(go())\n"
    )
    starter = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid, folder = starter.stdout.readline().split()
    time.sleep(0.5)
    starter.kill()
    starter.wait()
    starter.stdout.close()
    end = time.monotonic() + 20
    while time.monotonic() < end and (_group(int(pid)) or Path(folder).exists()):
        time.sleep(0.1)
    assert _group(int(pid)) == []
    assert not Path(folder).exists()


def _group(group: int) -> list[int]:
    """Living members of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX" and int(fields[2]) == group:
            found.append(int(stat.parent.name))
    return found


async def test_a_leftover_is_ended_but_never_another_process_with_its_pid() -> None:
    """The start time tells the job from a later process, and jobs of other machines are not touched."""
    jobs = LocalJobs()
    other = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    address = {"host": socket.gethostname(), "directory": "/nonexistent"}
    assert await jobs.cancel(JobRef(NAME, "t", f"{other.pid}:1", address), confirm_for=1)
    assert process.start_time(other.pid) is not None
    mine = JobRef(NAME, "t", f"{other.pid}:{process.start_time(other.pid)}", address)
    assert await jobs.cancel(mine, confirm_for=1)
    assert await asyncio.wait_for(other.wait(), 5) == -signal.SIGKILL
    elsewhere = JobRef(NAME, "t", "1:1", {"host": "another", "directory": "/nonexistent"})
    assert not await jobs.cancel(elsewhere, confirm_for=1)
