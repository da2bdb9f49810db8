"""An API server with many jobs, for benchmarks/waiting.py: counts requests, ends all jobs at once."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fake_kubernetes import FakeKubernetes

JOBS = "/apis/kubeflow.org/v1/namespaces/ns/pytorchjobs"
BATCH = "/apis/batch/v1/namespaces/ns/jobs"
PODS = "/api/v1/namespaces/ns/pods"
STARTED = "2026-01-01T00:00:00Z"


class BenchmarkServer(FakeKubernetes):
    """Also takes orders, below /bench."""

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/bench/fill":
            for number in range(int(request.query["n"])):
                self._fill(number)
            return web.json_response({})
        if request.path == "/bench/count":
            counted = sum(self.requests.values())
            self.requests.clear()
            return web.json_response({"requests": counted})
        if request.path == "/bench/end":
            for number in range(int(request.query["n"])):
                self._fill(number, ended=True)
            return web.json_response({"ended_at": time.time()})
        if request.path.endswith("/status"):
            self.requests["GET status"] += 1
            return web.json_response(self.objects[BATCH][request.path.split("/")[-2]])
        return await super()._handle(request)

    def _fill(self, number: int, *, ended: bool = False) -> None:
        name = f"job-{number}"
        labels = {"airflow-distrib/job": name}
        # The size of a job and a pod of the real cluster: 4 KB each.
        annotations = {"padding": "x" * 3000}
        metadata = {
            "name": name,
            "namespace": "ns",
            "labels": labels,
            "annotations": annotations,
            "creationTimestamp": STARTED,
        }
        kinds = ["Running", "Succeeded"] if ended else ["Running"]
        conditions = [{"type": each, "status": "True", "lastTransitionTime": STARTED} for each in kinds]
        spec = {"pytorchReplicaSpecs": {"Master": {"replicas": 1}}}
        state: dict[str, Any] = {"running": {"startedAt": STARTED}}
        if ended:
            state = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": STARTED, "finishedAt": STARTED}}
        statuses = [
            {"name": each, "state": state, "ready": not ended, "restartCount": 0, "image": "i", "imageID": "i"}
            for each in ("pytorch", "base")
        ]
        containers = [{"name": each, "image": "i"} for each in ("pytorch", "base")]
        pod = {"phase": "Succeeded" if ended else "Running", "containerStatuses": statuses, "startTime": STARTED}
        of_pod = {**metadata, "name": f"{name}-master-0"}
        self.put(PODS, {"metadata": of_pod, "spec": {"containers": containers}, "status": pod})
        self.put(JOBS, {"metadata": metadata, "spec": spec, "status": {"conditions": conditions}})
        status = {"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1} if ended else {"active": 1}
        batch = {"selector": {}, "template": {"metadata": {}, "spec": {"containers": containers}}}
        self.put(BATCH, {"metadata": metadata, "spec": batch, "status": status})


async def main() -> None:
    """Serve until killed; the port is the first line of the output."""
    async with BenchmarkServer() as server:
        print(server.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
