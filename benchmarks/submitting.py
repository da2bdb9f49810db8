"""Seconds until a job exists, on the cluster that KUBECONFIG leads to: this package's way and others.

    KUBECONFIG=... python benchmarks/submitting.py [TIMES]

Every job is created suspended, so that nothing of it runs, and deleted again. Needs kubernetes (which
comes with apache-airflow-providers-cncf-kubernetes) beside this package.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.systems.kubernetes.client import KubernetesClient, KubernetesSettings
from airflow_distrib.systems.kubernetes.manifest import KubernetesSubmission
from airflow_distrib.systems.kubernetes.resource import ResourceApi
from airflow_distrib.systems.kubernetes.resources import Replica
from airflow_distrib.systems.pytorchjob import render
from airflow_distrib.systems.pytorchjob.config import PyTorchJob

JOB = PyTorchJob(image="example.org/none:1", worker=Replica(replicas=1), suspend=True, namespace="default")
SETTINGS = KubernetesSettings(kube_config_path=os.environ.get("KUBECONFIG"))


def submission() -> KubernetesSubmission:
    """A job of a name of its own."""
    identity = JobIdentity("bench", secrets.token_hex(4), "submit", -1, 1)
    return render.kubernetes(JOB, JobRequest(identity=identity, payload=b"x" * 5000))


def ours() -> float:
    """A client, the job, and the Secret with runner and function."""

    async def submit() -> float:
        begin = time.perf_counter()
        async with KubernetesClient(SETTINGS) as client:
            wanted = submission()
            api = ResourceApi(client, wanted.kind)
            ref, _ = await api.submit(wanted, "default")
            seconds = time.perf_counter() - begin
            await api.cancel(ref)
        return seconds

    return asyncio.run(submit())


def sync_client() -> float:
    """The synchronous client of KubernetesCreateResourceOperator: the resource alone, no function."""
    from kubernetes import client, config

    manifest = submission().manifest
    begin = time.perf_counter()
    api = client.CustomObjectsApi(config.new_client_from_config(os.environ["KUBECONFIG"]))
    place = {"group": "kubeflow.org", "version": "v1", "namespace": "default", "plural": "pytorchjobs"}
    api.create_namespaced_custom_object(**place, body=manifest)
    seconds = time.perf_counter() - begin
    api.delete_namespaced_custom_object(**place, name=manifest["metadata"]["name"])
    return seconds


def main() -> None:
    """Alternate, so that both meet the same machine."""
    times = int((sys.argv[1:] or ["20"])[0])
    ways: dict[str, Callable[[], float]] = {"this package": ours, "create-resource": sync_client}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # imports
    for _ in range(times):
        for name, way in ways.items():
            taken[name].append(way())
    first: Any = statistics.median(taken["create-resource"])
    print(f"| median of {times} | seconds | ratio |\n|---|---|---|")
    for name, seconds in taken.items():
        print(f"| {name} | {statistics.median(seconds):.3f} | {statistics.median(seconds) / first:.2f} |")


if __name__ == "__main__":
    main()
