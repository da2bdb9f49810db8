"""Jobs that hang until somebody ends them, and workers that die at chosen moments."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from airflow_distrib import Slurm, SlurmOperator
from airflow_distrib.systems.slurm.jobs import SlurmJobs
from airflow_distrib.systems.slurm.scheduler import Scheduler
from dying import MOMENTS, die, dying

PYTHON = os.environ.get("SLURM_PYTHON", "python3")
AGAIN = {"retries": 1, "retry_delay": timedelta(seconds=1)}
PAIR = Slurm(ntasks=2, nodes=2)


def hang(seconds: float) -> str:
    """Say which job this is, after a while."""
    import os
    import time

    print("hanging now", flush=True)
    time.sleep(seconds)
    return os.environ["SLURM_JOB_ID"]


@dag(schedule=None, catchup=False, params={"seconds": "600"})
def slurm_hanging() -> None:
    """Runs for as long as it is told."""

    @task.slurm(PAIR, python=PYTHON, **AGAIN)
    def wait(seconds: str) -> str:
        return hang(float(seconds))

    wait("{{ 1 if ti.try_number > 1 else params.seconds }}")


@dag(schedule=None, catchup=False, params={"seconds": "600"})
def slurm_waiting() -> None:
    """Never gets its nodes."""

    @task.slurm(Slurm(begin="now+1hour"), python=PYTHON)
    def wait() -> str:
        return hang(600)

    wait()


@dag(schedule=None, catchup=False, params={"seconds": "600"})
def slurm_held() -> None:
    """Holds its worker."""

    @task.slurm(PAIR, python=PYTHON, deferrable=False)
    def wait() -> str:
        return hang(600)

    wait()


@dag(schedule=None, catchup=False)
def slurm_overdue() -> None:
    """Runs longer than it may."""

    @task.slurm(PAIR, python=PYTHON, execution_timeout=timedelta(seconds=20))
    def wait() -> str:
        return hang(600)

    wait()


@dag(schedule=None, catchup=False)
def slurm_chatty() -> None:
    """Writes more than one piece of log, slowly enough to be cut in between."""

    @task.slurm(python=PYTHON)
    def wait() -> int:
        import time

        for number in range(2000):
            print(f"line {number} " + "x" * 200, flush=True)
            time.sleep(0.01)
        return 2000

    wait()


def _with_files_only(moment: str) -> None:
    """Die when the job's files are there, and the job is not."""
    send = Scheduler._send

    async def dying_send(self: Scheduler, *args: Any) -> None:
        await send(self, *args)
        if moment == "with_files_only":
            die()

    Scheduler._send = dying_send  # type: ignore[method-assign, assignment] # of a process that is about to die


def _dies(moment: str) -> Callable[[], object]:
    @dag(dag_id=f"slurm_dies_{moment}", schedule=None, catchup=False)
    def made() -> None:
        kind = dying(SlurmOperator, moment, SlurmJobs, after=_with_files_only)
        kind(task_id="wait", task_config=PAIR, python_callable=hang, op_args=[4.0], python=PYTHON, **AGAIN)

    return made


slurm_hanging()
slurm_waiting()
slurm_held()
slurm_overdue()
slurm_chatty()
for _each in ("with_files_only", *MOMENTS):
    globals()[f"slurm_dies_{_each}"] = _dies(_each)()
