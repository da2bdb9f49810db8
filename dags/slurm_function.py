"""Functions on a Slurm: plain tasks, a job array, torchrun's elastic agents.

Needs a connection ``ssh_default`` to a login node, and on the nodes a Python of the worker's own
version (3.12 on both, say) with the libraries that a function uses. docs/slurm.md says what the
cluster must provide.
"""

from __future__ import annotations

import os

from airflow.sdk import dag, task

from airflow_distrib import Elastic, Slurm

# A virtual environment, an environment module or a container has the Python that the ranks need.
PYTHON = os.environ.get("SLURM_PYTHON", "python3")
LIBRARIES = {"PYTHONPATH": os.environ.get("SLURM_LIBRARIES", "")}


@dag(schedule=None, catchup=False, tags=["example", "slurm"])
def slurm_function() -> None:
    """Estimate pi on four tasks, search a parameter by an array, train on two nodes."""

    @task.slurm(Slurm(ntasks=4, mem_per_cpu="100M", time=10), python=PYTHON, log_ranks="all")
    def estimate(points: int) -> float:
        import os
        import random

        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        generator = random.Random(rank)  # noqa: S311 - no secret
        inside = sum(generator.random() ** 2 + generator.random() ** 2 < 1 for _ in range(points // size))
        print(f"rank {rank}: {4 * inside / (points // size):.4f}")
        return 4 * inside / (points // size)

    @task.slurm(Slurm(array="1-3", mem="100M", time=10), python=PYTHON)
    def candidates() -> float:
        import os

        return 0.1 ** int(os.environ["SLURM_ARRAY_TASK_ID"])

    @task.elastic(
        Elastic(nnodes=2, nproc_per_node=1),
        slurm=Slurm(cpus_per_task=1, mem="1500M", time=10, env=LIBRARIES),
        python=PYTHON,
    )
    def fit(rates: list[float]) -> dict[str, float]:
        import torch
        import torch.distributed as dist
        from sklearn.datasets import load_digits
        from torch.nn.parallel import DistributedDataParallel

        dist.init_process_group("gloo")
        digits = load_digits()
        x = torch.tensor(digits.data[dist.get_rank() :: dist.get_world_size()] / 16.0, dtype=torch.float32)
        y = torch.tensor(digits.target[dist.get_rank() :: dist.get_world_size()])
        found = {}
        for rate in rates:
            torch.manual_seed(0)
            model = DistributedDataParallel(torch.nn.Linear(64, 10))
            optimizer = torch.optim.Adam(model.parameters(), lr=rate)
            for _ in range(40):
                loss = torch.nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            found[f"{rate:g}"] = round(loss.item(), 3)
        dist.destroy_process_group()
        return found

    estimate(200_000) >> fit(candidates())


slurm_function()
