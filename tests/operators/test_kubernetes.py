"""A task's legs on a worker, against an API server in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from airflow_distrib.systems.kubernetes.registry import kind_named
from airflow_distrib.systems.kubernetes.manifest import Task
from airflow_distrib.systems.pytorchjob.config import PyTorchJob
from airflow_distrib.systems.pytorchjob.render import cluster
from airflow_distrib.core.errors import ClusterError, JobLost, JobTerminated, JobTimedOut, RankFailed, ResultMissing
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.record import JobRecord
from airflow_distrib.systems.kubernetes.resources import Replica
from airflow_distrib.core.status import Problem
from airflow_distrib.operators.kubernetes import KubernetesRun
from airflow_distrib.jobs.run import Order
from airflow_distrib.operators.record_store import RecordStore
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import report
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.jobs.waiting import Ending, Waiting
from fake_context import FakeStateStore, FakeTaskInstance, context
from fake_kubernetes import FakeKubernetes

JOBS, PODS, SECRETS = kind_named("pytorchjob").path("ns"), "/api/v1/namespaces/ns/pods", "/api/v1/namespaces/ns/secrets"
JOB = PyTorchJob(image="x", worker=Replica(replicas=0))
RESULT = Outcome(outcomes.SUCCESS, 0, result='{"a": 1}')


class Leg:
    """One try of a task."""

    def __init__(self, api: FakeKubernetes, state: FakeStateStore, try_number: int = 1, max_tries: int = 0) -> None:
        ti = FakeTaskInstance(try_number=try_number)
        ti.max_tries = max_tries  # type: ignore[attr-defined]
        self.state = state
        self.said: list[str] = []
        self.store = RecordStore(context(state, ti=ti), durable=True)
        self.store.spec_hash = "spec"
        self.run = KubernetesRun(api.settings(), "c", self.store, self.said.append)
        self.order = Order(
            JobIdentity("d", "r", "t", -1, try_number, self.store.scope),
            lambda identity: cluster(JOB, Task(identity, "ns")),
            b"payload",
            lambda ref: Waiting(ref, "c", logs=False),
            lambda succeeded: False,
            returns=True,
            comes_again=try_number <= max_tries,
        )

    async def start(self, *, deferrable: bool = True) -> Any:
        """Up to the deferral, or to the value."""
        waiting, value = await self.run.start(self.order, deferrable=deferrable, read=lambda path: path)
        return waiting if waiting is not None else value

    async def resume(self, waiting: Waiting, ending: Ending) -> Any:
        """After the trigger."""
        return await self.run.resume(self.order, waiting, ending, lambda path: path)

    @property
    def phase(self) -> str:
        """What the record says."""
        record = JobRecord.from_json(self.state.value)
        assert record is not None
        return record.phase.value


def run(test: Callable[[FakeKubernetes], Coroutine[Any, Any, None]]) -> None:
    """Run a test with a server of its own."""

    async def main() -> None:
        async with FakeKubernetes() as api:
            await test(api)

    asyncio.run(main())


def end(api: FakeKubernetes, name: str, state: str = "Succeeded", outcome: Outcome | None = RESULT) -> None:
    """Let a job end, with its pod."""
    job = api.objects[JOBS][name]
    condition = {"type": state, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "message": "it says"}
    api.put(JOBS, {**job, "status": {"conditions": [condition]}})
    message = report.termination_message(outcome) if outcome else ""
    code = 1 if state == "Failed" else 0
    ended = {"exitCode": code, "message": message, "finishedAt": "2026-01-01T00:00:00Z"}
    status = {"phase": state, "containerStatuses": [{"name": "pytorch", "state": {"terminated": ended}}]}
    metadata = {"name": f"{name}-master-0", "labels": {"airflow-distrib/job": name}}
    api.put(PODS, {"metadata": metadata, "status": status})


def test_a_job_is_submitted_with_the_secret_that_it_owns() -> None:
    """And what is done is written down before and after."""

    async def test(api: FakeKubernetes) -> None:
        leg = Leg(api, FakeStateStore())
        waiting = await leg.start()
        (name,) = api.objects[JOBS]
        owner = api.objects[SECRETS][name]["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["uid"]) == ("PyTorchJob", waiting.ref.uid)
        assert leg.state.phases == ["submitting", "submitted", "deferred"]

    run(test)


def test_the_result_is_fetched_and_nothing_is_left() -> None:
    """From the event, or from the pod."""

    async def test(api: FakeKubernetes) -> None:
        for told in ((RESULT,), ()):
            leg = Leg(api, FakeStateStore())
            waiting = await leg.start()
            end(api, waiting.ref.name)
            later = Leg(api, leg.state)
            assert await later.resume(waiting, Ending(True, outcomes=told)) == {"a": 1}
            assert (later.phase, dict(api.objects[JOBS])) == ("consumed", {})

    run(test)


@pytest.mark.parametrize(
    ("max_tries", "adopted"),
    [
        (1, True),
        # Airflow raises it when a user clears the task.
        (2, False),
    ],
)
def test_the_next_try_goes_on_with_a_job_unless_it_was_cleared(max_tries: int, adopted: bool) -> None:
    """Whatever phase the lost worker, or trigger, had come to."""

    async def test(api: FakeKubernetes) -> None:
        for phases in (1, 2, 3):
            api.objects[JOBS].clear()
            first = Leg(api, FakeStateStore(), max_tries=1)
            await first.start()
            name = next(iter(api.objects[JOBS]))
            first.state.value = {**first.state.value, "phase": ["submitting", "submitted", "deferred"][phases - 1]}
            if phases == 1:
                first.state.value["ref"]["uid"] = ""
            second = Leg(api, first.state, try_number=2, max_tries=max_tries)
            waiting = await second.start()
            assert (waiting.ref.name == name) is adopted
            assert list(api.objects[JOBS]) == [waiting.ref.name]

    run(test)


def test_a_job_that_is_over_when_it_is_adopted_gives_its_result_at_once() -> None:
    """No deferral, no second run."""

    async def test(api: FakeKubernetes) -> None:
        first = Leg(api, FakeStateStore(), max_tries=1)
        waiting = await first.start()
        end(api, waiting.ref.name)
        assert await Leg(api, first.state, try_number=2, max_tries=1).start() == {"a": 1}
        assert api.requests[f"POST {JOBS}"] == 1

    run(test)


def test_a_job_without_its_secret_gets_it_when_it_is_adopted() -> None:
    """The worker died between the two."""

    async def test(api: FakeKubernetes) -> None:
        first = Leg(api, FakeStateStore(), max_tries=1)
        waiting = await first.start()
        api.objects[SECRETS].clear()
        await Leg(api, first.state, try_number=2, max_tries=1).start()
        assert list(api.objects[SECRETS]) == [waiting.ref.name]

    run(test)


def test_a_job_whose_secret_is_refused_is_not_left_behind() -> None:
    """Its pods would wait for ever."""

    async def test(api: FakeKubernetes) -> None:
        api.refuse = lambda request: 403 if request.path == SECRETS else None
        with pytest.raises(ClusterError, match="403"):
            await Leg(api, FakeStateStore()).start()
        assert dict(api.objects[JOBS]) == {}

    run(test)


def test_a_job_of_the_same_name_that_is_somebody_elses_is_not_adopted() -> None:
    """Nor touched."""

    async def test(api: FakeKubernetes) -> None:
        leg = Leg(api, FakeStateStore())
        name = cluster(JOB, Task(leg.order.identity, "ns")).manifest["metadata"]["name"]
        api.put(JOBS, {"metadata": {"name": name, "annotations": {}}})
        with pytest.raises(ClusterError, match="it is not this task's"):
            await leg.start()
        assert list(api.objects[JOBS]) == [name]

    run(test)


@pytest.mark.parametrize(
    ("ending", "state", "outcome", "error"),
    [
        (Ending(False), "Failed", Outcome(outcomes.FAILURE, 0, error_type="ValueError"), RankFailed),
        (Ending(False, outcomes=(Outcome(outcomes.FAILURE, 1, error_type="E"),)), "Failed", None, RankFailed),
        (Ending(True), "Succeeded", None, ResultMissing),
        (Ending(None, problem=Problem("TimedOut", "late")), "Running", None, JobTimedOut),
        (Ending(None, problem=Problem("Deleted", "gone")), "Running", None, JobLost),
        (Ending(False, message="Job was active longer than specified deadline"), "Failed", None, RankFailed),
    ],
)
def test_every_bad_end_is_an_error_and_leaves_nothing(ending: Ending, state: str, outcome: Any, error: Any) -> None:
    """Whatever else is known."""

    async def test(api: FakeKubernetes) -> None:
        leg = Leg(api, FakeStateStore())
        waiting = await leg.start()
        end(api, waiting.ref.name, state, outcome)
        with pytest.raises(error):
            await leg.resume(waiting, ending)
        assert (leg.phase, dict(api.objects[JOBS])) == ("consumed", {})

    run(test)


def test_a_problem_that_mended_itself_is_none() -> None:
    """The job has succeeded before the worker came."""

    async def test(api: FakeKubernetes) -> None:
        leg = Leg(api, FakeStateStore())
        waiting = await leg.start()
        end(api, waiting.ref.name)
        assert await leg.resume(waiting, Ending(None, problem=Problem("Unschedulable", "no room"))) == {"a": 1}

    run(test)


def test_a_job_that_cannot_be_deleted_does_not_cost_its_result() -> None:
    """It goes after its TTL."""

    async def test(api: FakeKubernetes) -> None:
        leg = Leg(api, FakeStateStore())
        waiting = await leg.start()
        end(api, waiting.ref.name)
        api.refuse = lambda request: 403 if request.method == "DELETE" else None
        assert await leg.resume(waiting, Ending(True)) == {"a": 1}
        assert "could not be deleted" in leg.said[-1]

    run(test)


def test_a_result_that_cannot_be_read_now_is_left_for_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is deleted."""

    async def test(api: FakeKubernetes) -> None:
        leg = Leg(api, FakeStateStore(), max_tries=1)
        waiting = await leg.start()
        end(api, waiting.ref.name)
        api.refuse = lambda request: 403 if request.path == PODS else None
        with pytest.raises(ClusterError):
            await leg.resume(waiting, Ending(True))
        assert leg.phase == "resumed"
        api.refuse = lambda _: None
        assert await Leg(api, leg.state, try_number=2, max_tries=1).start() == {"a": 1}

    run(test)


def test_without_deferring_the_worker_waits_itself() -> None:
    """With the same watch."""

    async def test(api: FakeKubernetes) -> None:
        leg = Leg(api, FakeStateStore())
        waiting = asyncio.create_task(leg.start(deferrable=False))
        while not api.objects[JOBS]:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.02)
        end(api, next(iter(api.objects[JOBS])))
        assert await asyncio.wait_for(waiting, 10) == {"a": 1}
        assert leg.state.phases == ["submitting", "submitted", "consumed"]

    run(test)


def test_a_kill_before_the_job_exists_keeps_it_from_being_submitted() -> None:
    """And one that comes later deletes it."""

    async def test(api: FakeKubernetes) -> None:
        leg = Leg(api, FakeStateStore())
        leg.run.killed = True
        with pytest.raises(JobTerminated):
            await leg.start()
        assert dict(api.objects[JOBS]) == {}
        leg = Leg(api, FakeStateStore())
        await leg.start()
        await asyncio.to_thread(leg.run.kill)
        assert dict(api.objects[JOBS]) == {}

    run(test)


def test_an_error_that_no_try_comes_back_from_leaves_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example a state store that cannot be written to."""

    class Broken(FakeStateStore):
        def set(self, key: str, value: Any) -> None:
            if value["phase"] == "deferred":
                raise OSError("no answer")
            super().set(key, value)

    async def test(api: FakeKubernetes) -> None:
        for max_tries, left in ((0, 0), (1, 1)):
            api.objects[JOBS].clear()
            with contextlib.suppress(OSError):
                await Leg(api, Broken(), max_tries=max_tries).start()
            assert len(api.objects[JOBS]) == left

    run(test)


def test_a_job_whose_creation_was_never_answered_is_looked_for() -> None:
    """On the last try; a later one would find it by its name."""

    async def test(api: FakeKubernetes) -> None:
        leg = Leg(api, FakeStateStore())
        answered = api.put

        def refuse(request: Any) -> int | None:
            if request.method == "POST" and request.path == JOBS and not api.objects[JOBS]:
                manifest = cluster(JOB, Task(leg.order.identity, "ns")).manifest
                answered(JOBS, manifest)
                return 403
            return None

        api.refuse = refuse
        with pytest.raises(ClusterError, match="may not do this"):
            await leg.start()
        assert dict(api.objects[JOBS]) == {}

    run(test)
