"""These tests follow jobs through the watches that all jobs of a connection share, whatever happens to a watch."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest

from airflow_distrib.core.errors import DistribError
from airflow_distrib.core.reference import JobRef
from airflow_distrib.jobs import pool
from airflow_distrib.jobs.pool import SessionPool
from airflow_distrib.jobs.waiting import Waiting
from airflow_distrib.systems.kubernetes import collection
from airflow_distrib.systems.kubernetes.feed import JobFeed
from airflow_distrib.systems.kubernetes.jobs import KubernetesJobs
from airflow_distrib.systems.kubernetes.kind import Kind, Manifest
from airflow_distrib.systems.kubernetes.registry import kind_named
from airflow_distrib.systems.kubernetes.resource import ResourceApi
from airflow_distrib.systems.kubernetes.session import KubernetesSession
from airflow_distrib.systems.kubernetes.timing import Timing
from fake_kubernetes import FakeKubernetes

PYTORCHJOB: Kind = kind_named("pytorchjob")
JOBS, PODS = PYTORCHJOB.path("ns"), "/api/v1/namespaces/ns/pods"
LABEL = "airflow-distrib/job"


@pytest.fixture
async def api() -> AsyncIterator[FakeKubernetes]:
    """Start a server for one test, and close the sessions that lead to it before it stops."""
    async with FakeKubernetes() as server:
        try:
            yield server
        finally:
            await SessionPool.current().close()


def ref(name: str) -> JobRef:
    """Return a job's address."""
    return JobRef("kubernetes", name, f"uid-{name}", {"kind": "pytorchjob", "namespace": "ns"})


def resource(name: str, state: str = "") -> Manifest:
    """Return a job with a condition."""
    conditions = [{"type": state, "status": "True"}] if state else []
    return {"metadata": {"name": name, "labels": {LABEL: name}}, "spec": {}, "status": {"conditions": conditions}}


def pod(job: str, phase: str) -> Manifest:
    """Return one of a job's pods."""
    return {"metadata": {"name": f"{job}-master-0", "labels": {LABEL: job}}, "status": {"phase": phase}}


@contextlib.asynccontextmanager
async def session_of(api: FakeKubernetes, timing: Timing | None = None) -> AsyncIterator[KubernetesSession]:
    """Open the one session that all jobs of a connection share; only the first timing counts."""

    async def open_session() -> KubernetesSession:
        return KubernetesSession(api.client(), timing)

    async with SessionPool.current().session(("kubernetes", "c"), open_session) as session:
        yield session


@contextlib.asynccontextmanager
async def feed_of(api: FakeKubernetes, name: str, timing: Timing | None = None) -> AsyncIterator[JobFeed]:
    """Follow one job."""
    async with session_of(api, timing) as session:
        get = ResourceApi(session.client, PYTORCHJOB).get
        async with session.feed(PYTORCHJOB, ref(name), get) as feed:
            yield feed


async def until(feed: JobFeed, true: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(10):
        while not true():
            await feed.wait(0.05)


def phases(feed: JobFeed) -> list[str]:
    """Return the phases of the job's pods."""
    return [each["status"]["phase"] for each in feed.view(()).pods]


async def until_phase(feed: JobFeed, phase: str) -> None:
    """Wait until the job has one pod in a phase."""
    await until(feed, lambda: phases(feed) == [phase])


async def test_many_jobs_share_one_list_and_one_watch(api: FakeKubernetes) -> None:
    """The API server's load does not grow with the number of jobs, and a job is only woken by its own changes."""
    names = [f"job-{n}" for n in range(250)]
    for name in names:
        api.put(JOBS, resource(name))
    async with contextlib.AsyncExitStack() as stack:
        feeds = [await stack.enter_async_context(feed_of(api, name)) for name in names]
        await until(feeds[0], lambda: api.requests[f"WATCH {PODS}"] and api.requests[f"WATCH {JOBS}"])
        for feed in feeds:
            await feed.wait(0)
        api.put(JOBS, resource("job-7", "Running"))
        api.put(PODS, pod("job-7", "Running"))
        await until(feeds[7], lambda: phases(feeds[7]))
        assert not await feeds[8].wait(0.05)
    pages = 3  # of a hundred
    assert (api.requests[f"GET {JOBS}"], api.requests[f"GET {PODS}"]) == (pages, 1)
    assert (api.requests[f"WATCH {JOBS}"], api.requests[f"WATCH {PODS}"]) == (1, 1)


async def test_a_job_that_was_deleted_before_anybody_watched_is_gone(api: FakeKubernetes) -> None:
    """One request finds out, so that the wait for a job that is not there ends at once."""
    async with feed_of(api, "never") as feed:
        assert feed.view(()).resource is None


async def test_another_job_of_the_same_name_is_not_the_job(api: FakeKubernetes) -> None:
    """The uid keeps a task from taking the result of a job that somebody else created."""
    other = resource("job")
    other["metadata"]["uid"] = "uid-of-another"
    api.put(JOBS, other)
    async with feed_of(api, "job") as feed:
        assert feed.view(()).resource is None


async def test_a_watch_that_is_too_old_lists_again_and_misses_nothing(api: FakeKubernetes) -> None:
    """After the answer 410 Gone, a job that was deleted meanwhile is gone and a pod's change is seen."""
    api.put(JOBS, resource("kept"))
    api.put(JOBS, resource("lost"))
    async with feed_of(api, "kept") as kept, feed_of(api, "lost") as lost:
        await until(kept, lambda: api.requests[f"WATCH {JOBS}"] and api.requests[f"WATCH {PODS}"])
        api.put(PODS, pod("kept", "Running"), silently=True)
        api.remove(JOBS, "lost", silently=True)
        api.forget_history()
        await until_phase(kept, "Running")
        await until(lost, lambda: (lost.view(()).resource or {}).get("deleted"))
        assert kept.view(()).resource is not None


async def test_a_broken_stream_is_continued_where_it_broke(api: FakeKubernetes) -> None:
    """A flaky connection costs no new list, and no change is lost with it."""
    api.put(JOBS, resource("job"))
    async with feed_of(api, "job") as feed:
        await until(feed, lambda: api.requests[f"WATCH {PODS}"])
        for phase in ("Pending", "Running", "Succeeded"):
            api.cut()
            api.put(PODS, pod("job", phase))
            await until_phase(feed, phase)
        assert api.requests[f"GET {PODS}"] == 1


async def test_a_server_that_is_down_is_waited_for(api: FakeKubernetes) -> None:
    """The job can mention the outage in its log, but it does not fail because of it."""
    api.put(JOBS, resource("job"))
    async with feed_of(api, "job") as feed:
        await until(feed, lambda: api.requests[f"WATCH {PODS}"] and api.requests[f"WATCH {JOBS}"])
        api.refuse = lambda _: 503
        api.cut()
        await until(feed, lambda: feed.outage > 0.2)
        feed.check()
        api.refuse = lambda _: None
        api.put(PODS, pod("job", "Running"))
        await until_phase(feed, "Running")
        await until(feed, lambda: feed.outage == 0)


async def test_a_refusal_that_lasts_is_an_error(api: FakeKubernetes) -> None:
    """A role that was taken away does not come back by itself, so the task must not wait for ever."""
    api.put(JOBS, resource("job"))
    async with feed_of(api, "job", Timing(refused=0.2)) as feed:
        api.refuse = lambda request: 403 if request.query.get("watch") else None
        api.cut()

        def is_refused() -> bool:
            try:
                feed.check()
            except DistribError as error:
                return "403" in str(error)
            return False

        await until(feed, is_refused)


async def test_the_last_state_of_a_pod_outlives_it(api: FakeKubernetes) -> None:
    """A cleaning policy may remove a pod in the moment in which it reports its result."""
    api.put(JOBS, resource("job"))
    async with feed_of(api, "job") as feed:
        await until(feed, lambda: api.requests[f"WATCH {PODS}"])
        api.put(PODS, pod("job", "Succeeded"))
        api.remove(PODS, "job-master-0")
        await until_phase(feed, "Succeeded")
        assert feed.view(()).pods[0]["deleted"]


async def test_bookmarks_move_the_version_from_which_a_watch_continues(api: FakeKubernetes) -> None:
    """A watch in which nothing happens does not become too old to be continued."""
    api.put(JOBS, resource("job"))
    async with feed_of(api, "job") as feed:
        await until(feed, lambda: api.requests[f"WATCH {PODS}"] and api.requests[f"WATCH {JOBS}"])
        for n in range(50):
            api.put("/apis/x/v1/namespaces/ns/others", {"metadata": {"name": f"other-{n}"}})
        api.bookmark(JOBS)
        api.bookmark(PODS)
        await until(feed, lambda: {feed._jobs._version, feed._pods._version} == {str(api.version)})
        api.oldest = api.version
        api.cut()
        api.put(PODS, pod("job", "Running"))
        await until_phase(feed, "Running")
        assert api.requests[f"GET {PODS}"] == 1


async def test_watches_and_client_are_closed_when_nobody_waits_any_more(
    api: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The triggerer keeps a session for a while, so that the next job finds it, but not for ever."""
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.1)
    api.put(JOBS, resource("job"))
    async with session_of(api) as session, feed_of(api, "job") as feed:
        await until(feed, lambda: api.requests[f"WATCH {PODS}"])
        assert session._watches
        assert SessionPool.current()._sessions
    async with asyncio.timeout(5):
        while session._watches or SessionPool.current()._sessions:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.05)
    assert session.client._session is None


async def test_a_watch_does_not_log_in_the_context_of_the_task_that_came_first(api: FakeKubernetes) -> None:
    """Its lines would otherwise go to that task's log, and nowhere once that task is over."""
    whose: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="nobody")
    names: list[str] = []

    class Contexts(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            del record  # only the context counts
            names.append(whose.get())

    handler = Contexts(logging.WARNING)
    collection.log.addHandler(handler)
    try:
        api.put(JOBS, resource("job"))
        whose.set("first task")
        async with feed_of(api, "job") as feed:
            api.refuse = lambda _: 500
            api.cut()
            await until(feed, lambda: names)
    finally:
        collection.log.removeHandler(handler)
    assert set(names) == {"nobody"}


async def test_the_log_explains_at_once_why_a_job_waits(api: FakeKubernetes) -> None:
    """Users need not wait until patience ends to learn that a quota or a missing volume holds up their job."""
    api.put(JOBS, {**resource("job"), "spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": 1}}}})
    problems = {"FailedCreate": "exceeded quota: cpu", "FailedMount": 'configmap "settings" not found'}
    for reason, message in problems.items():
        about = {"involvedObject": {"name": "job"}, "type": "Warning", "reason": reason, "message": message}
        api.put("/api/v1/namespaces/ns/events", {"metadata": {"name": reason.lower()}, **about})
    async with session_of(api, Timing(first_events=0.05)) as session:
        waiting = Waiting(ref("job"), "c", logs=False)
        async with KubernetesJobs(session).watch(waiting, lambda _: None) as watch, asyncio.timeout(5):
            observation = watch.observe(time.time())
            assert [key for key, _ in observation.notes] == ["queued"]
            while len(observation.notes) < 3:
                await watch.wait(0.05)
                observation = watch.observe(time.time())
    texts = dict(observation.notes)
    assert list(texts) == ["queued", "job/QuotaExceeded", "job/VolumeNotMounted"]
    assert texts["job/QuotaExceeded"] == "QuotaExceeded: exceeded quota: cpu"
    assert texts["job/VolumeNotMounted"] == 'VolumeNotMounted: configmap "settings" not found'


async def test_a_job_whose_pods_can_no_longer_be_listed_ends_all_the_same(api: FakeKubernetes) -> None:
    """A namespace that is being deleted takes the account's rights along, and the end of the job is known by then."""
    api.put(JOBS, resource("job", "Succeeded"))
    waiting = Waiting(ref("job"), "c", logs=False)
    async with session_of(api) as session, KubernetesJobs(session).watch(waiting, lambda _: None) as watch:
        while not (seen := watch.observe(time.time())).over:
            await watch.wait(1)
        api.refuse = lambda _: 403
        assert await watch.finish(seen) == ()


async def test_a_thousand_jobs_do_not_block_the_event_loop(api: FakeKubernetes) -> None:
    """Airflow's triggerer warns when its loop is blocked for 0.2 seconds; a thread looks whether the loop answers."""
    padding = {"text": "x" * 4000}
    for n in range(1000):
        api.put(JOBS, {**resource(f"job-{n}"), "padding": padding})
    beats = [time.monotonic()]
    worst = 0.0
    over = threading.Event()

    async def beat() -> None:
        while True:
            beats.append(time.monotonic())
            await asyncio.sleep(0.01)

    def detect() -> None:
        nonlocal worst
        while not over.wait(0.01):
            worst = max(worst, time.monotonic() - beats[-1])

    beating = asyncio.create_task(beat())
    detector = threading.Thread(target=detect)
    detector.start()
    try:
        async with feed_of(api, "job-1") as feed:
            await until(feed, lambda: api.requests[f"WATCH {PODS}"] and api.requests[f"WATCH {JOBS}"])
    finally:
        over.set()
        detector.join()
        beating.cancel()
    # The server of the test is in the same loop, and makes the lists.
    assert worst < 1.0
