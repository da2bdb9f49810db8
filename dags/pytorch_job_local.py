"""A PyTorchJob whose ranks run as local processes, to try a job before it meets a cluster.

The config is the one for Kubernetes; ``launcher="local"`` takes the number of ranks from it, and
may come from airflow.cfg instead.
"""

from __future__ import annotations

from airflow.sdk import dag, task

from airflow_distrib import PyTorchJob, Replica, Resources

JOB = PyTorchJob(
    image="example.org/train:1",
    worker=Replica(replicas=1, requests=Resources(cpu="2", memory="4Gi")),
    env={"GREETING": "hello"},
)


@task
def choose() -> dict[str, object]:
    """Decide at run time how large the job is."""
    return {"worker": {"replicas": 2}}


@task.pytorch_job(JOB, launcher="local", task_config_overrides=choose(), log_ranks=[0, 2])
def add_up(numbers: list[float]) -> dict[str, float]:
    """Every rank adds up its share, and all ranks together their sums."""
    import os

    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    mine = torch.tensor(numbers)[dist.get_rank() :: dist.get_world_size()].sum()
    print(f"{os.environ['GREETING']}: rank {dist.get_rank()} has {mine.item()}")
    dist.all_reduce(mine)
    world_size = dist.get_world_size()
    dist.destroy_process_group()
    return {"sum": mine.item(), "ranks": world_size}


@dag(schedule=None, catchup=False, tags=["airflow_distrib", "pytorch"], doc_md=__doc__)
def pytorch_job_local() -> None:
    """One job of three ranks."""
    add_up([1.0, 2.0, 3.0, 4.0])


pytorch_job_local()
