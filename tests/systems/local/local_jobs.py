"""Runs a function on local ranks to its end, for the tests of local ranks and of torchrun."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from airflow_distrib.core import packing
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.lines import RankLine
from airflow_distrib.runner.outcome import Outcome, earliest_failure
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.elastic.local import local
from airflow_distrib.systems.local.job import LocalJob
from airflow_distrib.systems.local.plan import LocalPlan

ONE = LocalPlan(specs.RANKS, 1)
PAIR = LocalPlan(specs.RANKS, 2)

# With which every rank begins.
BEGINS = re.compile(r"rank \d+ of \d+ on \S+, process \d+")

IDENTITY = JobIdentity("dag", "run", "task", -1, 1)

# Every way in which ranks of one node are started: by torch's agent, which a rendezvous asks for, or without it.
AGENT: dict[str, Any] = {"rdzv_configs": {"timeout": 60}}
WAYS = {
    "spawned": {"start_method": "spawn"},
    "forked": {"start_method": "fork"},
    "spawned by the agent": {"start_method": "spawn", **AGENT},
    "forked by the agent": {"start_method": "fork", **AGENT},
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


class Ended:
    """A job that is over."""

    def __init__(self, code: int, outcomes: list[Outcome], lines: list[RankLine]) -> None:
        self.code, self.outcomes, self.lines = code, outcomes, lines

    @property
    def first(self) -> Outcome:
        """The failure to name."""
        failure = earliest_failure(self.outcomes)
        assert failure is not None
        return failure

    def text(self, rank: int | None) -> list[str]:
        """Lines of one rank, after the one with which every rank begins."""
        lines = [line.text for line in self.lines if line.rank == rank]
        return lines if rank is None else [each for each in lines if not BEGINS.fullmatch(each)]


async def run(
    function: Callable[..., Any],
    *args: Any,
    plan: LocalPlan = PAIR,
    react: Callable[[LocalJob, RankLine], None] = lambda job, line: None,
    python: str | None = None,
    **options: Any,
) -> Ended:
    """Run a function on local ranks to its end.

    Args:
        react: called with every line of the log.
        options: fields of the runner's spec.
    """
    options.setdefault("log_ranks", None)
    job = await LocalJob.start(plan, packing.pack(function, args, {}), python=python, options=options)
    lines = []
    try:
        async for line in job.lines():
            lines.append(line)
            react(job, line)
        code, found = await job.outcomes()
    finally:
        await job.close()
    return Ended(code, found, lines)


def plan(config: Elastic) -> LocalPlan:
    """Render for this machine."""
    return local(config, JobRequest(identity=IDENTITY))


async def elastic(function: Callable[..., Any], *args: Any, **fields: Any) -> Ended:
    """Run a function under torchrun."""
    return await run(function, *args, plan=plan(Elastic(**{"nproc_per_node": 2, **fields})))
