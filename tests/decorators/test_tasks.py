"""The decorators @task.elastic and @task.pytorch_job make tasks as Airflow's own @task does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator, XComArg, task

from airflow_distrib import ConfigError, Elastic, ElasticOperator, PyTorchJob, Replica


def train(rate: float) -> dict[str, float]:
    """Doc of the function."""
    return {"loss": rate}


def made(decorator: Callable[[Any], Any], **call: Any) -> Any:
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
def test_every_way_to_write_the_decorator_gives_the_same_task(decorator: Callable[[Any], Any]) -> None:
    """Users may leave out the parentheses, and give the config by position or by name."""
    operator = made(decorator)
    assert operator.task_config == Elastic()
    assert operator.task_id == "train"
    assert operator.multiple_outputs
    assert operator.doc_md == "Doc of the function."
    assert operator.op_kwargs == {"rate": 0.1}


def test_operator_arguments_are_passed_on() -> None:
    """A decorated task takes Airflow's own arguments and those of this package."""
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
    """One function can run in several sizes, and the decorated function stays as it is."""
    decorated = task.elastic(Elastic(nproc_per_node=2))(train)
    with DAG("d", schedule=None):
        other = decorated.override(task_config=Elastic(nproc_per_node=4), task_id="other")(rate=1.0)
        same = decorated(rate=1.0)
    assert (other.operator.task_config.nproc_per_node, other.operator.task_id) == (4, "other")
    assert same.operator.task_config.nproc_per_node == 2


def test_mapped_tasks_keep_their_config() -> None:
    """Each mapped instance becomes an operator with the config that the decorator was given."""
    with DAG("d", schedule=None):
        mapped = task.elastic(Elastic(nproc_per_node=2), log_ranks=[1])(train).expand(rate=[0.1, 0.2]).operator
    operator = mapped.unmap({"op_kwargs": {"rate": 0.2}, "op_args": []})
    assert operator.task_config == Elastic(nproc_per_node=2)
    assert operator.log_ranks == [1]


def test_a_config_given_twice_is_refused() -> None:
    """Neither the positional nor the named one may win by accident."""
    with pytest.raises(ConfigError, match="task_config: @task.elastic got it twice"):
        task.elastic(Elastic(), task_config=Elastic())


def test_a_missing_config_is_an_error_when_the_dag_is_parsed() -> None:
    """A PyTorchJob has no default number of workers, so that nobody starts one of the wrong size."""
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
def test_a_mistake_in_a_decorator_is_raised_on_its_own_line(decorate: Callable[[], Any], message: str) -> None:
    """A mapped task is made only at run time, which would be too late to find a typing error."""
    with pytest.raises(ConfigError, match=message):
        decorate()


def test_a_config_may_come_later() -> None:
    """It may come from override() or from the DAG's default arguments."""
    later = PyTorchJob(worker=Replica(replicas=1))
    decorated = task.pytorch_job(launcher="local")(train)
    with DAG("d", schedule=None, default_args={"task_config": later}):
        assert decorated.override(task_config=later, task_id="a")(rate=1.0).operator.task_config == later
        assert decorated(rate=1.0).operator.task_config == later


def test_an_upstreams_output_in_the_config_of_a_mapped_task_makes_its_task_upstream() -> None:
    """Neither a decorated nor a classic task may start before its size is known."""
    with DAG("d", schedule=None):
        first = XComArg(BaseOperator(task_id="first"))
        config = Elastic(env={"A": first})  # type: ignore[dict-item] # known at run time
        decorated = task.elastic(config)(train).expand(rate=[1.0]).operator
        classic = ElasticOperator.partial(task_id="c", python_callable=print, task_config=config).expand(op_args=[[1]])
    assert decorated.upstream_task_ids == classic.upstream_task_ids == {"first"}


def test_a_config_of_another_system_is_an_error_when_the_dag_is_parsed() -> None:
    """The names look alike, and most fields would even fit."""
    with pytest.raises(ConfigError, match="task_config: must be of type PyTorchJob, not Elastic"):
        made(lambda f: task.pytorch_job(Elastic(), launcher="local")(f))


def test_the_config_of_a_classic_operator_can_be_mapped_over() -> None:
    """One task can try several configs, each in a job of its own."""
    with DAG("d", schedule=None):
        mapped = ElasticOperator.partial(task_id="t", python_callable=print).expand(
            task_config=[{"nproc_per_node": 2}, {}]
        )
    operator = mapped.unmap({"task_config": {"nproc_per_node": 2}})
    assert operator.task_config == Elastic(nproc_per_node=2)
