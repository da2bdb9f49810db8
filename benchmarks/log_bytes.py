"""Measures the bytes of log moved for each line that reaches the task log, while a job writes steadily.

    python benchmarks/log_bytes.py [SECONDS]

Needs apache-airflow-providers-cncf-kubernetes beside this package. The server is in memory and in the
same event loop; only bytes are counted, so that does not matter.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]

from waiting import kubeconfig
from waiting_server import PODS, BenchmarkServer

LINES_PER_SECOND = 20
POD = "job-0-master-0"


async def write(server: BenchmarkServer, seconds: float) -> int:
    """Write lines as a job does; returns how many."""
    server.logs[POD] = ""
    end, lines = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        server.logs[POD] += f"{now} [rank 0] epoch {lines:06d} loss 0.12345 accuracy 0.98765\n"
        lines += 1
        await asyncio.sleep(1 / LINES_PER_SECOND)
    server.log_closed.add(POD)
    return lines


async def ours(server: BenchmarkServer) -> int:
    """This package's trigger; returns how many lines it showed."""
    from airflow_distrib.core.reference import JobRef
    from airflow_distrib.jobs.pool import SessionPool
    from airflow_distrib.jobs.wait import until_over
    from airflow_distrib.jobs.waiting import Waiting
    from airflow_distrib.triggers.job import connected

    shown: list[str] = []
    ref = JobRef("kubernetes", "job-0", "uid-job-0", {"kind": "pytorchjob", "namespace": "ns"})
    waiting = Waiting(ref, "bench", log_parts=("master-0",))
    async with connected(waiting) as client:
        await until_over(client, waiting, shown.append)
    await SessionPool.current().close()
    return sum("epoch" in line for line in shown)


async def pod_trigger(server: BenchmarkServer) -> int:
    """The trigger of KubernetesPodOperator, with logs every 3 seconds.

    It takes whole seconds, so some lines come twice.
    """
    from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger

    trigger = KubernetesPodTrigger(
        pod_name=POD,
        pod_namespace="ns",
        trigger_start_time=datetime.datetime.now(datetime.UTC),
        base_container_name="base",
        kubernetes_conn_id="bench",
        logging_interval=3,
    )
    async for _ in trigger.run():
        break
    return 0


async def whole(server: BenchmarkServer) -> int:
    """The whole log every 5 seconds."""
    from airflow_distrib.hooks.kubernetes import KubernetesHook

    async with KubernetesHook("bench").get_conn() as client:
        while POD not in server.log_closed:
            await asyncio.sleep(5)
            async with client.stream(f"{PODS}/{POD}/log", {"container": "base"}, quiet_for=10) as pieces:
                async for _ in pieces:
                    pass
    return 0


async def measure(name: str, way: Any, seconds: float) -> str:
    """One row."""
    async with BenchmarkServer() as server:
        server._fill(0)
        extra = {"kube_config": kubeconfig(server.port), "namespace": "ns"}
        os.environ["AIRFLOW_CONN_BENCH"] = json.dumps({"conn_type": "kubernetes", "extra": extra})
        writing = asyncio.create_task(write(server, seconds))
        waiting = asyncio.create_task(way(server))
        lines = await writing
        server._fill(0, ended=True)
        await asyncio.wait([waiting], timeout=30)
        size = len(server.logs[POD]) / lines
        return f"| {name} | {server.log_bytes / lines:.0f} | {server.log_bytes / lines / size:.2f} |"


async def main() -> None:
    """Measure every way and print a table."""
    seconds = float((sys.argv[1:] or ["60"])[0])
    print("| way | bytes per line | of the line itself |\n|---|---|---|")
    for name, way in (
        ("`JobTrigger`", ours),
        ("`KubernetesPodTrigger`, logs every 3 s", pod_trigger),
        ("the whole log every 5 s", whole),
    ):
        print(await measure(name, way, seconds), flush=True)


if __name__ == "__main__":
    logging.disable(logging.ERROR)
    asyncio.run(main())
