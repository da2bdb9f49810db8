"""What ``render`` shows: every part by its name, and all that is known before a task runs."""

from __future__ import annotations

import json
from typing import Any

from airflow.sdk import DAG, BaseOperator, XComArg

from airflow_distrib import (
    Elastic,
    ElasticOperator,
    MPIJob,
    MPIJobOperator,
    PyTorchJob,
    PyTorchJobOperator,
    Replica,
    Resources,
    Slurm,
    SlurmOperator,
)
from airflow_distrib.operators.rendering import LATER


def elastic(**arguments: Any) -> dict[str, Any]:
    """An Elastic task, rendered."""
    return ElasticOperator(task_id="t", python_callable=print, **arguments).render()


def test_the_numbers_of_an_elastic_job_have_names() -> None:
    """A list of values says nothing to somebody who has not read the code."""
    local = elastic(task_config=Elastic(nproc_per_node=2, max_restarts=3))
    assert local["spec"]["elastic"]["nproc_per_node"] == 2
    on_cluster = elastic(task_config=Elastic(nproc_per_node=2, image="i"))
    assert on_cluster["specs"]["spec.json"]["elastic"]["max_nodes"] == 1


def test_a_script_is_shown_line_by_line() -> None:
    """JSON has no line breaks, and a script in one line cannot be read."""
    shown = elastic(slurm=Slurm(partition="gpu"))
    assert shown["script"][0].startswith("#!/bin")
    assert all("\n" not in line for part in ("script", "ranks") for line in shown[part])
    assert shown["spec"]["mode"]
    assert json.dumps(shown)


def test_a_job_is_shown_but_for_the_fields_that_are_known_later() -> None:
    """One open number does not hide image, environment and everything else."""
    resources = Resources(cpu="{{ params.cpu }}", memory="4Gi")
    worker = Replica(replicas="{{ params.n }}", requests=resources)
    config = PyTorchJob(
        worker=worker, image="repo:{{ params.tag }}", env={"RUN": "{{ run_id }}"}, suspend="{{ params.s }}"
    )
    shown = PyTorchJobOperator(task_id="t", python_callable=print, task_config=config).render()
    unknown = {"image", "env", "suspend", "worker.replicas", "worker.requests.cpu"}
    assert {each.removeprefix("task_config.") for each in shown["known at run time"]} == unknown
    role = shown["manifest"]["spec"]["pytorchReplicaSpecs"]["Worker"]
    container = role["template"]["spec"]["containers"][0]
    assert role["replicas"] == "{{ params.n }}"
    assert container["image"] == "repo:{{ params.tag }}"
    assert container["resources"]["requests"] == {"cpu": "{{ params.cpu }}", "memory": "4Gi"}
    assert {"name": "RUN", "value": "{{ run_id }}"} in container["env"]
    assert shown["manifest"]["metadata"]["name"] == shown["name"]


def test_what_follows_from_an_open_number_is_known_later_too() -> None:
    """No number is made up."""
    worker = Replica(replicas="{{ params.n }}")
    shown = MPIJobOperator(
        task_id="t", python_callable=print, task_config=MPIJob(worker=worker, slots=4, image="i"), keep_job="always"
    ).render()
    assert shown["manifest"]["spec"]["slotsPerWorker"] == 4
    assert shown["manifest"]["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"] == "{{ params.n }}"
    command = next(each for each in shown["specs"].values() if each["command"])["command"]
    assert command[command.index("-np") + 1] == LATER
    assert "61" not in json.dumps(shown["manifest"]["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"])


def test_options_of_slurm_are_shown_with_their_templates() -> None:
    """The command line is complete before the run."""
    config = Slurm(nodes="{{ params.n }}", ntasks_per_node=2, partition="{{ params.p }}", time=90)
    shown = SlurmOperator(task_id="t", python_callable=print, task_config=config).render()
    assert {"--nodes={{ params.n }}", "--ntasks-per-node=2", "--partition={{ params.p }}"} <= set(shown["sbatch"])


def test_a_config_that_an_upstream_task_makes_leaves_the_arguments_known() -> None:
    """Where the job runs, and with which function and options, is in the DAG file."""
    with DAG("d", schedule=None):
        config = XComArg(BaseOperator(task_id="first"))
        shown = elastic(task_config=config, kubernetes_conn_id="k8s")
    assert shown["known at run time"] == ["task_config"]
    assert (shown["launcher"], shown["function"]) == ("kubernetes", "print")
    assert shown["arguments"] == {"kubernetes_conn_id": "k8s"}
