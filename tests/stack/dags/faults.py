"""DAGs whose jobs end in every way a job can end; each rank carries its run and task as a marker."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, task

from airflow_distrib import Elastic, NonRecoverableError, PyTorchJob, Replica

MARKED = {"MARKER": "{{ run_id }}/{{ ti.task_id }}"}
PAIR = PyTorchJob(worker=Replica(replicas=1), env=MARKED)
ELASTIC_PAIR = Elastic(nproc_per_node=2, env=MARKED)
# A rendezvous is what torch's agent is started for.
AGENT_PAIR = Elastic(nproc_per_node=2, rdzv_configs={"timeout": 60}, env=MARKED)


@dag(schedule=None, catchup=False)
def failing_rank() -> None:
    """Rank 1 raises while rank 0 waits for it."""

    @task.elastic(ELASTIC_PAIR)
    def train() -> None:
        import os
        import time

        if os.environ["RANK"] == "1":
            print("about to divide")
            raise ZeroDivisionError("batch of no examples")
        time.sleep(600)

    train()


@dag(schedule=None, catchup=False)
def killed_rank() -> None:
    """Rank 1 is killed the way the OOM killer kills; rank 0 sees its connection break."""

    @task.elastic(ELASTIC_PAIR)
    def train() -> None:
        import os
        import signal

        import torch
        import torch.distributed as dist

        dist.init_process_group("gloo")
        print("rank", dist.get_rank(), "is ready")
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.all_reduce(torch.ones(1))

    train()


@dag(schedule=None, catchup=False)
def permanent_failure() -> None:
    """A function that says a retry cannot help."""

    @task.pytorch_job(PAIR, launcher="local", retries=3, retry_delay=timedelta(seconds=1))
    def train() -> None:
        raise NonRecoverableError("the data set does not exist")

    train()


@dag(schedule=None, catchup=False)
def hanging() -> None:
    """The first try runs until somebody ends it, the second returns at once.

    Each rank also leaves a child process behind, which has to go as well.
    """

    @task.pytorch_job(PAIR, launcher="local", retries=1, retry_delay=timedelta(seconds=1))
    def ranks(try_number: str) -> str:
        return hang(try_number)

    @task.elastic(AGENT_PAIR, retries=1, retry_delay=timedelta(seconds=1))
    def elastic(try_number: str) -> str:
        return hang(try_number)

    ranks("{{ ti.try_number }}")
    elastic("{{ ti.try_number }}")


def hang(try_number: str) -> str:
    """Travels along with the functions that call it."""
    import subprocess
    import time

    if try_number == "1":
        subprocess.Popen(["sleep", "600"])
        print("hanging now", flush=True)
        time.sleep(600)
    return f"try {try_number}"


@dag(schedule=None, catchup=False)
def overdue() -> None:
    """Runs longer than it may."""

    @task.pytorch_job(PAIR, launcher="local", execution_timeout=timedelta(seconds=30))
    def ranks() -> None:
        oversleep()

    # Three processes import torch, perhaps beside other suites; the other job ends within the 20 s before this one.
    @task.elastic(AGENT_PAIR, execution_timeout=timedelta(seconds=45))
    def elastic() -> None:
        oversleep()

    ranks()
    elastic()


def oversleep() -> None:
    """Longer than any timeout here."""
    import time

    print("sleeping past the timeout", flush=True)
    time.sleep(600)


@dag(schedule=None, catchup=False)
def mapped() -> None:
    """One job for every element of an upstream's list, with several outputs each."""

    @task
    def rates() -> list[float]:
        return [0.1, 0.2]

    @task.pytorch_job(PAIR, launcher="local")
    def train(rate: float, run_id: str | None = None) -> dict[str, float | str | None]:
        return {"doubled": rate * 2, "run": run_id, "bad": float("nan")}

    train.expand(rate=rates())


failing_rank()
killed_rank()
permanent_failure()
hanging()
overdue()
mapped()
