"""Jobs of real local processes end in every way that a process can, and nothing of them stays."""

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

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import process
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.lines import RankLine
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.elastic.local import local as elastic_plan
from airflow_distrib.systems.local.job import LocalJob, port_for
from airflow_distrib.systems.local.jobs import NAME, LocalJobs
from airflow_distrib.systems.local.plan import LocalPlan
from local_jobs import ONE, run

REQUEST = JobRequest(identity=JobIdentity("dag", "run", "task", -1, 1))


async def test_ranks_see_their_numbers_and_meet_at_a_free_port() -> None:
    """Functions that were written for the pods of a PyTorchJob find the same environment on one machine."""

    def numbers() -> list[str]:

        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
        print(*(os.environ[name] for name in names))
        return [os.environ[name] for name in names]

    ended = await run(numbers)
    assert ended.code == 0
    port = ended.text(0)[0].split()[4]
    assert ended.text(0) == [f"0 0 2 127.0.0.1 {port} 1"]
    assert ended.text(1) == [f"1 1 2 127.0.0.1 {port} 1"]
    assert [each.kind for each in ended.outcomes] == [outcomes.SUCCESS, outcomes.SUCCESS]
    assert ended.outcomes[0].result is not None
    assert ended.outcomes[1].result is None


async def test_only_lines_of_the_chosen_ranks_are_passed_on() -> None:
    """The log of a large job stays readable, and other ranks' lines are kept for their errors."""

    def talk() -> None:
        print("hello")

    assert {line.rank for line in (await run(talk, log_ranks=[1])).lines} == {1}


async def test_output_of_subprocesses_and_of_c_code_is_prefixed_too() -> None:
    """The rank is known for every line that reaches its descriptor, not only for what Python prints."""

    def talk() -> None:
        import subprocess

        subprocess.run(["echo", "from a child"], check=True)
        os.write(2, b"from C\n")

    assert sorted((await run(talk, plan=ONE)).text(0)) == ["from C", "from a child"]


async def test_a_failing_rank_ends_the_others_at_once() -> None:
    """Nobody waits for the peers of a rank that raised."""

    def fail_on_one() -> None:
        import time

        print("rank", os.environ["RANK"])
        if os.environ["RANK"] == "1":
            raise ValueError("no such column")
        time.sleep(600)

    ended = await run(fail_on_one)
    assert ended.code == 1
    assert (ended.first.rank, ended.first.error_type, ended.first.message) == (1, "ValueError", "no such column")
    assert 'raise ValueError("no such column")' in ended.first.traceback
    assert "supervisor" not in ended.first.traceback
    assert "rank 1" in ended.first.log_tail
    assert ended.outcomes[0].kind == outcomes.TERMINATED


@pytest.mark.parametrize("status", [0, 3])
async def test_sys_exit_before_returning_is_a_failure(status: int) -> None:
    """There is no result, even if the exit status is 0."""
    ended = await run(sys.exit, status, plan=ONE)
    assert ended.code == 1
    assert ended.first.error_type == outcomes.EXITED_EARLY
    assert f"sys.exit({status})" in ended.first.message


async def test_os_exit_zero_is_a_failure() -> None:
    """A process that vanishes with status 0 has not returned from its function."""

    def vanish() -> None:

        os._exit(0)

    ended = await run(vanish, plan=ONE)
    assert ended.first.error_type == outcomes.EXITED_EARLY
    assert "os._exit(0) before it returned" in ended.first.message


async def test_a_c_library_that_exits_with_zero_is_a_failure() -> None:
    """Such a process cannot write an outcome, and must not pass for a success because of that."""

    def vanish() -> None:
        import ctypes

        ctypes.CDLL(None)._exit(0)

    ended = await run(vanish, plan=ONE)
    assert ended.first.error_type == outcomes.EXITED_EARLY
    assert "before the function returned" in ended.first.message


async def test_a_killed_rank_is_reported_with_its_signal() -> None:
    """Users can tell the OOM killer, which sends the same signal, from an error of their own."""

    def kill_one() -> None:
        import signal
        import time

        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    ended = await run(kill_one)
    assert (ended.first.rank, ended.first.error_type, ended.first.exit_code) == (1, outcomes.PROCESS_KILLED, -9)
    assert "SIGKILL" in ended.first.message


async def test_a_process_that_dies_after_the_function_returned_has_failed() -> None:
    """On a cluster the pod of such a rank would count as failed as well."""

    def crash_at_exit() -> int:
        import atexit
        import signal

        atexit.register(os.kill, os.getpid(), signal.SIGSEGV)
        return 1

    ended = await run(crash_at_exit, plan=ONE)
    assert ended.code == 1
    assert "returned, but then" in ended.first.message
    assert "SIGSEGV" in ended.first.message


async def test_a_stop_is_reported_as_such_even_if_the_function_then_returns() -> None:
    """A function may save a checkpoint on SIGTERM, which does not make the stopped job a success."""

    def save_on_term() -> str:
        import signal
        import time

        stop = []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
        print("ready", flush=True)
        while not stop:
            time.sleep(0.05)
        print("saved", flush=True)
        return "saved"

    ended = await run(
        save_on_term,
        plan=ONE,
        react=lambda job, line: job.terminate() if line.text == "ready" else None,
    )
    assert ended.text(0) == ["ready", "saved"]
    assert ended.code == 128 + signal.SIGTERM
    assert {each.kind for each in ended.outcomes} == {outcomes.TERMINATED}
    assert ended.first.message == "the job was stopped by SIGTERM"


async def test_a_rank_that_ignores_the_stop_is_killed_after_the_grace_period() -> None:
    """A job ends within a known time, whatever its function does."""

    def ignore() -> None:
        import signal
        import time

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready", flush=True)
        time.sleep(600)

    ended = await run(ignore, plan=ONE, grace_seconds=0.5, react=lambda job, line: job.terminate())
    assert ended.first.kind == outcomes.TERMINATED


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

    left = []

    def stop(job: LocalJob, line: RankLine) -> None:
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


async def test_peers_of_a_rank_that_vanished_do_not_wait_for_it() -> None:
    """A rank that calls os._exit(0) reports nothing, and the others would wait for it for ever."""

    def vanish() -> None:
        import time

        if os.environ["RANK"] == "1":
            os._exit(0)
        time.sleep(600)

    ended = await run(vanish)
    assert (ended.first.rank, ended.first.error_type) == (1, outcomes.EXITED_EARLY)
    assert ended.outcomes[0].kind == outcomes.TERMINATED


async def test_a_rank_that_returned_and_was_then_stopped_is_not_the_cause() -> None:
    """A thread may keep a finished rank alive until a peer fails, which then is the failure to name."""

    def linger() -> None:
        import threading
        import time

        if os.environ["RANK"] == "1":
            threading.Thread(target=time.sleep, args=(600,)).start()
            return
        time.sleep(1)
        raise ValueError("the cause")

    ended = await run(linger)
    assert (ended.first.rank, ended.first.message) == (0, "the cause")
    assert ended.outcomes[1].kind == outcomes.TERMINATED


async def test_a_function_that_closes_its_output_may_return() -> None:
    """The value does not travel through standard output."""

    def close() -> int:
        import sys

        sys.stdout.close()
        return 7

    ended = await run(close, plan=ONE)
    assert (ended.code, ended.outcomes[0].result) == (0, "7")


async def test_a_forked_child_that_comes_back_does_not_speak_for_its_rank() -> None:
    """Only the parent process is the rank, so a child's exception is not the rank's."""

    def fork() -> str:

        child = os.fork()
        if child == 0:
            raise ValueError("the child")
        os.waitpid(child, 0)
        return "the parent"

    ended = await run(fork, plan=ONE)
    assert (ended.code, ended.outcomes[0].result) == (0, '"the parent"')


async def test_an_error_about_an_odd_file_name_is_reported() -> None:
    """Its text cannot be encoded as it is, and must not hide the failure."""

    def fail() -> None:
        raise FileNotFoundError("bad\udcff.txt")

    assert (await run(fail, plan=ONE)).first.message == "bad\udcff.txt"


async def test_the_jobs_folder_is_private_and_removed() -> None:
    """The folder holds the function and its arguments, which other users must not read."""

    def folder() -> list[str]:
        import sys

        path = os.path.dirname(sys.argv[0])
        return [path, oct(os.stat(path).st_mode & 0o777)]

    ended = await run(folder, plan=ONE)
    path, mode = eval(ended.outcomes[0].result or "")  # noqa: S307 - two strings this test made
    assert mode == "0o700"
    assert not Path(path).exists()


async def test_a_result_that_is_too_large_is_an_error_with_advice() -> None:
    """A value of 50 MB does not belong in Airflow's database, and the error names result_path."""

    def large() -> str:
        return "x" * 50_000_000

    first = (await run(large, plan=ONE)).first
    assert "47.7 MiB" in first.message
    assert "result_path" in first.message
    assert first.recoverable is False


async def test_a_large_result_is_written_to_its_path(tmp_path: Path) -> None:
    """Results of any size can be returned as JSON text."""

    def large() -> str:
        return "x" * 2_000_000

    ended = await run(large, plan=ONE, result_path=f"file://{tmp_path}/result.json")
    assert ended.outcomes[0].result is None
    assert ended.outcomes[0].result_path == f"file://{tmp_path}/result.json"
    assert (tmp_path / "result.json").stat().st_size == 2_000_002


def test_a_taken_port_is_an_error_that_names_it() -> None:
    """The mistake is found before any rank starts to wait for its peers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"MASTER_PORT: port {port} is taken"):
            port_for(LocalPlan(specs.RANKS, 2, env={"MASTER_PORT": str(port)}))
        with pytest.raises(ConfigError, match=f"rdzv_endpoint: port {port} is taken"):
            port_for(elastic_plan(Elastic(nproc_per_node=2, rdzv_endpoint=f"localhost:{port}"), REQUEST))


@pytest.mark.parametrize("port", ["http", "0", "70000"])
def test_a_value_that_cannot_be_a_port_is_an_error_that_names_it(port: str) -> None:
    """A typing error in a variable is not a failure deep inside a rank."""
    with pytest.raises(ConfigError, match="MASTER_PORT: must be a whole number, from 1 to 65535"):
        port_for(LocalPlan(specs.RANKS, 2, env={"MASTER_PORT": port}))


async def test_a_missing_interpreter_is_an_error_that_names_it() -> None:
    """The argument python= is a path of the worker, which may lack what the user's laptop has."""
    with pytest.raises(ConfigError, match="there is no interpreter '/no/such/python'"):
        await run(print, python="/no/such/python")


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
