"""Run a function on local ranks to its end, for the tests of this folder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from airflow_distrib.systems.local.job import LocalJob
from airflow_distrib.systems.local.plan import LocalPlan
from airflow_distrib.core import packing
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.lines import RankLine
from airflow_distrib.runner.outcome import Outcome, earliest_failure

PAIR = LocalPlan(specs.RANKS, 2)


class Ended:
    """What is left of a job."""

    def __init__(self, code: int, found: list[Outcome], lines: list[RankLine], job: LocalJob) -> None:
        self.code, self.outcomes, self.lines, self.job = code, found, lines, job

    @property
    def first(self) -> Outcome:
        """The failure to name."""
        failure = earliest_failure(self.outcomes)
        assert failure is not None
        return failure

    def text(self, rank: int | None) -> list[str]:
        """Lines of one rank."""
        return [line.text for line in self.lines if line.rank == rank]


def run(
    function: Callable[..., Any],
    *args: Any,
    plan: LocalPlan = PAIR,
    react: Callable[[LocalJob, RankLine], None] = lambda job, line: None,
    python: str | None = None,
    **options: Any,
) -> Ended:
    """Run a function on local ranks to its end."""

    async def go() -> Ended:
        options.setdefault("log_ranks", None)
        job = await LocalJob.start(plan, packing.pack(function, args, {}), name="t", python=python, options=options)
        lines = []
        try:
            async for line in job.lines():
                lines.append(line)
                react(job, line)
            code, found = await job.outcomes()
        finally:
            await job.close()
        return Ended(code, found, lines, job)

    return asyncio.run(go())
