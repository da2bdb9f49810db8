"""Pod templates of a job's replicas, from its config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.kubernetes.kind import Manifest, Object
from airflow_distrib.systems.kubernetes.merge import merged
from airflow_distrib.systems.kubernetes.options import ClusterConfig
from airflow_distrib.systems.kubernetes.resources import Replica, Resources

# Where the Secret with the runner, its spec and the payload is mounted, and where the runner may write.
MOUNT = "/airflow-distrib/job"
SCRATCH = "/airflow-distrib/work"
_SECRET_VOLUME = "airflow-distrib-job"  # noqa: S105 - the name of a volume
_SCRATCH_VOLUME = "airflow-distrib-work"
_SHM_VOLUME = "airflow-distrib-shm"
_SHM = "/dev/shm"  # noqa: S108 - a mount point


@dataclass(frozen=True)
class Role:
    """One kind of pod of a job.

    Attributes:
        container: name that the operator expects of the main container.
        command: what the container runs; None leaves it to the image or the pod template.
        secret: name of the Secret with the runner, if pods need it.
        env: variables that this package adds.
        restart_policy: for pods that are created directly, without an operator.
        port: a port that accepts connections once the pod is ready.
        devices: whether it gets the GPUs, and other devices, that the job asks for in all its pods.
    """

    container: str
    command: Sequence[str] | None = None
    secret: str | None = None
    env: Sequence[Object] = ()
    restart_policy: str | None = None
    port: int | None = None
    devices: bool = True


def pod_template(config: ClusterConfig, replica: Replica | None, role: Role) -> Manifest:
    """Render one replica's template.

    In this order, each over the one before: the job's pod template, the job's options, the
    replica's pod template, the replica's options, what the runner needs.
    """
    replica = replica or Replica()
    _check_shared_memory(config, replica, role)
    common = _layer(config.pod_template or {}, role, _pod(config), _container(config, role), {})
    metadata = {"labels": dict(config.labels or {}), "annotations": dict(config.annotations or {})}
    common["metadata"] = merged(common.get("metadata") or {}, metadata)
    options = _present({"image": replica.image, "resources": _requirements(replica.requests, replica.limits)})
    own = _layer(replica.pod_template or {}, role, {}, options, common["spec"]["containers"][0])
    whole = merged(merged(common, own), {"spec": _runners_pod(role)})
    spec = whole["spec"]
    spec["containers"][0] = merged(spec["containers"][0], _runners_container(role, spec["containers"][0]))
    return {"metadata": _present(whole["metadata"]), "spec": spec}


def _present(values: Object) -> Manifest:
    return {name: value for name, value in values.items() if value}


def _layer(template: Object, role: Role, pod: Object, container: Object, below: Object) -> Manifest:
    """A template with options merged over it, the main container first and under its required name."""
    spec, main = _split(template, role, {**below, **container})
    rest = merged(spec, pod)
    rest["containers"] = [merged(main, container), *spec["containers"]]
    return {**template, "spec": rest}


def _check_shared_memory(config: ClusterConfig, replica: Replica, role: Role) -> None:
    """Must run before the merge, in which a later mount replaces an earlier one at the same path."""
    mounts = list(config.volume_mounts or ())
    for template in (config.pod_template or {}, replica.pod_template or {}):
        mounts += _split(template, role, {"image": config.image})[1].get("volumeMounts") or ()
    if config.shared_memory and any(str(mount["mountPath"]).rstrip("/") == _SHM for mount in mounts):
        raise ConfigError("shared_memory", f"another volume is mounted at {_SHM} as well; set only one of them")


# With it Kubernetes' own tools tell the main container from sidecars.
_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"


def main_container(template: Object, name: str, image: object) -> Object | None:
    """The main container of a template; None if it has none, or only a sidecar.

    It is the one of that name, the one that the annotation ``kubectl.kubernetes.io/default-container`` names, or the
    only one without an image or with the job's. A single container with an image of its own is a sidecar, unless the
    job has no image.

    Raises:
        ConfigError: there are several, and none of this tells which one it is.
    """
    containers: Sequence[Object] = (template.get("spec") or {}).get("containers") or ()
    default = ((template.get("metadata") or {}).get("annotations") or {}).get(_DEFAULT_CONTAINER)
    named = {each["name"]: each for each in reversed(containers) if each.get("name")}
    if found := named.get(name) or named.get(default):
        return found
    likely = [each for each in containers if each.get("image") in (None, "", image)]
    if len(likely) == 1:
        return likely[0]
    if len(containers) <= 1:
        return None if image and named else next(iter(containers), None)
    names = ", ".join(str(each.get("name")) for each in containers)
    raise ConfigError(
        "pod_template",
        f"none of its containers {names} is named {name!r}; give the main container this name, or name it in the "
        f"annotation {_DEFAULT_CONTAINER}",
    )


def _split(template: Object, role: Role, known: Object) -> tuple[Manifest, Manifest]:
    """The spec of a template without its main container, and that container under its required name."""
    spec = template.get("spec") or {}
    main = main_container(template, role.container, known.get("image")) or {}
    if role.command is not None and ("command" in main or "args" in main):
        raise ConfigError("pod_template", "the main container's command and args are set by the operator; remove them")
    others = [dict(each) for each in spec.get("containers") or () if each is not main]
    return {**spec, "containers": others}, {**main, "name": role.container}


def _container(config: ClusterConfig, role: Role) -> Manifest:
    mounts = [dict(mount) for mount in config.volume_mounts or ()]
    if config.shared_memory:
        mounts.append({"name": _SHM_VOLUME, "mountPath": _SHM})
    return _present(
        {
            "image": config.image,
            "imagePullPolicy": config.image_pull_policy,
            "env": _environment(config),
            "volumeMounts": mounts,
            "resources": _requirements(config.requests, config.limits, devices=role.devices),
        }
    )


def _runners_container(role: Role, main: Object) -> Manifest:
    container: Manifest = {}
    if role.command is not None:
        container["command"] = list(role.command)
    if role.env:
        container["env"] = [dict(each) for each in role.env]
    if role.secret:
        container["volumeMounts"] = [
            {"name": _SECRET_VOLUME, "mountPath": MOUNT, "readOnly": True},
            {"name": _SCRATCH_VOLUME, "mountPath": SCRATCH},
        ]
    if role.port and not {"readinessProbe", "startupProbe"} & set(main):
        # Stops at the first success; a readiness probe would fill the server's log for as long as it runs.
        container["startupProbe"] = {"tcpSocket": {"port": role.port}, "periodSeconds": 1, "failureThreshold": 1800}
    return container


def _environment(config: ClusterConfig) -> list[Manifest]:
    plain = [{"name": name, "value": value} for name, value in (config.env or {}).items()]
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": dict(key)}}  # type: ignore[arg-type] # checked: a mapping
        for name, key in (config.env_secrets or {}).items()
    ]
    return [*plain, *secret]


def _pod(config: ClusterConfig) -> Manifest:
    volumes = [dict(volume) for volume in config.volumes or ()]
    if config.shared_memory:
        size = {"sizeLimit": config.shared_memory} if isinstance(config.shared_memory, str) else {}
        volumes.append({"name": _SHM_VOLUME, "emptyDir": {"medium": "Memory", **size}})
    return _present(
        {
            "volumes": volumes,
            "nodeSelector": config.node_selector,
            "tolerations": config.tolerations,
            "affinity": config.affinity,
            "priorityClassName": config.priority_class,
            "schedulerName": config.scheduler_name,
            "serviceAccountName": config.service_account,
            "imagePullSecrets": [{"name": name} for name in config.image_pull_secrets or ()],
        }
    )


def _runners_pod(role: Role) -> Manifest:
    pod: Manifest = {}
    if role.secret:
        pod["volumes"] = [
            {"name": _SECRET_VOLUME, "secret": {"secretName": role.secret, "defaultMode": 0o444}},
            {"name": _SCRATCH_VOLUME, "emptyDir": {}},
        ]
    if role.restart_policy:
        pod["restartPolicy"] = role.restart_policy
    return pod


def _requirements(requests: object, limits: object, *, devices: bool = True) -> Manifest:
    """``resources`` of a container.

    GPUs and other extended resources cannot be overcommitted: Kubernetes requires a limit for
    them, so a request without a limit becomes the limit as well.
    """
    requested, limited = _resources(requests), _resources(limits)
    limited = {**{name: amount for name, amount in requested.items() if "/" in name}, **limited}
    found = {"requests": requested, "limits": limited}
    return _present({kind: {k: v for k, v in each.items() if devices or "/" not in k} for kind, each in found.items()})


def _resources(given: object) -> dict[str, str]:
    if not isinstance(given, Resources):
        return {}
    amounts = {
        "cpu": given.cpu,
        "memory": given.memory,
        "nvidia.com/gpu": given.gpu,
        "ephemeral-storage": given.ephemeral_storage,
        **(given.extended or {}),
    }
    return {name: str(amount) for name, amount in amounts.items() if amount is not None}
