"""The operator behind all systems runs real local ranks here, with a context in memory."""

from __future__ import annotations

import datetime
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
from airflow.sdk import DAG, BaseOperator, XComArg
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout

from airflow_distrib import (
    ConfigError,
    Elastic,
    ElasticOperator,
    JobTerminated,
    JobTimedOut,
    NonRecoverableError,
    PyTorchJob,
    PyTorchJobOperator,
    RankFailed,
    RecoverableError,
    Replica,
    Resources,
)
from airflow_distrib.core.record import JobRecord, Phase
from airflow_distrib.core.reference import JobRef
from airflow_distrib.operators import base
from airflow_distrib.operators.base import DistributedJobOperator
from airflow_distrib.runner import process
from fake_context import FakeStateStore, FakeTaskInstance, context


def operator(function: Callable[..., Any], **arguments: Any) -> ElasticOperator:
    """One rank, which needs no torch."""
    return ElasticOperator(task_id="train", python_callable=function, **arguments)


def pair(function: Callable[..., Any], **arguments: Any) -> PyTorchJobOperator:
    """Two ranks."""
    config = PyTorchJob(worker=Replica(replicas=1))
    return PyTorchJobOperator(
        task_id="train", python_callable=function, task_config=config, launcher="local", **arguments
    )


def sleep_for_ever() -> None:
    """Until somebody ends it."""
    import time

    print("asleep")
    time.sleep(600)


class Started(threading.Thread):
    """Calls ``act`` as soon as the operator's job runs."""

    def __init__(self, task: DistributedJobOperator[Any], act: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._task, self._act = task, act
        self.start()

    def run(self) -> None:
        while self._task._run is None or self._task._run.ref is None:
            time.sleep(0.05)
        time.sleep(0.5)
        self._act()


def test_rank_zeros_value_is_returned_and_every_step_is_recorded() -> None:
    """Whatever step a worker dies in, the next try can read from the record how far it came."""

    def multiply(a: int, b: int = 1) -> dict[str, int]:
        import os

        return {"product": a * b, "rank": int(os.environ["RANK"])}

    store = FakeStateStore()
    task = pair(multiply, op_args=[6], op_kwargs={"b": 7})
    assert task.execute(context(store)) == {"product": 42, "rank": 0}
    assert store.phases == ["submitting", "submitted", "consumed"]


def test_without_durable_nothing_is_stored() -> None:
    """Airflow setups without a task state store can still run jobs."""
    store = FakeStateStore()
    assert operator(int, durable=False).execute(context(store)) == 0
    assert store.phases == []


def test_a_failing_rank_is_raised_with_its_log() -> None:
    """Users can act on the class and the fields of the error, and read the cause in its text."""

    def fail() -> None:
        import os

        print("the last line of rank", os.environ["RANK"])
        if os.environ["RANK"] == "1":
            raise ValueError("bad batch")
        import time

        time.sleep(60)

    with pytest.raises(RankFailed) as caught:
        pair(fail).execute(context())
    assert caught.value.outcome.rank == 1
    assert not caught.value.permanent
    text = str(caught.value)
    assert "rank 1 of 2 failed first" in text
    assert "ValueError: bad batch" in text
    assert "the last line of rank 1" in text


@pytest.mark.parametrize(
    ("error", "raised"), [(NonRecoverableError, AirflowFailException), (RecoverableError, RankFailed)]
)
def test_the_function_decides_whether_a_retry_helps(error: type[Exception], raised: type[Exception]) -> None:
    """NonRecoverableError fails the task for good, whereas RecoverableError lets Airflow use its retries."""

    def fail() -> None:
        raise error("because")

    with pytest.raises(raised, match="because"):
        operator(fail).execute(context())


def test_a_result_that_is_not_json_fails_the_task_at_once() -> None:
    """A retry would only return the same value after all the work was done again."""
    with pytest.raises(AirflowFailException, match=r"result is of type set"):
        operator(set).execute(context())


def test_a_function_that_cannot_travel_fails_the_task_at_once() -> None:
    """The variable at fault is named before any process is started."""
    lock = threading.Lock()

    def train() -> None:
        lock.acquire()

    with pytest.raises(AirflowFailException, match="closure variable 'lock'"):
        operator(train).execute(context())


def test_a_missing_module_is_met_with_advice() -> None:
    """The module is missing where the ranks run, which the bare ImportError does not tell a user."""

    def train() -> None:
        import no_such_library  # type: ignore[import-not-found] # noqa: F401

    with pytest.raises(RankFailed, match="install no_such_library where the ranks run"):
        operator(train).execute(context())


def test_a_port_that_was_taken_meanwhile_is_met_with_advice() -> None:
    """The message of torch names the port but not what to do about it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        def train() -> None:
            import torch.distributed as dist

            dist.TCPStore("127.0.0.1", port, is_master=True)

        with pytest.raises(RankFailed, match="another process holds the port"):
            operator(train).execute(context())


def test_on_kill_ends_the_job_and_the_task_does_not_succeed() -> None:
    """Airflow calls on_kill in a signal handler, and the job must not outlive the task."""
    task = pair(sleep_for_ever)
    Started(task, task.on_kill)
    with pytest.raises(JobTerminated, match="SIGTERM"):
        task.execute(context())


def test_a_kill_before_the_job_started_is_not_forgotten() -> None:
    """The signal may arrive while the function is still being packed."""
    task = operator(sleep_for_ever)
    task.on_kill()
    with pytest.raises(JobTerminated):
        task.execute(context())


def test_the_execution_timeout_ends_the_job_even_if_airflows_own_is_lost() -> None:
    """Airflow raises its timeout in a signal handler, and the event loop may swallow that exception."""
    task = operator(sleep_for_ever, execution_timeout=datetime.timedelta(seconds=1))
    with pytest.raises(JobTimedOut, match="still running when the task's execution_timeout was over"):
        task.execute(context())
    assert task._run is not None
    assert task._run.ref is not None
    assert not Path(task._run.ref.address["directory"]).exists()


def test_airflows_own_timeout_ends_the_job() -> None:
    """The exception is raised in the middle of the event loop, and no process may survive it."""

    def overdue(*_: Any) -> None:
        raise AirflowTaskTimeout("overdue")

    task = operator(sleep_for_ever)
    previous = signal.signal(signal.SIGUSR1, overdue)
    Started(task, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        with pytest.raises(AirflowTaskTimeout, match="overdue") as raised:
            task.execute(context())
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert len(raised.traceback) == 3, "Airflow prints every frame: this one, Airflow's own and the operator's"
    assert task._run is not None
    assert task._run.ref is not None
    assert not Path(task._run.ref.address["directory"]).exists()


def test_a_leftover_of_the_previous_try_is_removed_first(tmp_path: Path) -> None:
    """Two tries of one task never compete for the same machine."""
    folder = tmp_path / "leftover"
    folder.mkdir()
    store = FakeStateStore()
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as leftover:
        uid = f"{leftover.pid}:{process.start_time(leftover.pid)}"
        ref = JobRef("local", "train", uid, {"host": socket.gethostname(), "directory": str(folder)})
        store.value = JobRecord(Phase.SUBMITTED, 1, "spec", "scope", 0, ref).to_json()
        assert operator(int).execute(context(store, ti=FakeTaskInstance(try_number=2))) == 0
        assert leftover.wait(5) == -signal.SIGKILL
    assert not folder.exists()


def test_a_large_result_is_read_from_its_path(tmp_path: Path) -> None:
    """The XCom is the same as for a small result, wherever the value was stored meanwhile."""

    def large() -> list[int]:
        return list(range(300_000))

    path = tmp_path / "result.json"
    assert operator(large, result_path=f"file://{path}").execute(context()) == list(range(300_000))
    assert path.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task_config": {"nproc": 2}}, "task_config.nproc: there is no such field"),
        (
            {"task_config": PyTorchJob(worker=Replica(replicas=1))},
            "task_config: must be of type Elastic, not PyTorchJob",
        ),
        ({"task_config": Elastic(nnodes=2)}, r"task_config\.image: is required because nnodes=2"),
        ({"task_config": Elastic}, r"task_config: got the class Elastic; write Elastic\(...\)"),
        ({"task_config": "spawn"}, "task_config: must be of type Elastic or a mapping; got 'spawn'"),
        ({"task_config_overrides": {"nnodes": 2}}, r"task_config\.image: is required because nnodes=2"),
        ({"task_config_overrides": ["x"]}, "task_config_overrides: must be a mapping of fields to replace"),
        ({"task_config_overrides": {"max_restarts": None}}, r"task_config_overrides\.max_restarts: must not be None"),
        ({"log_ranks": 0}, "log_ranks: must be a list of numbers"),
        ({"log_ranks": None}, "log_ranks: must be a list of numbers"),
        ({"result_path": 5}, "result_path: must be a path or a URL"),
        ({"python_callable": len}, "op_args and op_kwargs: do not fit len: missing a required argument: 'obj'"),
        ({"task_config_overrides": {"nproc_per_node": 0}}, r"task_config_overrides\.nproc_per_node: must be"),
        ({"task_config_overrides": {"procs": 1}}, r"task_config_overrides\.procs: there is no such field"),
        ({"launcher": "dask"}, "launcher: ElasticOperator runs with local or kubernetes or slurm; got 'dask'"),
        ({"log_ranks": "some"}, "log_ranks: must be a list of numbers"),
        ({"log_ranks": [-1]}, "log_ranks: must be a list of numbers"),
        ({"log_ranks": [1]}, "log_ranks: there is no rank 1: this job has 1, numbered from 0"),
        (
            {"task_config": Elastic(nproc_per_node=2), "log_ranks": [0, 5]},
            "log_ranks: there is no rank 5: this job has 2, numbered from 0",
        ),
        ({"termination_grace_seconds": 0}, "termination_grace_seconds: must be"),
        ({"python_callable": "print"}, "python_callable: must be a function"),
    ],
)
def test_an_argument_that_cannot_work_is_refused_when_the_dag_is_parsed(
    arguments: dict[str, Any], message: str
) -> None:
    """The error names the field, and it comes before anybody waits for a run."""
    with pytest.raises(ConfigError, match=f"^task 'train': {message}"):
        ElasticOperator(**{"task_id": "train", "python_callable": print, **arguments})


def test_a_parameter_that_asks_for_a_live_object_is_refused() -> None:
    """A rank cannot talk to Airflow, so an object of Airflow would be useless there."""

    def train(ti: Any) -> None:
        del ti

    with pytest.raises(ConfigError, match="parameter 'ti' of train: is an object of Airflow"):
        operator(train)


def test_pytorch_jobs_on_a_cluster_need_an_image() -> None:
    """A missing image is found when the DAG file is parsed rather than when the job is submitted."""
    with pytest.raises(ConfigError, match=r"task_config\.image: is required on Kubernetes"):
        PyTorchJobOperator(task_id="t", python_callable=print, task_config={"worker": {"replicas": 1}})


def test_the_launcher_may_come_from_airflows_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """One DAG file can then serve a laptop and a cluster."""
    monkeypatch.setenv("AIRFLOW__AIRFLOW_DISTRIB__LAUNCHER", "local")
    task = PyTorchJobOperator(task_id="t", python_callable=print, task_config={"worker": {"replicas": 1}})
    assert task.launcher == "local"


def test_every_field_of_a_config_is_a_template() -> None:
    """Fields of nested configs are rendered as well, and the rendered values are checked."""
    config = PyTorchJob(
        image="repo/{{ params.image }}:1",
        worker=Replica(replicas="{{ params.workers }}", requests=Resources(cpu="{{ params.cpu }}")),
        env={"RUN": "{{ run_id }}"},
    )
    task = PyTorchJobOperator(task_id="t", python_callable=print, task_config=config, launcher="local")
    values = {"params": {"image": "train", "workers": 3, "cpu": "500m"}, "run_id": "r"}
    task.render_template_fields(values, jinja2.Environment(autoescape=False))  # type: ignore[arg-type] # what is used of it
    assert task.task_config == PyTorchJob(
        image="repo/train:1", worker=Replica(replicas=3, requests=Resources(cpu="500m")), env={"RUN": "r"}
    )
    assert config.image == "repo/{{ params.image }}:1"


def test_text_in_a_config_stays_text_where_a_dag_renders_native_objects() -> None:
    """Environment variables have to stay text, while numeric fields still become numbers."""
    config = Elastic(nproc_per_node="{{ params.n }}", env={"DEVICES": "0,1", "THREADS": "4", "N": "{{ params.n }}"})
    task = operator(print, task_config=config)
    task.render_template_fields({"params": {"n": 2}}, jinja2.nativetypes.NativeEnvironment())
    assert task.task_config == Elastic(nproc_per_node=2, env={"DEVICES": "0,1", "THREADS": "4", "N": "2"})


def test_an_upstreams_output_is_not_rendered_as_a_template() -> None:
    """Its text comes from data, which must not be able to read variables or connections."""
    given = {"env": {"A": "{{ var.value.secret }}"}}
    task = operator(print, task_config=given)
    seen = {id(given)}
    assert (
        task.render_template(task.task_config, {"var": 1}, jinja2.Environment(autoescape=False), seen)
        is task.task_config
    )


def test_a_rendered_value_that_cannot_work_names_its_field() -> None:
    """The task fails for good, because a retry would render the same value."""
    task = operator(print, task_config=Elastic(nproc_per_node="{{ params.n }}"))
    with pytest.raises(AirflowFailException, match="nproc_per_node: must be"):
        task.render_template_fields({"params": {"n": "none"}}, jinja2.Environment(autoescape=False))


def test_an_upstreams_output_inside_a_config_makes_its_task_upstream() -> None:
    """Airflow itself looks for dependencies in plain containers only."""
    with DAG("d", schedule=None):
        first = BaseOperator(task_id="first")
        size = XComArg(first)
        task = operator(print, task_config=Elastic(nproc_per_node=size))  # type: ignore[arg-type] # known at run time
    assert task.upstream_task_ids == {"first"}


def test_overrides_of_an_upstream_task_change_the_config() -> None:
    """A job can have a size that only an upstream task knows."""
    task = pair(print)
    task.task_config_overrides = {"worker": {"replicas": 3}}
    assert len(task.render()["spec"]["directory"]) > 0
    assert task.render()["spec"]["processes"] == 4
    task.task_config_overrides = "four"
    with pytest.raises(ConfigError, match="task_config_overrides: must be a mapping"):
        task.render()


def test_several_nodes_run_on_the_worker_where_the_launcher_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users can try a job of several nodes without a cluster, by an argument or by airflow.cfg."""
    assert operator(print, task_config=Elastic(nnodes=2), launcher="local").render()["spec"]["processes"] == 2
    assert operator(print, task_config=Elastic(nnodes="{{ params.n }}")).task_config == Elastic(nnodes="{{ params.n }}")
    monkeypatch.setenv("AIRFLOW__AIRFLOW_DISTRIB__LAUNCHER", "local")
    assert operator(print, task_config=Elastic(nnodes=2)).render()["spec"]["processes"] == 2


def test_render_names_what_is_known_only_at_run_time() -> None:
    """Whoever looks at a task before it runs sees which values are still open."""
    config = PyTorchJob(worker=Replica(replicas="{{ params.n }}"), env={"A": "{{ run_id }}"})
    task = PyTorchJobOperator(task_id="t", python_callable=print, task_config=config, launcher="local")
    with DAG("d", schedule=None):
        task.task_config_overrides = XComArg(BaseOperator(task_id="first"))
    shown = task.render()
    assert shown["known at run time"] == ["task_config.env", "task_config.worker.replicas", "task_config_overrides"]
    assert shown["config"]["worker"] == {"replicas": "{{ params.n }}"}
    assert shown["function"] == "print"
    assert shown["spec"]["processes"] == "<known at run time>"
    assert shown["spec"]["grace_seconds"] == 3.0
    assert shown["environment"]["A"] == "{{ run_id }}"


def logged(task: DistributedJobOperator[Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run a task and return the lines of its log."""
    lines: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(task.log, level, lambda message, *args: lines.append(message % args))
    monkeypatch.setattr(base, "emitter", lambda **_: lines.append)
    task.execute(context())
    return lines


def test_a_failed_task_knows_its_jobs_name_for_its_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """The buttons of a task that failed are the ones that are needed, and lead to the job of the log."""

    def fail() -> None:
        raise ValueError

    task = pair(fail)
    lines: list[str] = []
    monkeypatch.setattr(base, "emitter", lambda **_: lines.append)
    with pytest.raises(RankFailed):
        task.execute(context())
    assert task.job_ref is not None
    assert f"local job {task.job_ref.name}" in lines[0]
    assert lines[-1].startswith("The job did not succeed")


def test_the_number_of_the_try_fills_a_parameter_of_its_name() -> None:
    """Airflow's context holds the number only inside the task instance, which cannot travel."""

    def train(try_number: int) -> int:
        return try_number

    assert operator(train).execute(context(ti=FakeTaskInstance(try_number=3))) == 3


def test_async_functions_run() -> None:
    """Functions written for Airflow's own @task work without changes."""

    async def train() -> int:
        import asyncio

        await asyncio.sleep(0)
        return 5

    assert operator(train).execute(context()) == 5


def test_logging_of_the_function_reaches_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of level INFO appear as they do with Airflow's own @task, unless the function configures logging."""

    def train(configure: bool) -> None:
        import logging

        if configure:
            logging.basicConfig(format="mine: %(message)s", level=logging.DEBUG)
            logging.getLogger("x").debug("detail")
        logging.getLogger("x").info("progress")

    def ranks_lines(configure: bool) -> list[str]:
        lines = logged(operator(train, op_args=[configure]), monkeypatch)
        return [line for line in lines if line.startswith("[rank") and "rank 0 of 1 on" not in line]

    assert ranks_lines(False) == ["[rank 0] progress"]
    assert ranks_lines(True) == ["[rank 0] mine: detail", "[rank 0] mine: progress"]


def test_render_needs_no_service_and_changes_nothing() -> None:
    """A task can be looked at in a review or in a unit test, as often as needed."""
    task = pair(print, log_ranks="all")
    shown = task.render()
    assert shown == task.render()
    assert shown["config"] == {"worker": {"replicas": 1}}
    assert shown["spec"]["log_ranks"] is None
    assert shown["function"] == "print"
    assert task.render(context(ti=FakeTaskInstance(dag_id="other")))["name"].startswith("other-train-")


def test_configs_are_shown_as_plain_values_in_the_ui() -> None:
    """The page Rendered Template lists the fields instead of the text of an object."""
    from airflow.serialization.helpers import serialize_template_field

    config = PyTorchJob(worker=Replica(replicas=1, restart_policy="Never"))
    assert serialize_template_field(config, "task_config") == {"worker": {"replicas": 1, "restart_policy": "Never"}}
