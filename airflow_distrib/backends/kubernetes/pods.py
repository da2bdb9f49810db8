"""Pod templates of a job's replicas, from its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_distrib.backends.kubernetes.merge import merged
from airflow_distrib.backends.kubernetes.options import ClusterConfig
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.resources import Replica, Resources

# Where a pod finds the runner, its spec and the payload (a Secret), and where it may write.
MOUNT = "/airflow-distrib/job"
SCRATCH = "/airflow-distrib/work"
_SECRET_VOLUME = "airflow-distrib-job"  # noqa: S105 - the name of a volume
_SCRATCH_VOLUME = "airflow-distrib-work"
_SHM = "/dev/shm"  # noqa: S108 - a mount point


@dataclass(frozen=True)
class Role:
    """One kind of pod of a job.

    Attributes:
        container: name that the operator wants the main container to have.
        command: what the container runs; None leaves it to the image or the pod template.
        secret: name of the Secret with the runner, where pods need it.
        env: variables of our own.
        restart_policy: for kinds whose pods have one of their own.
        readiness_port: a port that answers once the pod is ready.
    """

    container: str
    command: Sequence[str] | None = None
    secret: str | None = None
    env: Sequence[Mapping[str, Any]] = ()
    restart_policy: str | None = None
    readiness_port: int | None = None


def pod_template(
    config: ClusterConfig, replica: Replica | None, role: Role, metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Render one replica's template.

    In this order, each over the one before: the config's pod template, the replica's, the
    options, what the runner needs, this package's labels.
    """
    base = merged(config.pod_template or {}, (replica.pod_template if replica else None) or {})
    spec, main = _split(base.get("spec") or {}, role)
    container = merged(main, _container(config, replica, role))
    rest = merged(spec, _pod(config, role))
    rest["containers"] = [container, *(c for c in spec.get("containers", ()) if c["name"] != container["name"])]
    named = {"labels": dict(config.labels or {}), "annotations": dict(config.annotations or {})}
    whole = merged(merged(base.get("metadata") or {}, named), metadata)
    return {"metadata": {key: value for key, value in whole.items() if value}, "spec": rest}


def _split(spec: Mapping[str, Any], role: Role) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take the main container out of a template: the one of that name, or the only one."""
    containers = [dict(each) for each in spec.get("containers") or ()]
    main = next((each for each in containers if each.get("name") == role.container), None)
    if main is None and len(containers) == 1:
        main = containers[0]
    elif main is None and containers:
        names = ", ".join(str(each.get("name")) for each in containers)
        raise ConfigError(
            "pod_template", f"none of its containers {names} is named {role.container!r}, as the main one must be"
        )
    main = main or {}
    if role.command is not None and ("command" in main or "args" in main):
        raise ConfigError(
            "pod_template", "the main container's command and args are set by the operator; leave them out"
        )
    others = [each for each in containers if each is not main and each.get("name") != main.get("name")]
    return {**spec, "containers": others}, {**main, "name": role.container}


def _container(config: ClusterConfig, replica: Replica | None, role: Role) -> dict[str, Any]:
    given = replica or Replica()
    container: dict[str, Any] = {"name": role.container}
    if image := given.image or config.image:
        container["image"] = image
    if config.image_pull_policy:
        container["imagePullPolicy"] = config.image_pull_policy
    if role.command is not None:
        container["command"] = list(role.command)
    if env := environment(config, role):
        container["env"] = env
    if wanted := requirements(given):
        container["resources"] = wanted
    if mounts := _mounts(config, role):
        container["volumeMounts"] = mounts
    if role.readiness_port:
        container["readinessProbe"] = {"tcpSocket": {"port": role.readiness_port}, "periodSeconds": 1}
    return container


def environment(config: ClusterConfig, role: Role) -> list[dict[str, Any]]:
    """Variables: the user's, those from Secrets, ours."""
    plain = [{"name": name, "value": value} for name, value in (config.env or {}).items()]
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": dict(key)}}  # type: ignore[arg-type] # checked: a mapping
        for name, key in (config.env_secrets or {}).items()
    ]
    return [*plain, *secret, *map(dict, role.env)]


def _mounts(config: ClusterConfig, role: Role) -> list[dict[str, Any]]:
    mounts = [dict(mount) for mount in config.volume_mounts or ()]
    if config.shared_memory:
        mounts.append({"name": "dshm", "mountPath": _SHM})
    if role.secret:
        mounts.append({"name": _SECRET_VOLUME, "mountPath": MOUNT, "readOnly": True})
        mounts.append({"name": _SCRATCH_VOLUME, "mountPath": SCRATCH})
    return mounts


def _pod(config: ClusterConfig, role: Role) -> dict[str, Any]:
    volumes = [dict(volume) for volume in config.volumes or ()]
    if config.shared_memory:
        size = {"sizeLimit": config.shared_memory} if isinstance(config.shared_memory, str) else {}
        volumes.append({"name": "dshm", "emptyDir": {"medium": "Memory", **size}})
    if role.secret:
        volumes.append({"name": _SECRET_VOLUME, "secret": {"secretName": role.secret, "defaultMode": 0o444}})
        volumes.append({"name": _SCRATCH_VOLUME, "emptyDir": {}})
    settings = {
        "volumes": volumes,
        "nodeSelector": config.node_selector,
        "tolerations": config.tolerations,
        "affinity": config.affinity,
        "priorityClassName": config.priority_class,
        "schedulerName": config.scheduler_name,
        "serviceAccountName": config.service_account,
        "imagePullSecrets": [{"name": name} for name in config.image_pull_secrets or ()],
        "restartPolicy": role.restart_policy,
    }
    return {name: value for name, value in settings.items() if value}


def requirements(replica: Replica) -> dict[str, dict[str, str]]:
    """``resources`` of a container.

    GPUs and other extended resources cannot be overcommitted: Kubernetes wants them as
    limits, so what is only requested becomes the limit as well.
    """
    requests = _resources(replica.requests)
    limits = _resources(replica.limits)
    extended = {name: amount for name, amount in requests.items() if "/" in name}
    whole = {"requests": requests, "limits": {**extended, **limits}}
    return {name: amounts for name, amounts in whole.items() if amounts}


def _resources(given: Any) -> dict[str, str]:
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
