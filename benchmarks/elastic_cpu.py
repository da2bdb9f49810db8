"""Measures the CPU seconds of two ranks on one machine, with and without torch's agent.

Each job is the whole of what the Airflow worker starts: supervisor, agent if there is one,
ranks. Prints medians, and ratios to ranks that are started without torchrun's settings.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import sys
from collections.abc import Callable

from airflow_distrib.core import packing
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.elastic.local import local as elastic
from airflow_distrib.systems.local.job import LocalJob
from airflow_distrib.systems.local.plan import LocalPlan
from airflow_distrib.systems.pytorchjob.config import PyTorchJob
from airflow_distrib.systems.pytorchjob.render import local as pytorchjob

REQUEST = JobRequest(identity=JobIdentity("dag", "run", "task", -1, 1))

PLANS = {
    "PyTorchJob": pytorchjob(PyTorchJob(worker={"replicas": 1}), REQUEST),
    "Elastic": elastic(Elastic(nproc_per_node=2), REQUEST),
    'Elastic, `start_method="fork"`': elastic(Elastic(nproc_per_node=2, start_method="fork"), REQUEST),
    "Elastic, `max_restarts=1`": elastic(Elastic(nproc_per_node=2, max_restarts=1), REQUEST),
}


def nothing() -> None:
    """A function that needs no library."""


def imports_torch() -> None:
    """As every training function does first."""
    import torch  # noqa: F401 - that is what is measured


async def cpu_seconds(plan: LocalPlan, function: Callable[[], None]) -> float:
    """User and system time of all processes of one job."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    job = await LocalJob.start(plan, packing.pack(function, (), {}), options={})
    try:
        code, _ = await job.outcomes()
    finally:
        await job.close()
    assert code == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run, and print a table in Markdown."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    cases = [(name, function) for name in PLANS for function in (nothing, imports_torch)]
    runs = [{case: asyncio.run(cpu_seconds(PLANS[case[0]], case[1])) for case in cases} for _ in range(rounds)]
    medians = {case: statistics.median(run[case] for run in runs) for case in cases}
    print(f"| medians of {rounds} runs | empty function | ratio | `import torch` | ratio |")
    print("|---|---|---|---|---|")
    for name in PLANS:
        cells = [medians[name, each] for each in (nothing, imports_torch)]
        ratios = [medians[name, each] / medians["PyTorchJob", each] for each in (nothing, imports_torch)]
        print(f"| {name} | {cells[0]:.2f} s | {ratios[0]:.1f} | {cells[1]:.2f} s | {ratios[1]:.1f} |")


if __name__ == "__main__":
    main()
