"""Jobs that hang until somebody ends them, and workers that die at chosen moments."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from airflow_distrib import PyTorchJob, PyTorchJobOperator, Replica, Resources
from airflow_distrib.systems.kubernetes.jobs import ResourceBackend
from airflow_distrib.core.record import Phase
from airflow_distrib.operators.record_store import RecordStore

IMAGE = os.environ.get("CLUSTER_MPI_IMAGE", "localhost/airflow-distrib-mpi:1")
PAIR = PyTorchJob(image=IMAGE, worker=Replica(replicas=1, requests=Resources(cpu="10m", memory="64Mi")))
AGAIN = {"retries": 1, "retry_delay": timedelta(seconds=1)}


def hang(seconds: float) -> str:
    """Say which job this is, after a while."""
    import os
    import time

    print("hanging now", flush=True)
    time.sleep(seconds)
    return os.environ["HOSTNAME"].rpartition("-master-")[0]


@dag(schedule=None, catchup=False, params={"seconds": "600", "namespace": ""})
def cluster_hanging() -> None:
    """Runs for as long as it is told."""

    @task.pytorch_job(PAIR, **AGAIN)
    def wait(seconds: str) -> str:
        return hang(float(seconds))

    wait("{{ 1 if ti.try_number > 1 else params.seconds }}")


@dag(schedule=None, catchup=False)
def cluster_overdue() -> None:
    """Runs longer than it may."""

    @task.pytorch_job(PAIR, execution_timeout=timedelta(seconds=20))
    def wait() -> str:
        return hang(600)

    wait()


@dag(schedule=None, catchup=False)
def cluster_elsewhere() -> None:
    """In a namespace that will be deleted."""

    @task.pytorch_job(PAIR.merged({"namespace": os.environ.get("CLUSTER_NAMESPACE", "x") + "-b"}))
    def wait() -> str:
        return hang(600)

    wait()


def die() -> None:
    """As a worker dies that ran out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


class _DyingOperator(PyTorchJobOperator):
    """Kills its own process in the first try, at a moment of the test's choosing."""

    moment = ""

    def execute(self, context: Any) -> Any:
        self._arm(context)
        return super().execute(context)

    def execute_complete(self, context: Any, *args: Any, **kwargs: Any) -> Any:
        self._arm(context)
        if self.moment == "before_the_result" and context["ti"].try_number == 1:
            die()
        return super().execute_complete(context, *args, **kwargs)

    def _arm(self, context: Any) -> None:
        if context["ti"].try_number > 1:
            return
        submit, write = ResourceBackend.submit, RecordStore.write

        async def dying_submit(self: Any, *args: Any) -> Any:
            if _moment == "before_submit":
                die()
            result = await submit(self, *args)
            if _moment == "between_submit_and_record":
                die()
            return result

        def dying_write(self: Any, phase: Phase, *args: Any) -> None:
            write(self, phase, *args)
            if (_moment, phase) in (("after_record", Phase.SUBMITTED), ("with_the_result", Phase.RESUMED)):
                die()

        _moment = self.moment
        ResourceBackend.submit = dying_submit  # type: ignore[method-assign]
        RecordStore.write = dying_write  # type: ignore[method-assign]


def _dies(moment: str) -> Callable[[], None]:
    @dag(dag_id=f"cluster_dies_{moment}", schedule=None, catchup=False)
    def made() -> None:
        kind = type("DyingOperator", (_DyingOperator,), {"moment": moment})
        kind(task_id="wait", task_config=PAIR, python_callable=hang, op_args=[4.0], **AGAIN)

    return made


cluster_hanging()
cluster_overdue()
cluster_elsewhere()
for _each in (*("before_submit", "between_submit_and_record", "after_record", "before_the_result", "with_the_result"),):
    globals()[f"cluster_dies_{_each}"] = _dies(_each)()
