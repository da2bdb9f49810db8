"""These tests check what a PyTorchJob takes, and what becomes of it on local ranks."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.systems.kubernetes.resources import Replica, Resources, RunPolicy
from airflow_distrib.systems.pytorchjob.config import PyTorchJob
from airflow_distrib.systems.pytorchjob.render import local

WORKERS = Replica(replicas=3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "worker.replicas: is required"),
        ({"worker": Replica(image="x")}, "worker.replicas: is required"),
        ({"worker": {"replica": 3}}, "worker.replica: there is no such field; did you mean 'replicas'"),
        ({"worker": WORKERS, "master": Replica(replicas=2)}, "master.replicas: there is always one master; got 2"),
        ({"worker": WORKERS, "shared_memory": "lots"}, "shared_memory: must be a size"),
        ({"worker": WORKERS, "pod_template": {"kind": "Pod"}}, "pod_template: must be a mapping"),
        ({"worker": WORKERS, "run_policy": {"ttl": 5}}, "run_policy.ttl: there is no such field"),
        ({"workers": WORKERS}, r"PyTorchJob\.workers: there is no such field; did you mean 'worker'"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_written(fields: dict[str, Any], message: str) -> None:
    """The error names the field and what it takes when the DAG file is parsed."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        PyTorchJob(**fields)


def test_the_master_is_one_rank_and_each_worker_another() -> None:
    """Users can count their ranks, and zero workers are a job of the master alone."""
    assert PyTorchJob(worker=WORKERS).world_size == 4
    assert PyTorchJob(worker={"replicas": 0}).world_size == 1


def test_num_workers_is_accepted_with_a_warning() -> None:
    """DAGs that come from Flyte keep working, and their authors learn the new name."""
    with pytest.warns(DeprecationWarning, match=r"num_workers is deprecated; use worker.replicas"):
        assert PyTorchJob(num_workers=3, worker=Replica(image="x")) == PyTorchJob(worker=Replica(replicas=3, image="x"))


def test_increase_shared_mem_is_accepted_with_a_warning() -> None:
    """DAGs that come from Flyte keep working, and nobody else sees a warning."""
    with pytest.warns(DeprecationWarning, match="increase_shared_mem is deprecated; use shared_memory"):
        assert PyTorchJob(worker=WORKERS, increase_shared_mem=True) == PyTorchJob(worker=WORKERS, shared_memory=True)


@pytest.mark.parametrize(
    "fields",
    [{"num_workers": 3, "worker": WORKERS}, {"worker": WORKERS, "increase_shared_mem": True, "shared_memory": "1Gi"}],
)
def test_an_old_and_a_new_name_together_are_refused(fields: dict[str, Any]) -> None:
    """No reader could tell which of the two counts."""
    with pytest.warns(DeprecationWarning), pytest.raises(ConfigError, match="set only one of them"):
        PyTorchJob(**fields)


def test_what_only_a_cluster_can_honour_is_listed() -> None:
    """Local ranks ignore no option without a line in the log."""
    config = PyTorchJob(
        image="x",
        master=Replica(restart_policy="Never"),
        worker=Replica(replicas=1, limits=Resources(gpu=1)),
        run_policy=RunPolicy(backoff_limit=0),
        shared_memory=True,
        env={"A": "1"},
    )
    plan = local(config, JobRequest(identity=JobIdentity("dag", "run", "train", -1, 1)))
    assert plan.not_applied == ("image", "run_policy", "shared_memory", "master.restart_policy", "worker.limits")
    assert (plan.processes, dict(plan.env)) == (2, {"A": "1"})
