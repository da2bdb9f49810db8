"""A task's job on Kubernetes: its Secret, its owner, and its result, which may be in several objects."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from airflow_distrib.core.errors import (
    ClusterError,
    DistribError,
    JobLost,
    JobTimedOut,
    RankFailed,
    ResultMissing,
)
from airflow_distrib.core.status import Category, Problem
from airflow_distrib.jobs.waiting import Ending
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome
from fake_kubernetes import FakeKubernetes
from kubernetes_try import JOBS, RESULT, SECRETS, Try, end


@pytest.fixture
async def api() -> AsyncIterator[FakeKubernetes]:
    """An API server in memory."""
    async with FakeKubernetes() as server:
        yield server


async def test_a_job_is_submitted_with_the_secret_that_it_owns(api: FakeKubernetes) -> None:
    """Kubernetes deletes the function and its arguments together with the job."""
    task = Try(api)
    waiting = await task.deferred()
    (name,) = api.objects[JOBS]
    owner = api.objects[SECRETS][name]["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["uid"]) == ("PyTorchJob", waiting.ref.uid)
    assert task.state.phases == ["submitting", "submitted", "deferred"]


@pytest.mark.parametrize("seen", [(RESULT,), ()])
async def test_the_result_is_fetched_from_the_event_or_the_pod_and_the_job_is_deleted(
    seen: tuple[Outcome, ...], api: FakeKubernetes
) -> None:
    """A trigger may not have seen the outcome before the job ended, so the worker asks the pod itself."""
    task = Try(api)
    waiting = await task.deferred()
    end(api, waiting.ref.name)
    later = Try(api, task.state)
    assert await later.resume(waiting, Ending(True, outcomes=seen)) == {"a": 1}
    assert (later.phase, dict(api.objects[JOBS])) == ("consumed", {})


async def test_a_job_without_its_secret_gets_it_when_it_is_adopted(api: FakeKubernetes) -> None:
    """A worker that dies between creating the job and its Secret costs the job nothing."""
    first = Try(api, max_tries=1)
    waiting = await first.deferred()
    api.objects[SECRETS].clear()
    await Try(api, first.state, try_number=2, max_tries=1).start()
    assert list(api.objects[SECRETS]) == [waiting.ref.name]


async def test_a_job_whose_secret_is_refused_is_deleted(api: FakeKubernetes) -> None:
    """Otherwise its pods would wait for the Secret for ever."""
    api.refuse = lambda request: 403 if request.path == SECRETS else None
    with pytest.raises(ClusterError, match="403"):
        await Try(api).start()
    assert dict(api.objects[JOBS]) == {}


async def test_a_job_of_the_same_name_that_belongs_to_somebody_else_is_not_adopted(api: FakeKubernetes) -> None:
    """A name that happens to be taken must not make a task delete the job of another one."""
    task = Try(api)
    name = task.attempt.submission.name
    api.put(JOBS, {"metadata": {"name": name, "annotations": {}}})
    with pytest.raises(ClusterError, match="it is not this task's"):
        await task.start()
    assert list(api.objects[JOBS]) == [name]


@pytest.mark.parametrize(
    ("ending", "state", "outcome", "error"),
    [
        (Ending(False), "Failed", Outcome(outcomes.FAILURE, 0, error_type="ValueError"), RankFailed),
        (Ending(False, outcomes=(Outcome(outcomes.FAILURE, 1, error_type="E"),)), "Failed", None, RankFailed),
        (Ending(True), "Succeeded", None, ResultMissing),
        (Ending(None, problem=Problem("TimedOut", "late", category=Category.TIMED_OUT)), "Running", None, JobTimedOut),
        (Ending(None, problem=Problem("Deleted", "gone", category=Category.LOST)), "Running", None, JobLost),
        (Ending(False, message="Job was active longer than specified deadline"), "Failed", None, RankFailed),
    ],
)
async def test_every_bad_end_is_an_error_and_the_job_is_deleted(
    ending: Ending, state: str, outcome: Outcome | None, error: type[DistribError], api: FakeKubernetes
) -> None:
    """A job that failed must neither look like a success nor keep its nodes."""
    task = Try(api)
    waiting = await task.deferred()
    end(api, waiting.ref.name, state, outcome)
    with pytest.raises(error):
        await task.resume(waiting, ending)
    assert (task.phase, dict(api.objects[JOBS])) == ("consumed", {})


async def test_a_problem_that_went_away_before_the_worker_came_does_not_cost_the_result(api: FakeKubernetes) -> None:
    """A job that looked stuck may have started, and even succeeded, after the trigger gave up on it."""
    task = Try(api)
    waiting = await task.deferred()
    end(api, waiting.ref.name)
    stuck = Problem("Unschedulable", "no room", category=Category.NOT_STARTED)
    assert await task.resume(waiting, Ending(None, problem=stuck)) == {"a": 1}


async def test_a_failure_that_the_trigger_saw_is_raised_although_the_namespace_is_gone(api: FakeKubernetes) -> None:
    """A namespace takes the account's rights along, and "403 Forbidden" would hide what happened to the job."""
    task = Try(api)
    waiting = await task.deferred()
    api.refuse = lambda _: 403
    lost = Problem("Deleted", "the PyTorchJob was deleted", category=Category.LOST)
    with pytest.raises(JobLost, match="was deleted"):
        await task.resume(waiting, Ending(False, "Deleted", problem=lost))
    assert task.phase == "consumed"
