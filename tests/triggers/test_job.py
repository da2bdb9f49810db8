"""The trigger: what it waits for, what it tells, and when it cancels a job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_distrib.systems.kubernetes.registry import kind_named
from airflow_distrib.core.reference import JobRef
from airflow_distrib.hooks.kubernetes import KubernetesHook
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import report
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.triggers import job as triggers
from airflow_distrib.triggers.job import JobTrigger
from airflow_distrib.systems.kubernetes.feed import WatchHub
from airflow_distrib.jobs.waiting import Ending, Waiting
from fake_kubernetes import FakeKubernetes

JOBS, PODS = kind_named("pytorchjob").path("ns"), "/api/v1/namespaces/ns/pods"
LABELS = {"airflow-distrib/job": "job"}
REF = JobRef("kubernetes", "job", "uid-job", {"kind": "pytorchjob", "namespace": "ns"})


def resource(*true: str) -> dict[str, Any]:
    """The job with these conditions."""
    conditions = [{"type": each, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"} for each in true]
    spec = {"pytorchReplicaSpecs": {"Master": {"replicas": 1}}}
    return {"metadata": {"name": "job", "labels": LABELS}, "spec": spec, "status": {"conditions": conditions}}


def master(outcome: Outcome | None = None) -> dict[str, Any]:
    """Its pod, at work or with its outcome."""
    state: dict[str, Any] = {"running": {}}
    if outcome is not None:
        state = {"terminated": {"exitCode": 0, "message": report.termination_message(outcome)}}
    status = {"phase": "Running", "containerStatuses": [{"name": "pytorch", "state": state}]}
    return {"metadata": {"name": "job-master-0", "labels": LABELS}, "status": status}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[FakeKubernetes], Coroutine[Any, Any, Any]]], Any]:
    """Runs a test with a server that the connection leads to."""

    def start(test: Callable[[FakeKubernetes], Coroutine[Any, Any, Any]]) -> Any:
        async def main() -> Any:
            async with FakeKubernetes() as api:

                async def settings(self: KubernetesHook) -> Any:
                    return api.settings()

                monkeypatch.setattr(KubernetesHook, "asettings", settings)
                try:
                    return await test(api)
                finally:
                    await asyncio.gather(*triggers._killing)
                    await WatchHub.current().close()

        return asyncio.run(main())

    return start


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events need not wait for a scheduler here."""
    monkeypatch.setattr(triggers, "EARLIEST_SECONDS", 0.0)


def trigger(**fields: Any) -> JobTrigger:
    """For the job, without its log."""
    made = JobTrigger(Waiting(REF, "c", logs=False, **fields).to_json())
    made.task_instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)  # type: ignore[assignment]
    return made


async def event_of(waiting: JobTrigger) -> Any:
    """The one event."""
    return [each.payload async for each in waiting.run()]


def test_arguments_survive_serialization_and_hold_no_credentials() -> None:
    """And leave out what is at its default, for triggerers of an older release."""
    made = JobTrigger(Waiting(REF, "c", deadline=5.0, log_roles=("master-0",)).to_json())
    path, arguments = made.serialize()
    assert path == "airflow_distrib.triggers.job.JobTrigger"
    assert JobTrigger(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)
    assert set(arguments["waiting"]) == {"ref", "connection", "deadline", "log_roles"}
    assert Waiting.from_json({**arguments["waiting"], "of a later release": 1}).deadline == 5.0


def test_a_jobs_end_is_an_event_with_rank_zeros_outcome(run: Any) -> None:
    """Which outlives the pod."""

    async def test(api: FakeKubernetes) -> Any:
        api.put(JOBS, resource("Running"))
        api.put(PODS, master())
        waiting = asyncio.create_task(event_of(trigger()))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        api.put(PODS, master(Outcome(outcomes.SUCCESS, 0, result="42")))
        api.put(JOBS, resource("Running", "Succeeded"))
        return await asyncio.wait_for(waiting, 5)

    (event,) = run(test)
    ending = Ending.from_json(json.loads(json.dumps(event)))
    assert (ending.succeeded, ending.problem) == (True, None)
    assert [each.result for each in ending.outcomes] == ["42"]


def test_a_deadline_cancels_the_job(run: Any) -> None:
    """Airflow does not enforce execution_timeout while a task is deferred."""

    async def test(api: FakeKubernetes) -> Any:
        api.put(JOBS, resource("Running"))
        (event,) = await event_of(trigger(deadline=1.0))
        assert JOBS in api.objects
        assert "job" not in api.objects[JOBS]
        return event

    assert run(test)["problem"][0] == "TimedOut"


def test_whatever_goes_wrong_is_an_event(run: Any) -> None:
    """An exception would lose the job."""

    async def test(api: FakeKubernetes) -> Any:
        api.refuse = lambda _: 403
        return await event_of(trigger())

    (event,) = run(test)
    assert "403" in event["error"]


@pytest.mark.parametrize(
    ("state", "conditions", "cancelled"),
    [
        ("failed", ("Running",), True),
        ("success", ("Running",), True),
        ("failed", ("Succeeded",), True),
        # Cleared: the next try is on its way, this job is not wanted any more.
        ("None", ("Running",), True),
        ("queued", ("Running",), True),
        ("running", ("Running",), True),
        # Another triggerer has it, or has seen its end already.
        ("deferred", ("Running",), False),
        ("queued", ("Succeeded",), False),
        ("running", ("Succeeded",), False),
    ],
)
def test_a_kill_cancels_the_job_only_if_the_task_was_ended(
    state: str, conditions: tuple[str, ...], cancelled: bool, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow also kills triggers that it moves to another triggerer."""

    async def asked(self: JobTrigger) -> str:
        return state

    monkeypatch.setattr(JobTrigger, "_state_of_task", asked)

    async def test(api: FakeKubernetes) -> bool:
        api.put(JOBS, resource(*conditions))
        await trigger().on_kill()
        return "job" not in api.objects[JOBS]

    assert run(test) is cancelled


def test_a_kill_goes_on_when_airflow_stops_waiting_for_it(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It allows about a second."""

    async def slowly(self: JobTrigger) -> str:
        await asyncio.sleep(0.3)
        return "failed"

    monkeypatch.setattr(JobTrigger, "_state_of_task", slowly)

    async def test(api: FakeKubernetes) -> bool:
        api.put(JOBS, resource("Running"))
        killing = asyncio.create_task(trigger().on_kill())
        await asyncio.sleep(0.05)
        killing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await killing
        assert "job" in api.objects[JOBS]
        await asyncio.gather(*triggers._killing)
        return "job" not in api.objects[JOBS]

    assert run(test)


def test_a_trigger_that_has_fired_kills_nothing(run: Any) -> None:
    """Airflow cancels what runs on after its event."""

    async def test(api: FakeKubernetes) -> bool:
        api.put(JOBS, resource("Succeeded"))
        made = trigger()
        await event_of(made)
        await made.on_kill()
        return "job" in api.objects[JOBS]

    assert run(test)
