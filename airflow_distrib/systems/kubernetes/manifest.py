"""The parts of a manifest that all kinds of jobs share."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

from airflow_distrib.core.config import Config
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import PREFIX
from airflow_distrib.jobs.launcher import Submission
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.spec import Spec
from airflow_distrib.systems.kubernetes import pods
from airflow_distrib.systems.kubernetes.kind import Kind, Manifest, Object
from airflow_distrib.systems.kubernetes.merge import KEYS, merged
from airflow_distrib.systems.kubernetes.options import QUEUE_LABEL, ClusterConfig, SchedulingPolicy
from airflow_distrib.systems.kubernetes.pods import MOUNT, SCRATCH
from airflow_distrib.systems.kubernetes.resources import Replica, RestartPolicy, RunPolicy

SPEC = "spec.json"
TERMINATION_LOG = "/dev/termination-log"
JOB_LABEL = f"{PREFIX}job"

# Airflow deletes a job after fetching its result. If Airflow is gone, the job stays for a day.
TTL_SECONDS = 86400


@dataclass(frozen=True, kw_only=True)
class KubernetesSubmission(Submission):
    """A resource, and the files that its pods need.

    Attributes:
        manifest: the resource; its namespace is empty if the connection decides.
        specs: files for the runner besides the payload; empty if there is no function.
    """

    kind: Kind
    manifest: Manifest
    specs: Mapping[str, Spec] = field(default_factory=dict)

    def shown(self) -> dict[str, object]:
        metadata = self.manifest["metadata"]
        metadata = {**metadata, "namespace": metadata["namespace"] or "<the connection's>"}
        return {
            "name": self.name,
            "manifest": {**self.manifest, "metadata": metadata},
            "specs": {name: spec._asdict() for name, spec in self.specs.items()},
        }


@dataclass(frozen=True)
class Job:
    """A request for a job of one kind, as renderers use it."""

    kind: Kind
    request: JobRequest

    @property
    def name(self) -> str:
        """The job's name, deterministic for a try."""
        return self.request.identity.name(self.kind.name_limit)

    @property
    def runs_function(self) -> bool:
        """Whether ranks call a function."""
        return self.request.runs_function

    @property
    def manifest(self) -> Object | None:
        """The user's own manifest."""
        own: Object | None = self.request.arguments.get("manifest")
        return own

    def runner_command(self, spec: str = SPEC) -> list[str] | None:
        """The runner for a function, otherwise the user's command; None runs the image's own."""
        if self.runs_function:
            return [self.request.python or "python3", "-u", f"{MOUNT}/runner.pyz", f"{MOUNT}/{spec}"]
        command = self.request.arguments.get("command")
        return list(command) if command else None

    @property
    def secret(self) -> str | None:
        """Name of the Secret with the runner."""
        return self.name if self.runs_function else None

    def spec(self, mode: str = specs.ENVIRONMENT) -> Spec:
        """The runner's spec in a pod."""
        spec = Spec(mode, "", scratch=SCRATCH, termination_log=TERMINATION_LOG, payload_file=f"{MOUNT}/payload")
        return spec._replace(**self.request.options())


def submission(
    config: ClusterConfig,
    job: Job,
    resource: Manifest,
    files: Mapping[str, Spec],
    log_parts: tuple[str, ...] | None = None,
) -> KubernetesSubmission:
    """Complete a rendered resource.

    Args:
        resource: everything but ``apiVersion``, ``kind`` and, unless the resource is a pod
            itself, ``metadata``.
        files: specs for the runner.

    Raises:
        ConfigError: the kind cannot honour an option, or the user's manifest cannot be merged.
    """
    _check_supported(config, job.kind)
    request = job.request
    patience = request.arguments.get("patience")
    own = resource.get("metadata") or {}
    metadata = _metadata(config, job)
    for key in ("labels", "annotations"):
        metadata[key] = {**(own.get(key) or {}), **metadata[key]}
    whole = {"apiVersion": job.kind.api, "kind": job.kind.kind, **resource, "metadata": metadata}
    return KubernetesSubmission(
        identity=request.identity,
        name=job.name,
        returns=job.runs_function,
        payload=request.payload if job.runs_function else None,
        log=request.shows_log,
        log_parts=log_parts,
        named=not job.runs_function,
        patience=patience.serialize() if isinstance(patience, Config) else {},
        kind=job.kind,
        manifest=_labelled(_with_own_manifest(whole, job), job),
        specs=files,
    )


def _check_supported(config: ClusterConfig, kind: Kind) -> None:
    for name in sorted(kind.unsupported):
        outer, _, inner = name.partition(".")
        value = getattr(config, outer)
        if inner and value is not None:
            value = getattr(value, inner)
        if value is not None:
            raise ConfigError(name, f"has no effect on a {kind.kind}, which has no such setting; remove it")


def _metadata(config: ClusterConfig, job: Job) -> Manifest:
    identity = job.request.identity
    labels = {**(config.labels or {}), **identity.labels(), JOB_LABEL: job.name}
    if config.queue:
        labels[QUEUE_LABEL] = config.queue
    annotations = {**(config.annotations or {}), **identity.annotation()}
    return {"name": job.name, "namespace": config.namespace or "", "labels": labels, "annotations": annotations}


def pod_template(config: ClusterConfig, job: Job, replica: Replica | None, role: pods.Role, who: str) -> Manifest:
    """Pod template of one role.

    Args:
        who: the role as an error message names it.

    Raises:
        ConfigError: it has no image, or options exclude each other.
    """
    rendered = pods.pod_template(config, replica, role)
    if not job.manifest and not rendered["spec"]["containers"][0].get("image"):
        raise ConfigError(
            "image",
            f"is required on Kubernetes, and {who} has none; set an image with Python and the packages that your "
            "function imports, or use launcher='local' to run on the Airflow worker without one",
        )
    return rendered


def run_policy(config: ClusterConfig, job: Job) -> Manifest:
    """``runPolicy`` of Kubeflow's kinds; the operator has its own defaults for what is missing.

    Deadline and TTL are always set, so that the cluster ends and removes the job even if Airflow is gone.
    """
    policy = config.run_policy if isinstance(config.run_policy, RunPolicy) else RunPolicy()
    gang = config.scheduling_policy if isinstance(config.scheduling_policy, SchedulingPolicy) else None
    deadline = policy.active_deadline_seconds
    ttl = policy.ttl_seconds_after_finished
    values = {
        "cleanPodPolicy": policy.clean_pod_policy.value if policy.clean_pod_policy else None,  # type: ignore[union-attr] # checked: a member
        "ttlSecondsAfterFinished": TTL_SECONDS if ttl is None else int(ttl),
        "activeDeadlineSeconds": job.request.deadline_seconds if deadline is None else int(deadline),
        "backoffLimit": None if policy.backoff_limit is None else int(policy.backoff_limit),
        "suspend": config.suspend,
        "schedulingPolicy": _gang(gang) if gang else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def restart_policy(config: ClusterConfig, replica: Replica | None, job: Job) -> str:
    """The policy of the replica or of a pod template; otherwise Never, because Airflow's retries do the same.

    Raises:
        ConfigError: "Always" with a function, which would run again after it has returned.
    """
    templates = ((replica.pod_template if replica else None) or {}, config.pod_template or {})
    given = [replica.restart_policy if replica else None]
    given += [(template.get("spec") or {}).get("restartPolicy") for template in templates]
    first = next((each for each in given if each), RestartPolicy.NEVER)
    policy = first.value if isinstance(first, RestartPolicy) else str(first)
    if policy == RestartPolicy.ALWAYS.value and job.runs_function:
        raise ConfigError(
            "restart_policy", "'Always' would run the function again after it has returned; use 'OnFailure' or 'Never'"
        )
    return policy


def _gang(policy: SchedulingPolicy) -> Manifest:
    values = {
        "minAvailable": policy.min_available,
        "queue": policy.queue,
        "priorityClass": policy.priority_class,
        "minResources": policy.min_resources,
        "scheduleTimeoutSeconds": policy.schedule_timeout_seconds,
    }
    return {name: value for name, value in values.items() if value is not None}


def _with_own_manifest(rendered: Manifest, job: Job) -> Manifest:
    """Merge the user's own manifest over what was rendered, except for name and identity.

    Raises:
        ConfigError: the manifest is of another kind, or sets a field that it must not set.
    """
    own = job.manifest
    if not own:
        return rendered
    _check_own(own, rendered)
    keys = {**KEYS, **job.kind.merge_keys}
    whole = merged(rendered, _with_main_names(own, rendered, job.kind), keys)
    before = dict(job.kind.templates(rendered))
    for path, after in job.kind.templates(whole):
        if path in before:
            _check_pod(".".join(filter(None, ("manifest", path))), before[path], after, job)
    ours = rendered["metadata"]
    whole["metadata"] = merged(whole["metadata"], {"labels": ours["labels"], "annotations": ours["annotations"]})
    return whole


def _labelled(whole: Manifest, job: Job) -> Manifest:
    """Label every pod, also those of the user's manifest: the shared watch selects by these labels."""
    labels = {**job.request.identity.labels(), JOB_LABEL: job.name}
    for _, template in job.kind.templates(whole):
        metadata = template.get("metadata") or {}
        template["metadata"] = {**metadata, "labels": {**(metadata.get("labels") or {}), **labels}}
    return whole


def _check_own(own: Object, rendered: Object) -> None:
    if unknown := set(own) - {"apiVersion", "kind", "metadata", "spec", "status"}:
        raise ConfigError(f"manifest.{sorted(map(str, unknown))[0]}", "there is no such field")
    if "status" in own:
        raise ConfigError("manifest.status", "is set by the cluster; remove it")
    for key in ("metadata", "spec"):
        if not isinstance(own.get(key) or {}, Mapping):
            raise ConfigError(f"manifest.{key}", f"must be a mapping; got {own[key]!r}")
    for key in ("apiVersion", "kind"):
        if own.get(key, rendered[key]) != rendered[key]:
            raise ConfigError(f"manifest.{key}", f"must be {rendered[key]!r}; got {own[key]!r}")
    given = own.get("metadata") or {}
    for key in ("name", "namespace", "generateName"):
        if key in given and given[key] != (rendered["metadata"].get(key) or None):
            advice = "set namespace in task_config instead" if key == "namespace" else "jobs are named after their task"
            raise ConfigError(f"manifest.metadata.{key}", f"must not be set; {advice}")


def _with_main_names(own: Object, rendered: Manifest, kind: Kind) -> Manifest:
    """Give a template's only container the name that the operator expects of the main one."""
    named = copy.deepcopy(dict(own))
    ours = dict(kind.templates(rendered))
    for path, template in kind.templates(named):
        known = ((ours.get(path) or {}).get("spec") or {}).get("containers")
        containers: list[Manifest] = (template.get("spec") or {}).get("containers") or []
        if known and len(containers) == 1 and pods.may_be_main(containers[0], known[0]):
            template["spec"]["containers"] = [{**containers[0], "name": known[0]["name"]}]
    return named


def _check_pod(path: str, before: Manifest, after: Manifest, job: Job) -> None:
    """Main containers need an image, and for a function they run the runner."""
    containers = after["spec"].get("containers") or []
    main, old = containers[0], before["spec"]["containers"][0]
    if not main.get("image"):
        raise ConfigError(
            f"{path}.spec.containers",
            f"the container {main['name']!r} has no image; use this name in the manifest, or set image",
        )
    if job.runs_function and any(main.get(key) != old.get(key) for key in ("command", "args")):
        raise ConfigError(
            f"{path}.spec.containers[0].command", "is set by this package to run the function; set only one of them"
        )
