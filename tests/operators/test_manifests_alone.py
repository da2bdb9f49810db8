"""Manifests of users that stand alone, as other tools take them."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_distrib import ConfigError, ElasticOperator, MPIJobOperator, PyTorchJobOperator
from airflow_distrib.jobs.request import spec_hash


def template(name: str, *command: str) -> dict[str, Any]:
    """With one container of any name."""
    return {"spec": {"containers": [{"name": name, "image": "me/x:1", "command": list(command)}]}}


def test_an_mpijob_says_itself_how_large_it_is() -> None:
    """Workers and slots need not be said twice, and containers get the name they must have."""
    specs = {
        "Launcher": {"replicas": 1, "template": template("mpi-launcher", "mpirun", "pi")},
        "Worker": {"replicas": 3, "template": template("mpi-worker", "sshd")},
    }
    manifest = {"kind": "MPIJob", "spec": {"slotsPerWorker": 2, "mpiReplicaSpecs": specs}}
    shown = MPIJobOperator(task_id="t", manifest=manifest).render()["manifest"]["spec"]
    assert (shown["slotsPerWorker"], shown["mpiReplicaSpecs"]["Worker"]["replicas"]) == (2, 3)
    for role, command in (("Launcher", ["mpirun", "pi"]), ("Worker", ["sshd"])):
        (container,) = shown["mpiReplicaSpecs"][role]["template"]["spec"]["containers"]
        assert (container["name"], container["image"], container["command"]) == ("mpi", "me/x:1", command)


def test_a_pytorchjob_does_too() -> None:
    """Also one of a master alone."""
    specs = {"Master": {"template": template("trainer", "python", "t.py")}}
    shown = PyTorchJobOperator(task_id="t", manifest={"spec": {"pytorchReplicaSpecs": specs}}).render()
    roles = shown["manifest"]["spec"]["pytorchReplicaSpecs"]
    assert list(roles) == ["Master"]
    assert roles["Master"]["template"]["spec"]["containers"][0]["name"] == "pytorch"


def test_elastic_is_a_pytorchjob_or_a_pod_as_its_manifest_is() -> None:
    """By what it says of workers."""
    specs = {"Worker": {"replicas": 2, "template": template("w", "torchrun", "t.py")}}
    nodes = ElasticOperator(task_id="t", manifest={"spec": {"pytorchReplicaSpecs": specs}}).render()["manifest"]
    assert (nodes["kind"], nodes["spec"]["elasticPolicy"]["maxReplicas"]) == ("PyTorchJob", 2)
    alone = ElasticOperator(task_id="p", manifest={"kind": "Pod", **template("any", "x")}).render()["manifest"]
    assert (alone["kind"], alone["spec"]["containers"][0]["command"]) == ("Pod", ["x"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "python_callable: is required, unless command= or manifest= says what runs"),
        ({"command": ["x"], "python_callable": print}, "command: a task runs a function or a command"),
        ({"command": "x y"}, "command: must be a list of words"),
        ({"command": []}, "command: must be a list of words"),
        ({"command": ["x"], "op_args": [1]}, "op_kwargs: there is no function to give it to"),
        ({"manifest": [1]}, "manifest: must be a mapping"),
        ({"command": ["x"], "launcher": "local"}, "launcher: local ranks run functions"),
        ({"command": ["x"], "keep_job": "maybe"}, "keep_job: must be one of never, on_failure, always"),
        (
            {"command": ["x"], "patience": {"image": 5}},
            "patience.image: there is no such field; did you mean 'image_pull'",
        ),
    ],
)
def test_what_runs_has_to_be_clear(arguments: dict[str, Any], message: str) -> None:
    """When the DAG file is parsed."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        PyTorchJobOperator(task_id="t", task_config={"image": "x", "worker": {"replicas": 1}}, **arguments)


def test_templates_of_commands_and_manifests_are_left_for_run_time() -> None:
    """And named when somebody looks before."""
    config = {"image": "x", "worker": {"replicas": 1}}
    shown = PyTorchJobOperator(task_id="t", task_config=config, command=["echo", "{{ ds }}"]).render()
    assert shown["known at run time"] == ["command"]
    shown = PyTorchJobOperator(task_id="t", task_config=config, manifest={"spec": {"x": "{{ ds }}"}}).render()
    assert shown["known at run time"] == ["manifest"]


def test_a_manifest_that_comes_from_upstream_says_its_size_when_it_is_there() -> None:
    """Rendered templates are text, numbers too."""
    specs = {"Worker": {"replicas": "{{ params.n }}", "template": template("w", "x")}}
    task = PyTorchJobOperator(task_id="t", manifest={"spec": {"pytorchReplicaSpecs": specs}})
    task.manifest["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] = "2"
    assert task.final_config().world_size == 3


def test_an_argument_of_any_kind_has_a_fingerprint_that_stays() -> None:
    """It decides whether a job is the one that is wanted."""

    def of(grid: Any) -> str:
        config = {"image": "x", "worker": {"replicas": 1}}
        task = PyTorchJobOperator(task_id="t", task_config=config, python_callable=print, op_kwargs={"sep": grid})
        return spec_hash(task, task.final_config())

    assert of({("lr", 1): 2, 3: {"b", "a"}}) == of({3: {"a", "b"}, ("lr", 1): 2})
    assert of(object()) == of(object())
    assert of([1]) != of([2])
