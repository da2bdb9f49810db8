"""Tasks on a fake login node: from the operator's arguments to its value, try by try."""

from __future__ import annotations

import asyncio
import datetime
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, ObjectStoragePath, task
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_distrib import (
    ConfigError,
    Elastic,
    ElasticOperator,
    JobLost,
    JobTimedOut,
    RankFailed,
    ResultMissing,
    Sbatch,
    Slurm,
    SlurmOperator,
    SlurmOutput,
    SlurmScriptOperator,
    SlurmShellOperator,
)
from airflow_distrib.operators import slurm_jobs
from airflow_distrib.operators.base import DistributedJobOperator
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.watching.slurm import queue
from fake_context import FakeStateStore, FakeTaskInstance, context
from fake_slurm import FakeSlurm

VALUE = Outcome(outcomes.SUCCESS, 0, result='{"a": 1}', time=5.0)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    """A login node in a thread: operators run event loops of their own."""
    monkeypatch.setattr(slurm_jobs, "SETTLE_PAUSES", (0.05, 0.05))
    for name in ("SHORTEST_SECONDS", "LONGEST_SECONDS", "GATHER_SECONDS"):
        monkeypatch.setattr(queue, name, 0.05)
    (tmp_path / "slurm").mkdir()
    started = FakeSlurm(tmp_path / "slurm")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(started.start(), loop).result(10)
    monkeypatch.setenv("AIRFLOW_CONN_SSH_DEFAULT", started.connection())
    yield started
    asyncio.run_coroutine_threadsafe(started.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def add(a: int, b: int = 1) -> int:
    """A function of the DAG file's."""
    return a + b


class Try:
    """One try of a task, leg by leg."""

    def __init__(self, operator: DistributedJobOperator, state: FakeStateStore, number: int = 1, most: int = 0) -> None:
        self.operator = operator
        ti = FakeTaskInstance(try_number=number)
        ti.max_tries = most  # type: ignore[attr-defined]
        ti.start_date = datetime.datetime.now(datetime.UTC)  # type: ignore[attr-defined]
        self.context = context(state, ti=ti)

    def defer(self) -> dict[str, Any]:
        """The first leg; what the trigger is given."""
        with pytest.raises(TaskDeferred) as deferred:
            self.operator.execute(self.context)  # type: ignore[arg-type]
        waiting: dict[str, Any] = deferred.value.kwargs["waiting"]
        assert json.loads(json.dumps(waiting)) == waiting
        assert "PRIVATE" not in json.dumps(deferred.value.trigger.serialize())
        return waiting

    def resume(self, waiting: dict[str, Any], **event: Any) -> Any:
        """The second leg."""
        return self.operator.execute_complete(self.context, {"succeeded": True, **event}, waiting)  # type: ignore[arg-type]


def leave(fake: FakeSlurm, *left: Outcome, job: str = "1", state: str = "COMPLETED", element: str = "") -> None:
    """Let a job end, with what its ranks left."""
    (folder,) = [folder for folder in fake.folders() if (folder / "submitted").read_text().strip() == job]
    for number, outcome in enumerate(left):
        private = folder / (f"ranks.{element}" if element else "ranks") / f"airflow-distrib-{number}"
        private.mkdir(parents=True)
        (private / f"outcome-rank-{outcome.rank}.json").write_text(outcome.to_json())
    fake.change(job, state=state, exit="0:0" if state == "COMPLETED" else "1:0")


def function(**arguments: Any) -> SlurmOperator:
    """A task with a function."""
    return SlurmOperator(task_id="train", python_callable=add, op_args=[1], **arguments)


def test_a_function_is_submitted_waited_for_and_its_value_returned(fake: FakeSlurm) -> None:
    """Then nothing of it is left."""
    state = FakeStateStore()
    waiting = Try(function(), state).defer()
    assert set(waiting) == {"ref", "connection"}
    leave(fake, VALUE)
    assert Try(function(), state).resume(waiting) == {"a": 1}
    assert state.phases == ["submitting", "submitted", "deferred", "resumed", "consumed"]
    assert fake.folders() == []


def test_a_task_may_wait_on_its_worker(fake: FakeSlurm) -> None:
    """It then sees the end by itself."""

    def finish() -> None:
        while not fake.jobs:
            time.sleep(0.05)
        time.sleep(0.3)
        leave(fake, VALUE)

    thread = threading.Thread(target=finish)
    thread.start()
    assert function(deferrable=False).execute(Try(function(), FakeStateStore()).context) == {"a": 1}  # type: ignore[arg-type]
    thread.join()


def test_the_next_try_goes_on_with_the_job_unless_it_was_cleared(fake: FakeSlurm) -> None:
    """A cleared one has a job of its own."""
    for phase in ("submitting", "submitted", "deferred"):
        state = FakeStateStore()
        waiting = Try(function(), state, most=1).defer()
        state.value["phase"] = phase
        if phase == "submitting":
            state.value["ref"] = {**state.value["ref"], "uid": ""}
        again = Try(function(), state, 2, 1).defer()
        assert again["ref"]["uid"] == waiting["ref"]["uid"]
        fresh = Try(function(), state, 3, 2).defer()
        assert fresh["ref"]["uid"] != waiting["ref"]["uid"]
        assert fake.jobs[waiting["ref"]["uid"]]["state"] == "CANCELLED"
        assert len(fake.folders()) == len([job for job in fake.jobs.values() if job["state"] != "CANCELLED"])


def test_a_try_that_follows_a_finished_job_reads_its_result(fake: FakeSlurm) -> None:
    """Without waiting again."""
    state = FakeStateStore()
    Try(function(), state, most=1).defer()
    leave(fake, VALUE)
    assert Try(function(), state, 2, 1).operator.execute(Try(function(), state, 2, 1).context) == {"a": 1}  # type: ignore[arg-type]


def test_a_job_that_somebody_cancelled_is_not_adopted(fake: FakeSlurm) -> None:
    """A try that comes later submits anew."""
    state = FakeStateStore()
    first = Try(function(), state, most=1).defer()
    fake.change("1", state="CANCELLED")
    assert Try(function(), state, 2, 1).defer()["ref"]["uid"] != first["ref"]["uid"]


def test_the_earliest_failure_is_named(fake: FakeSlurm) -> None:
    """And what Slurm says, where no rank could say anything."""
    state = FakeStateStore()
    waiting = Try(function(), state).defer()
    late = Outcome(outcomes.FAILURE, 0, time=9.0, error_type="ConnectionError", message="peer")
    first = Outcome(outcomes.FAILURE, 1, time=8.0, error_type="ValueError", message="the cause")
    leave(fake, late, first, state="FAILED")
    with pytest.raises(RankFailed, match="ValueError: the cause"):
        Try(function(), state).resume(waiting, succeeded=False)
    assert fake.folders() == []


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        ("TIMEOUT", JobTimedOut, "raise time"),
        ("NODE_FAIL", JobLost, "a node went away"),
        ("CANCELLED", JobLost, "by user id 1000"),
    ],
)
def test_an_end_by_slurm_counts_before_what_ranks_said(
    fake: FakeSlurm, state: str, error: type[Exception], text: str
) -> None:
    """Their errors follow from it."""
    store = FakeStateStore()
    waiting = Try(function(), store).defer()
    Path(waiting["ref"]["address"]["stderr"]).write_text("slurmstepd: killed\n")
    leave(fake, Outcome(outcomes.FAILURE, 0, time=9.0, error_type="ConnectionError"), state=state)
    fake.change("1", by="1000")
    with pytest.raises(error) as failed:
        Try(function(), store).resume(waiting, succeeded=False)
    assert text in str(failed.value)
    assert "    slurmstepd: killed" in str(failed.value)


def test_a_result_that_is_not_there_is_an_error(fake: FakeSlurm) -> None:
    """After a moment for a slow file system; it is never taken for None."""
    state = FakeStateStore()
    waiting = Try(function(), state).defer()
    leave(fake)
    with pytest.raises(ResultMissing):
        Try(function(), state).resume(waiting)


def test_a_job_array_returns_what_every_element_did(fake: FakeSlurm) -> None:
    """Also where Slurm has forgotten the elements, and only their own notes are left."""
    state = FakeStateStore()
    operator = function(task_config=Slurm(array="2-3"))
    waiting = Try(operator, state).defer()
    folder = Path(waiting["ref"]["address"]["directory"])
    for element in ("2", "3"):
        leave(fake, VALUE._replace(result=element), element=element)
        (folder / f"exit.{element}").write_text("0\n")
    fake.change("1", known=False)
    fake.set(accounting=False)
    assert Try(operator, state).resume(waiting, succeeded=None, reason="Forgotten") == [2, 3]


def test_what_nobody_knows_is_lost(fake: FakeSlurm) -> None:
    """And said so, with what to do."""
    state = FakeStateStore()
    waiting = Try(function(), state).defer()
    fake.change("1", known=False)
    fake.set(accounting=False)
    with pytest.raises(JobLost, match="Slurm does not know any more how job 1 ended"):
        Try(function(), state).resume(waiting, succeeded=None, reason="Forgotten")


def test_a_job_whose_time_is_over_is_cancelled_even_if_the_trigger_could_not(fake: FakeSlurm) -> None:
    """Nothing runs on."""
    state = FakeStateStore()
    waiting = Try(function(), state).defer()
    fake.change("1", state="RUNNING")
    problem = ["TimedOut", "the job was still running", "", "may help"]
    with pytest.raises(JobTimedOut):
        Try(function(), state).resume(waiting, succeeded=None, problem=problem)
    assert fake.jobs["1"]["state"] == "CANCELLED"


def test_a_refused_job_fails_for_good_and_leaves_nothing(fake: FakeSlurm) -> None:
    """In Slurm's own words."""
    fake.set(refusal="Invalid qos specification")
    with pytest.raises(AirflowFailException, match="Invalid qos specification"):
        function().execute(Try(function(), FakeStateStore(), most=3).context)  # type: ignore[arg-type]
    assert fake.folders() == []


def test_a_kill_cancels_the_job(fake: FakeSlurm) -> None:
    """From a signal handler's thread."""
    operator = function(deferrable=False)

    def kill() -> None:
        while not any(job["state"] == "PENDING" for job in fake.jobs.values()):
            time.sleep(0.05)
        time.sleep(0.3)
        operator.on_kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(Exception, match="stopped by SIGTERM"):
        operator.execute(Try(operator, FakeStateStore()).context)  # type: ignore[arg-type]
    thread.join()
    assert fake.jobs["1"]["state"] == "CANCELLED"


def test_a_shell_scripts_files_go_in_and_out(fake: FakeSlurm, tmp_path: Path) -> None:
    """Inputs are copied to the cluster, outputs from it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a").write_text("in a folder")
    operator = SlurmShellOperator(
        task_id="train",
        script="cat {inputs.data}/a >{outputs.one}",
        inputs={"data": ObjectStoragePath(f"file://{tmp_path}/data")},
        outputs={"one": SlurmOutput(to=str(tmp_path / "fetched/one")), "two": {"location": "~/two"}},
    )
    state = FakeStateStore()
    waiting = Try(operator, state).defer()
    folder = Path(waiting["ref"]["address"]["directory"])
    assert (folder / "inputs/data/data/a").read_text() == "in a folder"
    assert f"AIRFLOW_INPUTS_data={folder}/inputs/data/data" in (folder / "job.sh").read_text()
    (folder / "outputs").mkdir()
    (folder / "outputs/one").write_text("out")
    (fake.home / "two").write_text("stays")
    leave(fake)
    value = Try(operator, state).resume(waiting)
    assert value == {
        "job_id": "1",
        "cluster": None,
        "state": "COMPLETED",
        "exit_code": 0,
        "nodes": "n1",
        "outputs": {"one": str(tmp_path / "fetched/one"), "two": "~/two"},
    }
    assert (tmp_path / "fetched/one").read_text() == "out"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: SlurmOperator(task_id="t"), "python_callable: is required; scripts have SlurmScriptOperator"),
        (lambda: function(task_config=Slurm(ntasks=2), launcher="kubernetes"), "runs with slurm or local"),
        (lambda: function(task_config=Slurm(array="0-3"), launcher="local"), "array: needs a Slurm"),
        (lambda: function(log_elements="some"), "log_elements: must be a list of numbers"),
        (lambda: SlurmScriptOperator(task_id="t"), "script_path: is required"),
        (lambda: SlurmScriptOperator(task_id="t", script_path="x.sh"), "script_path: must be an absolute path"),
        (lambda: SlurmScriptOperator(task_id="t", script_path="/x", arguments="a b"), "arguments: must be a list"),
        (lambda: SlurmScriptOperator(task_id="t", script_path="/x", python="p"), "python: is for functions"),
        (lambda: SlurmShellOperator(task_id="t"), "script: must be text that is not empty"),
        (
            lambda: SlurmShellOperator(task_id="t", script="echo {inputs.x}"),
            "line 1 says {inputs.x}, but inputs has none",
        ),
        (lambda: SlurmShellOperator(task_id="t", script="x", inputs={"a b": 1}), "inputs['a b']: must be a name"),
        (lambda: SlurmShellOperator(task_id="t", script="x", inputs={"a": None}), "inputs.a: is None"),
        (lambda: SlurmShellOperator(task_id="t", script="x", outputs={"a": {}}), "outputs.a.to: is required without"),
        (lambda: elastic(slurm={"nodes": 2}), "slurm.nodes: follows from nnodes"),
        (lambda: elastic(slurm={"node": 2}), "slurm.node: there is no such field"),
        (lambda: elastic(slurm={}, kubernetes_conn_id="k"), "launcher: is needed where"),
        (lambda: elastic(slurm={}, task_config=Elastic(nnodes=2, image="i")), "image: is for Kubernetes"),
        (
            lambda: elastic(ssh_conn_id="s", python_callable=None, op_args=[], command=["x"]),
            "command: is for Kubernetes",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_parse_time(make: Callable[[], Any], text: str) -> None:
    """With the field and the fix."""
    with pytest.raises(ConfigError) as refused:
        make()
    assert text in str(refused.value)


def elastic(**arguments: Any) -> ElasticOperator:
    """An Elastic task."""
    return ElasticOperator(
        **{"task_id": "t", "python_callable": add, "op_args": [1], "task_config": Elastic(nnodes=2), **arguments}
    )


def test_an_elastic_config_runs_on_a_slurm_when_one_is_named() -> None:
    """As it is, with what Slurm needs beside it."""
    for arguments in ({"slurm": Slurm(partition="gpu")}, {"ssh_conn_id": "hpc"}, {"launcher": "slurm"}):
        assert elastic(**arguments).launcher == "slurm"
    shown = elastic(slurm={"partition": "gpu"}).render()
    assert {"--partition=gpu", "--nodes=2", "--ntasks-per-node=1"} <= set(shown["sbatch"])
    assert "srun --kill-on-bad-exit=1 --ntasks-per-node=1 " in shown["ranks"]


def test_a_function_for_a_slurm_runs_on_local_ranks_too() -> None:
    """To try a DAG without one."""
    shown = function(task_config=Slurm(nodes=2, ntasks_per_node=2, partition="p"), launcher="local").render()
    assert (shown["spec"]["processes"], shown["not_applied"]) == (4, ["partition"])


def test_templates_are_rendered_in_options_inputs_and_arguments() -> None:
    """But not in scripts."""
    with DAG("d", schedule=None):
        operator = SlurmShellOperator(
            task_id="t",
            script="echo {inputs.x} ${#x} {{ ds }}",
            inputs={"x": "{{ ds }}"},
            outputs={"y": SlurmOutput(location="/data/{{ ds }}")},
            task_config=Sbatch(partition="{{ ds }}"),
        )
    assert operator.render()["known at run time"] == ["task_config.partition", "inputs", "outputs"]
    operator.render_template_fields({"ds": "2026-01-01"})  # type: ignore[typeddict-item]
    assert operator.render()["sbatch"].count("--partition=2026-01-01") == 1
    assert "AIRFLOW_INPUTS_x=2026-01-01" in operator.render()["script"]
    assert "AIRFLOW_OUTPUTS_y=/data/2026-01-01" in operator.render()["script"]
    assert "{{ ds }}" in operator.render()["script"]


def test_upstream_outputs_are_taken_and_make_the_order() -> None:
    """In inputs, in arguments, and inside configs."""
    with DAG("d", schedule=None) as dag:

        @task
        def plan() -> dict[str, Any]:
            return {}

        planned = plan()
        SlurmShellOperator(task_id="shell", script="echo {inputs.x}", inputs={"x": planned})
        SlurmScriptOperator(task_id="script", script_path="/x", arguments=[planned])
        SlurmShellOperator(task_id="config", script="true", task_config=planned)
        elastic(task_id="elastic", slurm=planned)
        SlurmShellOperator.partial(task_id="mapped", script="echo {inputs.x}").expand(inputs=[{"x": 1}])

        @task.slurm(planned)
        def decorated() -> None: ...

        decorated()
    for name in ("shell", "script", "config", "elastic", "decorated"):
        assert dag.get_task(name).upstream_task_ids == {"plan"}, name
