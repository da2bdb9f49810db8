"""Estimate pi with MPI on a Kubernetes cluster: two workers with two ranks each.

Needs the mpi-operator, an image with Python (Airflow's minor version), Open MPI, mpi4py and an
SSH server, such as tests/images/mpi/Dockerfile, and an Airflow connection of type kubernetes.
"""

from __future__ import annotations

import os

from airflow.sdk import dag, task

from airflow_distrib import MPIJob, Replica, Resources

JOB = MPIJob(
    image=os.environ.get("CLUSTER_MPI_IMAGE", "localhost/airflow-distrib-mpi:1"),
    worker=Replica(replicas=2, requests=Resources(cpu="100m", memory="128Mi")),
    launcher=Replica(requests=Resources(cpu="50m", memory="64Mi")),
    slots=2,
)


@task.mpi_job(JOB, log_ranks="all")
def estimate(darts: int) -> dict[str, float | int]:
    """Runs on every rank; each throws its share of the darts."""
    import random

    from mpi4py import MPI

    world = MPI.COMM_WORLD
    random.seed(world.Get_rank())
    mine = darts // world.Get_size()
    hits = sum(random.random() ** 2 + random.random() ** 2 <= 1 for _ in range(mine))  # noqa: S311 - no secret
    print(f"rank {world.Get_rank()} on {MPI.Get_processor_name()}: {hits} of {mine}")
    total = world.allreduce(hits)
    return {"pi": 4 * total / (mine * world.Get_size()), "ranks": world.Get_size()}


@dag(schedule=None, catchup=False, tags=["airflow_distrib", "mpi", "kubernetes"], doc_md=__doc__)
def mpi_job_kubernetes() -> None:
    """One job."""
    estimate(400_000)


mpi_job_kubernetes()
