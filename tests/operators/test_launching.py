"""An operator takes only the arguments that its launcher honours, so that none is ignored without a word."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_distrib import ConfigError, Elastic, ElasticOperator, MPIJob, PyTorchJobOperator, Replica, Slurm
from airflow_distrib.catalogue import ENTRIES, load
from airflow_distrib.operators.base import DistributedJobOperator
from airflow_distrib.operators.launching import LIMITED
from fake_context import context

Operator = type[DistributedJobOperator[Any]]

OPERATORS: list[Operator] = [load(entry.operator) for entry in ENTRIES]
FUNCTION = {"python_callable": print}

# What each operator needs besides the argument in question.
NEEDED: dict[str, dict[str, Any]] = {
    "ElasticOperator": {**FUNCTION, "task_config": {"image": "x"}},
    "PyTorchJobOperator": {**FUNCTION, "task_config": {"image": "x", "worker": {"replicas": 1}}},
    "MPIJobOperator": {**FUNCTION, "task_config": {"image": "x", "worker": {"replicas": 1}}},
    "SlurmOperator": FUNCTION,
    "SlurmScriptOperator": {"script_path": "/job.sh"},
    "SlurmShellOperator": {"script": "true"},
}
# An image is for Kubernetes.
NEEDED_ON: dict[tuple[str, str | None], dict[str, Any]] = {("ElasticOperator", "slurm"): {"task_config": {}}}

# A value of each argument that is not its default.
VALUES: dict[str, Any] = {
    "arguments": ["a"],
    "command": ["echo"],
    "inputs": {"a": 1},
    "keep_job": "always",
    "kubernetes_conn_id": "k8s",
    "log_elements": [0],
    "manifest": {"metadata": {"labels": {"a": "b"}}},
    "outputs": {"b": {"location": "/results/b"}},
    "patience": {"quota": 5},
    "payload_path": "/shared",
    "python": "python3.12",
    "result_path": "/result.json",
    "script": "echo {inputs.a} > {outputs.b}",
    "script_path": "/other.sh",
    "slurm": Slurm(partition="gpu"),
    "ssh_conn_id": "login",
    "termination_grace_seconds": 5.0,
}


def cases(*, honoured: bool) -> list[Any]:
    """Every operator with each of its launchers and every argument that the launcher does, or does not, honour."""
    return [
        pytest.param(operator, launcher.name, name, id=f"{operator.__name__}-{launcher.name}-{name}")
        for operator in OPERATORS
        for launcher in operator.launchers
        for name in sorted({*operator.launcher_arguments, *LIMITED})
        if (name in launcher.takes) is honoured and (operator.__name__, name) != ("ElasticOperator", "log_elements")
    ]


def make(operator: Operator, name: str, launcher: str | None = None, **more: Any) -> DistributedJobOperator[Any]:
    """A task with one argument more than it needs."""
    given = {**NEEDED[operator.__name__], **NEEDED_ON.get((operator.__name__, launcher), {}), name: VALUES[name]}
    if name == "command":
        del given["python_callable"]
    if name == "log_elements" and launcher == "slurm":
        given["task_config"] = {"array": "0-3"}
    if name in ("inputs", "outputs", "script"):
        given |= {each: VALUES[each] for each in ("inputs", "outputs", "script")}
    return operator(task_id="t", launcher=launcher, **{**given, **more})


@pytest.mark.parametrize(("operator", "launcher", "name"), cases(honoured=True))
def test_an_argument_that_the_launcher_honours_is_taken(operator: Operator, launcher: str, name: str) -> None:
    """Whatever a launcher declares, a user can set where that launcher is chosen."""
    task = make(operator, name, launcher)
    assert task.launcher == launcher
    assert getattr(task, name) not in (None, LIMITED.get(name))


@pytest.mark.parametrize(("operator", "launcher", "name"), cases(honoured=False))
def test_an_argument_that_the_launcher_does_not_honour_is_refused(operator: Operator, launcher: str, name: str) -> None:
    """The error names the launcher that would honour it, instead of a job that quietly runs otherwise."""
    able = " or ".join(f"launcher={each.name!r}" for each in operator.launchers if name in each.takes)
    text = f"has no effect with launcher={launcher!r}; {f'{able} honours it' if able else 'remove it'}"
    if "python_callable" not in NEEDED[operator.__name__] and name in ("python", "result_path"):
        text = f"is for functions; {operator.__name__} runs a script"
    with pytest.raises(ConfigError) as refused:
        make(operator, name, launcher)
    assert str(refused.value) == f"task 't': {name}: {text}"


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        pytest.param(*case.values[::2], id=f"{case.values[0].__name__}-{case.values[2]}")
        for case in cases(honoured=False)
        if case.values[1] == "local" and case.values[2] != "command"
    ],
)
def test_where_airflows_configuration_sets_the_launcher_a_useless_argument_is_a_warning(
    operator: Operator, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A DAG file that is written for a cluster runs on a laptop as it is, and the log tells what is different there."""
    monkeypatch.setenv("AIRFLOW__AIRFLOW_DISTRIB__LAUNCHER", "local")
    task = make(operator, name)
    lines: list[str] = []
    monkeypatch.setattr(task.log, "warning", lambda message, *args: lines.append(message % args))
    task.execute(context())
    assert task.launcher == "local"
    assert f"{name} has no effect with launcher='local'" in lines


@pytest.mark.parametrize("launcher", ["local", "kubernetes", "slurm"])
def test_elements_of_a_job_array_are_refused_by_elastic(launcher: str) -> None:
    """An elastic job is never a job array, so there are no elements whose logs could be shown."""
    with pytest.raises(ConfigError, match="^task 't': log_elements: "):
        ElasticOperator(task_id="t", python_callable=print, launcher=launcher, log_elements=[0], task_config={})


@pytest.mark.parametrize("operator", [each for each in OPERATORS if "command" in each.launcher_arguments])
def test_a_command_is_refused_also_where_airflows_configuration_sets_the_launcher(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Local ranks run functions, so a task without one has nothing to run there."""
    monkeypatch.setenv("AIRFLOW__AIRFLOW_DISTRIB__LAUNCHER", "local")
    with pytest.raises(ConfigError, match="^task 't': command: has no effect with launcher='local'; launcher='kub"):
        make(operator, "command")


def test_the_operators_own_launcher_counts_more_than_airflows_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that names its launcher gets the same strict check wherever its DAG file is parsed."""
    monkeypatch.setenv("AIRFLOW__AIRFLOW_DISTRIB__LAUNCHER", "local")
    assert make(PyTorchJobOperator, "keep_job", "kubernetes").launcher == "kubernetes"
    with pytest.raises(ConfigError, match="^task 't': keep_job: has no effect with launcher='local'"):
        make(PyTorchJobOperator, "keep_job", "local")


def test_an_argument_of_one_launcher_chooses_it() -> None:
    """Users need not repeat in launcher= what a connection or a manifest makes clear."""
    for name in ("kubernetes_conn_id", "manifest"):
        assert make(ElasticOperator, name).launcher == "kubernetes"
    assert make(ElasticOperator, "ssh_conn_id", task_config={}).launcher == "slurm"
    with pytest.raises(ConfigError, match="^task 't': launcher: is needed where arguments of several"):
        make(ElasticOperator, "ssh_conn_id", kubernetes_conn_id="k8s")


@pytest.mark.parametrize("operator", OPERATORS)
def test_arguments_of_launchers_are_none_when_they_are_not_set(operator: Operator) -> None:
    """A default of another launcher must not look like a user's wish."""
    needed = NEEDED[operator.__name__]
    task = operator(task_id="t", **needed)
    for name in set(operator.launcher_arguments) - set(needed):
        assert getattr(task, name) is None


def test_a_task_shows_only_the_connections_that_its_job_uses() -> None:
    """The page of a local task does not name clusters, unless the user has named one."""
    job: dict[str, Any] = {"task_id": "t", "python_callable": print}
    local = ElasticOperator(**job)
    assert set(local.template_fields) == {"task_config", "task_config_overrides", "op_args", "op_kwargs", "result_path"}
    on_slurm = set(ElasticOperator(**job, ssh_conn_id="hpc").template_fields)
    assert {"ssh_conn_id", "slurm"} <= on_slurm
    assert not {"kubernetes_conn_id", "manifest", "command"} & on_slurm
    assert "kubernetes_conn_id" in ElasticOperator(**job, task_config={"image": "i"}).template_fields


def test_several_nodes_without_a_cluster_say_what_an_image_is_for() -> None:
    """Who raises nnodes may have no cluster, and has never seen an option called image."""
    with pytest.raises(ConfigError, match=r"task_config\.image: is required because nnodes=2") as refused:
        ElasticOperator(task_id="t", python_callable=print, task_config={"nnodes": 2})
    assert "slurm=Slurm(...)" in str(refused.value)
    assert "launcher='local'" in str(refused.value)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: ElasticOperator(task_id="t", python_callable=print, launcher="Local"), "local"),
        (lambda: ElasticOperator(task_id="t", python_callable=print, keep_job="Always"), "always"),
        (lambda: ElasticOperator(task_id="t", python_callable=print, log_ranks="ALL"), "all"),
        (lambda: Elastic(nproc_per_node="GPU"), "gpu"),
        (lambda: Slurm(exclusive="User"), "user"),
        (lambda: Replica(restart_policy="onfailure"), "OnFailure"),
        (lambda: MPIJob(implementation="openmpi"), "OpenMPI"),
        (lambda: ElasticOperator(task_id="t", task_config={"start_method": "Spawn"}), "spawn"),
        (lambda: ElasticOperator(task_id="t", task_config={"image_pull_policy": "always"}), "Always"),
    ],
)
def test_a_word_in_the_wrong_case_is_answered_with_the_right_one(make: Any, word: str) -> None:
    """Kubernetes and sbatch tell cases apart, and people do not."""
    with pytest.raises(ConfigError, match=f"did you mean '{word}'"):
        make()
