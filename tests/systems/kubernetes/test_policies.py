"""Policies that contradict each other, or that would let a job go on for ever, are met before it is submitted."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.jobs.request import DEADLINE_MARGIN_SECONDS, JobRequest
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.elastic.kubernetes import kubernetes as elastic
from airflow_distrib.systems.kubernetes.manifest import KubernetesSubmission
from airflow_distrib.systems.kubernetes.resources import Replica, Resources, RestartPolicy, RunPolicy
from airflow_distrib.systems.mpijob.config import MPIJob
from airflow_distrib.systems.mpijob.render import kubernetes as mpi
from airflow_distrib.systems.pytorchjob.config import PyTorchJob
from airflow_distrib.systems.pytorchjob.render import kubernetes as pytorchjob

REQUEST = JobRequest(identity=JobIdentity("dag", "run", "train", -1, 1, "scope"))
Render = Callable[[Any, JobRequest], KubernetesSubmission]


def job(render: Render, restart_policy: object = None, number: int = 2, **fields: Any) -> KubernetesSubmission:
    """Render a job of any system whose pods have a restart policy."""
    replica = Replica(replicas=number, restart_policy=restart_policy)  # type: ignore[arg-type] # checked there
    if render is elastic:
        return elastic(Elastic(image="x", nnodes=number, restart_policy=replica.restart_policy, **fields), REQUEST)
    if render is mpi:
        return mpi(MPIJob(image="x", worker=replica, launcher=replica.merged({"replicas": 1}), **fields), REQUEST)
    return pytorchjob(PyTorchJob(image="x", worker=replica, **fields), REQUEST)


def limit_of(submission: KubernetesSubmission) -> object:
    """How often pods may restart, as the resource says it to whoever watches it."""
    return submission.kind.backoff_limit(submission.kind.slim({"status": {}, **submission.manifest}))


@pytest.mark.parametrize(
    ("render", "number", "limit"), [(pytorchjob, 2, 9), (elastic, 2, 6), (elastic, 1, 3), (mpi, 2, 3)]
)
def test_pods_that_restart_have_a_limit(render: Render, number: int, limit: int) -> None:
    """A function that always fails is not called for ever, whoever pays for the nodes."""
    assert limit_of(job(render, RestartPolicy.ON_FAILURE, number)) == limit
    assert limit_of(job(render, RestartPolicy.ON_FAILURE, number, run_policy=RunPolicy(backoff_limit=7))) == 7
    assert limit_of(job(render, RestartPolicy.ON_FAILURE, number, run_policy=RunPolicy(backoff_limit=0))) == 0


@pytest.mark.parametrize(("render", "number", "limit"), [(pytorchjob, 2, 6), (elastic, 2, 6), (elastic, 1, 3)])
def test_restarts_that_only_a_manifest_asks_for_are_limited_too(
    render: Render, number: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest is merged last, and a function that always fails ends all the same."""
    policy = {"restartPolicy": "OnFailure"}
    spec = policy if (render, number) == (elastic, 1) else {"pytorchReplicaSpecs": {"Worker": policy}}
    monkeypatch.setitem(globals(), "REQUEST", dataclasses.replace(REQUEST, arguments={"manifest": {"spec": spec}}))
    assert limit_of(job(render, None, number)) == limit


def test_only_pods_that_restart_count_for_the_default_limit() -> None:
    """A master that never restarts does not raise the number of restarts of its workers."""
    config = PyTorchJob(
        image="x",
        master=Replica(restart_policy="Never"),
        worker=Replica(replicas=2, restart_policy="OnFailure"),
    )
    assert limit_of(pytorchjob(config, REQUEST)) == 6


@pytest.mark.parametrize(("render", "number"), [(pytorchjob, 2), (elastic, 2), (elastic, 1)])
def test_a_limit_for_pods_that_never_restart_is_refused(render: Render, number: int) -> None:
    """The operator does not look at it then, so a user would wait for retries that never come."""
    with pytest.raises(ConfigError, match="^run_policy.backoff_limit: has no effect with the restart policy 'Never'"):
        job(render, None, number, run_policy=RunPolicy(backoff_limit=3))
    assert limit_of(job(render, None, number, run_policy=RunPolicy(backoff_limit=0))) == 0
    assert limit_of(job(render, None, number)) is None


def test_the_launcher_of_an_mpijob_is_started_again_whatever_its_restart_policy() -> None:
    """The mpi-operator makes a new pod for it, which the limit counts, and none by default."""
    assert limit_of(job(mpi, None, run_policy=RunPolicy(backoff_limit=3))) == 3
    assert limit_of(job(mpi)) == 0
    with pytest.raises(ConfigError, match="^run_policy.backoff_limit: has no effect"):
        job(mpi, None, run_policy=RunPolicy(backoff_limit=3), api_version="kubeflow.org/v1")


@pytest.mark.parametrize(("render", "pods"), [(pytorchjob, 3), (elastic, 2), (mpi, 3)])
def test_a_gang_is_not_larger_than_its_job(render: Render, pods: int) -> None:
    """It would never be scheduled."""
    job(render, scheduling_policy={"min_available": pods})
    with pytest.raises(ConfigError, match=rf"^scheduling_policy.min_available: is {pods + 1}, .* only {pods} pods"):
        job(render, scheduling_policy={"min_available": pods + 1})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ttl_seconds_after_finished": 0}, "run_policy.ttl_seconds_after_finished: 0 removes the job before its re"),
        ({"active_deadline_seconds": 0}, "run_policy.active_deadline_seconds: must be a whole number, at least 1"),
    ],
)
def test_a_policy_that_leaves_no_time_is_refused(fields: dict[str, int], message: str) -> None:
    """The job would be gone before it runs, or before anybody reads its result."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        Elastic(run_policy=fields)


@pytest.mark.parametrize(("render", "number"), [(pytorchjob, 2), (elastic, 2), (elastic, 1), (mpi, 2)])
def test_a_deadline_that_comes_before_the_tasks_own_is_a_warning(
    render: Render, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever raises execution_timeout learns that the cluster still ends the job earlier."""
    limited = dataclasses.replace(REQUEST, deadline_seconds=600 + DEADLINE_MARGIN_SECONDS)
    monkeypatch.setitem(globals(), "REQUEST", limited)
    text = "run_policy.active_deadline_seconds: is 60, less than execution_timeout with 600 seconds"
    with pytest.warns(UserWarning, match=text):
        job(render, None, number, run_policy=RunPolicy(active_deadline_seconds=60))
    job(render, None, number, run_policy=RunPolicy(active_deadline_seconds=601))


ONE_GPU, TWO_GPUS = Resources(gpu=1), Resources(extended={"amd.com/gpu": 2})


@pytest.mark.parametrize(
    ("render", "config", "message"),
    [
        (
            elastic,
            Elastic(image="x", nproc_per_node=2, requests=ONE_GPU),
            "nproc_per_node: asks for 2 ranks on each node, but for only one GPU; NCCL",
        ),
        (elastic, Elastic(image="x", nnodes=2, nproc_per_node=4, limits=TWO_GPUS), "nproc_per_node: asks for 4 ranks"),
        (elastic, Elastic(image="x", nproc_per_node="gpu"), "nproc_per_node: is 'gpu', but no GPU is asked for"),
        (
            elastic,
            Elastic(image="x", nnodes=2, nproc_per_node="gpu", requests=Resources(cpu=1)),
            "nproc_per_node: is 'gpu', but no GPU is asked for",
        ),
        (mpi, MPIJob(image="x", slots=2, worker=Replica(replicas=1, limits=ONE_GPU)), "slots: asks for 2 ranks"),
    ],
)
def test_more_ranks_than_gpus_are_a_warning(render: Render, config: Any, message: str) -> None:
    """NCCL refuses two ranks on one GPU, hours later, when the nodes are there."""
    with pytest.warns(UserWarning, match=f"^{message}"):
        render(config, REQUEST)


@pytest.mark.parametrize(
    "config",
    [
        Elastic(image="x", nproc_per_node=2),
        Elastic(image="x", nproc_per_node=2, requests=TWO_GPUS),
        Elastic(image="x", nproc_per_node="gpu", requests=ONE_GPU),
        Elastic(image="x", nproc_per_node="gpu", requests=Resources(extended={"nvidia.com/mig-1g.5gb": 1})),
        Elastic(image="x", nproc_per_node="auto"),
        Elastic(image="x", nproc_per_node="gpu", pod_template={"spec": {"resourceClaims": [{"name": "gpu"}]}}),
    ],
)
def test_as_many_ranks_as_gpus_or_ranks_without_one_are_no_warning(config: Elastic) -> None:
    """Jobs on CPUs and jobs that fit are rendered without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        elastic(config, REQUEST)
