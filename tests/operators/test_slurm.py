"""Tasks run on a fake login node, from the operator's arguments to its value, try by try."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Context, ObjectStoragePath, task
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
from airflow_distrib.core.errors import JobTerminated
from airflow_distrib.core.status import Category, Problem
from airflow_distrib.operators.base import DistributedJobOperator
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.systems.slurm import session
from airflow_distrib.systems.slurm.timing import Timing
from fake_context import FakeStateStore, FakeTaskInstance, context
from fake_slurm import FakeSlurm, running

pytestmark = pytest.mark.timeout(60)

VALUE = Outcome(outcomes.SUCCESS, 0, result='{"a": 1}', time=5.0)
# One look follows the other at once, and files are there when a job has ended.
QUICK = Timing(
    shortest_look=0.05, longest_look=0.05, gather=0.05, settle=(0.05, 0.05), failed=(0.05, 0.05), confirm=2.0
)


@pytest.fixture
async def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeSlurm]:
    """A login node that the default connection leads to; operators run in threads beside it."""
    monkeypatch.setattr(session, "TIMING", QUICK)
    (tmp_path / "slurm").mkdir()
    async with running(tmp_path / "slurm") as started:
        monkeypatch.setenv("AIRFLOW_CONN_SSH_DEFAULT", started.connection())
        yield started


def add(a: int, b: int = 1) -> int:
    """Add two numbers, as a function of the DAG file does."""
    return a + b


@dataclasses.dataclass
class StartedTaskInstance(FakeTaskInstance):
    """One that has begun, as execution_timeout needs to know."""

    start_date: datetime.datetime = dataclasses.field(default_factory=lambda: datetime.datetime.now(datetime.UTC))


class Try:
    """One try of a task, before and after it defers."""

    def __init__(
        self, operator: DistributedJobOperator[Any], state: FakeStateStore, number: int = 1, most: int = 0
    ) -> None:
        self.operator = operator
        self.context: Context = context(state, ti=StartedTaskInstance(try_number=number, max_tries=most))

    async def execute(self) -> Any:
        """Run on a worker, until the task defers or ends."""
        return await asyncio.to_thread(self.operator.execute, self.context)

    async def defer(self) -> dict[str, Any]:
        """Run until the task defers; returns what its trigger waits for."""
        with pytest.raises(TaskDeferred) as deferred:
            await self.execute()
        waiting: dict[str, Any] = (deferred.value.kwargs or {})["waiting"]
        assert json.loads(json.dumps(waiting)) == waiting
        assert "PRIVATE" not in json.dumps(deferred.value.trigger.serialize())
        return waiting

    async def resume(self, waiting: dict[str, Any], **event: Any) -> Any:
        """Run on a worker again, after the trigger's event."""
        event = {"succeeded": True, **event}
        return await asyncio.to_thread(self.operator.execute_complete, self.context, event, waiting)


def end(fake: FakeSlurm, *reported: Outcome, job: str = "1", state: str = "COMPLETED", element: str = "") -> None:
    """Let a job end, with what its ranks reported."""
    (folder,) = [folder for folder in fake.folders() if (folder / "submitted").read_text().strip() == job]
    for number, outcome in enumerate(reported):
        private = folder / (f"ranks.{element}" if element else "ranks") / f"airflow-distrib-{number}"
        private.mkdir(parents=True)
        (private / f"outcome-rank-{outcome.rank}.json").write_text(outcome.to_json())
    fake.change(job, state=state, exit="0:0" if state == "COMPLETED" else "1:0")


def function(**arguments: Any) -> SlurmOperator:
    """Return a task with a function."""
    return SlurmOperator(task_id="train", python_callable=add, op_args=[1], **arguments)


async def test_a_function_is_submitted_waited_for_and_its_value_returned(fake: FakeSlurm) -> None:
    """A function's value reaches Airflow, and afterwards nothing of the job remains on the cluster."""
    state = FakeStateStore()
    waiting = await Try(function(), state).defer()
    assert set(waiting) == {"ref", "connection"}
    end(fake, VALUE)
    assert await Try(function(), state).resume(waiting) == {"a": 1}
    assert state.phases == ["submitting", "submitted", "deferred", "resumed", "consumed"]
    assert fake.folders() == []


async def test_a_task_may_wait_on_its_worker(fake: FakeSlurm) -> None:
    """A task that must not defer waits for its job by itself, and returns the same value."""
    running_task = asyncio.create_task(Try(function(deferrable=False), FakeStateStore()).execute())
    await fake.submitted()
    end(fake, VALUE)
    assert await running_task == {"a": 1}


async def test_the_next_try_goes_on_with_the_job_unless_it_was_cleared(fake: FakeSlurm) -> None:
    """A lost worker costs no computed hours, while a user who clears the task gets a fresh run."""
    for phase in ("submitting", "submitted", "deferred"):
        state = FakeStateStore()
        waiting = await Try(function(), state, most=1).defer()
        state.value["phase"] = phase
        if phase == "submitting":
            state.value["ref"] = {**state.value["ref"], "uid": ""}
        again = await Try(function(), state, 2, 1).defer()
        assert again["ref"]["uid"] == waiting["ref"]["uid"]
        fresh = await Try(function(), state, 3, 2).defer()
        assert fresh["ref"]["uid"] != waiting["ref"]["uid"]
        assert fake.jobs[waiting["ref"]["uid"]]["state"] == "CANCELLED"
        assert len(fake.folders()) == len([job for job in fake.jobs.values() if job["state"] != "CANCELLED"])


async def test_a_try_that_follows_a_finished_job_reads_its_result(fake: FakeSlurm) -> None:
    """A result that was computed before the worker was lost is neither computed nor waited for again."""
    state = FakeStateStore()
    await Try(function(), state, most=1).defer()
    end(fake, VALUE)
    assert await Try(function(), state, 2, 1).execute() == {"a": 1}


async def test_a_job_that_somebody_cancelled_is_not_adopted(fake: FakeSlurm) -> None:
    """A try that follows a cancelled job submits one of its own instead of failing with it."""
    state = FakeStateStore()
    first = await Try(function(), state, most=1).defer()
    fake.change("1", state="CANCELLED")
    second = await Try(function(), state, 2, 1).defer()
    assert second["ref"]["uid"] != first["ref"]["uid"]


async def test_the_earliest_failure_is_named(fake: FakeSlurm) -> None:
    """Users see the error of the rank that failed first, not those of ranks that lost their peer."""
    state = FakeStateStore()
    waiting = await Try(function(), state).defer()
    late = Outcome(outcomes.FAILURE, 0, time=9.0, error_type="ConnectionError", message="peer")
    first = Outcome(outcomes.FAILURE, 1, time=8.0, error_type="ValueError", message="the cause")
    end(fake, late, first, state="FAILED")
    with pytest.raises(RankFailed, match="ValueError: the cause"):
        await Try(function(), state).resume(waiting, succeeded=False)
    assert fake.folders() == []


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        ("TIMEOUT", JobTimedOut, "raise time"),
        ("NODE_FAIL", JobLost, "a node went away"),
        ("CANCELLED", JobLost, "by user id 1000"),
    ],
)
async def test_an_end_by_slurm_counts_before_what_ranks_reported(
    fake: FakeSlurm, state: str, error: type[Exception], text: str
) -> None:
    """Users see why Slurm ended the job, because the errors of its ranks only follow from that."""
    store = FakeStateStore()
    waiting = await Try(function(), store).defer()
    Path(waiting["ref"]["address"]["stderr"]).write_text("slurmstepd: killed\n")
    end(fake, Outcome(outcomes.FAILURE, 0, time=9.0, error_type="ConnectionError"), state=state)
    fake.change("1", by="1000")
    with pytest.raises(error) as failed:
        await Try(function(), store).resume(waiting, succeeded=False)
    assert text in str(failed.value)
    assert "    slurmstepd: killed" in str(failed.value)


async def test_a_result_that_is_not_there_is_an_error(fake: FakeSlurm) -> None:
    """A lost result is never taken for None, although a slow file system is given some time."""
    state = FakeStateStore()
    waiting = await Try(function(), state).defer()
    end(fake)
    with pytest.raises(ResultMissing):
        await Try(function(), state).resume(waiting)


async def test_a_job_array_returns_what_every_element_did(fake: FakeSlurm) -> None:
    """The values are sorted by index, even where only the elements' own files show how they ended."""
    state = FakeStateStore()
    operator = function(task_config=Slurm(array="2-3"))
    waiting = await Try(operator, state).defer()
    folder = Path(waiting["ref"]["address"]["directory"])
    for element in ("2", "3"):
        end(fake, VALUE._replace(result=element), element=element)
        (folder / f"exit.{element}").write_text("0\n")
    fake.change("1", known=False)
    fake.set(accounting=False)
    assert await Try(operator, state).resume(waiting, succeeded=None, reason="Forgotten") == [2, 3]


async def test_what_nobody_knows_is_lost(fake: FakeSlurm) -> None:
    """A job whose end nobody knows is an error with advice, and never a success."""
    state = FakeStateStore()
    waiting = await Try(function(), state).defer()
    fake.change("1", known=False)
    fake.set(accounting=False)
    with pytest.raises(JobLost, match="Slurm no longer knows how job 1 ended"):
        await Try(function(), state).resume(waiting, succeeded=None, reason="Forgotten")


async def test_a_job_whose_time_is_over_is_cancelled_even_if_the_trigger_could_not(fake: FakeSlurm) -> None:
    """No job runs on after its task has failed."""
    state = FakeStateStore()
    waiting = await Try(function(), state).defer()
    fake.change("1", state="RUNNING")
    problem = Problem("TimedOut", "the job was still running", category=Category.TIMED_OUT)
    with pytest.raises(JobTimedOut):
        await Try(function(), state).resume(waiting, succeeded=None, problem=problem.to_json())
    assert fake.jobs["1"]["state"] == "CANCELLED"


async def test_a_refused_job_fails_for_good_and_nothing_remains(fake: FakeSlurm) -> None:
    """A request that Slurm would refuse again is not retried, and the user reads Slurm's own words."""
    fake.set(refusal="Invalid qos specification")
    with pytest.raises(AirflowFailException, match="Invalid qos specification"):
        await Try(function(), FakeStateStore(), most=3).execute()
    assert fake.folders() == []


async def test_a_kill_cancels_the_job(fake: FakeSlurm) -> None:
    """A task that is stopped on its worker does not go on to hold its nodes."""
    operator = function(deferrable=False)
    running_task = asyncio.create_task(Try(operator, FakeStateStore()).execute())
    await fake.submitted()
    await asyncio.to_thread(operator.on_kill)
    with pytest.raises(JobTerminated, match="stopped by SIGTERM"):
        await running_task
    assert fake.jobs["1"]["state"] == "CANCELLED"


async def test_a_shell_scripts_files_go_in_and_out(fake: FakeSlurm, tmp_path: Path) -> None:
    """A script finds its input files on the cluster, and its outputs arrive where the user wants them."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a").write_text("in a folder")
    operator = SlurmShellOperator(
        task_id="train",
        script="cat {inputs.data}/a >{outputs.one}",
        inputs={"data": ObjectStoragePath(f"file://{tmp_path}/data")},
        outputs={"one": SlurmOutput(to=str(tmp_path / "fetched/one")), "two": {"location": "~/two"}},
    )
    state = FakeStateStore()
    waiting = await Try(operator, state).defer()
    folder = Path(waiting["ref"]["address"]["directory"])
    assert (folder / "inputs/data/data/a").read_text() == "in a folder"
    assert f"AIRFLOW_INPUTS_data={folder}/inputs/data/data" in (folder / "job.sh").read_text()
    (folder / "outputs").mkdir()
    (folder / "outputs/one").write_text("out")
    (fake.home / "two").write_text("stays")
    end(fake)
    value = await Try(operator, state).resume(waiting)
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
            "launcher: is needed where",
        ),
        (
            lambda: elastic(launcher="slurm", python_callable=None, op_args=[], command=["x"]),
            "command: has no effect with launcher='slurm'; launcher='kubernetes' honours it",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_parse_time(make: Callable[[], Any], text: str) -> None:
    """Mistakes appear when the DAG file is parsed, with the field and its correction, instead of hours later."""
    with pytest.raises(ConfigError) as refused:
        make()
    assert text in str(refused.value)


def elastic(**arguments: Any) -> ElasticOperator:
    """Return an Elastic task."""
    return ElasticOperator(
        **{"task_id": "t", "python_callable": add, "op_args": [1], "task_config": Elastic(nnodes=2), **arguments}
    )


def test_an_elastic_config_runs_on_a_slurm_when_one_is_named() -> None:
    """The same Elastic config runs on a Slurm as soon as an argument or a launcher names one."""
    for arguments in ({"slurm": Slurm(partition="gpu")}, {"ssh_conn_id": "hpc"}, {"launcher": "slurm"}):
        assert elastic(**arguments).launcher == "slurm"
    shown: dict[str, Any] = elastic(slurm={"partition": "gpu"}).render()
    assert {"--partition=gpu", "--nodes=2", "--ntasks-per-node=1"} <= set(shown["sbatch"])
    assert "srun --kill-on-bad-exit=1 --ntasks-per-node=1 " in "\n".join(shown["ranks"])


def test_a_function_for_a_slurm_runs_on_local_ranks_too() -> None:
    """Users can try a DAG on their own machine, and see which options have no effect there."""
    operator = function(task_config=Slurm(nodes=2, ntasks_per_node=2, partition="p"), launcher="local")
    shown: dict[str, Any] = operator.render()
    assert (shown["spec"]["processes"], shown["not_applied"]) == (4, ["partition"])


def test_templates_are_rendered_in_options_inputs_and_arguments() -> None:
    """Options, inputs and arguments are templated, while double braces in scripts stay the shell's."""
    with DAG("d", schedule=None):
        operator = SlurmShellOperator(
            task_id="t",
            script="echo {inputs.x} ${#x} {{ ds }}",
            inputs={"x": "{{ ds }}"},
            outputs={"y": SlurmOutput(location="/data/{{ ds }}")},
            task_config=Sbatch(partition="{{ ds }}"),
        )
    assert operator.render()["known at run time"] == ["task_config.partition", "inputs", "outputs"]
    operator.render_template_fields({"ds": "2026-01-01"})
    shown: dict[str, Any] = operator.render()
    assert shown["sbatch"].count("--partition=2026-01-01") == 1
    assert "AIRFLOW_INPUTS_x=2026-01-01" in "\n".join(shown["script"])
    assert "AIRFLOW_OUTPUTS_y=/data/2026-01-01" in "\n".join(shown["script"])
    assert "{{ ds }}" in "\n".join(shown["script"])


def test_upstream_outputs_are_taken_and_create_dependencies() -> None:
    """A task that uses an upstream task's output, wherever in its arguments, runs after that task."""
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
