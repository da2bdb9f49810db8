"""A custom resource that the package does not know, as a new system would add it: config, kind, renderer, operator.

It differs from Kubeflow's in every way that a kind may: roles are a list, each with its own
template; the status is one word; the pods' labels are its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from airflow_distrib.catalogue import Entry
from airflow_distrib.core import config as configs
from airflow_distrib.core.config import Check
from airflow_distrib.core.status import JobState, JobStatus
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.operators.base import DistributedJobOperator
from airflow_distrib.runner import spec as specs
from airflow_distrib.systems.kubernetes import manifest, pods
from airflow_distrib.systems.kubernetes.kind import Kind, Manifest, Object, seconds
from airflow_distrib.systems.kubernetes.launcher import KubernetesLauncher
from airflow_distrib.systems.kubernetes.manifest import Job, KubernetesSubmission
from airflow_distrib.systems.kubernetes.options import ClusterConfig
from airflow_distrib.systems.local.launcher import LocalLauncher
from airflow_distrib.systems.local.plan import LocalPlan


class Widget(ClusterConfig):
    """A function on some workers."""

    workers: int | str = 1

    checks: ClassVar[Mapping[str, Check]] = {**ClusterConfig.checks, "workers": configs.whole(1)}


_STATES = {
    "Waiting": JobState.QUEUED,
    "Working": JobState.RUNNING,
    "Done": JobState.SUCCEEDED,
    "Broken": JobState.FAILED,
}


def read(resource: Object) -> JobStatus:
    """Read ``status.state``."""
    status = resource.get("status") or {}
    return JobStatus(_STATES[status.get("state", "Waiting")], str(status.get("state", "")), str(status.get("why", "")))


def templates(resource: Manifest) -> Iterator[tuple[str, Manifest]]:
    """One for each group."""
    for number, group in enumerate((resource.get("spec") or {}).get("groups") or ()):
        if group.get("pod") is not None:
            yield f"spec.groups[{number}].pod", group["pod"]


WIDGET = Kind(
    key="widget",
    api="example.com/v1",
    kind="Widget",
    plural="widgets",
    name_limit=40,
    container="work",
    read=read,
    keep=lambda spec: {"groups": [{"count": each["count"]} for each in spec.get("groups") or ()]},
    expected_pods=lambda resource: sum(each["count"] for each in (resource.get("spec") or {}).get("groups") or ()),
    role=lambda _, pod: f"group-{pod['metadata']['labels']['example.com/number']}",
    rank=lambda role: int(role.rpartition("-")[2]),
    ended_at=lambda resource: seconds((resource.get("status") or {}).get("finishedAt")) or None,
    templates=templates,
    merge_keys={"groups": "name"},
    unsupported=frozenset({"suspend", "run_policy.backoff_limit"}),
)


def kubernetes(config: Widget, request: JobRequest) -> KubernetesSubmission:
    """Render for Kubernetes."""
    job = Job(WIDGET, request)
    role = pods.Role(WIDGET.container, job.runner_command(), job.secret)
    pod = manifest.pod_template(config, job, None, role, "a widget")
    spec = {"groups": [{"name": "all", "count": int(config.workers), "pod": pod}]}
    files = {manifest.SPEC: job.spec()} if job.runs_function else {}
    return manifest.submission(config, job, {"spec": spec}, files)


def local(config: Widget, request: JobRequest) -> LocalPlan:
    """Render for the local launcher."""
    del request
    return LocalPlan(specs.RANKS, int(config.workers), env=config.env or {})


def config_of_manifest(own: Object) -> Mapping[str, Any]:
    """How many workers a manifest asks for."""
    groups = (own.get("spec") or {}).get("groups") or [{}]
    return {"workers": groups[0].get("count", 1)}


class WidgetOperator(DistributedJobOperator[Widget]):
    """Run a function on widgets."""

    config_type = Widget
    launchers = (KubernetesLauncher(kubernetes, config_of_manifest), LocalLauncher(local))


ENTRY = Entry(
    system="Widget",
    operator="widgets.WidgetOperator",
    config="widgets.Widget",
    decorator="widget",
    extra="kubernetes",
    example="",
    documentation="https://example.com",
    works="functions on widgets",
    kinds=("widgets.WIDGET",),
)
