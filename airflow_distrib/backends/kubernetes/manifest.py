"""Parts of a manifest that all kinds of jobs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_distrib.backends.kubernetes.kind import Kind
from airflow_distrib.backends.kubernetes.merge import merged
from airflow_distrib.backends.kubernetes.options import ClusterConfig, SchedulingPolicy
from airflow_distrib.backends.kubernetes.pods import MOUNT, SCRATCH
from airflow_distrib.backends.kubernetes.resource import JOB_LABEL
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.resources import RunPolicy
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.spec import Spec

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
SPEC = "spec.json"
TERMINATION_LOG = "/dev/termination-log"

# A finished job that nobody fetches, because Airflow is gone, stays for a day.
TTL_SECONDS = 86400


@dataclass(frozen=True)
class Task:
    """What a task wants of a cluster besides its config.

    Attributes:
        command: program that runs instead of a function; None runs the function.
        manifest: merged over what is rendered.
        options: fields of every :class:`~airflow_distrib.runner.spec.Spec`.
        python: interpreter in the image.
        deadline_seconds: after how long the cluster itself ends the job.
        token: what ranks show to their launcher.
    """

    identity: JobIdentity
    namespace: str
    command: Sequence[str] | None = None
    manifest: Mapping[str, Any] | None = None
    runs_function: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    python: str = "python3"
    deadline_seconds: int | None = None
    token: str = ""

    def name(self, kind: Kind) -> str:
        """The job's name."""
        return self.identity.name(kind.name_limit)

    def runner_command(self, spec: str = SPEC) -> list[str] | None:
        """What a container runs: the runner with a function, the user's program, or None: what the image says."""
        if self.runs_function:
            return [self.python, "-u", f"{MOUNT}/runner.pyz", f"{MOUNT}/{spec}"]
        return list(self.command) if self.command else None

    def secret(self, kind: Kind) -> str | None:
        """Name of the Secret with the runner."""
        return self.name(kind) if self.runs_function else None

    def spec(self, mode: str = specs.ENVIRONMENT, **fields: Any) -> Spec:
        """The runner's spec in a pod."""
        values = {
            "scratch": SCRATCH,
            "termination_log": TERMINATION_LOG,
            "payload_file": f"{MOUNT}/payload",
            **self.options,
            **fields,
        }
        return Spec(mode, "", **values)


def metadata(config: ClusterConfig, task: Task, kind: Kind) -> dict[str, Any]:
    """Name, labels and annotations of the job."""
    name = task.name(kind)
    labels = {**(config.labels or {}), **task.identity.labels(), JOB_LABEL: name}
    if config.queue:
        labels[QUEUE_LABEL] = config.queue
    annotations = {**(config.annotations or {}), **task.identity.annotation()}
    return {"name": name, "namespace": task.namespace, "labels": labels, "annotations": annotations}


def pod_metadata(task: Task, kind: Kind) -> dict[str, Any]:
    """Labels of the job's pods: the shared watch selects by them."""
    return {"labels": {**task.identity.labels(), JOB_LABEL: task.name(kind)}}


def run_policy(config: ClusterConfig, task: Task) -> dict[str, Any]:
    """``runPolicy`` of Kubeflow's kinds; what is not set is left to the operator, but for the last lines.

    The deadline ends the job even if nobody of Airflow is left to do it; the TTL removes it.
    """
    policy = config.run_policy if isinstance(config.run_policy, RunPolicy) else RunPolicy()
    gang = config.scheduling_policy if isinstance(config.scheduling_policy, SchedulingPolicy) else None
    deadline = policy.active_deadline_seconds
    ttl = policy.ttl_seconds_after_finished
    values = {
        "cleanPodPolicy": policy.clean_pod_policy.value if policy.clean_pod_policy else None,  # type: ignore[union-attr]
        "ttlSecondsAfterFinished": TTL_SECONDS if ttl is None else int(ttl),
        "activeDeadlineSeconds": task.deadline_seconds if deadline is None else int(deadline),
        "backoffLimit": None if policy.backoff_limit is None else int(policy.backoff_limit),
        "suspend": config.suspend,
        "schedulingPolicy": _gang(gang) if gang else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _gang(policy: SchedulingPolicy) -> dict[str, Any]:
    values = {
        "minAvailable": policy.min_available,
        "queue": policy.queue,
        "priorityClass": policy.priority_class,
        "minResources": policy.min_resources,
        "scheduleTimeoutSeconds": policy.schedule_timeout_seconds,
    }
    return {name: value for name, value in values.items() if value is not None}


def finished(rendered: dict[str, Any], task: Task) -> dict[str, Any]:
    """Merge the user's own manifest over what was rendered; name and identity stay ours.

    Raises:
        ConfigError: the manifest is of another kind, or sets what is not its to set.
    """
    own = task.manifest
    if not own:
        return rendered
    for key in ("apiVersion", "kind"):
        if own.get(key, rendered[key]) != rendered[key]:
            raise ConfigError(f"manifest.{key}", f"must be {rendered[key]!r}; got {own[key]!r}")
    given = own.get("metadata") or {}
    for key in ("name", "namespace", "generateName"):
        if key in given and given[key] != rendered["metadata"].get(key):
            advice = "set namespace in task_config" if key == "namespace" else "jobs are named after their task"
            raise ConfigError(f"manifest.metadata.{key}", f"leave it out: {advice}")
    if "status" in own:
        raise ConfigError("manifest.status", "is the cluster's to write; leave it out")
    whole: dict[str, Any] = merged(rendered, own)
    ours = rendered["metadata"]
    whole["metadata"] = merged(whole["metadata"], {"labels": ours["labels"], "annotations": ours["annotations"]})
    return whole


def replica_type(name: str, replicas: int, template: Mapping[str, Any], restart_policy: str) -> dict[str, Any]:
    """One entry of Kubeflow's ``...ReplicaSpecs``."""
    return {name: {"replicas": replicas, "restartPolicy": restart_policy, "template": dict(template)}}


def needs_image(template: Mapping[str, Any], role: str) -> None:
    """Raise unless the main container of a template has an image.

    Raises:
        ConfigError: it has none.
    """
    container = template["spec"]["containers"][0]
    if not container.get("image"):
        raise ConfigError(
            "image",
            f"is required on Kubernetes, and {role} has none: name an image with Python and what your function imports "
            "(launcher='local' runs without, on the Airflow worker)",
        )
