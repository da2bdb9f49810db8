"""A process finds out which rank it is from the variables of its launcher."""

from __future__ import annotations

import json

import pytest

from airflow_distrib.runner.rank import Rank, RankUnreadable, export, from_env


def tf_config(role: str, index: int, **cluster: int) -> dict[str, str]:
    """TF_CONFIG as the training-operator writes it."""
    hosts = {name: [f"{name}-{i}:2222" for i in range(count)] for name, count in cluster.items()}
    return {"TF_CONFIG": json.dumps({"cluster": hosts, "task": {"type": role, "index": index}, "environment": "cloud"})}


CASES = [
    ({}, Rank(0, 1, 0, "none")),
    ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Rank(3, 4, 1, "torch")),
    ({"RANK": "3", "WORLD_SIZE": "4"}, Rank(3, 4, 0, "torch")),
    (
        {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
        Rank(2, 4, 0, "openmpi"),
    ),
    ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}, Rank(1, 2, 1, "pmi")),
    ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}, Rank(5, 8, 1, "slurm")),
    (
        {"SLURM_PROCID": "6", "SLURM_NTASKS": "7", "SLURM_LOCALID": "1", "SLURM_NODEID": "2"}
        | {"SLURM_STEP_TASKS_PER_NODE": "3,2(x2)"},
        Rank(6, 7, 1, "slurm", local_world_size=2, node=2),
    ),
    ({"JOB_COMPLETION_INDEX": "1"}, Rank(1, None, 0, "indexed_job")),
    (tf_config("chief", 0, chief=1, worker=2, ps=1), Rank(0, 4, 0, "tf_config")),
    (tf_config("worker", 1, chief=1, worker=2, ps=1), Rank(2, 4, 0, "tf_config")),
    (tf_config("worker", 0, worker=2), Rank(0, 2, 0, "tf_config")),
    (tf_config("ps", 0, chief=1, worker=2, ps=1), Rank(3, 4, 0, "tf_config")),
    (tf_config("evaluator", 0, chief=1, worker=1), Rank(2, 2, 0, "tf_config")),
    # torchrun inside srun: torch's numbers are the ones that count.
    ({"RANK": "7", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Rank(7, 8, 0, "torch")),
]


@pytest.mark.parametrize(("env", "rank"), CASES)
def test_the_rank_is_read_from_each_launchers_environment(env: dict[str, str], rank: Rank) -> None:
    """Every launcher's variables give the global rank, the world size and the local rank."""
    assert from_env(env) == rank


@pytest.mark.parametrize("env", [{"RANK": "one"}, {"TF_CONFIG": "{"}, {"TF_CONFIG": "{}"}, {"TF_CONFIG": "[]"}])
def test_an_unreadable_rank_is_an_error_that_names_the_variable(env: dict[str, str]) -> None:
    """A damaged variable must never be taken for rank 0."""
    with pytest.raises(RankUnreadable, match=next(iter(env))):
        from_env(env)


def test_export_fills_in_what_torch_needs_and_keeps_what_is_there() -> None:
    """The module torch.distributed works under mpirun, and a launcher's own RANK is not overwritten."""
    env = {"LOCAL_RANK": "9"}
    export(Rank(2, 4, 0, "openmpi"), env)
    assert env == {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "9", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": "2"}


def test_export_does_not_invent_a_world_size() -> None:
    """An indexed job does not tell how many pods there are, and a wrong number would hang its ranks."""
    env: dict[str, str] = {}
    export(Rank(1, None, 0, "indexed_job"), env)
    assert "WORLD_SIZE" not in env
