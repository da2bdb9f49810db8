"""Jobs of real local processes: how they end, and that nothing of them stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.elastic.local import local_plan as elastic_plan
from airflow_distrib.systems.local import job as local
from airflow_distrib.systems.local.job import port_for
from airflow_distrib.systems.local.plan import LocalPlan
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import spec as specs
from local_jobs import run


def test_ranks_see_their_numbers_and_meet_at_a_free_port() -> None:
    """The environment is that of a PyTorchJob's pods, on this machine."""

    def numbers() -> list[str]:

        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
        print(*(os.environ[name] for name in names))
        return [os.environ[name] for name in names]

    ended = run(numbers)
    assert ended.code == 0
    port = ended.text(0)[0].split()[4]
    assert ended.text(0) == [f"0 0 2 127.0.0.1 {port} 1"]
    assert ended.text(1) == [f"1 1 2 127.0.0.1 {port} 1"]
    assert [each.kind for each in ended.outcomes] == [outcomes.SUCCESS, outcomes.SUCCESS]
    assert ended.outcomes[0].result is not None
    assert ended.outcomes[1].result is None


def test_only_the_chosen_ranks_are_passed_on() -> None:
    """The others' lines are kept for their errors only."""

    def talk() -> None:
        print("hello")

    assert {line.rank for line in run(talk, log_ranks=[1]).lines} == {1}


def test_output_of_subprocesses_and_of_c_code_is_prefixed_too() -> None:
    """What matters is the descriptor, not Python's print."""

    def talk() -> None:
        import subprocess

        subprocess.run(["echo", "from a child"], check=True)
        os.write(2, b"from C\n")

    assert sorted(run(talk, plan=LocalPlan(specs.RANKS, 1)).text(0)) == ["from C", "from a child"]


def test_a_failing_rank_ends_the_others_at_once() -> None:
    """Nobody waits for the peers of a rank that raised."""

    def fail_on_one() -> None:
        import time

        print("rank", os.environ["RANK"])
        if os.environ["RANK"] == "1":
            raise ValueError("no such column")
        time.sleep(600)

    ended = run(fail_on_one)
    assert ended.code == 1
    assert (ended.first.rank, ended.first.error_type, ended.first.message) == (1, "ValueError", "no such column")
    assert 'raise ValueError("no such column")' in ended.first.traceback
    assert "supervisor" not in ended.first.traceback
    assert "rank 1" in ended.first.log_tail
    assert ended.outcomes[0].kind == outcomes.TERMINATED


@pytest.mark.parametrize("status", [0, 3])
def test_sys_exit_before_returning_is_a_failure(status: int) -> None:
    """Even with status 0: there is no result."""
    ended = run(sys.exit, status, plan=LocalPlan(specs.RANKS, 1))
    assert ended.code == 1
    assert ended.first.error_type == outcomes.EXITED_EARLY
    assert f"sys.exit({status})" in ended.first.message


def test_os_exit_zero_is_a_failure() -> None:
    """A process that vanishes with status 0 has not returned."""

    def vanish() -> None:

        os._exit(0)

    ended = run(vanish, plan=LocalPlan(specs.RANKS, 1))
    assert ended.first.error_type == outcomes.EXITED_EARLY
    assert "os._exit(0) before it returned" in ended.first.message


def test_a_c_library_that_exits_with_zero_is_a_failure() -> None:
    """Nobody can write an outcome then."""

    def vanish() -> None:
        import ctypes

        ctypes.CDLL(None)._exit(0)

    ended = run(vanish, plan=LocalPlan(specs.RANKS, 1))
    assert ended.first.error_type == outcomes.EXITED_EARLY
    assert "before the function returned" in ended.first.message


def test_a_killed_rank_is_reported_with_its_signal() -> None:
    """As the OOM killer does it."""

    def kill_one() -> None:
        import signal
        import time

        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    ended = run(kill_one)
    assert (ended.first.rank, ended.first.error_type, ended.first.exit_code) == (1, outcomes.PROCESS_KILLED, -9)
    assert "SIGKILL" in ended.first.message


def test_a_process_that_dies_after_the_function_returned_has_failed() -> None:
    """The pod of such a rank would count as failed as well."""

    def crash_at_exit() -> int:
        import atexit
        import signal

        atexit.register(os.kill, os.getpid(), signal.SIGSEGV)
        return 1

    ended = run(crash_at_exit, plan=LocalPlan(specs.RANKS, 1))
    assert ended.code == 1
    assert "returned, but then" in ended.first.message
    assert "SIGSEGV" in ended.first.message


def test_a_stop_is_reported_as_such_even_if_the_function_then_returns() -> None:
    """A function may save a checkpoint on SIGTERM; that is not the job's success."""

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

    ended = run(
        save_on_term,
        plan=LocalPlan(specs.RANKS, 1),
        react=lambda job, line: job.terminate() if line.text == "ready" else None,
    )
    assert ended.text(0) == ["ready", "saved"]
    assert ended.code == 128 + signal.SIGTERM
    assert {each.kind for each in ended.outcomes} == {outcomes.TERMINATED}
    assert ended.first.message == "the job was stopped by SIGTERM"


def test_a_rank_that_ignores_the_stop_is_killed_after_the_grace_period() -> None:
    """Nothing outlasts it."""

    def ignore() -> None:
        import signal
        import time

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready", flush=True)
        time.sleep(600)

    ended = run(ignore, plan=LocalPlan(specs.RANKS, 1), grace_seconds=0.5, react=lambda job, line: job.terminate())
    assert ended.first.kind == outcomes.TERMINATED


def test_children_that_a_rank_leaves_behind_are_killed() -> None:
    """The whole process group goes."""

    def leave_a_child() -> int:
        import subprocess

        return subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid

    ended = run(leave_a_child, plan=LocalPlan(specs.RANKS, 1))
    pid = int(ended.outcomes[0].result or 0)
    assert not Path(f"/proc/{pid}").exists() or local.process.start_time(pid) is None


def test_a_child_that_holds_the_output_open_does_not_hold_the_job() -> None:
    """The rank's own end counts."""

    def leave_a_talking_child() -> None:
        import subprocess

        subprocess.Popen(["sleep", "600"])

    assert run(leave_a_talking_child).code == 0


def test_a_child_that_floods_the_output_does_not_hold_the_job() -> None:
    """It writes faster than anybody reads."""

    def leave_a_flood() -> None:
        import subprocess

        subprocess.Popen(["yes", "flood"])

    assert run(leave_a_flood, plan=LocalPlan(specs.RANKS, 1), log_ranks=[]).code == 0


def test_peers_of_a_rank_that_vanished_do_not_wait_for_it() -> None:
    """os._exit(0) leaves no word and no bad status."""

    def vanish() -> None:
        import time

        if os.environ["RANK"] == "1":
            os._exit(0)
        time.sleep(600)

    ended = run(vanish)
    assert (ended.first.rank, ended.first.error_type) == (1, outcomes.EXITED_EARLY)
    assert ended.outcomes[0].kind == outcomes.TERMINATED


def test_a_rank_that_returned_and_was_then_stopped_is_not_the_cause() -> None:
    """A thread of its own kept it alive until its peer failed."""

    def linger() -> None:
        import threading
        import time

        if os.environ["RANK"] == "1":
            threading.Thread(target=time.sleep, args=(600,)).start()
            return
        time.sleep(1)
        raise ValueError("the cause")

    ended = run(linger)
    assert (ended.first.rank, ended.first.message) == (0, "the cause")
    assert ended.outcomes[1].kind == outcomes.TERMINATED


def test_a_function_that_closes_its_output_may_return() -> None:
    """Its value does not need it."""

    def close() -> int:
        import sys

        sys.stdout.close()
        return 7

    ended = run(close, plan=LocalPlan(specs.RANKS, 1))
    assert (ended.code, ended.outcomes[0].result) == (0, "7")


def test_a_forked_child_that_comes_back_does_not_speak_for_its_rank() -> None:
    """The rank is the parent."""

    def fork() -> str:

        child = os.fork()
        if child == 0:
            raise ValueError("the child")
        os.waitpid(child, 0)
        return "the parent"

    ended = run(fork, plan=LocalPlan(specs.RANKS, 1))
    assert (ended.code, ended.outcomes[0].result) == (0, '"the parent"')


def test_an_error_about_an_odd_file_name_is_reported() -> None:
    """Its text cannot be encoded as it is."""

    def fail() -> None:
        raise FileNotFoundError("bad\udcff.txt")

    assert run(fail, plan=LocalPlan(specs.RANKS, 1)).first.message == "bad\udcff.txt"


def test_the_jobs_folder_is_private_and_removed() -> None:
    """It holds the function and its arguments."""

    def folder() -> list[str]:
        import sys

        path = os.path.dirname(sys.argv[0])
        return [path, oct(os.stat(path).st_mode & 0o777)]

    ended = run(folder, plan=LocalPlan(specs.RANKS, 1))
    path, mode = eval(ended.outcomes[0].result or "")  # noqa: S307 - two strings this test made
    assert mode == "0o700"
    assert not Path(path).exists()


def test_a_large_result_needs_a_place_and_the_error_says_so() -> None:
    """50 MB do not go through Airflow's database."""

    def large() -> str:
        return "x" * 50_000_000

    first = run(large, plan=LocalPlan(specs.RANKS, 1)).first
    assert "47.7 MiB" in first.message
    assert "result_path" in first.message
    assert first.recoverable is False


def test_a_large_result_goes_to_its_place(tmp_path: Path) -> None:
    """As JSON text."""

    def large() -> str:
        return "x" * 2_000_000

    ended = run(large, plan=LocalPlan(specs.RANKS, 1), result_path=f"file://{tmp_path}/result.json")
    assert ended.outcomes[0].result is None
    assert ended.outcomes[0].result_path == f"file://{tmp_path}/result.json"
    assert (tmp_path / "result.json").stat().st_size == 2_000_002


def test_a_taken_port_is_an_error_that_names_it() -> None:
    """Found before any rank starts to wait for its peers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"MASTER_PORT: port {port} is taken"):
            port_for(LocalPlan(specs.RANKS, 2, env={"MASTER_PORT": str(port)}))
        with pytest.raises(ConfigError, match=f"rdzv_endpoint: port {port} is taken"):
            port_for(elastic_plan(Elastic(nproc_per_node=2, rdzv_endpoint=f"localhost:{port}"), "id"))


@pytest.mark.parametrize("port", ["http", "0", "70000"])
def test_what_is_no_port_is_an_error_that_names_it(port: str) -> None:
    """Not a failure inside a rank."""
    with pytest.raises(ConfigError, match="MASTER_PORT: must be a whole number, from 1 to 65535"):
        port_for(LocalPlan(specs.RANKS, 2, env={"MASTER_PORT": port}))


def test_a_missing_interpreter_is_an_error_that_names_it() -> None:
    """python= is a path of the worker."""
    with pytest.raises(ConfigError, match="there is no interpreter '/no/such/python'"):
        run(print, python="/no/such/python")


def test_the_job_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    """SIGKILL of the Airflow task leaves no process and no folder."""
    script = tmp_path / "starter.py"
    script.write_text(
        "import asyncio, time\n"
        "from airflow_distrib.systems.local.job import LocalJob\n"
        "from airflow_distrib.systems.local.plan import LocalPlan\n"
        "from airflow_distrib.core import packing\n"
        "async def go():\n"
        "    payload = packing.pack(time.sleep, [600], {})\n"
        "    job = await LocalJob.start(LocalPlan('ranks', 2), payload, name='t', options={})\n"
        "    print(job.ref.uid.partition(':')[0], job.ref.address['directory'], flush=True)\n"
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


def test_a_leftover_of_an_earlier_try_is_removed_once_and_never_a_namesake() -> None:
    """The start time tells the job from a later process with its pid."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as other:
        address = {"host": socket.gethostname(), "directory": "/nonexistent"}
        ref = local.JobRef(local.SYSTEM, "t", f"{other.pid}:1", address)
        assert local.remove(ref)
        assert other.poll() is None
        mine = local.JobRef(local.SYSTEM, "t", f"{other.pid}:{local.process.start_time(other.pid)}", address)
        assert local.remove(mine)
        assert other.wait(5) == -signal.SIGKILL
    elsewhere = local.JobRef(local.SYSTEM, "t", "1:1", {"host": "another", "directory": "/nonexistent"})
    assert not local.remove(elsewhere)
