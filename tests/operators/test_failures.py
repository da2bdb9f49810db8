"""What Airflow prints of a failed task: the cause, once, and few frames."""

from __future__ import annotations

import os
import pickle
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import structlog
from airflow.sdk.definitions._internal import templater
from airflow.sdk.exceptions import AirflowFailException

import airflow_distrib
from airflow_distrib import Elastic, ElasticOperator, NonRecoverableError, PyTorchJobOperator, RankFailed, Replica
from airflow_distrib.core.errors import ConfigError, DistribError, MissingExtra
from airflow_distrib.operators.failures import as_airflow
from fake_context import context

PACKAGE = str(Path(airflow_distrib.__file__).parent)
Printed = tuple[str, list[str]]


def printed(act: Callable[[], object]) -> Printed:
    """All text of an error with its causes, and the frames of this package, as Airflow's task log has them."""
    with pytest.raises(DistribError) as raised:
        act()
    info = (raised.type, raised.value, raised.tb)
    found = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)(info)
    text = "\n".join(f"{each['exc_type']}: {each['exc_value']}" for each in found)
    frames = [frame["filename"] for each in found for frame in each["frames"]]
    return text, [frame for frame in frames if frame.startswith(PACKAGE)]


def divide() -> None:
    """Fail on rank 0 while the other waits."""
    if os.environ["RANK"] == "0":
        print("about to divide")
        _ = 1 / 0
    time.sleep(60)


def give_up() -> None:
    """Fail for good."""
    if os.environ["RANK"] != "0":
        time.sleep(60)
    raise NonRecoverableError("no data set")


def pair(function: Callable[..., object], **arguments: Any) -> PyTorchJobOperator:
    """Two local ranks."""
    arguments = {"task_config": {"worker": {"replicas": 1}}, "launcher": "local", **arguments}
    return PyTorchJobOperator(task_id="train", python_callable=function, **arguments)


@pytest.mark.parametrize(
    ("task", "cause"),
    [
        (lambda: pair(divide), "ZeroDivisionError: division by zero"),
        (lambda: pair(give_up), "NonRecoverableError: no data set"),
        (lambda: pair(divide, log_ranks=[1]), "failed first: ZeroDivisionError: division by zero"),
        (lambda: pair(print, task_config_overrides={"worker": {"replicas": 0}}, python="/no/python"), "/no/python"),
    ],
)
def test_a_failed_task_prints_its_cause_once_and_one_frame(task: Any, cause: str) -> None:
    """A permanent error is no exception to it: its cause is not printed beside it."""
    text, frames = printed(lambda: task().execute(context()))
    assert text.count(cause) == 1
    assert len(frames) == 1
    assert "Traceback" not in text or "--- traceback" in text


def test_a_traceback_that_the_log_has_is_not_repeated() -> None:
    """The rank has printed it a few lines above; the verdict names the line that failed."""
    with pytest.raises(RankFailed) as shown:
        pair(divide, log_ranks="all").execute(context())
    assert "Traceback" not in str(shown.value)
    assert "about to divide" not in str(shown.value)
    assert f'  File "{__file__}", line ' in str(shown.value)
    assert "Traceback" in shown.value.outcome.traceback
    with pytest.raises(RankFailed) as hidden:
        pair(divide, log_ranks=[1]).execute(context())
    assert str(hidden.value).count("Traceback (most recent call last)") == 1
    assert re.search(r"--- last lines of rank 0\nrank 0 of 2 on .*\nabout to divide$", str(hidden.value))


def test_a_permanent_error_is_of_its_own_class_and_one_that_airflow_does_not_retry() -> None:
    """A callback can act on the class and the fields of the error, and Airflow on its own class."""
    with pytest.raises(AirflowFailException) as raised:
        pair(give_up).execute(context())
    assert isinstance(raised.value, RankFailed)
    assert raised.value.outcome.message == "no data set"
    assert type(raised.value).__name__ == "RankFailed"
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("error", [ConfigError("a.b", "is bad", "task 't'"), MissingExtra("slurm", "asyncssh")])
def test_a_permanent_error_keeps_its_text_and_fields(error: DistribError) -> None:
    """It is the same error, also after it has travelled between processes."""
    for made in (as_airflow(error), pickle.loads(pickle.dumps(as_airflow(error)))):  # noqa: S301 - made here
        assert isinstance(made, AirflowFailException)
        assert isinstance(made, type(error))
        assert (str(made), vars(made)) == (str(error), vars(error))


@pytest.mark.parametrize(
    ("task", "field"),
    [
        (
            lambda: PyTorchJobOperator(
                task_id="train",
                python_callable=print,
                task_config={"worker": Replica(replicas="{{ params.n }}")},
                launcher="local",
            ),
            "task_config.worker.replicas",
        ),
        (
            lambda: ElasticOperator(
                task_id="train", python_callable=print, task_config=Elastic(max_restarts="{{ params.n }}")
            ),
            "task_config.max_restarts",
        ),
        (
            lambda: ElasticOperator(
                task_id="train", python_callable=print, ssh_conn_id="hpc", slurm={"cpus_per_task": "{{ params.n }}"}
            ),
            "slurm.cpus_per_task",
        ),
    ],
)
def test_a_rendered_value_that_cannot_work_is_printed_once_with_its_whole_path(
    task: Any, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow would print the same error where it renders, and again where the task fails."""
    made = task()
    logged: list[object] = []
    monkeypatch.setattr(templater.log, "exception", lambda *_, **__: logged.append(1))
    values = {"params": {"n": "many"}}
    text, frames = printed(lambda: made.render_template_fields(values, jinja2.Environment(autoescape=False)))
    assert text.startswith(f"ConfigError: {field}: must be")
    assert text.count("must be") == 1
    assert len(frames) == 1
    assert logged == []
