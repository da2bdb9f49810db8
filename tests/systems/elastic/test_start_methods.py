"""Ranks are spawned or forked, with torch's agent or without it, and a function sees no other difference."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.systems.elastic.config import Elastic
from local_jobs import AGENT, WAYS, each_way, elastic, plan, run


@each_way
async def test_the_number_of_threads_has_an_effect_on_torch(way: dict[str, Any]) -> None:
    """Forked ranks share an import of torch, which reads OMP_NUM_THREADS only once."""

    def threads() -> Any:
        import torch

        return torch.get_num_threads()

    ours = await elastic(threads, **way)
    assert ours.outcomes[0].result == "1"
    chosen = await elastic(threads, **way, env={"OMP_NUM_THREADS": "2"})
    # torch takes no more than there are cores.
    assert chosen.outcomes[0].result == str(min(2, os.cpu_count() or 1))


async def test_ranks_without_an_agent_have_the_environment_of_ranks_with_one() -> None:
    """Libraries look at torchrun's variables to find out where they run."""

    def variables() -> dict[str, str]:
        import os

        return dict(os.environ)

    # Set by torch's agent for itself, or different in each job.
    own = {"TORCHELASTIC_ERROR_FILE", "TORCHELASTIC_USE_AGENT_STORE", "MASTER_ADDR", "MASTER_PORT"}
    own |= {"AIRFLOW_DISTRIB_PARENT", "TORCHELASTIC_SIGNALS_TO_HANDLE"}
    seen = [json.loads((await elastic(variables, **way)).outcomes[0].result or "") for way in WAYS.values()]
    for each in seen:
        assert each["MASTER_ADDR"]
        assert int(each["MASTER_PORT"])
    spawned, *others = [{name: value for name, value in each.items() if name not in own} for each in seen]
    assert others == [spawned] * 3


async def test_forked_ranks_share_what_the_functions_module_imported() -> None:
    """That is what start_method="fork" is for; spawned ranks have nothing in common."""

    class Where:
        def __setstate__(self, state: dict[str, Any]) -> None:
            import os
            import sys

            self.pid, self.torch = os.getpid(), "torch" in sys.modules

    def loaded_here(where: Where) -> list[bool]:
        import os

        return [os.getpid() == where.pid, where.torch]

    where = Where()
    where.pid = 0  # a state, so that it is set on arrival
    assert (await elastic(loaded_here, where, start_method="fork")).outcomes[0].result == "[false, true]"
    assert (await elastic(loaded_here, where)).outcomes[0].result == "[true, false]"


async def test_a_function_that_cannot_be_loaded_is_every_forked_ranks_failure() -> None:
    """The process that loads it for all of them ends nobody, and the error is the one of a spawned rank."""

    class Broken:
        def __reduce__(self) -> Any:
            return (exec, ("raise ImportError('no module of that name')",))

    for method in ("spawn", "fork"):
        ended = await elastic(print, Broken(), start_method=method)
        assert ended.code == 1
        assert "no module of that name" in ended.first.message
        assert ended.first.rank in (0, 1)


@each_way
@pytest.mark.parametrize("end", ["return", "raise", "SIGKILL"])
async def test_what_a_rank_leaves_in_the_background_does_not_hold_the_job(
    way: dict[str, Any], end: str, tmp_path: Path
) -> None:
    """A program or a forked child that outlives its rank inherits nothing by which the rank is watched."""

    def leave(end: str) -> None:
        import os
        import signal
        import time

        late = os.path.join(os.environ["MARKERS"], "late")
        os.system(f"(sleep 30; touch {late}) &")  # noqa: S605 - a path of this test
        if os.fork() == 0:
            time.sleep(30)
            open(late, "w").close()
            os._exit(0)
        if end == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        if end == "raise":
            raise ValueError("no such column")

    ended = await elastic(leave, end, **way, env={"MARKERS": str(tmp_path)})
    assert not (tmp_path / "late").exists()
    assert (ended.code == 0) == (end == "return")
    expected = {"raise": "ValueError", "SIGKILL": outcomes.PROCESS_KILLED}
    assert end == "return" or ended.first.error_type == expected[end]


async def test_a_flood_that_a_rank_of_the_agent_leaves_does_not_hold_the_job() -> None:
    """The agent reads only so much of what is written after the end."""

    def leave_a_flood() -> None:
        import subprocess

        subprocess.Popen(["yes", "flood"])

    ended = await run(leave_a_flood, plan=plan(Elastic(nproc_per_node=2, **AGENT)), log_ranks=[])
    assert ended.code == 0
