"""Train on a Kubernetes cluster: one master and two workers fit a line by gradient descent.

Needs the training-operator, an image with Python (Airflow's minor version) and PyTorch, and an
Airflow connection of type kubernetes. While the job runs, no worker of Airflow is busy with it.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import dag, task

from airflow_distrib import Patience, PyTorchJob, Replica, Resources, RunPolicy

JOB = PyTorchJob(
    image=os.environ.get("CLUSTER_TORCH_IMAGE", "localhost/airflow-distrib-torch:1"),
    worker=Replica(
        replicas=2,
        requests=Resources(cpu="100m", memory="256Mi"),
        limits=Resources(memory="2Gi"),
    ),
    shared_memory="256Mi",
    # What is left of a finished job, if Airflow does not come to fetch it, goes after an hour.
    run_policy=RunPolicy(ttl_seconds_after_finished=3600),
)


@task.pytorch_job(
    JOB,
    log_ranks="all",
    retries=2,
    execution_timeout=timedelta(minutes=20),
    patience=Patience(unschedulable=600),
)
def fit(steps: int) -> dict[str, float | int]:
    """Runs on every rank; each has a share of the points, and they average their gradients."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())
    x = torch.rand(1000, 1)
    y = 3 * x + 1 + 0.01 * torch.randn(1000, 1)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.5f}")
    ranks = dist.get_world_size()
    slope, intercept = model.module.weight.item(), model.module.bias.item()
    dist.barrier()
    dist.destroy_process_group()
    return {"slope": slope, "intercept": intercept, "ranks": ranks}


@task
def report(line: dict[str, float | int]) -> str:
    """An ordinary downstream task that reads rank 0's XCom."""
    text = f"y = {line['slope']:.2f} x + {line['intercept']:.2f}, by {line['ranks']} ranks"
    print(text)
    return text


@dag(schedule=None, catchup=False, tags=["airflow_distrib", "pytorch", "kubernetes"], doc_md=__doc__)
def pytorch_job_kubernetes() -> None:
    """Train, then report."""
    report(fit(steps=200))


pytorch_job_kubernetes()
