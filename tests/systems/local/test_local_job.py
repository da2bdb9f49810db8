"""Jobs of real local processes end in every way that a process can, and nothing of them stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import spec as specs
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.elastic.local import local as elastic_plan
from airflow_distrib.systems.local.job import port_for
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

        subprocess.run(["echo", "from a child"], check=True)
        os.write(2, b"from C\n")

    assert sorted((await run(talk, plan=ONE)).text(0)) == ["from C", "from a child"]


async def test_a_failing_rank_ends_the_others_at_once() -> None:
    """Nobody waits for the peers of a rank that raised."""

    def fail_on_one() -> None:

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

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready", flush=True)
        time.sleep(600)

    ended = await run(ignore, plan=ONE, grace_seconds=0.5, react=lambda job, line: job.terminate())
    assert ended.first.kind == outcomes.TERMINATED


async def test_peers_of_a_rank_that_vanished_do_not_wait_for_it() -> None:
    """A rank that calls os._exit(0) reports nothing, and the others would wait for it for ever."""

    def vanish() -> None:

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


async def test_a_result_path_that_cannot_be_written_rules_out_a_retry(tmp_path: Path) -> None:
    """The folder will not be there the next time either, and the whole training would run in vain."""

    def large() -> str:
        return "x" * 2_000_000

    first = (await run(large, plan=ONE, result_path=f"{tmp_path}/missing/result.json")).first
    assert first.message.startswith(f"result_path {tmp_path}/missing/result.json cannot be written on ")
    assert first.recoverable is False


async def test_classes_of_airflow_can_be_imported_by_local_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow gives its tasks the address of a database that it then cannot be imported with itself."""

    def name() -> str:
        from airflow.sdk import Asset

        return Asset("digits").name

    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "airflow-db-not-allowed:///")
    assert (await run(name, plan=ONE)).outcomes[0].result == '"digits"'


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
    with pytest.raises(ConfigError, match="^python: '/no/such/python' cannot be started on .*: No such file"):
        await run(print, python="/no/such/python")


@pytest.mark.parametrize("mode", [0o644, 0o755])
async def test_a_file_that_is_no_interpreter_is_an_error_that_names_it(mode: int, tmp_path: Path) -> None:
    """No retry makes a program of it."""
    (tmp_path / "python").write_bytes(b"\x00")
    (tmp_path / "python").chmod(mode)
    with pytest.raises(ConfigError, match=f"^python: '{tmp_path}/python' cannot be started on "):
        await run(print, python=str(tmp_path / "python"))
