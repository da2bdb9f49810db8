"""The line that starts the ranks of an MPIJob: its options, its variables, and commands that bring their own."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.systems.kubernetes.kind import Manifest
from airflow_distrib.systems.kubernetes.resources import Replica
from airflow_distrib.systems.mpijob.config import MPIJob
from airflow_distrib.systems.mpijob.render import kubernetes as mpi

REQUEST = JobRequest(identity=JobIdentity("dag", "run", "train", -1, 1, "scope"))
ONE = Replica(replicas=1)
JOB = MPIJob(image="x", worker=ONE)


def template_with(*variables: Manifest) -> Manifest:
    """A pod template whose main container has variables."""
    return {"spec": {"containers": [{"name": "mpi", "env": list(variables)}]}}


def launcher_of(config: MPIJob, *command: str, **arguments: Any) -> Manifest:
    """The launcher's container of a command."""
    given = {**({"command": list(command)} if command else {}), **arguments}
    rendered = mpi(config, dataclasses.replace(REQUEST, runs_function=False, arguments=given))
    replicas = rendered.manifest["spec"]["mpiReplicaSpecs"]
    main: Manifest = replicas["Launcher"]["template"]["spec"]["containers"][0]
    return main


def started(config: MPIJob, folder: Path, environment: dict[str, str], *command: str) -> list[str]:
    """Run the launcher's command with an mpirun that prints its arguments."""
    program = folder / "mpirun"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    line = launcher_of(config, *command)["command"]
    done = subprocess.run(line, env={"PATH": path, **environment}, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_the_library_path_of_the_image_reaches_the_ranks_of_a_command(tmp_path: Path) -> None:
    """An SSH server gives its processes no LD_LIBRARY_PATH, so programs would not find MPI's own libraries."""
    with_path = started(JOB, tmp_path, {"LD_LIBRARY_PATH": "/opt/mpi/lib"}, "prog", "a b", "$HOME")
    assert with_path[:2] == ["-x", "LD_LIBRARY_PATH"]
    assert with_path[-3:] == ["prog", "a b", "$HOME"]
    assert "-x PATH -x NCCL_DEBUG" in " ".join(with_path)
    assert "LD_LIBRARY_PATH" not in started(JOB, tmp_path, {}, "prog")


def test_variables_of_the_workers_own_template_reach_the_ranks() -> None:
    """What is set for the workers is meant for the ranks, which run there."""
    secret = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    node = {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    worker = Replica(replicas=1, pod_template=template_with({"name": "A", "value": "workers"}, secret, node))
    config = MPIJob(image="x", worker=worker, env={"A": "job", "B": "job"})
    rendered = mpi(config, REQUEST)
    main = rendered.manifest["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
    values = {each["name"]: each for each in main["env"]}
    assert (values["A"]["value"], values["B"]["value"], values["TOKEN"]) == ("workers", "job", secret)
    exports = rendered.specs["launcher.json"].exports
    assert {"PATH", "LD_LIBRARY_PATH", "A", "B", "TOKEN", "AIRFLOW_DISTRIB_REPORT"} <= set(exports)
    assert {"NODE", "AIRFLOW_DISTRIB_POD_IP"}.isdisjoint(exports)


def test_a_variable_of_the_launchers_own_template_stays_as_it_is() -> None:
    """Users can still tell mpirun something else than the ranks' pods."""
    worker = Replica(replicas=1, pod_template=template_with({"name": "A", "value": "workers"}))
    launcher = Replica(pod_template=template_with({"name": "A", "value": "launcher"}))
    main = launcher_of(MPIJob(image="x", worker=worker, launcher=launcher), "prog")
    assert {each["name"]: each["value"] for each in main["env"]}["A"] == "launcher"


def test_variables_of_a_manifest_reach_the_ranks_too() -> None:
    """A manifest is merged last, and what it sets counts all the same."""
    pods = {"template": template_with({"name": "FROM_MANIFEST", "value": "1"})}
    manifest = {"spec": {"mpiReplicaSpecs": {"Worker": pods}}}
    rendered = mpi(JOB, dataclasses.replace(REQUEST, arguments={"manifest": manifest}))
    assert "FROM_MANIFEST" in rendered.specs["launcher.json"].exports
    assert "FROM_MANIFEST" in launcher_of(JOB, "prog", manifest=manifest)["command"]


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({}, "INFO"),
        ({"env": {"NCCL_DEBUG": "WARN"}}, "WARN"),
        ({"pod_template": template_with({"name": "NCCL_DEBUG", "value": "TRACE"})}, "TRACE"),
    ],
)
def test_nccl_says_what_it_does_unless_the_user_wants_it_otherwise(fields: dict[str, Any], value: str) -> None:
    """The log tells which network the ranks use, as it does in Flyte."""
    config = MPIJob(image="x", worker=ONE, **fields)
    values = {each["name"]: each.get("value") for each in launcher_of(config, "prog")["env"]}
    assert values["NCCL_DEBUG"] == value
    assert "NCCL_DEBUG" in mpi(config, REQUEST).specs["launcher.json"].exports


@pytest.mark.parametrize(
    "command",
    [
        ["mpirun", "-np", "2", "prog"],
        ["/usr/bin/mpiexec", "prog"],
        ["mpiexec.hydra", "prog"],
        ["horovodrun", "-np", "2", "python", "t.py"],
        ["bash", "-c", "mpirun -np 2 prog"],
        ["/bin/sh", "-ec", "cd /work && /opt/mpi/bin/mpirun prog"],
        ["bash", "-lc", "source env.sh\nexec mpirun prog"],
        ["bash", "-c", "N=2; mpirun"],
        ["env", "A=1", "mpirun", "prog"],
        ["timeout", "60", "bash", "-c", "mpirun prog"],
    ],
)
def test_a_command_that_starts_the_ranks_itself_is_not_wrapped_in_a_second_mpirun(command: list[str]) -> None:
    """Every rank would otherwise start all ranks once more."""
    assert launcher_of(JOB, *command)["command"] == command
    with pytest.raises(ConfigError, match="^mpirun_arguments: the command calls mpirun itself"):
        launcher_of(JOB.merged({"mpirun_arguments": ["-v"]}), *command)


@pytest.mark.parametrize(
    "command",
    [
        ["python", "t.py", "--launcher", "mpirun"],
        ["bash", "run.sh"],
        ["bash", "-c", "echo mpirun-is-not-called"],
        ["env", "A=1", "prog"],
    ],
)
def test_any_other_command_is_started_on_every_rank(command: list[str]) -> None:
    """A program that only mentions mpirun is a program."""
    line = launcher_of(JOB, *command)["command"]
    assert line[:2] == ["sh", "-c"]
    assert line[-len(command) :] == command


OPEN_MPI = ["--allow-run-as-root", "-x", "--bind-to", "-mca", "--oversubscribe", "--report-bindings", "--prefix=/opt"]
HYDRA = ["-genv", "-genvlist", "-ppn", "-bootstrap", "-launcher", "-iface", "-prepend-rank"]


@pytest.mark.parametrize(
    ("implementation", "option", "owners"),
    [
        *(("Intel", option, "OpenMPI") for option in OPEN_MPI),
        *(("MPICH", option, "OpenMPI") for option in OPEN_MPI),
        *((None, option, "Intel and MPICH") for option in HYDRA),
        ("MPICH", "-check_mpi", "Intel"),
        ("OpenMPI", "-binding", "Intel"),
    ],
)
def test_an_option_of_another_implementation_is_refused(implementation: str | None, option: str, owners: str) -> None:
    """The launcher would end at once, with a usage text that nobody expects."""
    with pytest.raises(ConfigError, match=f"^mpirun_arguments: '{option}' is an option of {owners}, but implementatio"):
        MPIJob(image="x", worker=ONE, implementation=implementation, mpirun_arguments=[option, "value"])


def test_an_implementation_may_be_a_template_until_it_is_rendered() -> None:
    """One DAG file serves images with different MPIs."""
    config = MPIJob(image="x", worker=ONE, implementation="{{ params.mpi }}", mpirun_arguments=["-ppn", "1"])
    assert config.merged({"implementation": "MPICH"}).mpirun_arguments == ("-ppn", "1")
    with pytest.raises(ConfigError, match="^mpirun_arguments: '-ppn' is an option of Intel and MPICH"):
        config.merged({"implementation": "OpenMPI"})


@pytest.mark.parametrize(
    ("implementation", "arguments"),
    [
        (None, ["--bind-to", "core", "-x", "A", "--mca", "btl", "tcp,self"]),
        ("Intel", ["-ppn", "2", "-genv", "A", "1", "-bind-to", "core", "-check_mpi"]),
        ("MPICH", ["-ppn", "2", "-bind-to", "core:2", "-map-by", "numa", "-iface", "eth0"]),
    ],
)
def test_options_of_the_implementation_reach_its_mpirun(implementation: str | None, arguments: list[str]) -> None:
    """Users can tune the launch in the words of the MPI that they have."""
    config = MPIJob(image="x", worker=ONE, implementation=implementation, mpirun_arguments=arguments)
    assert " ".join(arguments) in " ".join(launcher_of(config, "prog")["command"])
    command = mpi(config, REQUEST).specs["launcher.json"].command
    assert command[3 : 3 + len(arguments)] == arguments


@pytest.mark.parametrize("implementation", ["Intel", "MPICH"])
def test_other_implementations_get_no_option_of_open_mpi(implementation: str) -> None:
    """The defaults are written for Open MPI, and unknown to the others."""
    config = MPIJob(image="x", worker=ONE, implementation=implementation)
    for line in (launcher_of(config, "prog")["command"], mpi(config, REQUEST).specs["launcher.json"].command):
        assert line[:4] == ["mpirun", "-np", "1", "-genvlist"]
        assert "-x" not in line


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"mpiImplementation": "Intel"}, "manifest.spec.mpiImplementation: is Intel, but implementation is OpenMPI"),
        ({"runLauncherAsWorker": True}, "manifest.spec.runLauncherAsWorker: is True, but run_launcher_as_worker is No"),
        ({"slotsPerWorker": None}, "manifest.spec.slotsPerWorker: is None, but slots is 1; set slots instead"),
    ],
)
def test_a_manifest_does_not_change_what_mpirun_is_told(own: Manifest, message: str) -> None:
    """Its number of ranks, and the way it gets them, come from the config."""
    with pytest.raises(ConfigError, match=f"^{message}"):
        mpi(JOB, dataclasses.replace(REQUEST, arguments={"manifest": {"spec": own}}))
