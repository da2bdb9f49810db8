"""A new custom resource and a new kind of cluster work without an edit outside their own files and a catalogue row."""

from __future__ import annotations

import asyncio
import datetime
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred

import airflow_distrib
import widgets
import yard
from airflow_distrib import ConfigError, RankFailed, catalogue
from airflow_distrib.core.status import JobState
from airflow_distrib.decorators import tasks
from airflow_distrib.hooks.kubernetes import KubernetesHook
from airflow_distrib.jobs.pool import SessionPool
from airflow_distrib.operators.base import DistributedJobOperator
from airflow_distrib.runner import report
from airflow_distrib.runner.outcome import FAILURE, SUCCESS, Outcome
from airflow_distrib.systems.kubernetes.registry import rights
from airflow_distrib.triggers.job import JobTrigger
from fake_context import FakeStateStore, FakeTaskInstance, context
from fake_kubernetes import FakeKubernetes

VALUE = Outcome(SUCCESS, 0, result='{"sum": 3}')
WIDGETS, PODS = widgets.WIDGET.path("ns"), "/api/v1/namespaces/ns/pods"


@pytest.fixture(autouse=True)
def _catalogue(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add the two rows, which is the only edit that a new system makes in a shared file."""
    monkeypatch.setattr(catalogue, "ENTRIES", (*catalogue.ENTRIES, widgets.ENTRY, yard.ENTRY))
    monkeypatch.setattr(catalogue, "LAUNCHERS", (*catalogue.LAUNCHERS, yard.LAUNCHER))
    yield
    yard.JOBS.clear()
    assert yard.OPEN == []


def add(a: int, b: int = 2) -> dict[str, int]:
    """Return a sum."""
    return {"sum": a + b}


class Try:
    """One try of a task."""

    def __init__(
        self, operator: DistributedJobOperator[Any], state: FakeStateStore, number: int = 1, max_tries: int = 0
    ) -> None:
        self.operator, self.lines = operator, list[str]()
        ti = FakeTaskInstance(try_number=number, max_tries=max_tries)
        ti.start_date = datetime.datetime.now(datetime.UTC)  # type: ignore[attr-defined]
        self.context = context(state, ti=ti)

    def defer(self) -> dict[str, Any]:
        """Execute up to the deferral; return what the trigger is given."""
        with pytest.raises(TaskDeferred) as deferred:
            self.operator.execute(self.context)
        values: dict[str, Any] = deferred.value.kwargs["waiting"]  # type: ignore[index] # it has some
        return values

    def resume(self, waiting: dict[str, Any], event: dict[str, Any]) -> Any:
        """Execute after the trigger's event."""
        return self.operator.execute_complete(self.context, event, waiting)


def trigger(waiting: dict[str, Any]) -> JobTrigger:
    """The trigger of a deferred task."""
    made = JobTrigger(waiting)
    made.task_instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)  # type: ignore[assignment]
    return made


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let events fire without a pause for the scheduler."""
    monkeypatch.setattr("airflow_distrib.triggers.pulse.EXIT_SECONDS", 0.0)
    monkeypatch.setattr("airflow_distrib.triggers.pulse.UNKNOWN_SECONDS", 0.0)


async def event_of(waiting: dict[str, Any]) -> dict[str, Any]:
    """The one event of a trigger."""
    try:
        (event,) = [each.payload async for each in trigger(waiting).run()]
    finally:
        await SessionPool.current().close()
    assert isinstance(event, dict)
    return event


# ---------------------------------------------------------------------- a kind of cluster


def haul(**arguments: Any) -> yard.HaulOperator:
    """A task on carts."""
    return yard.HaulOperator(task_id="train", python_callable=add, op_args=[1], **arguments)


@pytest.mark.usefixtures("at_once")
def test_a_job_on_a_new_cluster_is_submitted_watched_and_its_value_returned() -> None:
    """Everything common works through the interface alone: record, deferral, trigger, log, result, clean-up."""
    state = FakeStateStore()
    waiting = Try(haul(colour="red"), state).defer()
    (job,) = yard.JOBS.values()

    async def finish() -> dict[str, Any]:
        watching = asyncio.create_task(event_of(waiting))
        await asyncio.sleep(0.1)
        assert not watching.done()
        job.log.append("[rank 0] hello")
        job.reported, job.state = [VALUE], JobState.SUCCEEDED
        return await asyncio.wait_for(watching, 5)

    event = asyncio.run(finish())
    assert event["log"] == {"lines": 1}
    assert Try(haul(colour="red"), state).resume(waiting, event) == {"sum": 3}
    assert state.phases == ["submitting", "submitted", "deferred", "resumed", "consumed"]
    assert yard.JOBS == {}


@pytest.mark.parametrize("phase", ["submitting", "submitted", "deferred"])
def test_a_job_on_a_new_cluster_is_adopted_after_a_lost_worker_and_replaced_after_a_clear(phase: str) -> None:
    """A new launcher gets adoption without code of its own."""
    state = FakeStateStore()
    first = Try(haul(), state, max_tries=1).defer()
    state.value["phase"] = phase
    if phase == "submitting":
        state.value["ref"] = {**state.value["ref"], "uid": ""}
    adopted = Try(haul(), state, 2, 1).defer()
    assert adopted["ref"]["uid"] == first["ref"]["uid"]
    fresh = Try(haul(), state, 3, 2).defer()
    assert fresh["ref"]["name"] != first["ref"]["name"]
    assert list(yard.JOBS) == [fresh["ref"]["name"]]


def test_a_failing_rank_on_a_new_cluster_is_named() -> None:
    """The earliest failure is chosen in common code."""
    state = FakeStateStore()
    waiting = Try(haul(), state).defer()
    (job,) = yard.JOBS.values()
    late = Outcome(FAILURE, 0, time=9.0, error_type="ConnectionError", message="peer")
    job.reported = [late, Outcome(FAILURE, 1, time=8.0, error_type="ValueError", message="the cause")]
    job.state = JobState.FAILED
    with pytest.raises(RankFailed, match="ValueError: the cause"):
        Try(haul(), state).resume(waiting, {"succeeded": False})


@pytest.mark.parametrize(("state_of_task", "cancelled"), [("failed", True), ("deferred", False)])
def test_a_killed_trigger_cancels_a_job_on_a_new_cluster_only_if_the_task_was_ended(
    state_of_task: str, cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow also kills triggers that it moves to another triggerer."""

    async def asked(self: JobTrigger) -> str:
        return state_of_task

    monkeypatch.setattr(JobTrigger, "_state_of_task", asked)
    waiting = Try(haul(), FakeStateStore()).defer()

    async def kill() -> None:
        await trigger(waiting).on_kill()
        await SessionPool.current().close()

    asyncio.run(kill())
    assert (not yard.JOBS) is cancelled


def test_a_task_that_waits_on_its_worker_is_killed_with_its_job_on_a_new_cluster() -> None:
    """The signal handler cancels through the same client, in an event loop of its own."""
    operator = haul(deferrable=False)

    def kill() -> None:
        while not yard.JOBS:
            time.sleep(0.02)
        operator.on_kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(airflow_distrib.JobTerminated):
        operator.execute(Try(operator, FakeStateStore()).context)
    thread.join()
    assert yard.JOBS == {}


def test_arguments_of_a_new_launcher_are_checked_rendered_and_digested() -> None:
    """An operator learns them from its launchers."""
    assert "colour" in yard.HaulOperator.template_fields
    with pytest.raises(ConfigError, match="colour: must be text"):
        haul(colour=5)
    with pytest.raises(ConfigError, match="result_path: has no effect with launcher='yard'"):
        haul(result_path="/x")
    with DAG("d", schedule=None, default_args={"colour": "blue"}):
        operator = haul()
        mapped = yard.HaulOperator.partial(task_id="m", python_callable=add, op_args=[1]).expand(colour=["a", "b"])
    assert operator.render()["colour"] == "blue"
    assert mapped.is_mapped
    assert operator.spec_hash(yard.Haul()) != haul(colour="red").spec_hash(yard.Haul())


# ---------------------------------------------------------------------- a custom resource


class ThreadedKubernetes(FakeKubernetes):
    """Runs in an event loop of its own: operators run theirs."""

    loop: asyncio.AbstractEventLoop

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function in the server's event loop, where its watches hear of what it changes."""

        async def run() -> None:
            function(*arguments)

        asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    async def stop(self) -> None:
        """Stop, and end every handler that still streams."""
        await self.__aexit__()
        handlers = asyncio.all_tasks() - {asyncio.current_task()}
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedKubernetes]:
    """An API server to which every connection leads."""
    server, loop = ThreadedKubernetes(), asyncio.new_event_loop()
    server.loop = loop
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    _ = server.objects[WIDGETS]

    async def asettings(self: KubernetesHook) -> Any:
        return server.settings()

    monkeypatch.setattr(KubernetesHook, "settings", lambda self: server.settings())
    monkeypatch.setattr(KubernetesHook, "asettings", asettings)
    yield server
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def widget(**arguments: Any) -> widgets.WidgetOperator:
    """A task on widgets."""
    config = widgets.Widget(image="me/x:1", workers=2)
    return widgets.WidgetOperator(
        **{"task_id": "train", "python_callable": add, "op_args": [1], "task_config": config, **arguments}
    )


def put_pods(api: FakeKubernetes, name: str, outcome: Outcome | None = None) -> None:
    """Show the two pods of a widget: at work, or ended, one of them with an outcome."""
    labels = api.objects[WIDGETS][name]["spec"]["groups"][0]["pod"]["metadata"]["labels"]
    for number in (0, 1):
        pod, mine = f"{name}-{number}", outcome is not None and outcome.rank == number
        failed = mine and outcome is not None and outcome.kind == FAILURE
        message = report.termination_message(outcome) if mine and outcome is not None else ""
        ended = {"exitCode": int(failed), "message": message, "finishedAt": "2026-01-01T00:00:00Z"}
        state = {"running": {}} if outcome is None else {"terminated": ended}
        phase = "Running" if outcome is None else "Failed" if failed else "Succeeded"
        status = {"phase": phase, "containerStatuses": [{"name": "work", "state": state}]}
        metadata = {"name": pod, "labels": {**labels, "example.com/number": str(number)}}
        api.put(PODS, {"metadata": metadata, "status": status})
        api.logs[pod] = f"2026-01-01T00:00:00.000000001Z [rank {number}] hello\n"


def end(api: FakeKubernetes, name: str, state: str, outcome: Outcome) -> None:
    """Let a widget end."""
    put_pods(api, name, outcome)
    api.log_closed.update(api.logs)
    found = api.objects[WIDGETS][name]
    api.put(WIDGETS, {**found, "status": {"state": state, "finishedAt": "2026-01-01T00:00:00Z"}})


@pytest.mark.usefixtures("at_once")
def test_a_new_custom_resource_is_submitted_watched_and_its_value_returned(api: ThreadedKubernetes) -> None:
    """The shared watch, logs, results and clean-up need nothing but the kind."""
    state = FakeStateStore()
    waiting = Try(widget(), state).defer()
    (name,) = api.objects[WIDGETS]
    pod = api.objects[WIDGETS][name]["spec"]["groups"][0]["pod"]
    assert pod["metadata"]["labels"]["airflow-distrib/job"] == name

    async def finish() -> dict[str, Any]:
        watching = asyncio.create_task(event_of(waiting))
        await asyncio.to_thread(api.call, put_pods, api, name)
        while sum(count for path, count in api.requests.items() if path.endswith("/log")) < 2:  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0.02)
        assert not watching.done()
        await asyncio.to_thread(api.call, end, api, name, "Done", VALUE)
        return await asyncio.wait_for(watching, 10)

    event = asyncio.run(finish())
    assert event["succeeded"] is True
    assert len(event["log"]) == 2
    assert Try(widget(), state).resume(waiting, event) == {"sum": 3}
    assert (dict(api.objects[WIDGETS]), state.phases[-1]) == ({}, "consumed")


def test_a_new_custom_resource_is_adopted_replaced_and_reaped(api: ThreadedKubernetes) -> None:
    """A job of the try before is found by its name, and others by their labels."""
    state = FakeStateStore()
    first = Try(widget(), state, max_tries=1).defer()
    assert Try(widget(), state, 2, 1).defer()["ref"]["uid"] == first["ref"]["uid"]
    fresh = Try(widget(), state, 3, 2).defer()
    assert list(api.objects[WIDGETS]) == [fresh["ref"]["name"]] != [first["ref"]["name"]]


def test_the_failing_rank_of_a_new_custom_resource_is_named_by_its_role(api: ThreadedKubernetes) -> None:
    """Role and rank come from the kind's own labels."""
    state = FakeStateStore()
    waiting = Try(widget(), state).defer()
    api.call(
        end, api, waiting["ref"]["name"], "Broken", Outcome(FAILURE, 1, error_type="ValueError", message="bad batch")
    )
    with pytest.raises(RankFailed, match="rank 1 failed first: ValueError: bad batch"):
        Try(widget(), state).resume(waiting, {"succeeded": False})


def test_a_manifest_of_a_new_custom_resource_is_merged_by_its_own_keys() -> None:
    """Lists that only this kind knows are merged by name, and pods are labelled wherever they are."""
    extra = {"name": "more", "count": 1, "pod": {"spec": {"containers": [{"name": "work", "image": "me/y:1"}]}}}
    shown = widget(manifest={"spec": {"groups": [{"name": "all", "count": 3}, extra]}}).render()["manifest"]
    groups = {each["name"]: each for each in shown["spec"]["groups"]}
    assert groups["all"]["count"] == 3
    assert groups["all"]["pod"]["spec"]["containers"][0]["image"] == "me/x:1"
    assert groups["more"]["pod"]["metadata"]["labels"]["airflow-distrib/job"] == shown["metadata"]["name"]
    alone = widgets.WidgetOperator(task_id="t", manifest={"spec": {"groups": [{**extra, "name": "all"}]}})
    assert alone.final_config().workers == 1


def test_options_that_a_new_custom_resource_lacks_are_refused() -> None:
    """Nothing that a user sets is ignored in silence."""
    for name, config in (
        ("suspend", {"suspend": True}),
        ("run_policy.backoff_limit", {"run_policy": {"backoff_limit": 1}}),
    ):
        with pytest.raises(ConfigError, match=f"{name}: has no effect on a Widget"):
            widget(task_config={"image": "x", **config})


def test_a_new_system_has_a_decorator_rights_and_public_names_from_its_row() -> None:
    """Whoever adds a system writes each of its names once."""
    assert tasks.widget_task.operator is widgets.WidgetOperator
    assert catalogue.public()["Widget"] == "widgets.Widget"
    assert airflow_distrib.HaulOperator is yard.HaulOperator
    assert ("example.com", "widgets", ("get", "list", "watch", "create", "delete")) in rights()


def test_a_new_custom_resource_runs_as_local_ranks_too() -> None:
    """The same config serves a laptop without a cluster."""

    def rank() -> int:
        import os

        return int(os.environ["WORLD_SIZE"])

    operator = widget(python_callable=rank, op_args=[], task_config={"workers": 2}, launcher="local")
    assert operator.execute(Try(operator, FakeStateStore()).context) == 2
