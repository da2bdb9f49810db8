"""Real torchrun jobs run on this machine, and end in every way that they can."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
import venv
from pathlib import Path
from typing import Any

import pytest

from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.errors import RecoverableError
from airflow_distrib.systems.elastic.config import Elastic
from local_jobs import AGENT, IDENTITY, each_way, elastic, plan, run


@pytest.fixture
def bare_python(tmp_path: Path) -> str:
    """An interpreter without any library."""
    venv.create(tmp_path / "bare", with_pip=False)
    python = str(tmp_path / "bare" / "bin" / "python")
    subprocess.run([python, "-c", "import json"], check=True)
    return python


def describe() -> dict[str, Any]:
    """What a rank sees; the sum shows that the ranks reach each other."""

    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    total = torch.ones(1)
    dist.all_reduce(total)
    dist.destroy_process_group()
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", "TORCHELASTIC_RUN_ID")
    print("rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"])
    return {"sum": total.item(), "threads": torch.get_num_threads(), **{name: os.environ.get(name) for name in names}}


@each_way
async def test_ranks_run_and_rank_zero_returns(way: dict[str, Any]) -> None:
    """Ranks that are spawned or forked reach each other, at a rendezvous that no other try shares."""
    ended = await elastic(describe, **way)
    assert ended.code == 0
    seen = json.loads(ended.outcomes[0].result or "")
    assert seen["sum"] == 2.0
    assert seen["WORLD_SIZE"] == "2"
    assert seen["TORCHELASTIC_RUN_ID"] == IDENTITY.name()
    assert [ended.text(rank) for rank in (0, 1)] == [["rank 0 of 2"], ["rank 1 of 2"]]


@pytest.mark.parametrize("backend", ["c10d", "static"])
async def test_several_nodes_run_on_this_machine(backend: str) -> None:
    """A job of several nodes can be tried without a cluster, with one agent for each node."""
    ended = await elastic(describe, nnodes=2, nproc_per_node=1, rdzv_backend=backend)
    assert ended.code == 0
    seen = json.loads(ended.outcomes[0].result or "")
    assert (seen["sum"], seen["WORLD_SIZE"], seen["LOCAL_RANK"]) == (2.0, "2", "0")


async def test_all_ranks_restart_after_one_failed() -> None:
    """A failure before the last restart is not a failure of the job."""

    def fail_first() -> int:

        restart = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
        if restart == 0 and os.environ["RANK"] == "1":
            raise ValueError("only once")
        return restart

    ended = await elastic(fail_first, max_restarts=1)
    assert ended.code == 0
    assert [each.restart for each in ended.outcomes] == [1, 1]
    assert ended.outcomes[0].result == "1"
    assert any("only once" in text for text in ended.text(1))


async def test_the_last_restarts_failure_is_reported() -> None:
    """The task's error is what ended the job, with the flag for retries that the function set."""

    def fail() -> None:

        raise RecoverableError(f"round {os.environ['TORCHELASTIC_RESTART_COUNT']}")

    ended = await elastic(fail, max_restarts=1)
    assert ended.code == 1
    assert ended.first.message == "round 1"
    assert ended.first.recoverable is True


@each_way
async def test_a_killed_rank_is_named_before_the_peer_that_lost_it(way: dict[str, Any]) -> None:
    """Rank 0 complains about its connection before anybody notices the death of rank 1, which is the cause."""

    def lose_one() -> None:
        import signal

        import torch
        import torch.distributed as dist

        dist.init_process_group("gloo")
        print("the last words")
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.all_reduce(torch.ones(1))

    ended = await elastic(lose_one, **way)
    assert (ended.first.rank, ended.first.error_type) == (1, outcomes.PROCESS_KILLED)
    assert "the last words" in ended.first.log_tail


async def test_the_number_of_ranks_is_found_where_they_run() -> None:
    """The words "cpu" and "auto" mean the cores of the machine that runs the ranks."""

    def world() -> int:

        return int(os.environ["WORLD_SIZE"]) - (os.cpu_count() or 1)

    assert (await elastic(world, nproc_per_node="cpu")).outcomes[0].result == "0"


async def test_gpu_without_a_gpu_is_an_error_that_names_the_reason() -> None:
    """A job of zero ranks would look like a success that did nothing."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    ended = await elastic(describe, nproc_per_node="gpu")
    assert 'nproc_per_node is "gpu" but torch sees no GPU' in ended.first.message


async def test_nccl_settings_reach_the_ranks() -> None:
    """They arrive as variables, and the timeout becomes the default of process groups."""

    def seen() -> dict[str, Any]:

        from torch.distributed.distributed_c10d import _get_default_timeout

        names = [name for name in os.environ if name.startswith("TORCH_NCCL_")]
        timeouts = [_get_default_timeout(backend).total_seconds() for backend in ("nccl", "gloo")]
        return {**{name: os.environ[name] for name in names}, "timeouts": timeouts}

    ended = await elastic(seen, nccl_async_error_handling=True, nccl_collective_timeout_sec=77)
    assert json.loads(ended.outcomes[0].result or "") == {
        "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "300",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "TORCH_NCCL_ENABLE_MONITORING": "1",
        "timeouts": [77.0, 77.0],
    }


async def test_missing_torch_is_an_error_that_tells_what_to_install(bare_python: str) -> None:
    """The interpreter of the ranks may not be the one that a user has looked at."""
    for fields in ({"nproc_per_node": 2, "max_restarts": 1}, {"nproc_per_node": "auto"}):
        ended = await run(describe, plan=plan(Elastic(**fields)), python=bare_python)
        assert ended.first.error_type == "TorchNotInstalled"
        assert "pip install 'airflow-distrib[torch]'" in ended.first.message
        assert bare_python in ended.first.message


@pytest.mark.parametrize("start_method", ["spawn", "fork"])
@pytest.mark.parametrize("ranks", [1, 2])
async def test_ranks_without_an_agent_need_no_torch(ranks: int, start_method: str, bare_python: str) -> None:
    """A function that uses no torch runs on a worker that has none."""

    def world() -> str:

        return os.environ["WORLD_SIZE"]

    config = Elastic(nproc_per_node=ranks, start_method=start_method, nccl_collective_timeout_sec=60)
    ended = await run(world, plan=plan(config), python=bare_python)
    assert ended.outcomes[0].result == f'"{ranks}"'


async def test_a_rendezvous_that_nobody_joins_ends_with_an_error() -> None:
    """The job does not wait for ever for a second node that never comes."""
    config = Elastic(nnodes=2, rdzv_configs={"join_timeout": 2, "timeout": 2}, rdzv_endpoint="localhost:0")
    ended = await run(print, plan=dataclasses.replace(plan(config), processes=1))
    assert ended.code == 1
    assert ended.first.rank is None
    assert "Timeout" in ended.first.error_type


@each_way
async def test_a_rank_that_raised_is_named_before_the_peer_that_was_ended_for_it(way: dict[str, Any]) -> None:
    """The peer that torch's agent ends reports nothing either, but its output ends later."""

    def fail_on_one() -> None:
        import time

        if os.environ["RANK"] == "1":
            raise ZeroDivisionError("no examples")
        time.sleep(60)

    ended = await elastic(fail_on_one, **way)
    failed = [each for each in ended.outcomes if each.kind != outcomes.TERMINATED]
    assert [(each.rank, each.error_type) for each in failed] == [(1, "ZeroDivisionError")]


async def test_no_file_remains_in_the_temporary_folder(tmp_path: Path) -> None:
    """The agent of torch makes folders for logs and errors, which would fill the disk of a worker."""
    assert (await elastic(describe, **AGENT, env={"TMPDIR": str(tmp_path)})).code == 0
    assert list(tmp_path.iterdir()) == []


async def test_a_restart_of_one_node_keeps_the_result() -> None:
    """The agent of the other node does not count that restart, and its result still belongs to the job."""

    def fail_once() -> str:
        import time

        failed, again = (os.path.join(os.environ["MARKERS"], name) for name in ("failed", "again"))
        if os.environ["GROUP_RANK"] == "1":
            first = not os.path.exists(failed)
            open(failed if first else again, "w").close()
            if first:
                raise ValueError("only once")
        while not os.path.exists(again):
            time.sleep(0.05)
        return "done"

    with tempfile.TemporaryDirectory() as markers:
        ended = await elastic(fail_once, nnodes=2, nproc_per_node=1, max_restarts=1, env={"MARKERS": markers})
    assert ended.code == 0
    assert [(each.rank, each.kind, each.result) for each in ended.outcomes] == [
        (0, outcomes.SUCCESS, '"done"'),
        (1, outcomes.SUCCESS, None),
    ]


async def test_a_rank_killed_after_a_restart_is_named(tmp_path: Path) -> None:
    """The peer that lost its connection is not the cause, in any round."""

    def die_in_round_one() -> None:
        import signal
        import time

        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            raise ValueError("round zero")
        if os.environ["RANK"] == "1":
            open(os.environ["MARKER"], "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        while not os.path.exists(os.environ["MARKER"]):
            time.sleep(0.01)
        raise ConnectionError("lost rank 1")

    ended = await elastic(die_in_round_one, max_restarts=1, env={"MARKER": str(tmp_path / "marker")})
    assert (ended.first.rank, ended.first.error_type) == (1, outcomes.PROCESS_KILLED)


async def test_a_rank_that_crashes_while_it_waits_for_the_others_to_return_is_named() -> None:
    """Destructors of GPU libraries crash after the function has returned."""

    def crash_later() -> None:
        import signal
        import threading
        import time

        if os.environ["RANK"] == "1":
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGSEGV)).start()
            return
        time.sleep(600)

    ended = await elastic(crash_later, **AGENT)
    assert ended.first.rank == 1
    assert "SIGSEGV" in ended.first.message


@each_way
async def test_a_rank_that_vanishes_does_not_hang_the_job(way: dict[str, Any]) -> None:
    """The agent of torch itself would wait for the return value of such a rank for ever."""

    def vanish() -> None:

        if os.environ["RANK"] == "1":
            os._exit(0)

    ended = await elastic(vanish, **way)
    assert ended.code != 0
    assert (ended.first.rank, ended.first.error_type) == (1, outcomes.EXITED_EARLY)


async def test_a_rank_that_points_its_output_elsewhere_is_not_taken_for_dead(tmp_path: Path) -> None:
    """Only the end of its process is the end of a rank."""

    def redirect() -> None:
        import time

        if os.environ["RANK"] == "0":
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            open(os.environ["MARKER"], "w").close()
            time.sleep(600)
        while not os.path.exists(os.environ["MARKER"]):
            time.sleep(0.01)
        time.sleep(0.5)
        raise ValueError("the cause")

    ended = await elastic(redirect, **AGENT, env={"MARKER": str(tmp_path / "marker")})
    assert (ended.first.rank, ended.first.message) == (1, "the cause")
