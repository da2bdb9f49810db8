"""@task.elastic and @task.pytorch_job."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator, XComArg, task

from airflow_distrib import ConfigError, Elastic, PyTorchJob, Replica


def train(rate: float) -> dict[str, float]:
    """Doc of the function."""
    return {"loss": rate}


def made(decorator: Any, **call: Any) -> Any:
    """The operator behind one decorated call."""
    with DAG("d", schedule=None):
        return decorator(train)(**(call or {"rate": 0.1})).operator


@pytest.mark.parametrize(
    "decorator",
    [
        lambda function: task.elastic(function),
        lambda function: task.elastic()(function),
        lambda function: task.elastic(Elastic())(function),
        lambda function: task.elastic({"nproc_per_node": 1})(function),
        lambda function: task.elastic(task_config=Elastic())(function),
    ],
)
def test_every_way_to_write_the_decorator_gives_the_same_task(decorator: Any) -> None:
    """Bare, called, with the config by position or by name."""
    operator = made(decorator)
    assert operator.task_config == Elastic()
    assert operator.task_id == "train"
    assert operator.multiple_outputs
    assert operator.doc_md == "Doc of the function."
    assert operator.op_kwargs == {"rate": 0.1}


def test_operator_arguments_are_passed_on() -> None:
    """Airflow's own and this package's."""
    config = PyTorchJob(worker=Replica(replicas=1))
    operator = made(
        lambda f: task.pytorch_job(config, launcher="local", retries=2, log_ranks="all", multiple_outputs=False)(f)
    )
    assert (operator.retries, operator.launcher, operator.log_ranks, operator.multiple_outputs) == (
        2,
        "local",
        None,
        False,
    )
    assert operator.custom_operator_name == "@task.pytorch_job"


def test_override_changes_the_config_of_one_call() -> None:
    """The decorated function stays as it is."""
    decorated = task.elastic(Elastic(nproc_per_node=2))(train)
    with DAG("d", schedule=None):
        other = decorated.override(task_config=Elastic(nproc_per_node=4), task_id="other")(rate=1.0)
        same = decorated(rate=1.0)
    assert (other.operator.task_config.nproc_per_node, other.operator.task_id) == (4, "other")
    assert same.operator.task_config.nproc_per_node == 2


def test_mapped_tasks_keep_their_config() -> None:
    """Each mapped instance becomes an operator with it."""
    with DAG("d", schedule=None):
        mapped = task.elastic(Elastic(nproc_per_node=2), log_ranks=[1])(train).expand(rate=[0.1, 0.2]).operator
    operator = mapped.unmap({"op_kwargs": {"rate": 0.2}, "op_args": []})
    assert operator.task_config == Elastic(nproc_per_node=2)
    assert operator.log_ranks == [1]


def test_a_config_given_twice_is_refused() -> None:
    """By position and by name."""
    with pytest.raises(ConfigError, match="task_config: @task.elastic got it twice"):
        task.elastic(Elastic(), task_config=Elastic())


def test_a_missing_config_is_an_error_when_the_dag_is_parsed() -> None:
    """A PyTorchJob has no default number of workers."""
    with pytest.raises(ConfigError, match=r"task_config\.worker\.replicas: is required"):
        made(lambda f: task.pytorch_job(f))


@pytest.mark.parametrize(
    ("decorate", "message"),
    [
        (lambda: task.elastic(nproc_per_node=2), r"write @task\.elastic\(Elastic\(nproc_per_node=\.\.\.\)\)"),
        (lambda: task.elastic(Elastic), r"got the class Elastic; write Elastic\(\.\.\.\)"),
        (lambda: task.elastic({"nproc": 2}), "did you mean 'nproc_per_node'"),
    ],
)
def test_a_mistake_in_a_decorator_is_met_on_its_own_line(decorate: Any, message: str) -> None:
    """Also when the task is mapped and only made at run time."""
    with pytest.raises(ConfigError, match=message):
        decorate()


def test_a_config_may_come_later() -> None:
    """From override, or from a DAG's default arguments."""
    later = PyTorchJob(worker=Replica(replicas=1))
    decorated = task.pytorch_job(launcher="local")(train)
    with DAG("d", schedule=None, default_args={"task_config": later}):
        assert decorated.override(task_config=later, task_id="a")(rate=1.0).operator.task_config == later
        assert decorated(rate=1.0).operator.task_config == later


def test_an_upstreams_output_inside_the_config_of_a_mapped_task_makes_it_upstream() -> None:
    """Also of a classic operator."""
    from airflow_distrib import ElasticOperator

    with DAG("d", schedule=None):
        first = XComArg(BaseOperator(task_id="first"))
        config = Elastic(env={"A": first})  # type: ignore[dict-item] # known at run time
        decorated = task.elastic(config)(train).expand(rate=[1.0]).operator
        classic = ElasticOperator.partial(task_id="c", python_callable=print, task_config=config).expand(op_args=[[1]])
    assert decorated.upstream_task_ids == classic.upstream_task_ids == {"first"}


def test_a_config_of_another_system_is_an_error_when_the_dag_is_parsed() -> None:
    """The names look alike."""
    with pytest.raises(ConfigError, match="task_config: must be of type PyTorchJob, not Elastic"):
        made(lambda f: task.pytorch_job(Elastic(), launcher="local")(f))


def test_positional_config_via_partial_of_a_classic_operator() -> None:
    """Configs can be mapped over."""
    from airflow_distrib import ElasticOperator

    with DAG("d", schedule=None):
        mapped = ElasticOperator.partial(task_id="t", python_callable=print).expand(
            task_config=[{"nproc_per_node": 2}, {}]
        )
    operator = mapped.unmap({"task_config": {"nproc_per_node": 2}})
    assert operator.task_config == Elastic(nproc_per_node=2)
