"""Configs of Slurm jobs are checked early and become options of sbatch."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_distrib.core.config import Config
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.systems.slurm import options
from airflow_distrib.systems.slurm.config import Sbatch, Slurm, elements
from airflow_distrib.systems.slurm.outputs import SlurmOutput

IDENTITY = JobIdentity("dag", "run", "task", 3, 2, "scope")


@pytest.mark.parametrize(
    ("kind", "fields", "text"),
    [
        (Sbatch, {"node": 2}, "Sbatch.node: there is no such field; did you mean 'nodes'?"),
        (Sbatch, {"nodes": "four"}, "nodes: must be such as 2 or '2-4'"),
        (Sbatch, {"ntasks": 0}, "ntasks: must be a whole number, at least 1"),
        (Sbatch, {"mem": "lots"}, "mem: must be such as '16G'"),
        (Sbatch, {"mem": "1G", "mem_per_cpu": "1G"}, "mem_per_cpu: excludes mem"),
        (Sbatch, {"time": "soon"}, "time: must be such as 90 (minutes) or '1-12:00:00'"),
        (Sbatch, {"time": True}, "time: must be such as"),
        (Sbatch, {"array": "a-b"}, "array: must be such as '0-9'"),
        (Sbatch, {"array": "0-99999999999"}, "array: has more than 10000 elements"),
        (Sbatch, {"array": "0-3", "components": [{"nodes": 1}]}, "components: a job array cannot be heterogeneous"),
        (Sbatch, {"partition": "a\nb"}, "partition: must be one line"),
        (Sbatch, {"chdir": "here"}, "chdir: must be an absolute path on the cluster"),
        (Sbatch, {"exclusive": "maybe"}, "exclusive: must be True, 'user', 'mcs' or 'topo'"),
        (Sbatch, {"signal": "a b"}, "signal: must be such as 'USR1@300'"),
        (Sbatch, {"env": {"A-B": "1"}}, "env: 'A-B' cannot be the name of a shell's variable"),
        (Sbatch, {"env": {"A": 1}}, "env['A']: must be text; write '1' instead of 1"),
        (Sbatch, {"sbatch_options": {"wrap": "x"}}, "sbatch_options['wrap']: cannot be set: use SlurmShellOperator"),
        (Sbatch, {"sbatch_options": {"--mem": "1G"}}, "sbatch_options['--mem']: is the field mem of the config"),
        (Sbatch, {"sbatch_options": {"a b": 1}}, "sbatch_options['a b']: must be the long name of an option"),
        (Sbatch, {"sbatch_options": ["x"]}, "sbatch_options: must be a mapping"),
        (Sbatch, {"components": [{"time": 3}]}, "components[0]['time']: a component takes nodes, ntasks"),
        (Sbatch, {"components": [{"nodes": "x"}]}, "components[0].nodes: must be such as"),
        (Slurm, {"script": "echo"}, "script: must say {task.fn} exactly once"),
        (Slurm, {"apptainer_image": "a", "container_image": "b"}, "container_image: excludes apptainer_image"),
        (Slurm, {"apptainer_options": ["--nv"]}, "apptainer_options: needs apptainer_image"),
        (Slurm, {"container_mounts": ["/a:/a"]}, "container_mounts: needs container_image"),
        (Slurm, {"venv": "/v", "conda_env": "c"}, "conda_env: excludes venv"),
        (Slurm, {"srun": False, "ntasks": 2}, "srun: cannot be False with several tasks"),
        (Slurm, {"master_port": 70000}, "master_port: must be a whole number, from 1 to 65535"),
        (SlurmOutput, {}, "to: is required without a location"),
        (SlurmOutput, {"kind": "text", "to": "x"}, "kind: must be one of file, directory"),
        (SlurmOutput, {"location": "x"}, "location: must be an absolute path on the cluster"),
        (SlurmOutput, {"to": 3}, "to: must be a path or a URL"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_written(kind: type[Config], fields: dict[str, Any], text: str) -> None:
    """The error names the field and its correction."""
    with pytest.raises(ConfigError) as refused:
        kind(**fields)
    assert text in str(refused.value)


def test_options_become_words_of_sbatch() -> None:
    """Values get the form that sbatch expects: commas in lists, no value for flags, nothing for None and False."""
    config = Sbatch(
        nodes="2-4",
        gres=["gpu:2", "tmp:10G"],
        exclusive=True,
        requeue=False,
        time="1-00:00:00",
        dependency="afterok:1?afterany:2",
        sbatch_options={"switches": "2@10:00", "overcommit": True, "hint": None, "spread_job": False, "nice": 5},
    )
    assert options.words(config, {"job_name": "x", "time": 9}) == [
        *("--job-name=x", "--time=9", "--nodes=2-4", "--gres=gpu:2,tmp:10G", "--exclusive"),
        *("--dependency=afterok:1?afterany:2", "--no-requeue", "--switches=2@10:00", "--overcommit", "--nice=5"),
    ]


def test_components_follow_a_colon_with_options_of_their_own() -> None:
    """The options of the job as a whole come before those of any component, where sbatch expects them."""
    config = Sbatch(ntasks=1, components=[{"ntasks": 2, "mem": "1G"}, {"nodes": 3}])
    assert options.words(config, {"comment": "c"}) == [
        *("--comment=c", "--ntasks=1", ":", "--ntasks=2", "--mem=1G", ":", "--nodes=3"),
    ]


def test_names_and_comments_identify_the_task_of_a_job() -> None:
    """Jobs can be found again by a name that no other try has, and people see in squeue whose job it is."""
    assert options.job_name(Sbatch(), IDENTITY) == IDENTITY.name(63)
    assert options.job_name(Sbatch(job_name="x" * 90), IDENTITY) == "x" * 52 + f"-{IDENTITY.digest}"
    comment = options.comment(Sbatch(comment="mine | yours"), IDENTITY)
    assert comment == f"mine   yours dag.task[3] run try 2 airflow-distrib={IDENTITY.task_digest}"
    assert options.task_of(comment) == IDENTITY.task_digest
    assert options.task_of("(null)") == options.task_of("airflow-distrib=") == ""


@pytest.mark.parametrize(
    ("array", "indexes"),
    [("0-3", [0, 1, 2, 3]), ("1,5-9:2%4", [1, 5, 7, 9]), ("7", [7]), ("3,1,1", [1, 3])],
)
def test_an_arrays_indexes_are_known(array: str, indexes: list[int]) -> None:
    """The task knows which elements to expect, sorted and without duplicates."""
    assert elements(array) == indexes


@pytest.mark.parametrize(
    ("fields", "tasks"),
    [
        ({}, 1),
        ({"ntasks": 5}, 5),
        ({"nodes": 2, "ntasks_per_node": 4}, 8),
        ({"nodes": "2-4"}, None),
        ({"ntasks": 1, "components": [{"nodes": 2, "ntasks_per_node": 3}]}, 7),
    ],
)
def test_the_world_size_follows_from_the_options(fields: dict[str, Any], tasks: int | None) -> None:
    """The number of ranks is known wherever the options determine it, and unknown where only Slurm decides."""
    assert Slurm(**fields).tasks == tasks


def test_scripts_are_no_templates() -> None:
    """Double braces in a script reach the shell, while all other fields are still templated."""
    config = Slurm(script="echo ${#x} {{ ds }} {task.fn}", partition="{{ params.p }}")
    assert config.templates() == ["partition"]
    assert config.mapped(lambda value: None if value == "{{ params.p }}" else value).script == config.script


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"venv": "/scratch/$USER/v"}, "venv: is taken as it stands, so $ would be part of it"),
        ({"srun_options": "--mpi='pmix"}, "srun_options: cannot be taken apart into words"),
        ({"sbatch_options": {"-p": "x"}}, "must be the long name of an option"),
        ({"nodes": 0}, "nodes: must be such as"),
        ({"gres": []}, "gres: must be text that is not empty"),
    ],
)
def test_what_only_looks_right_is_refused(fields: dict[str, Any], text: str) -> None:
    """Values that would only fail on the cluster are refused when the DAG file is parsed."""
    with pytest.raises(ConfigError) as refused:
        Slurm(**fields)
    assert text in str(refused.value)


def test_words_may_be_given_as_one_text() -> None:
    """Users can copy options from a command line, and a template inside a list still waits for its value."""
    config = Slurm(
        srun_options="--mpi=pmix --label", modules=["python/{{ params.v }}"], components=[{"ntasks": "{{ n }}"}]
    )
    assert config.srun_options == ("--mpi=pmix", "--label")
    assert config.templates() == ["components", "modules"]
    assert config.tasks is None
