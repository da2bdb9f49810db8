"""The parts of a manifest that all kinds of jobs share."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
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
from airflow_distrib.systems.kubernetes.options import QUEUE_LABEL, ClusterConfig
from airflow_distrib.systems.kubernetes.pods import MOUNT, SCRATCH
from airflow_distrib.systems.kubernetes.resources import Replica

SPEC = "spec.json"
TERMINATION_LOG = "/dev/termination-log"
JOB_LABEL = f"{PREFIX}job"


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

    def command_of(self, replica: Replica, role: str, spec: str = SPEC) -> list[str] | None:
        """What the pods of a role run: a command of their own counts more than the task's.

        Raises:
            ConfigError: the role runs the task's function.
        """
        if replica.command is None:
            return self.runner_command(spec)
        if self.runs_function:
            raise ConfigError(f"{role}.command", "the task runs a function there; set only one of them")
        return list(replica.command)

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
        ignored=tuple(f"task_config: {name} on a {job.kind.kind}" for name in _given(config, job.kind.moot)),
        kind=job.kind,
        manifest=_labelled(_with_own_manifest(whole, job), job),
        specs=files,
    )


def _check_supported(config: ClusterConfig, kind: Kind) -> None:
    for name in _given(config, kind.unsupported):
        raise ConfigError(name, f"has no effect on a {kind.kind}, which has no such setting; remove it")


def _given(config: ClusterConfig, names: Iterable[str]) -> Iterator[str]:
    """Those of some options that are set, by dotted name."""
    for name in sorted(names):
        outer, _, inner = name.partition(".")
        value = getattr(config, outer)
        if inner and value is not None:
            value = getattr(value, inner)
        if value is not None:
            yield name


def _metadata(config: ClusterConfig, job: Job) -> Manifest:
    identity = job.request.identity
    common = (config.pod_template or {}).get("metadata") or {}
    labels = {**(common.get("labels") or {}), **(config.labels or {}), **identity.labels(), JOB_LABEL: job.name}
    if config.kueue_queue:
        labels[QUEUE_LABEL] = config.kueue_queue
    annotations = {**(common.get("annotations") or {}), **(config.annotations or {}), **identity.annotation()}
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
    """Give a template's main container the name that the operator expects."""
    named = copy.deepcopy(dict(own))
    ours = dict(kind.templates(rendered))
    for path, template in kind.templates(named):
        known = ((ours.get(path) or {}).get("spec") or {}).get("containers")
        if not known:
            continue
        try:
            main = pods.main_container(template, known[0]["name"], known[0].get("image"))
        except ConfigError as error:
            raise ConfigError(".".join(filter(None, ("manifest", path))), error.problem) from None
        if main is not None:
            spec: Manifest = template["spec"]
            name = known[0]["name"]
            spec["containers"] = [{**each, "name": name} if each is main else each for each in spec["containers"]]
    return named


def check_kept(whole: Object, rendered: Object, fields: Mapping[str, str]) -> None:
    """Refuse a user's manifest that changes what the ranks are told, such as their number.

    Args:
        whole, rendered: the resource with and without the user's manifest.
        fields: the fields of the config, by dotted path in the resource; empty where there is none.

    Raises:
        ConfigError: names the first of them that differs.
    """
    for path, name in fields.items():
        expected, actual = _at(rendered, path), _at(whole, path)
        if str(expected) != str(actual):
            if name:
                raise ConfigError(f"manifest.{path}", f"is {actual}, but {name} is {expected}; set {name} instead")
            raise ConfigError(f"manifest.{path}", "would not be what the ranks are told; remove it")


def _at(found: object, path: str) -> object:
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


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
