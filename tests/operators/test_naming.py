"""Names that do not exist, arguments that are Airflow's own, and where errors are raised."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator, TaskGroup, task

from airflow_distrib import (
    Elastic,
    ElasticOperator,
    MPIJob,
    PyTorchJob,
    PyTorchJobOperator,
    Replica,
    Resources,
    RunPolicy,
    Sbatch,
    Slurm,
    SlurmOperator,
    SlurmScriptOperator,
    catalogue,
    elastic_task,
)
from airflow_distrib.core import names
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.operators.naming import arguments_of

ENTRIES = [pytest.param(each, id=each.system) for each in catalogue.ENTRIES]
AIRFLOWS = arguments_of(BaseOperator)


def train() -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("config", "name", "answer"),
    [
        (PyTorchJob, "workers", "did you mean 'worker'?"),
        (PyTorchJob, "replicas", "write master=Replica(replicas=...) or worker=Replica(replicas=...)"),
        (PyTorchJob, "nprocs", "each replica is one rank"),
        (PyTorchJob, "clean_pod_policy", "write run_policy=RunPolicy(clean_pod_policy=...)"),
        (PyTorchJob, "queue_name", "did you mean 'kueue_queue'?"),
        (PyTorchJob, "retries", "write @task.pytorch_job(PyTorchJob(...), retries=...)"),
        (MPIJob, "nprocs", "slots=..."),
        (Elastic, "nprocs", "did you mean 'nproc_per_node'?"),
        (Elastic, "log_ranks", "write @task.elastic(Elastic(...), log_ranks=...)"),
        (Elastic, "partition", "write @task.elastic(Elastic(...), slurm=Slurm(partition=...))"),
        (Elastic, "gpu", "write requests=Resources(gpu=...) or limits=Resources(gpu=...)"),
        (Slurm, "cpus", "did you mean 'cpus_per_task'?"),
        (Slurm, "ssh_config", "name it in the operator's ssh_conn_id"),
        (Sbatch, "batch_script_args", "write SlurmScriptOperator(arguments=...)"),
        (Sbatch, "keep_job", "write SlurmScriptOperator(task_config=Sbatch(...), keep_job=...)"),
        (Replica, "env", "write PyTorchJob(env=...) or MPIJob(env=...)"),
        (Resources, "mem", "did you mean 'memory'?"),
        (RunPolicy, "suspend", "write Elastic(suspend=...)"),
    ],
)
def test_a_field_that_does_not_exist_is_answered_with_its_place(config: Any, name: str, answer: str) -> None:
    """Names of other tools, of operator arguments and of nested configs lead to where they belong."""
    with pytest.raises(ConfigError) as refused:
        config(**{name: 1})
    assert refused.value.field == f"{config.__name__}.{name}"
    assert answer in str(refused.value)


@pytest.mark.parametrize("config", [PyTorchJob, MPIJob, Elastic, Slurm, Replica, Resources])
@pytest.mark.parametrize("name", ["spot", "dashboard", "shm_size", "ports", "verbose"])
def test_a_name_that_is_close_to_nothing_suggests_nothing(config: Any, name: str) -> None:
    """A wrong suggestion is worse than none: the error lists what there is."""
    with pytest.raises(ConfigError, match="there is no such field; its fields are"):
        config(**{name: 1})


WAYS: list[Callable[..., object]] = [
    lambda **given: ElasticOperator(task_id="t", python_callable=train, **given),
    lambda **given: ElasticOperator.partial(task_id="t", python_callable=train, **given),
    lambda **given: task.elastic(**given),
]


@pytest.mark.parametrize("make", WAYS, ids=["operator", "partial", "decorator"])
@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("retris", "did you mean 'retries'?"),
        ("log_rank", "did you mean 'log_ranks'?"),
        ("nnodes", "is a field of Elastic; write "),
        ("gpu", "Elastic(requests=Resources(gpu=...))"),
        ("partition", "write slurm=Slurm(partition=...)"),
        ("ssh_config", "ssh_conn_id"),
        ("spot", "spot: there is no such argument"),
    ],
)
def test_an_argument_that_no_operator_has_is_answered_with_its_place(make: Any, name: str, answer: str) -> None:
    """Classic operators, mapped ones and decorators answer alike, when the DAG file is parsed."""
    with pytest.raises(ConfigError) as refused:
        make(**{name: 1})
    assert answer in str(refused.value)


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_field_has_the_name_of_one_of_airflows_arguments(entry: catalogue.Entry) -> None:
    """Who writes queue= or pool= means Airflow's, in whichever place."""
    config = catalogue.load(entry.config)
    operator = catalogue.load(entry.operator)
    own = {*names.fields_of(config), *operator.launcher_arguments}
    assert own & AIRFLOWS == set()


@pytest.mark.parametrize("entry", [each for each in ENTRIES if each.values[0].decorator])  # type: ignore[union-attr] # an entry
def test_airflows_own_arguments_reach_airflow(entry: catalogue.Entry) -> None:
    """A task goes to the queue, pool and executor that its decorator names."""
    config = {"worker": {"replicas": 1}} if "worker" in names.fields_of(catalogue.load(entry.config)) else {}
    own = {"queue": "gpu_workers", "pool": "gpus", "priority_weight": 7, "retries": 3, "executor_config": {"a": 1}}
    with DAG("d", schedule=None) as dag:
        getattr(task, entry.decorator)(config, launcher="local", **own)(train)()
    made = dag.get_task("train")
    assert {name: getattr(made, name) for name in own} == own


def test_the_old_name_of_kueues_queue_warns_and_still_works() -> None:
    """Who has written queue= in a config is told the new name on their own line."""
    with pytest.warns(DeprecationWarning, match=r"Elastic\.queue is deprecated; use kueue_queue") as warned:
        config = Elastic(image="i", queue="team-a")  # type: ignore[call-arg] # the old name
    assert config.kueue_queue == "team-a"
    assert warned[0].filename == __file__
    with pytest.warns(DeprecationWarning):
        assert config.merged({"queue": "team-b"}).kueue_queue == "team-b"
    with pytest.raises(ConfigError, match="set only one"), pytest.warns(DeprecationWarning):
        Elastic(queue="a", kueue_queue="b")  # type: ignore[call-arg] # the old name


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (lambda **given: ElasticOperator(task_id="t", python_callable=train, **given), "Elastic(requests=..., limits"),
        (
            lambda **given: PyTorchJobOperator(
                task_id="t", python_callable=train, task_config={"worker": {"replicas": 1}}, launcher="local", **given
            ),
            "PyTorchJob(requests=..., limits=...)",
        ),
        (lambda **given: SlurmOperator(task_id="t", python_callable=train, **given), "cpus_per_task=..., mem=..."),
        (lambda **given: SlurmScriptOperator(task_id="t", script_path="/s", **given), "Sbatch(nodes=..."),
        (
            lambda **given: ElasticOperator.partial(task_id="t", python_callable=train, **given).expand(op_args=[[]]),
            "limits=",
        ),
        (lambda **given: task.elastic(**given)(train)(), "@task.elastic(Elastic(requests=..."),
        (lambda **given: task.elastic(**given)(lambda x: x).expand(x=[1]), "@task.elastic(Elastic(requests=..."),
    ],
)
def test_airflows_resources_are_met_with_the_fields_that_have_an_effect(make: Any, answer: str) -> None:
    """They reach no pod and no node, and the job would quietly run without them."""
    with DAG("d", schedule=None), pytest.warns(UserWarning, match="resources= has no effect") as warned:
        make(resources={"cpus": 4})
    texts = [str(each.message) for each in warned if "resources=" in str(each.message)]
    assert len(texts) == 1
    assert answer in texts[0]


def test_a_task_without_resources_warns_of_nothing() -> None:
    """The warning is for those who set them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ElasticOperator(task_id="t", python_callable=train)


def decorated_call() -> None:
    """Call a decorated function whose arguments do not fit."""
    elastic_task(Elastic(), keep_job="on_failure")(train)()


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: Elastic(nnodes=0),
        lambda: Elastic(nnode=2),  # type: ignore[call-arg] # the point of the test
        lambda: PyTorchJob(worker={"replicas": -1}),
        lambda: Elastic().merged({"nnodes": 0}),
        lambda: Elastic.from_mapping({"nnodes": 0}),
        lambda: ElasticOperator(task_id="t", python_callable=train, log_ranks="some"),
        lambda: ElasticOperator.partial(task_id="t", python_callable=train, task_config={"nnodes": 0}),
        lambda: elastic_task({"nnodes": 0}),
        decorated_call,
    ],
)
def test_the_users_line_is_next_to_the_innermost_of_an_error(mistake: Callable[[], object]) -> None:
    """Airflow shows two frames of an import error: one of them is in the user's file."""
    with DAG("d", schedule=None), pytest.raises(ConfigError) as refused:
        mistake()
    frames = traceback.extract_tb(refused.value.__traceback__)
    assert frames[-2].filename == __file__
    assert refused.value.__cause__ is None


def test_an_error_names_task_and_dag() -> None:
    """A file may have many tasks, and one loop may make them all."""
    with DAG("digits", schedule=None), TaskGroup("group"), pytest.raises(ConfigError) as refused:
        ElasticOperator(task_id="fit", python_callable=train, launcher="Local")
    assert str(refused.value).startswith("task 'group.fit' of DAG 'digits': launcher: ")
    with DAG("digits", schedule=None), pytest.raises(ConfigError, match="^task 'train' of DAG 'digits': keep_job: "):
        decorated_call()
