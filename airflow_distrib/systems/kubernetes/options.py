"""Options that every job on a Kubernetes cluster takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from airflow_distrib.core import callers, config
from airflow_distrib.core.config import Check, Config
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import PREFIX
from airflow_distrib.systems.kubernetes import podfields, quantities
from airflow_distrib.systems.kubernetes.kind import Manifest, Object
from airflow_distrib.systems.kubernetes.resources import Replica, Resources, RunPolicy

# https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
_LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def _shared_memory(name: str, value: object) -> bool | str:
    rendered = isinstance(value, str) and value.lower() in ("true", "false")
    if rendered or isinstance(value, bool):
        return config.flag(name, value)
    found = quantities.size(name, value)
    if not quantities.amount(found):
        raise ConfigError(name, "0 is no shared memory at all; leave it out for the 64 MiB of every container")
    return found


def _annotations(name: str, value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigError(name, f"must be a mapping of names to values; got {value!r}")
    for key, item in value.items():
        if not isinstance(key, str) or not _LABEL_KEY.fullmatch(key):
            raise ConfigError(name, f"{key!r} cannot be the name of a label or annotation")
        if key.startswith(PREFIX):
            raise ConfigError(f"{name}[{key!r}]", f"names with {PREFIX} are reserved for this package")
        if not isinstance(item, str) and not config.is_template(item):
            raise ConfigError(f"{name}[{key!r}]", f"must be text; write {str(item)!r} instead of {item!r}")
    return dict(value)


def _labels(name: str, value: object) -> dict[str, str]:
    for key, item in (found := _annotations(name, value)).items():
        if not config.is_template(item) and not _LABEL_VALUE.fullmatch(item):
            raise ConfigError(f"{name}[{key!r}]", f"{item!r} cannot be the value of a label")
    return found


def _secrets(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        # The value is never shown: it may be a secret, given here by mistake.
        raise ConfigError(name, "must be a mapping of variables to 'secret/key'")
    return {variable: _secret_key(f"{name}[{variable!r}]", variable, given) for variable, given in value.items()}


def _secret_key(name: str, variable: object, given: object) -> object:
    if not isinstance(variable, str) or not _ENV_NAME.fullmatch(variable):
        raise ConfigError(name, f"{variable!r} cannot be the name of an environment variable")
    if config.is_template(given):
        return given
    if isinstance(given, str):
        secret, slash, key = given.partition("/")
        given = {"name": secret, "key": key} if slash else given
    if not isinstance(given, Mapping) or set(given) != {"name", "key"} or not all(given.values()):
        raise ConfigError(name, "must name a Kubernetes Secret and a key in it, such as 'db-login/password'")
    return {"name": str(given["name"]), "key": str(given["key"])}


def _objects(*required: str) -> Callable[[str, object], list[Manifest]]:
    """Check for a list of Kubernetes objects that have certain keys."""

    def check(name: str, value: object) -> list[Manifest]:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ConfigError(name, f"must be a list of mappings as in a pod's spec; got {value!r}")
        for index, item in enumerate(value):
            if not isinstance(item, Mapping) or not all(_is_text(item.get(key)) for key in required):
                raise ConfigError(f"{name}[{index}]", f"must be a mapping with {' and '.join(required)}; got {item!r}")
        return [dict(item) for item in value]

    return check


def _volumes(name: str, value: object) -> list[Manifest]:
    found = _objects("name")(name, value)
    quantities.check_volumes(name, found)
    return found


def _is_text(value: object) -> bool:
    return (isinstance(value, str) and bool(value)) or config.is_template(value)


def _tolerations(name: str, value: object) -> list[Manifest]:
    found = _objects()(name, value)
    for index, item in enumerate(found):
        if unknown := set(item) - {"key", "operator", "value", "effect", "tolerationSeconds"}:
            raise ConfigError(f"{name}[{index}].{min(unknown)}", "a toleration has no such field")
    return found


def _texts(name: str, value: object) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(v, str) and v for v in value):
        raise ConfigError(name, f"must be a list of names; got {value!r}")
    return list(value)


def _affinity(name: str, value: object) -> Manifest:
    known = ("nodeAffinity", "podAffinity", "podAntiAffinity")
    if not isinstance(value, Mapping) or not value or not set(value) <= set(known):
        raise ConfigError(name, f"must be a mapping with {', '.join(known)}; got {value!r}")
    return dict(value)


def _namespace(name: str, value: object) -> str:
    if not isinstance(value, str) or not _NAMESPACE.fullmatch(value):
        raise ConfigError(name, f"must be the name of a namespace: lower-case letters, digits and '-'; got {value!r}")
    return value


QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


class SchedulingPolicy(Config):
    """Gang scheduling: no pod starts before enough of them can be scheduled together.

    It takes effect if the operator was started with a gang scheduler
    (``--gang-scheduler-name``: Volcano or the scheduler-plugins).

    Attributes:
        min_available: pods that must be scheduled together; None is all of them.
        queue: queue of the gang scheduler.
        priority_class: priority of the group.
        min_resources: resources that the group needs at least, by Kubernetes' names.
        schedule_timeout_seconds: seconds to wait until the group is scheduled.
    """

    min_available: int | str | None = None
    queue: str | None = None
    priority_class: str | None = None
    min_resources: Mapping[str, str | int] | None = None
    schedule_timeout_seconds: int | str | None = None

    checks: ClassVar[Mapping[str, Check]] = {
        "min_available": config.whole(1),
        "queue": config.text,
        "priority_class": config.text,
        "min_resources": quantities.resource_list,
        "schedule_timeout_seconds": config.whole(0),
    }


class ClusterConfig(Config):
    """Options of every job on Kubernetes; Kubernetes' own objects are written as in a manifest.

    Attributes:
        image: image of all replicas that set none themselves.
        env: environment variables for the ranks.
        env_secrets: environment variables from Secrets of the cluster, such as
            ``{"TOKEN": "hub-login/token"}``; the values never pass through Airflow.
        run_policy: how the job ends.
        requests: what the scheduler reserves for each pod of every role.
        limits: what each pod of every role may use at most.
        shared_memory: size of /dev/shm such as "2Gi"; True for as much as memory allows.
        pod_template: a PodTemplateSpec for every replica to start from; the other options
            are merged over it.
        node_selector: labels that nodes must have.
        tolerations: taints of nodes that the pods tolerate.
        affinity: rules about the nodes, and the pods, that pods may run on or next to.
        priority_class: name of a PriorityClass.
        scheduler_name: None takes the cluster's default scheduler.
        service_account: account of the pods.
        image_pull_secrets: names of Secrets for the registry.
        image_pull_policy: "Always", "IfNotPresent" or "Never".
        volumes, volume_mounts: as in a pod and in a container.
        labels, annotations: for the job and its pods; those of ``pod_template`` are as well.
        namespace: None takes the connection's.
        kueue_queue: Kueue's queue (label ``kueue.x-k8s.io/queue-name``), which may hold the job for
            any time; Airflow's own ``queue`` is an argument of the operator.
        suspend: create the job suspended; something else has to resume it.
        scheduling_policy: gang scheduling.
        increase_shared_mem: deprecated, ``shared_memory``.
    """

    image: str | None = None
    env: Mapping[str, str] | None = None
    env_secrets: Mapping[str, str | Mapping[str, str]] | None = None
    run_policy: RunPolicy | Mapping[str, object] | None = None
    requests: Resources | Mapping[str, object] | None = None
    limits: Resources | Mapping[str, object] | None = None
    shared_memory: bool | str | int | None = None
    pod_template: Object | None = None
    node_selector: Mapping[str, str] | None = None
    tolerations: Sequence[Object] | None = None
    affinity: Object | None = None
    priority_class: str | None = None
    scheduler_name: str | None = None
    service_account: str | None = None
    image_pull_secrets: Sequence[str] | None = None
    image_pull_policy: str | None = None
    volumes: Sequence[Object] | None = None
    volume_mounts: Sequence[Object] | None = None
    labels: Mapping[str, str] | None = None
    annotations: Mapping[str, str] | None = None
    namespace: str | None = None
    kueue_queue: str | None = None
    suspend: bool | str | None = None
    scheduling_policy: SchedulingPolicy | Mapping[str, object] | None = None
    increase_shared_mem: bool | str | None = None

    sizes: ClassVar[tuple[str, ...]] = ("requests", "limits")
    # Kueue's queue had the name of an argument of every Airflow operator.
    renamed: ClassVar[Mapping[str, str]] = {"queue": "kueue_queue"}
    checks: ClassVar[Mapping[str, Check]] = {
        "image": config.text,
        "env": config.environment,
        "env_secrets": _secrets,
        "run_policy": config.of(RunPolicy),
        "requests": config.of(Resources),
        "limits": config.of(Resources),
        "shared_memory": _shared_memory,
        "pod_template": podfields.check_pod_template,
        "node_selector": _labels,
        "tolerations": _tolerations,
        "affinity": _affinity,
        "priority_class": config.text,
        "scheduler_name": config.text,
        "service_account": config.text,
        "image_pull_secrets": _texts,
        "image_pull_policy": config.one_of("Always", "IfNotPresent", "Never"),
        "volumes": _volumes,
        "volume_mounts": _objects("name", "mountPath"),
        "labels": _labels,
        "annotations": _annotations,
        "namespace": _namespace,
        "kueue_queue": config.text,
        "suspend": config.flag,
        "scheduling_policy": config.of(SchedulingPolicy),
        "increase_shared_mem": config.flag,
    }

    # Deprecated fields, with the dotted names of those that take their values.
    deprecated: ClassVar[Mapping[str, str]] = {"increase_shared_mem": "shared_memory"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._accept_deprecated()
        both = set(self.env or {}) & set(self.env_secrets or {})
        if both:
            raise ConfigError(f"env_secrets[{min(both)!r}]", "is in env as well; set only one of them")
        label = (self.labels or {}).get(QUEUE_LABEL)
        if self.kueue_queue and label not in (None, self.kueue_queue):
            problem = f"is {self.kueue_queue!r}, but the label {QUEUE_LABEL} is {label!r}; set only one"
            raise ConfigError("kueue_queue", problem)
        self._check_mounts()
        self.check_roles()

    def _accept_deprecated(self) -> None:
        for old, new in self.deprecated.items():
            value = getattr(self, old)
            if value is None:
                continue
            callers.warn(f"{type(self).__name__}.{old} is deprecated; use {new}", DeprecationWarning)
            outer, _, inner = new.partition(".")
            current = getattr(self, outer)
            if current is not None and (not inner or not isinstance(current, Replica) or current.replicas is not None):
                raise ConfigError(old, f"is the deprecated name of {new}; set only one of them")
            if inner:
                value = (current or Replica()).merged({inner: value})
            object.__setattr__(self, outer, value)
            object.__setattr__(self, old, None)

    def role(self, name: str) -> Replica:
        """The group of pods in a field, with what it takes from other groups."""
        given = getattr(self, name)
        return given if isinstance(given, Replica) else Replica()

    @property
    def runs(self) -> bool:
        """Whether it says itself what runs: a group has a command."""
        return any(isinstance(value, Replica) and value.command for value in self.values().values())

    def check_roles(self) -> None:
        """Refuse groups that cannot work; runs with templates too, and after deprecated names are replaced."""
        base = Replica(requests=self.requests, limits=self.limits)
        for name, value in self.values().items():
            if isinstance(value, Replica):
                try:
                    self.role(name).over(base)
                except ConfigError as error:
                    raise ConfigError(f"{name}.{error.field}", error.problem) from None

    def _check_mounts(self) -> None:
        """Refuse mounts of volumes that are neither in ``volumes`` nor in any pod template."""
        replicas = [value for value in self.values().values() if isinstance(value, Replica)]
        templates = (self.pod_template, *(replica.pod_template for replica in replicas))
        if any(map(config.is_template, (self.volumes, self.volume_mounts, *templates))):
            return
        known = {volume["name"] for volume in self.volumes or ()}.union(*map(podfields.volume_names, templates))
        for index, mount in enumerate(self.volume_mounts or ()):
            if mount["name"] not in known and not config.is_template(mount["name"]):
                raise ConfigError(f"volume_mounts[{index}].name", f"there is no volume {mount['name']!r} in volumes")


def cluster_only(given: ClusterConfig) -> list[str]:
    """Fields of a config that local ranks cannot honour; of replicas, all but their number."""
    found = []
    for name in given.serialize():
        value = getattr(given, name)
        if value is False:
            continue
        if isinstance(value, Replica):
            found += [f"{name}.{inner}" for inner in value.serialize() if inner != "replicas"]
        elif name in ClusterConfig.checks and name != "env":
            found.append(name)
    return found
