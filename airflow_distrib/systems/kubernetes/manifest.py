"""Parts of a manifest that all kinds of jobs share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_distrib.backends.kubernetes import pods
from airflow_distrib.backends.kubernetes.kind import Kind
from airflow_distrib.backends.kubernetes.merge import merged
from airflow_distrib.backends.kubernetes.options import QUEUE_LABEL, ClusterConfig, SchedulingPolicy
from airflow_distrib.backends.kubernetes.pods import MOUNT, SCRATCH
from airflow_distrib.backends.kubernetes.resource import JOB_LABEL
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.resources import Replica, RestartPolicy, RunPolicy
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.spec import Spec

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


def restart_policy(config: ClusterConfig, replica: Replica | None, task: Task) -> str:
    """What is asked for, in the replica or in a pod template; otherwise Never.

    Airflow's retries do the same as restarts, and know what went wrong.

    Raises:
        ConfigError: "Always", which would start a function again that has returned.
    """
    templates = ((replica.pod_template if replica else None) or {}, config.pod_template or {})
    asked = [replica.restart_policy if replica else None]
    asked += [(template.get("spec") or {}).get("restartPolicy") for template in templates]
    given = next((each for each in asked if each), RestartPolicy.NEVER)
    policy = given.value if isinstance(given, RestartPolicy) else str(given)
    if policy == RestartPolicy.ALWAYS.value and task.runs_function:
        raise ConfigError(
            "restart_policy", "'Always' starts a function again that has returned; use 'OnFailure' or 'Never'"
        )
    return policy


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
    _check_own(own, rendered)
    whole: dict[str, Any] = merged(rendered, _renamed({"template": own}, {"template": rendered})["template"])
    for path, before, after in _pods_of(rendered, whole):
        _check_pod(path, before, after, task)
    ours = rendered["metadata"]
    whole["metadata"] = merged(whole["metadata"], {"labels": ours["labels"], "annotations": ours["annotations"]})
    return whole


def _check_own(own: Mapping[str, Any], rendered: Mapping[str, Any]) -> None:
    if unknown := set(own) - {"apiVersion", "kind", "metadata", "spec", "status"}:
        raise ConfigError(f"manifest.{sorted(map(str, unknown))[0]}", "there is no such field")
    if "status" in own:
        raise ConfigError("manifest.status", "is the cluster's to write; leave it out")
    for key in ("metadata", "spec"):
        if not isinstance(own.get(key) or {}, Mapping):
            raise ConfigError(f"manifest.{key}", f"must be a mapping; got {own[key]!r}")
    for key in ("apiVersion", "kind"):
        if own.get(key, rendered[key]) != rendered[key]:
            raise ConfigError(f"manifest.{key}", f"must be {rendered[key]!r}; got {own[key]!r}")
    given = own.get("metadata") or {}
    for key in ("name", "namespace", "generateName"):
        if key in given and given[key] != rendered["metadata"].get(key):
            advice = "set namespace in task_config" if key == "namespace" else "jobs are named after their task"
            raise ConfigError(f"manifest.metadata.{key}", f"leave it out: {advice}")


def _renamed(own: Mapping[str, Any], rendered: Mapping[str, Any]) -> dict[str, Any]:
    """Give a template's only container the name by which the operator knows the main one."""
    result = dict(own)
    for key, value in own.items():
        ours = rendered.get(key)
        if key == "template" and isinstance(ours, Mapping) and isinstance(value, Mapping):
            known = (ours.get("spec") or {}).get("containers")
            spec = value.get("spec") or {}
            result[key] = _renamed(value, ours)
            if known and len(spec.get("containers") or ()) == 1 and pods.may_be_main(spec["containers"][0], known[0]):
                result[key] |= {"spec": {**spec, "containers": [{**spec["containers"][0], "name": known[0]["name"]}]}}
        elif isinstance(value, Mapping) and isinstance(ours, Mapping):
            result[key] = _renamed(value, ours)
    return result


def _pods_of(rendered: Any, whole: Any, path: str = "manifest") -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every pod template, as rendered and after the merge, with its place."""
    for key, value in rendered.items():
        if key == "template":
            yield f"{path}.template", value, whole[key]
        elif isinstance(value, dict) and isinstance(whole.get(key), dict):
            yield from _pods_of(value, whole[key], f"{path}.{key}")


def _check_pod(path: str, before: dict[str, Any], after: dict[str, Any], task: Task) -> None:
    """The watch finds pods by their labels, and the runner is the command of a function's."""
    after["metadata"] = merged(after.get("metadata") or {}, {"labels": before["metadata"]["labels"]})
    containers = after["spec"].get("containers") or []
    main, old = containers[0], before["spec"]["containers"][0]
    if not main.get("image"):
        raise ConfigError(
            f"{path}.spec.containers",
            f"the container {main['name']!r} has no image; name it so in the manifest, or set image",
        )
    if task.runs_function and any(main.get(key) != old.get(key) for key in ("command", "args")):
        raise ConfigError(
            f"{path}.spec.containers[0].command", "is the runner's when there is a function; leave one out"
        )


def replica_type(name: str, replicas: int, template: Mapping[str, Any], restart_policy: str) -> dict[str, Any]:
    """One entry of Kubeflow's ``...ReplicaSpecs``."""
    return {name: {"replicas": replicas, "restartPolicy": restart_policy, "template": dict(template)}}


def replicas_of(manifest: Mapping[str, Any], specs_name: str, role: str) -> Any:
    """Replicas of a role in a user's own manifest; None where it has no such role."""
    place = manifest.get("spec") or {}
    for key in (specs_name, role):
        place = place.get(key) if isinstance(place, Mapping) else None
        if place is None:
            return None
    return place.get("replicas", 1) if isinstance(place, Mapping) else None


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
