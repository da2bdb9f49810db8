"""Measures requests, CPU, memory and delay of many deferred jobs, with this package's trigger and with others.

    python benchmarks/waiting.py JOBS [SECONDS]

Needs apache-airflow-providers-cncf-kubernetes beside this package. Every way waits for the same
jobs on the same API server (benchmarks/waiting_server.py, another process), one after another, each
in a process of its own with one event loop, as in Airflow's triggerer.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "RESULT "
WAYS = ("ours", "pod", "job", "poll")
NAMES = {
    "ours": "`JobTrigger`",
    "pod": "`KubernetesPodTrigger` (2 s)",
    "job": "`KubernetesJobTrigger` (10 s)",
    "poll": "GET of the resource every 5 s, one client",
}


def ask(port: int, path: str) -> Any:
    """Ask the server for something below /bench."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/bench/{path}", headers={"Authorization": "Bearer t0"})
    return json.load(urllib.request.urlopen(request, timeout=120))


def kubeconfig(port: int) -> str:
    """A kubeconfig that leads to the server."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "u", "user": {"token": "t0"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
    )


def ours(number: int) -> Any:
    """This package's trigger."""
    from airflow_distrib.core.reference import JobRef
    from airflow_distrib.jobs.waiting import Waiting
    from airflow_distrib.triggers.job import JobTrigger

    name = f"job-{number}"
    ref = JobRef("kubernetes", name, f"uid-{name}", {"kind": "pytorchjob", "namespace": "ns"})
    return JobTrigger(Waiting(ref, "bench", logs=False).to_json())


def pod(number: int) -> Any:
    """The trigger of KubernetesPodOperator."""
    from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger

    return KubernetesPodTrigger(
        pod_name=f"job-{number}-master-0",
        pod_namespace="ns",
        trigger_start_time=datetime.datetime.now(datetime.UTC),
        base_container_name="base",
        kubernetes_conn_id="bench",
        get_logs=False,
    )


def job(number: int) -> Any:
    """The trigger of KubernetesJobOperator."""
    from airflow.providers.cncf.kubernetes.triggers.job import KubernetesJobTrigger

    return KubernetesJobTrigger(
        job_name=f"job-{number}",
        job_namespace="ns",
        pod_names=[f"job-{number}-master-0"],
        pod_namespace="ns",
        base_container_name="base",
        kubernetes_conn_id="bench",
        get_logs=False,
    )


class Poll:
    """A DAG that creates a resource and looks at it now and then, well made: one client for all."""

    client: Any = None

    def __init__(self, number: int) -> None:
        self._path = f"/apis/kubeflow.org/v1/namespaces/ns/pytorchjobs/job-{number}"

    async def run(self) -> Any:
        """Look until it has succeeded."""
        from airflow_distrib.hooks.kubernetes import KubernetesHook

        if Poll.client is None:
            Poll.client = KubernetesHook("bench").get_conn()
        while True:
            found = await Poll.client.request("GET", self._path)
            if any(each["type"] == "Succeeded" for each in found["status"]["conditions"]):
                yield None
                return
            await asyncio.sleep(5)


async def wait(way: str, port: int, jobs: int, seconds: float) -> dict[str, Any]:
    """Let all triggers wait, count requests, end all jobs, and see when each event comes."""
    makers: dict[str, Callable[[int], Any]] = {"ours": ours, "pod": pod, "job": job, "poll": Poll}
    events: list[float] = []

    async def one(number: int) -> None:
        async for _ in makers[way](number).run():
            events.append(time.time())
            return

    tasks = [asyncio.create_task(one(number)) for number in range(jobs)]
    await asyncio.sleep(max(10.0, jobs / 40))
    await asyncio.to_thread(ask, port, "count")
    begin, cpu = time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    counted = (await asyncio.to_thread(ask, port, "count"))["requests"]
    lasted, used = time.monotonic() - begin, time.process_time() - cpu
    ended_at = (await asyncio.to_thread(ask, port, f"end?n={jobs}"))["ended_at"]
    await asyncio.wait(tasks, timeout=180)
    delays = sorted(max(0.0, each - ended_at) for each in events)
    return {
        "requests": counted / jobs / lasted * 60,
        "cpu": used / lasted * 100,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "events": len(events),
        "p50": statistics.median(delays) if delays else float("nan"),
        "p99": delays[int(len(delays) * 0.99)] if delays else float("nan"),
    }


def measure(way: str, jobs: int, seconds: float) -> dict[str, Any]:
    """One way, with a server and a process of its own."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "waiting_server.py")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        ask(port, f"fill?n={jobs}")
        extra = {"kube_config": kubeconfig(port), "namespace": "ns"}
        connection = json.dumps({"conn_type": "kubernetes", "extra": extra})
        command = [sys.executable, __file__, "--one", way, str(port), str(jobs), str(seconds)]
        environment = {**os.environ, "AIRFLOW_CONN_BENCH": connection, "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=900)
        (result,) = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
        return dict(json.loads(result.removeprefix(MARK)))
    finally:
        server.kill()


def main() -> None:
    """Measure every way and print a table."""
    if sys.argv[1] == "--one":
        logging.disable(logging.WARNING)
        way, port, jobs, seconds = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
        print(MARK + json.dumps(asyncio.run(wait(way, port, jobs, seconds))))
        return
    jobs, seconds = int(sys.argv[1]), float((sys.argv[2:] or ["60"])[0])
    print(
        f"| {jobs} jobs, {seconds:.0f} s | requests per job-minute | CPU of a core | memory | end to event p50 | p99 |"
    )
    print("|---|---|---|---|---|---|")
    for way in WAYS:
        got = measure(way, jobs, seconds)
        short = f" ({got['events']} of {jobs})" if got["events"] < jobs else ""
        print(
            f"| {NAMES[way]} | {got['requests']:.3f} | {got['cpu']:.1f} % | {got['memory']:.0f} MiB "
            f"| {got['p50']:.2f} s | {got['p99']:.2f} s{short} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
