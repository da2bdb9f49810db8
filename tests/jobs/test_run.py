"""A task's part in a job on a worker: what it records, adopts, cancels and cleans up, on a Kubernetes in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from aiohttp import web

from airflow_distrib.core.errors import ClusterError, JobTerminated, RankFailed
from airflow_distrib.core.record import Phase
from airflow_distrib.jobs.waiting import Ending
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome
from fake_context import FakeStateStore
from fake_kubernetes import FakeKubernetes
from kubernetes_try import JOBS, PODS, RESULT, Try, end

FAILURE = Outcome(outcomes.FAILURE, 0, error_type="ValueError")


@pytest.fixture
async def api() -> AsyncIterator[FakeKubernetes]:
    """An API server in memory."""
    async with FakeKubernetes() as server:
        yield server


@pytest.mark.parametrize("phase", [Phase.SUBMITTING, Phase.SUBMITTED, Phase.DEFERRED])
@pytest.mark.parametrize(
    ("max_tries", "adopted"),
    [
        (1, True),
        # Airflow raises it when a user clears the task.
        (2, False),
    ],
)
async def test_the_next_try_adopts_the_job_in_any_phase_unless_the_task_was_cleared(
    max_tries: int, adopted: bool, phase: Phase, api: FakeKubernetes
) -> None:
    """A lost worker or trigger costs no work, and a user who clears a task gets a fresh run."""
    first = Try(api, max_tries=1)
    name = (await first.deferred()).ref.name
    first.state.value = {**first.state.value, "phase": phase.value}
    if phase is Phase.SUBMITTING:
        first.state.value["ref"]["uid"] = ""
    second = Try(api, first.state, try_number=2, max_tries=max_tries)
    waiting = await second.deferred()
    assert (waiting.ref.name == name) is adopted
    assert list(api.objects[JOBS]) == [waiting.ref.name]


async def test_a_job_that_is_over_when_it_is_adopted_gives_its_result_at_once(api: FakeKubernetes) -> None:
    """A try that follows a finished job neither defers nor runs the job again."""
    first = Try(api, max_tries=1)
    waiting = await first.deferred()
    end(api, waiting.ref.name)
    assert await Try(api, first.state, try_number=2, max_tries=1).start() == (None, {"a": 1})
    assert api.requests[f"POST {JOBS}"] == 1


async def test_a_job_that_cannot_be_deleted_does_not_cost_its_result(api: FakeKubernetes) -> None:
    """The job goes after its time to live anyway, so the log mentions it and the task succeeds."""
    task = Try(api)
    waiting = await task.deferred()
    end(api, waiting.ref.name)
    api.refuse = lambda request: 403 if request.method == "DELETE" else None
    assert await task.resume(waiting, Ending(True)) == {"a": 1}
    assert "could not be deleted" in task.log[-1]


async def test_a_result_that_cannot_be_read_now_waits_for_the_next_try(api: FakeKubernetes) -> None:
    """An outage at the very end must not delete a job whose result nobody has read."""
    task = Try(api, max_tries=1)
    waiting = await task.deferred()
    end(api, waiting.ref.name)
    api.refuse = lambda request: 403 if request.path == PODS else None
    with pytest.raises(ClusterError):
        await task.resume(waiting, Ending(True))
    assert task.phase == "resumed"
    api.refuse = lambda _: None
    assert await Try(api, task.state, try_number=2, max_tries=1).start() == (None, {"a": 1})


async def test_without_deferring_the_worker_waits_itself(api: FakeKubernetes) -> None:
    """Airflow setups without a triggerer run the same jobs to the same result."""
    task = Try(api)
    waiting = asyncio.create_task(task.start(deferrable=False))
    while not api.objects[JOBS]:  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.02)
    end(api, next(iter(api.objects[JOBS])))
    assert await asyncio.wait_for(waiting, 10) == (None, {"a": 1})
    assert task.state.phases == ["submitting", "submitted", "consumed"]


async def test_a_kill_before_the_job_exists_keeps_it_from_being_submitted(api: FakeKubernetes) -> None:
    """SIGTERM may arrive while the job is still prepared, and must not be forgotten."""
    task = Try(api)
    task.run.killed = True
    with pytest.raises(JobTerminated):
        await task.start()
    assert dict(api.objects[JOBS]) == {}


async def test_a_kill_after_the_job_was_created_deletes_it(api: FakeKubernetes) -> None:
    """A signal handler has no event loop to wait in, and still has to end the job."""
    task = Try(api)
    await task.start()
    await asyncio.to_thread(task.run.kill)
    assert dict(api.objects[JOBS]) == {}


class BrokenStateStore(FakeStateStore):
    """Refuses to store that the task has deferred."""

    def set(self, key: str, value: Mapping[str, Any]) -> None:
        if value["phase"] == "deferred":
            raise OSError("no answer")
        super().set(key, value)


@pytest.mark.parametrize(("max_tries", "jobs"), [(0, 0), (1, 1)])
async def test_an_error_that_no_later_try_follows_cancels_the_job(
    max_tries: int, jobs: int, api: FakeKubernetes
) -> None:
    """A job without a task would run on unseen, whereas a later try would adopt it."""
    with contextlib.suppress(OSError):
        await Try(api, BrokenStateStore(), max_tries=max_tries).start()
    assert len(api.objects[JOBS]) == jobs


async def test_a_job_whose_creation_was_never_answered_is_found_and_deleted(api: FakeKubernetes) -> None:
    """On the last try nobody would find it by its name later, so it is looked for at once."""
    task = Try(api)

    def refuse(request: web.Request) -> int | None:
        if request.method == "POST" and request.path == JOBS and not api.objects[JOBS]:
            manifest = task.attempt.submission.manifest
            api.put(JOBS, {**manifest, "metadata": {**manifest["metadata"], "namespace": "ns"}})
            return 403
        return None

    api.refuse = refuse
    with pytest.raises(ClusterError, match="may not do this"):
        await task.start()
    assert dict(api.objects[JOBS]) == {}


@pytest.mark.parametrize(
    ("keep_job", "state", "kept"),
    [
        ("never", "Succeeded", False),
        ("never", "Failed", False),
        ("on_failure", "Succeeded", False),
        ("on_failure", "Failed", True),
        ("always", "Succeeded", True),
        ("always", "Failed", True),
    ],
)
async def test_a_finished_job_stays_where_keep_job_asks_for_it(
    keep_job: str, state: str, kept: bool, api: FakeKubernetes
) -> None:
    """Users can look at the pods of a job that failed, and the next try still starts a job of its own."""
    task = Try(api, keep_job=keep_job)
    waiting = await task.deferred()
    succeeded = state == "Succeeded"
    end(api, waiting.ref.name, state, RESULT if succeeded else FAILURE)
    with contextlib.suppress(RankFailed):
        await task.resume(waiting, Ending(succeeded))
    assert bool(api.objects[JOBS]) is kept
    assert task.phase == "consumed"


@pytest.mark.parametrize(("adopted_later", "phase", "jobs"), [(True, "trigger_lost", 1), (False, "consumed", 0)])
async def test_a_job_whose_trigger_was_lost_is_kept_only_for_a_try_that_adopts_it(
    adopted_later: bool, phase: str, jobs: int, api: FakeKubernetes
) -> None:
    """A broken triggerer costs no job while retries remain, and no job stays behind after the last one."""
    task = Try(api, max_tries=1)
    waiting = await task.deferred()
    later = Try(api, task.state)
    await asyncio.to_thread(later.run.keep_or_cancel, waiting.ref, adopted_later=adopted_later)
    assert (later.phase, len(api.objects[JOBS])) == (phase, jobs)
