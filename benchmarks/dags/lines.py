"""The same lines are printed by a rank of a job and by a plain @task."""

from __future__ import annotations

import os

from airflow.sdk import dag, task

from airflow_distrib import Elastic

LINES = int(os.environ.get("BENCHMARK_LINES", "200000"))


def write(lines: int) -> float:
    """Print as a training loop does; returns when it began."""
    import time

    began = time.time()
    for number in range(lines):
        print(f"epoch {number:06d} loss 0.12345 accuracy 0.98765")
    return began


@dag(schedule=None, catchup=False)
def lines() -> None:
    """One task after the other, so that they do not compete."""

    @task
    def plain() -> float:
        return write(LINES)

    @task.elastic(Elastic())
    def ours(lines: int) -> float:
        return write(lines)

    plain() >> ours(LINES)


lines()
