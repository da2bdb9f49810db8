"""A manifest of the user may stand alone, as other tools take it, and then holds what a config would."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_distrib import ConfigError, ElasticOperator, MPIJobOperator, PyTorchJobOperator
from airflow_distrib.operators.base import DistributedJobOperator


def template(name: str, *command: str) -> dict[str, Any]:
    """A pod template with one container of any name."""
    return {"spec": {"containers": [{"name": name, "image": "me/x:1", "command": list(command)}]}}


def resource_of(operator: DistributedJobOperator[Any]) -> dict[str, Any]:
    """Return the resource that a task would create."""
    resource = operator.render()["manifest"]
    assert isinstance(resource, dict)
    return resource


def test_an_mpijob_takes_its_size_from_its_manifest() -> None:
    """Users need not repeat workers and slots in a config, and containers get the name that the operator expects."""
    specs = {
        "Launcher": {"replicas": 1, "template": template("mpi-launcher", "mpirun", "pi")},
        "Worker": {"replicas": 3, "template": template("mpi-worker", "sshd")},
    }
    manifest = {"kind": "MPIJob", "spec": {"slotsPerWorker": 2, "mpiReplicaSpecs": specs}}
    shown = resource_of(MPIJobOperator(task_id="t", manifest=manifest))["spec"]
    assert (shown["slotsPerWorker"], shown["mpiReplicaSpecs"]["Worker"]["replicas"]) == (2, 3)
    for role, command in (("Launcher", ["mpirun", "pi"]), ("Worker", ["sshd"])):
        (container,) = shown["mpiReplicaSpecs"][role]["template"]["spec"]["containers"]
        assert (container["name"], container["image"], container["command"]) == ("mpi", "me/x:1", command)


def test_a_pytorchjob_takes_its_size_from_its_manifest() -> None:
    """A manifest that describes a master alone is a job of one rank."""
    specs = {"Master": {"template": template("trainer", "python", "t.py")}}
    shown = resource_of(PyTorchJobOperator(task_id="t", manifest={"spec": {"pytorchReplicaSpecs": specs}}))
    roles = shown["spec"]["pytorchReplicaSpecs"]
    assert list(roles) == ["Master"]
    assert roles["Master"]["template"]["spec"]["containers"][0]["name"] == "pytorch"


def test_elastic_becomes_a_pytorchjob_or_a_pod_as_its_manifest_asks() -> None:
    """A user who brings a manifest need not know which of the two a config would have chosen."""
    specs = {"Worker": {"replicas": 2, "template": template("w", "torchrun", "t.py")}}
    nodes = resource_of(ElasticOperator(task_id="t", manifest={"spec": {"pytorchReplicaSpecs": specs}}))
    assert (nodes["kind"], nodes["spec"]["elasticPolicy"]["maxReplicas"]) == ("PyTorchJob", 2)
    alone = resource_of(ElasticOperator(task_id="p", manifest={"kind": "Pod", **template("any", "x")}))
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
        (
            {"command": ["x"], "launcher": "local"},
            "command: has no effect with launcher='local'; launcher='kubernetes' honours it",
        ),
        ({"command": ["x"], "keep_job": "maybe"}, "keep_job: must be one of never, on_failure, always"),
        (
            {"command": ["x"], "patience": {"image": 5}},
            "patience.image: there is no such field; did you mean 'image_pull'",
        ),
    ],
)
def test_a_task_whose_program_is_unclear_is_refused(arguments: dict[str, Any], message: str) -> None:
    """The mistake is found when the DAG file is parsed, with the argument that needs a change."""
    with pytest.raises(ConfigError, match=f"^task 't': {message}"):
        PyTorchJobOperator(task_id="t", task_config={"image": "x", "worker": {"replicas": 1}}, **arguments)


def test_templates_of_commands_and_manifests_stay_open_until_run_time() -> None:
    """Whoever renders the task before sees which arguments are still unknown."""
    config = {"image": "x", "worker": {"replicas": 1}}
    shown = PyTorchJobOperator(task_id="t", task_config=config, command=["echo", "{{ ds }}"]).render()
    assert shown["known at run time"] == ["command"]
    shown = PyTorchJobOperator(task_id="t", task_config=config, manifest={"spec": {"x": "{{ ds }}"}}).render()
    assert shown["known at run time"] == ["manifest"]


def test_a_manifest_from_upstream_gives_the_size_once_it_is_known() -> None:
    """Numbers in rendered templates are text, and still count as the number of workers."""
    specs = {"Worker": {"replicas": "{{ params.n }}", "template": template("w", "x")}}
    task = PyTorchJobOperator(task_id="t", manifest={"spec": {"pytorchReplicaSpecs": specs}})
    getattr(task, "manifest")["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] = "2"  # noqa: B009 - a field that is made from an argument
    assert task.final_config().world_size == 3


def test_an_argument_of_any_kind_has_the_same_digest_in_every_process() -> None:
    """The digest decides whether a running job is still the one that is wanted."""

    def digest(grid: object) -> str:
        config = {"image": "x", "worker": {"replicas": 1}}
        task = PyTorchJobOperator(task_id="t", task_config=config, python_callable=print, op_kwargs={"sep": grid})
        return task.spec_hash(task.final_config())

    assert digest({("lr", 1): 2, 3: {"b", "a"}}) == digest({3: {"a", "b"}, ("lr", 1): 2})
    assert digest(object()) == digest(object())
    assert digest([1]) != digest([2])
