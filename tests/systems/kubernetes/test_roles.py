"""What a job asks for in all its pods, what a role asks for itself, and what it takes from others."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from airflow_distrib import ConfigError, MPIJobOperator, PyTorchJobOperator
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.elastic.kubernetes import kubernetes as elastic
from airflow_distrib.systems.kubernetes.kind import Manifest
from airflow_distrib.systems.kubernetes.resources import Replica, Resources
from airflow_distrib.systems.mpijob.config import MPIJob
from airflow_distrib.systems.mpijob.render import kubernetes as mpi
from airflow_distrib.systems.pytorchjob.config import PyTorchJob
from airflow_distrib.systems.pytorchjob.render import kubernetes as pytorchjob

REQUEST = JobRequest(identity=JobIdentity("dag", "run", "train", -1, 1, "scope"))
PROGRAM = dataclasses.replace(REQUEST, runs_function=False, arguments={"command": ["prog"]})
ONE = Replica(replicas=1)


def roles_of(config: Any, request: JobRequest = REQUEST) -> dict[str, Manifest]:
    """The roles of a job with their pods."""
    render: Any = mpi if isinstance(config, MPIJob) else pytorchjob
    if isinstance(config, Elastic):
        render = elastic
    spec = render(config, request).manifest["spec"]
    found: dict[str, Manifest] = spec.get("mpiReplicaSpecs") or spec["pytorchReplicaSpecs"]
    return found


def main_of(config: Any, role: str, request: JobRequest = REQUEST) -> Manifest:
    """The main container of a role."""
    main: Manifest = roles_of(config, request)[role]["template"]["spec"]["containers"][0]
    return main


def test_a_master_takes_what_it_does_not_set_from_the_workers() -> None:
    """A restart policy for the master does not cost it the memory and the GPU that every rank needs."""
    template = {"spec": {"hostNetwork": True}}
    worker = Replica(
        replicas=2,
        image="w",
        requests=Resources(cpu=4, gpu=1),
        limits=Resources(memory="8Gi"),
        pod_template=template,
    )
    config = PyTorchJob(worker=worker, master=Replica(restart_policy="OnFailure", requests=Resources(cpu=2)))
    master = roles_of(config)["Master"]
    main = master["template"]["spec"]["containers"][0]
    assert (master["replicas"], master["restartPolicy"], main["image"]) == (1, "OnFailure", "w")
    assert main["resources"] == {
        "requests": {"cpu": "2", "nvidia.com/gpu": "1"},
        "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"},
    }
    assert master["template"]["spec"]["hostNetwork"] is True
    assert roles_of(config)["Worker"]["restartPolicy"] == "Never"


JOB_LEVEL: dict[str, Any] = {
    "image": "x",
    "requests": Resources(cpu=2, memory="4Gi"),
    "limits": {"cpu": 4, "memory": "8Gi"},
}


@pytest.mark.parametrize(
    "config",
    [
        PyTorchJob(worker=ONE, **JOB_LEVEL),
        MPIJob(worker=ONE, **JOB_LEVEL),
        Elastic(nnodes=2, **JOB_LEVEL),
    ],
)
def test_resources_of_a_job_are_those_of_all_its_pods(config: Any) -> None:
    """Users write them once, as they do in Flyte."""
    expected = {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"cpu": "4", "memory": "8Gi"}}
    for role in roles_of(config):
        assert main_of(config, role)["resources"] == expected


def test_resources_of_a_role_are_merged_over_those_of_the_job() -> None:
    """A role changes one number and keeps the others, also those of its own pod template."""
    limits = {"resources": {"limits": {"memory": "6Gi"}}}
    template = {"spec": {"containers": [{"name": "pytorch", **limits}]}}
    config = PyTorchJob(worker=Replica(replicas=1, requests=Resources(cpu=3), pod_template=template), **JOB_LEVEL)
    assert main_of(config, "Worker")["resources"] == {
        "requests": {"cpu": "3", "memory": "4Gi"},
        "limits": {"cpu": "4", "memory": "6Gi"},
    }


def test_a_launcher_gets_no_gpu_of_those_that_all_pods_ask_for() -> None:
    """It runs no rank, unless the job says that it does."""
    fields: dict[str, Any] = {"image": "x", "worker": ONE, "requests": Resources(cpu=1, gpu=2)}
    assert main_of(MPIJob(**fields), "Launcher")["resources"] == {"requests": {"cpu": "1"}}
    assert main_of(MPIJob(**fields), "Worker")["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    ranks_too = MPIJob(run_launcher_as_worker=True, **fields)
    assert main_of(ranks_too, "Launcher")["resources"]["limits"] == {"nvidia.com/gpu": "2"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PyTorchJob(worker={"replicas": 1, "requests": {"cpu": 8}}, **JOB_LEVEL),
            "worker.requests.cpu: is 8, more than its limit of 4",
        ),
        (
            lambda: PyTorchJob(worker={"replicas": 1, "limits": {"cpu": 1}}, master={"requests": {"cpu": 2}}),
            "master.requests.cpu: is 2, more than its limit of 1",
        ),
        (
            lambda: MPIJob(worker=ONE, launcher={"limits": {"memory": "1Gi"}}, **JOB_LEVEL),
            "launcher.requests.memory: is 4Gi, more than its limit of 1Gi",
        ),
        (lambda: Elastic(requests={"cpu": 2}, limits={"cpu": 1}), "requests.cpu: is 2, more than its limit of 1"),
    ],
)
def test_a_request_above_a_limit_is_refused_wherever_the_two_come_from(make: Any, message: str) -> None:
    """The API server would refuse the pods one by one, and nobody would see why."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        make()


@pytest.mark.parametrize("kind", [PyTorchJob, MPIJob, Elastic])
def test_flytes_name_for_shared_memory_is_accepted_with_a_warning(kind: Any) -> None:
    """DAGs that come from Flyte keep working, and the warning is about the user's own line."""
    fields = {} if kind is Elastic else {"worker": ONE}
    with pytest.warns(DeprecationWarning, match=f"{kind.__name__}.increase_shared_mem is deprecated") as warned:
        config = kind(increase_shared_mem=True, **fields)
    assert config == kind(shared_memory=True, **fields)
    assert warned[0].filename == __file__


def test_a_role_has_a_command_of_its_own() -> None:
    """The master may do something else than the workers."""
    config = PyTorchJob(image="x", master=Replica(command=["lead"]), worker=ONE)
    assert main_of(config, "Master", PROGRAM)["command"] == ["lead"]
    assert main_of(config, "Worker", PROGRAM)["command"] == ["prog"]
    with pytest.raises(ConfigError, match="^master.command: the task runs a function there; set only one of them"):
        pytorchjob(config, REQUEST)


def test_commands_of_a_launcher_and_of_workers_are_taken_as_they_are() -> None:
    """Users bring a line of mpirun, or an SSH server of their own, which works with functions too."""
    sshd = ["/usr/sbin/sshd", "-De", "-p", "2222"]
    worker = Replica(replicas=1, command=sshd)
    config = MPIJob(image="x", worker=worker, launcher=Replica(command=["mpirun", "-n", "1", "pi"]))
    assert main_of(config, "Launcher", PROGRAM)["command"] == ["mpirun", "-n", "1", "pi"]
    assert main_of(config, "Worker", PROGRAM)["command"] == sshd
    assert main_of(MPIJob(image="x", worker=worker), "Worker")["command"] == sshd
    with pytest.raises(ConfigError, match="^launcher.command: the task runs a function there"):
        mpi(config, REQUEST)


def test_a_task_may_have_the_commands_of_its_roles_alone() -> None:
    """A command of a role says what runs, so that the task itself needs neither a function nor a command."""
    config = MPIJob(image="x", worker=ONE, launcher=Replica(command=["mpirun", "pi"]))
    shown = MPIJobOperator(task_id="t", task_config=config).render()["manifest"]["spec"]["mpiReplicaSpecs"]
    assert shown["Launcher"]["template"]["spec"]["containers"][0]["command"] == ["mpirun", "pi"]
    with pytest.raises(ConfigError, match="python_callable: is required with launcher='local'"):
        PyTorchJobOperator(task_id="t", task_config={"worker": {"replicas": 1, "command": ["x"]}}, launcher="local")


def test_labels_of_the_jobs_pod_template_are_on_the_job_as_well() -> None:
    """A label is found on the resource and on its pods wherever it is written for the whole job."""
    metadata = {"labels": {"team": "a", "of": "template"}, "annotations": {"note": "x"}}
    own = {"metadata": {"labels": {"only": "pods"}}}
    config = PyTorchJob(
        image="x",
        worker=Replica(replicas=1, pod_template=own),
        pod_template={"metadata": metadata},
        labels={"of": "option"},
    )
    whole = pytorchjob(config, REQUEST).manifest
    assert {"team": "a", "of": "option"}.items() <= whole["metadata"]["labels"].items()
    assert whole["metadata"]["annotations"]["note"] == "x"
    assert "only" not in whole["metadata"]["labels"]
    pod = roles_of(config)["Worker"]["template"]["metadata"]
    assert {"team": "a", "of": "option", "only": "pods"}.items() <= pod["labels"].items()


SIDECAR = {"name": "logger", "image": "fluentd"}


@pytest.mark.parametrize(
    ("image", "main", "metadata"),
    [
        ("x", {"name": "train"}, {}),
        ("x", {"name": "train", "image": "x"}, {}),
        (None, {"name": "train", "image": "y"}, {"annotations": {"kubectl.kubernetes.io/default-container": "train"}}),
        ("x", {"name": "train", "image": "y"}, {"annotations": {"kubectl.kubernetes.io/default-container": "train"}}),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_main_container_of_another_name_is_found_beside_a_sidecar(
    image: str | None, main: Manifest, metadata: Manifest, first: bool
) -> None:
    """A pod template that was written for something else is taken as it is."""
    marked = {**main, "env": [{"name": "A", "value": "1"}]}
    containers = [marked, SIDECAR] if first else [SIDECAR, marked]
    template = {"metadata": metadata, "spec": {"containers": containers}}
    config = PyTorchJob(image=image, worker=ONE, pod_template=template)
    found, beside = roles_of(config)["Worker"]["template"]["spec"]["containers"]
    assert (found["name"], found["image"], found["env"][0]["name"]) == ("pytorch", image or "y", "A")
    assert beside == SIDECAR
    worker = {"template": {**template, "spec": {"containers": [dict(each) for each in containers]}}}
    request = dataclasses.replace(
        REQUEST, arguments={"manifest": {"spec": {"pytorchReplicaSpecs": {"Worker": worker}}}}
    )
    found, beside = roles_of(PyTorchJob(image=image or "x", worker=ONE), request)["Worker"]["template"]["spec"][
        "containers"
    ]
    assert (found["name"], beside) == ("pytorch", SIDECAR)
    assert "command" in found


def test_a_main_container_that_cannot_be_told_from_sidecars_is_an_error() -> None:
    """The function would otherwise run in the wrong image."""
    containers = [{"name": "train", "image": "y"}, SIDECAR]
    config = PyTorchJob(image="x", worker=ONE, pod_template={"spec": {"containers": containers}})
    with pytest.raises(ConfigError, match="^pod_template: none of its containers train, logger is named 'pytorch'; gi"):
        pytorchjob(config, REQUEST)
