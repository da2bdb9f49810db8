"""Jobs that hang until somebody ends them, and workers that die at chosen moments."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta

from airflow.sdk import dag, task

from airflow_distrib import PyTorchJob, PyTorchJobOperator, Replica, Resources
from airflow_distrib.systems.kubernetes.jobs import KubernetesJobs
from dying import MOMENTS, dying

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


def _dies(moment: str) -> Callable[[], object]:
    @dag(dag_id=f"cluster_dies_{moment}", schedule=None, catchup=False)
    def made() -> None:
        kind = dying(PyTorchJobOperator, moment, KubernetesJobs)
        kind(task_id="wait", task_config=PAIR, python_callable=hang, op_args=[4.0], **AGAIN)

    return made


cluster_hanging()
cluster_overdue()
cluster_elsewhere()
for _each in MOMENTS:
    globals()[f"cluster_dies_{_each}"] = _dies(_each)()
