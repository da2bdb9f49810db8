"""Jobs on a cluster that end well, and that end badly in every way a pod can."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import dag, task

from airflow_distrib import (
    Elastic,
    ElasticOperator,
    MPIJob,
    MPIJobOperator,
    Patience,
    PyTorchJob,
    PyTorchJobOperator,
    Replica,
    Resources,
    RunPolicy,
)

MPI_IMAGE = os.environ.get("CLUSTER_MPI_IMAGE", "localhost/airflow-distrib-mpi:1")
TORCH_IMAGE = os.environ.get("CLUSTER_TORCH_IMAGE", "localhost/airflow-distrib-torch:1")
SMALL = Resources(cpu="10m", memory="64Mi")
PAIR = PyTorchJob(image=MPI_IMAGE, worker=Replica(replicas=1, requests=SMALL))
HASTE = Patience(unschedulable=5, quota=5, image_pull=5, create_container=5, container_config=5, mount=5)


@dag(schedule=None, catchup=False)
def cluster_good() -> None:
    """Every system once."""

    @task.pytorch_job(PAIR, log_ranks="all")
    def fixed(n: int) -> dict[str, Any]:
        import os
        import socket
        import time

        rank = int(os.environ["RANK"])
        if rank == 0:
            with socket.create_server(("", int(os.environ["MASTER_PORT"]))) as server:
                other, _ = server.accept()
                got = other.recv(100).decode()
        else:
            end = time.monotonic() + 60
            while True:
                try:
                    with socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))) as to:
                        to.sendall(b"hello from 1")
                    break
                except OSError:
                    assert time.monotonic() < end
                    time.sleep(0.2)
            got = ""
        print(f"rank {rank} of {os.environ['WORLD_SIZE']} is done")
        return {"n": n, "got": got, "ranks": os.environ["WORLD_SIZE"]}

    @task.elastic(Elastic(nnodes="1:2", nproc_per_node=2, image=TORCH_IMAGE, shared_memory="64Mi"), log_ranks="all")
    def nodes() -> dict[str, Any]:
        import os
        import shutil

        import torch
        import torch.distributed as dist

        dist.init_process_group("gloo")
        total = torch.tensor([float(dist.get_rank())])
        dist.all_reduce(total)
        print("sum", total.item())
        shm = shutil.disk_usage("/dev/shm").total
        world = dist.get_world_size()
        dist.destroy_process_group()
        return {"sum": total.item(), "ranks": world, "shm": shm, "node": os.environ["GROUP_RANK"]}

    @task.elastic(Elastic(nproc_per_node=2, image=TORCH_IMAGE), log_ranks=[1])
    def one_node() -> int:
        import torch.distributed as dist

        dist.init_process_group("gloo")
        print("I am", dist.get_rank())
        return int(dist.get_world_size())

    @task.mpi_job(
        MPIJob(
            image=MPI_IMAGE,
            worker=Replica(replicas=2, requests=SMALL),
            slots=2,
            env={"GREETING": "hello, $(you) 'there'"},
        ),
        log_ranks=[0, 3],
    )
    def mpi() -> dict[str, Any]:
        import os

        from mpi4py import MPI

        world = MPI.COMM_WORLD
        total = world.allreduce(world.Get_rank())
        print(f"{os.environ['GREETING']} from {world.Get_rank()}")
        return {"sum": total, "ranks": world.Get_size(), "text": "x" * 30_000}

    fixed(5)
    nodes()
    one_node()
    mpi()
    PyTorchJobOperator(
        task_id="command",
        task_config=PyTorchJob(image=MPI_IMAGE, worker=Replica(replicas=0), env={"WHO": "{{ run_id }}"}),
        command=["bash", "-c", 'echo "$WHO is $RANK of $WORLD_SIZE"'],
    )
    MPIJobOperator(
        task_id="mpi_command",
        task_config=MPIJob(image=MPI_IMAGE, worker=Replica(replicas=1), slots=2),
        command=["bash", "-c", "echo rank $OMPI_COMM_WORLD_RANK is here"],
    )
    container = {"name": "pytorch", "image": MPI_IMAGE, "command": ["bash", "-c", "echo from the manifest"]}
    PyTorchJobOperator(
        task_id="manifest",
        task_config=PyTorchJob(worker=Replica(replicas=0)),
        manifest={"spec": {"pytorchReplicaSpecs": {"Master": {"template": {"spec": {"containers": [container]}}}}}},
    )
    ElasticOperator(
        task_id="torchrun_command",
        task_config=Elastic(nnodes=2, nproc_per_node=1, image=TORCH_IMAGE),
        command=["torchrun", "--no-python", "bash", "-c", "echo rank $RANK of $WORLD_SIZE"],
        log_ranks="all",
    )


@dag(schedule=None, catchup=False)
def cluster_bad() -> None:
    """Every way to fail, without retries."""

    @task.pytorch_job(PAIR, log_ranks="all")
    def failing_rank() -> None:
        import os
        import time

        if os.environ["RANK"] == "1":
            print("about to divide")
            raise ZeroDivisionError("batch of no examples")
        time.sleep(600)

    @task.mpi_job(MPIJob(image=MPI_IMAGE, worker=Replica(replicas=2), slots=2))
    def failing_mpi() -> None:
        import os
        import time

        if os.environ["RANK"] == "2":
            raise ZeroDivisionError("batch of no examples")
        time.sleep(600)

    limited = Replica(replicas=0, limits=Resources(memory="96Mi"))

    @task.pytorch_job(PyTorchJob(image=MPI_IMAGE, worker=limited))
    def out_of_memory() -> int:
        return len([bytearray(b"x" * 2**20) for _ in range(10_000)])

    @task.pytorch_job(PAIR.merged({"run_policy": RunPolicy(active_deadline_seconds=5)}))
    def over_deadline() -> None:
        import time

        time.sleep(600)

    def idle() -> None:
        pass

    def stuck(task_id: str, config: PyTorchJob) -> None:
        PyTorchJobOperator(task_id=task_id, task_config=config, python_callable=idle, patience=HASTE)

    failing_rank()
    failing_mpi()
    out_of_memory()
    over_deadline()
    stuck("no_image", PAIR.merged({"image": "localhost/no-such-image:1"}))
    stuck("bad_image_name", PAIR.merged({"image": "UPPER/case:1"}))
    stuck("no_secret", PAIR.merged({"env_secrets": {"TOKEN": "no-such-secret/token"}}))
    stuck("no_room", PAIR.merged({"worker": {"requests": {"cpu": "4000"}}}))
    stuck("no_node", PAIR.merged({"node_selector": {"accelerator": "none-such"}}))
    stuck("no_volume", PAIR.merged({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "none"}}]}))
    PyTorchJobOperator(
        task_id="unknown_field", task_config=PAIR, python_callable=idle, manifest={"spec": {"workers": 3}}
    )
    PyTorchJobOperator(
        task_id="no_such_command",
        task_config=PAIR.merged({"worker": {"replicas": 0}}),
        command=["/no/such/program"],
    )
    PyTorchJobOperator(
        task_id="exit_status",
        task_config=PAIR.merged({"worker": {"replicas": 0}}),
        command=["bash", "-c", "echo last words; exit 7"],
    )


@dag(schedule=None, catchup=False)
def cluster_long_log() -> None:
    """Many numbered lines, slowly enough to be cut off in the middle."""

    @task.pytorch_job(PAIR)
    def count(lines: int) -> int:
        import os
        import time

        if os.environ["RANK"] == "0":
            for number in range(lines):
                print(f"line {number:05d}", flush=True)
                if number % 50 == 49:
                    time.sleep(0.5)
        return lines

    count(2500)


@dag(schedule=None, catchup=False)
def cluster_many() -> None:
    """Mapped jobs."""

    @task.pytorch_job(PAIR.merged({"worker": {"replicas": 0}}))
    def square(n: int) -> int:
        return n * n

    square.expand(n=[1, 2, 3, 4])


@dag(schedule=None, catchup=False)
def cluster_suspended() -> None:
    """Waits for somebody to resume it, whatever patience says."""

    @task.pytorch_job(PAIR.merged({"suspend": True, "worker": {"replicas": 0}}), patience=HASTE)
    def wait() -> str:
        return "resumed"

    wait()


@dag(schedule=None, catchup=False)
def cluster_lost_result() -> None:
    """A result in a log that goes with its pod."""

    @task.pytorch_job(PAIR.merged({"worker": {"replicas": 0}, "run_policy": RunPolicy(clean_pod_policy="All")}))
    def large() -> str:
        import os

        return os.urandom(20_000).hex()

    @task.pytorch_job(PAIR.merged({"worker": {"replicas": 0}, "run_policy": RunPolicy(clean_pod_policy="All")}))
    def small() -> str:
        return "small enough for the pod's last words"

    large()
    small()


@dag(schedule=None, catchup=False)
def cluster_quota() -> None:
    """A job in a namespace whose quota is full."""

    @task.pytorch_job(PAIR, patience=HASTE)
    def train() -> None:
        pass

    train()


cluster_good()
cluster_bad()
cluster_long_log()
cluster_many()
cluster_suspended()
cluster_lost_result()
cluster_quota()
