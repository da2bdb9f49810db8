"""One watch for all jobs, whatever happens to it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from airflow_distrib.systems.kubernetes.kind import Kind
from airflow_distrib.systems.kubernetes.registry import kind_named
from airflow_distrib.core.errors import DistribError
from airflow_distrib.core.reference import JobRef
from airflow_distrib.watching import pool
from airflow_distrib.watching.kubernetes import collection
from airflow_distrib.systems.kubernetes.feed import JobFeed, WatchHub
from fake_kubernetes import FakeKubernetes

PYTORCHJOB: Kind = kind_named("pytorchjob")
JOBS, PODS = PYTORCHJOB.path("ns"), "/api/v1/namespaces/ns/pods"
LABEL = "airflow-distrib/job"


def ref(name: str) -> JobRef:
    """A job's address."""
    return JobRef("kubernetes", name, f"uid-{name}", {"kind": "pytorchjob", "namespace": "ns"})


def resource(name: str, state: str = "") -> dict[str, Any]:
    """A job with a condition."""
    conditions = [{"type": state, "status": "True"}] if state else []
    return {"metadata": {"name": name, "labels": {LABEL: name}}, "spec": {}, "status": {"conditions": conditions}}


def pod(job: str, phase: str) -> dict[str, Any]:
    """One of its pods."""
    return {"metadata": {"name": f"{job}-master-0", "labels": {LABEL: job}}, "status": {"phase": phase}}


@contextlib.asynccontextmanager
async def feed_of(api: FakeKubernetes, name: str) -> AsyncIterator[JobFeed]:
    """Follow one job."""
    shared = WatchHub.current()

    async def settings() -> Any:
        return api.settings()

    async with shared.client("c", settings) as client, shared.feed("c", client, PYTORCHJOB, ref(name)) as feed:
        yield feed


async def until(feed: JobFeed, true: Callable[[], Any]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(10):
        while not true():
            await feed.wait(0.5)


def phases(feed: JobFeed) -> list[str]:
    """Of the job's pods."""
    return [each["status"]["phase"] for each in feed.view(()).pods]


def run(test: Callable[[FakeKubernetes], Coroutine[Any, Any, None]]) -> None:
    """Run a test with a server of its own."""

    async def main() -> None:
        async with FakeKubernetes() as api:
            try:
                await test(api)
            finally:
                await WatchHub.current().close()

    asyncio.run(main())


def test_many_jobs_share_one_list_and_one_watch() -> None:
    """Of jobs and of pods, and a job's own changes reach it alone."""

    async def test(api: FakeKubernetes) -> None:
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

    run(test)


def test_a_job_that_was_deleted_before_anybody_watched_is_gone() -> None:
    """One question finds out."""

    async def test(api: FakeKubernetes) -> None:
        async with feed_of(api, "never") as feed:
            assert feed.view(()).resource is None

    run(test)


def test_a_job_of_the_same_name_is_not_the_job() -> None:
    """It has another uid."""

    async def test(api: FakeKubernetes) -> None:
        other = resource("job")
        other["metadata"]["uid"] = "uid-of-another"
        api.put(JOBS, other)
        async with feed_of(api, "job") as feed:
            assert feed.view(()).resource is None

    run(test)


def test_a_watch_that_is_too_old_lists_anew_and_misses_nothing() -> None:
    """410 Gone: a job deleted meanwhile is gone, a pod's change is seen."""

    async def test(api: FakeKubernetes) -> None:
        api.put(JOBS, resource("kept"))
        api.put(JOBS, resource("lost"))
        async with feed_of(api, "kept") as kept, feed_of(api, "lost") as lost:
            await until(kept, lambda: api.requests[f"WATCH {JOBS}"] and api.requests[f"WATCH {PODS}"])
            api.put(PODS, pod("kept", "Running"), silently=True)
            api.remove(JOBS, "lost", silently=True)
            api.forget_history()
            await until(kept, lambda: phases(kept) == ["Running"])
            await until(lost, lambda: (lost.view(()).resource or {}).get("deleted"))
            assert kept.view(()).resource is not None

    run(test)


def test_a_broken_stream_is_taken_up_where_it_broke() -> None:
    """Without listing again."""

    async def test(api: FakeKubernetes) -> None:
        api.put(JOBS, resource("job"))
        async with feed_of(api, "job") as feed:
            await until(feed, lambda: api.requests[f"WATCH {PODS}"])
            for phase in ("Pending", "Running", "Succeeded"):
                api.cut()
                api.put(PODS, pod("job", phase))
                await until(feed, lambda phase=phase: phases(feed) == [phase])
            assert api.requests[f"GET {PODS}"] == 1

    run(test)


def test_a_server_that_is_down_is_waited_for() -> None:
    """The job learns of it, and is not failed by it."""

    async def test(api: FakeKubernetes) -> None:
        api.put(JOBS, resource("job"))
        async with feed_of(api, "job") as feed:
            await until(feed, lambda: api.requests[f"WATCH {PODS}"] and api.requests[f"WATCH {JOBS}"])
            api.refuse = lambda _: 503
            api.cut()
            await until(feed, lambda: feed.outage > 0.2)
            feed.check()
            api.refuse = lambda _: None
            api.put(PODS, pod("job", "Running"))
            await until(feed, lambda: phases(feed) == ["Running"])
            await until(feed, lambda: feed.outage == 0)

    run(test)


def test_a_refusal_that_lasts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A role that was taken away does not come back by itself."""
    monkeypatch.setattr(collection, "REFUSED_SECONDS", 0.2)

    async def test(api: FakeKubernetes) -> None:
        api.put(JOBS, resource("job"))
        async with feed_of(api, "job") as feed:
            api.refuse = lambda request: 403 if request.query.get("watch") else None
            api.cut()

            def told() -> bool:
                try:
                    feed.check()
                except DistribError as error:
                    return "403" in str(error)
                return False

            await until(feed, told)

    run(test)


def test_a_pods_last_words_outlive_it() -> None:
    """A cleaning policy may remove it in the same moment."""

    async def test(api: FakeKubernetes) -> None:
        api.put(JOBS, resource("job"))
        async with feed_of(api, "job") as feed:
            await until(feed, lambda: api.requests[f"WATCH {PODS}"])
            api.put(PODS, pod("job", "Succeeded"))
            api.remove(PODS, "job-master-0")
            await until(feed, lambda: phases(feed) == ["Succeeded"])
            assert feed.view(()).pods[0]["deleted"]

    run(test)


def test_bookmarks_move_the_place_to_go_on_from() -> None:
    """So that a quiet watch does not become too old."""

    async def test(api: FakeKubernetes) -> None:
        api.put(JOBS, resource("job"))
        async with feed_of(api, "job") as feed:
            await until(feed, lambda: api.requests[f"WATCH {PODS}"] and api.requests[f"WATCH {JOBS}"])
            for n in range(50):
                api.put("/apis/x/v1/namespaces/ns/others", {"metadata": {"name": f"other-{n}"}})
            api.bookmark(JOBS)
            api.bookmark(PODS)
            await asyncio.sleep(0.2)
            api.oldest = api.version
            api.cut()
            api.put(PODS, pod("job", "Running"))
            await until(feed, lambda: phases(feed) == ["Running"])
            assert api.requests[f"GET {PODS}"] == 1

    run(test)


def test_watches_and_client_are_closed_when_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, so that the next job finds them."""
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.1)

    async def test(api: FakeKubernetes) -> None:
        api.put(JOBS, resource("job"))
        async with feed_of(api, "job") as feed:
            await until(feed, lambda: api.requests[f"WATCH {PODS}"])
        shared = WatchHub.current()
        async with asyncio.timeout(5):
            while shared._watches or shared._pool._clients:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.05)

    run(test)


def test_a_watch_does_not_log_in_the_name_of_the_task_that_came_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines would end up in that task's log, and nowhere once the task is over."""
    whose: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="nobody")
    names: list[str] = []
    monkeypatch.setattr(collection.log, "warning", lambda *_: names.append(whose.get()))

    async def test(api: FakeKubernetes) -> None:
        api.put(JOBS, resource("job"))
        whose.set("first task")
        async with feed_of(api, "job") as feed:
            api.refuse = lambda _: 500
            api.cut()
            await until(feed, lambda: names)
        assert set(names) == {"nobody"}

    run(test)


def test_a_thousand_jobs_do_not_hold_up_the_event_loop() -> None:
    """A thread looks whether the loop answers; Airflow's triggerer warns from 0.2 seconds on."""
    beats = [time.monotonic()]
    worst = 0.0
    over = threading.Event()

    async def test(api: FakeKubernetes) -> None:
        padding = {"text": "x" * 4000}
        for n in range(1000):
            api.put(JOBS, {**resource(f"job-{n}"), "padding": padding})

        async def beat() -> None:
            while True:
                beats.append(time.monotonic())
                await asyncio.sleep(0.01)

        beating = asyncio.create_task(beat())
        async with feed_of(api, "job-1") as feed:
            await until(feed, lambda: api.requests[f"WATCH {PODS}"] and api.requests[f"WATCH {JOBS}"])
        beating.cancel()

    def detect() -> None:
        nonlocal worst
        while not over.wait(0.01):
            worst = max(worst, time.monotonic() - beats[-1])

    detector = threading.Thread(target=detect)
    detector.start()
    try:
        run(test)
    finally:
        over.set()
        detector.join()
    # The server of the test is in the same loop, and makes the lists.
    assert worst < 1.0
