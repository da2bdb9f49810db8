"""The trigger waits for a job, reports how it ended, and cancels it only when nobody wants it any more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_distrib.core.reference import JobRef
from airflow_distrib.hooks.kubernetes import KubernetesHook
from airflow_distrib.jobs.pool import SessionPool
from airflow_distrib.jobs.waiting import Ending, Waiting
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import report
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.systems.kubernetes.client import KubernetesSettings
from airflow_distrib.systems.kubernetes.registry import kind_named
from airflow_distrib.triggers import job as triggers
from airflow_distrib.triggers import pulse
from airflow_distrib.triggers.job import JobTrigger
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
async def api(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeKubernetes]:
    """The server that the connection leads to; events need not wait for a scheduler here."""
    monkeypatch.setattr(pulse, "EXIT_SECONDS", 0.0)
    monkeypatch.setattr(pulse, "UNKNOWN_SECONDS", 0.0)
    async with FakeKubernetes() as server:

        async def settings(self: KubernetesHook) -> KubernetesSettings:
            return server.settings()

        monkeypatch.setattr(KubernetesHook, "asettings", settings)
        try:
            yield server
        finally:
            await asyncio.gather(*triggers._killing)
            await SessionPool.current().close()


def trigger(deadline: float | None = None) -> JobTrigger:
    """For the job, without its log."""
    made = JobTrigger(Waiting(REF, "c", logs=False, deadline=deadline).to_json())
    made.task_instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)  # type: ignore[assignment]
    return made


async def event_of(waiting: JobTrigger) -> dict[str, Any]:
    """The one event."""
    (event,) = [each.payload async for each in waiting.run()]
    return dict(event)


def test_arguments_survive_serialization_and_hold_no_credentials() -> None:
    """They are stored in Airflow's database, and triggerers of another release have to understand them."""
    made = JobTrigger(Waiting(REF, "c", deadline=5.0, log_parts=("master-0",)).to_json())
    path, arguments = made.serialize()
    assert path == "airflow_distrib.triggers.job.JobTrigger"
    assert JobTrigger(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)
    assert set(arguments["waiting"]) == {"ref", "connection", "deadline", "log_parts"}
    assert Waiting.from_json({**arguments["waiting"], "of a later release": 1}).deadline == 5.0


async def test_a_jobs_end_is_an_event_with_rank_zeros_outcome(api: FakeKubernetes) -> None:
    """The outcome outlives the pod that reported it, so that the worker finds it in any case."""
    api.put(JOBS, resource("Running"))
    api.put(PODS, master())
    waiting = asyncio.create_task(event_of(trigger()))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    api.put(PODS, master(Outcome(outcomes.SUCCESS, 0, result="42")))
    api.put(JOBS, resource("Running", "Succeeded"))
    event = await asyncio.wait_for(waiting, 5)
    ending = Ending.from_json(json.loads(json.dumps(event)))
    assert (ending.succeeded, ending.problem) == (True, None)
    assert [each.result for each in ending.outcomes] == ["42"]


async def test_a_deadline_cancels_the_job(api: FakeKubernetes) -> None:
    """Airflow itself does not enforce execution_timeout while a task is deferred."""
    api.put(JOBS, resource("Running"))
    event = await event_of(trigger(deadline=1.0))
    assert JOBS in api.objects
    assert "job" not in api.objects[JOBS]
    assert event["problem"][0] == "TimedOut"


async def test_whatever_goes_wrong_is_an_event(api: FakeKubernetes) -> None:
    """An exception in a trigger would fail the task without telling a worker about the job."""
    api.refuse = lambda _: 403
    assert "403" in (await event_of(trigger()))["error"]


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
async def test_a_kill_cancels_the_job_only_if_the_task_was_ended(
    state: str, conditions: tuple[str, ...], cancelled: bool, api: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow also kills triggers that it moves to another triggerer, and their jobs have to go on."""

    async def asked(self: JobTrigger) -> str:
        return state

    monkeypatch.setattr(JobTrigger, "_state_of_task", asked)
    api.put(JOBS, resource(*conditions))
    await trigger().on_kill()
    assert ("job" not in api.objects[JOBS]) is cancelled


async def test_a_kill_goes_on_when_airflow_stops_waiting_for_it(
    api: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow waits for about a second, which is less than a busy cluster needs to answer."""

    async def slowly(self: JobTrigger) -> str:
        await asyncio.sleep(0.3)
        return "failed"

    monkeypatch.setattr(JobTrigger, "_state_of_task", slowly)
    api.put(JOBS, resource("Running"))
    killing = asyncio.create_task(trigger().on_kill())
    await asyncio.sleep(0.05)
    killing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killing
    assert "job" in api.objects[JOBS]
    await asyncio.gather(*triggers._killing)
    assert "job" not in api.objects[JOBS]


async def test_a_trigger_that_has_fired_kills_nothing(api: FakeKubernetes) -> None:
    """Airflow cancels a trigger after its event, while a worker is about to read the result of the job."""
    api.put(JOBS, resource("Succeeded"))
    made = trigger()
    await event_of(made)
    await made.on_kill()
    assert "job" in api.objects[JOBS]
