"""Pod templates of a job's replicas, from its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.kubernetes.merge import merged
from airflow_distrib.systems.kubernetes.options import ClusterConfig
from airflow_distrib.systems.kubernetes.resources import Replica, Resources

# Where a pod finds the runner, its spec and the payload (a Secret), and where it may write.
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
        container: name that the operator wants the main container to have.
        command: what the container runs; None leaves it to the image or the pod template.
        secret: name of the Secret with the runner, where pods need it.
        env: variables of our own.
        restart_policy: for kinds whose pods have one of their own.
        port: a port that answers once the pod is ready.
    """

    container: str
    command: Sequence[str] | None = None
    secret: str | None = None
    env: Sequence[Mapping[str, Any]] = ()
    restart_policy: str | None = None
    port: int | None = None


def pod_template(config: ClusterConfig, replica: Replica | None, role: Role) -> dict[str, Any]:
    """Render one replica's template.

    In this order, each over the one before: the job's pod template, the job's options, the
    replica's pod template, the replica's options, what the runner needs.
    """
    _check_shared_memory(config, replica, role)
    common = _layer(config.pod_template or {}, role, _pod(config), _container(config), {})
    named = {"labels": dict(config.labels or {}), "annotations": dict(config.annotations or {})}
    common["metadata"] = merged(common.get("metadata") or {}, named)
    own = _layer(
        (replica.pod_template if replica else None) or {}, role, {}, _own(replica), common["spec"]["containers"][0]
    )
    whole = merged(merged(common, own), {"spec": _runners_pod(role)})
    spec = whole["spec"]
    spec["containers"][0] = merged(spec["containers"][0], _runners_container(role, spec["containers"][0]))
    return {"metadata": {key: value for key, value in whole["metadata"].items() if value}, "spec": spec}


def _layer(
    template: Mapping[str, Any],
    role: Role,
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    below: Mapping[str, Any],
) -> dict[str, Any]:
    """A template with options over it, its main container first and under the name it must have."""
    spec, main = _split(template.get("spec") or {}, role, {**below, **container})
    rest = merged(spec, pod)
    rest["containers"] = [merged(main, container), *spec["containers"]]
    return {**template, "spec": rest}


def _check_shared_memory(config: ClusterConfig, replica: Replica | None, role: Role) -> None:
    """Before the merge: a later mount at the same place replaces an earlier one."""
    mounts = list(config.volume_mounts or ())
    for template in (config.pod_template, replica.pod_template if replica else None):
        mounts += _split((template or {}).get("spec") or {}, role, {"image": config.image})[1].get("volumeMounts") or ()
    if config.shared_memory and any(str(mount["mountPath"]).rstrip("/") == _SHM for mount in mounts):
        raise ConfigError("shared_memory", f"another volume is mounted at {_SHM} as well; leave one of them")


def may_be_main(container: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether the only container of a template, of another name, is the main one; else it stands beside it.

    Two images would be one too many.
    """
    return not container.get("name") or not (container.get("image") and known.get("image"))


def _split(spec: Mapping[str, Any], role: Role, known: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take the main container out of a template: the one of that name, or the only one."""
    containers = [dict(each) for each in spec.get("containers") or ()]
    main = next((each for each in containers if each.get("name") == role.container), None)
    if main is None and len(containers) == 1:
        main = containers[0] if may_be_main(containers[0], known) else {}
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


def _container(config: ClusterConfig) -> dict[str, Any]:
    mounts = [dict(mount) for mount in config.volume_mounts or ()]
    if config.shared_memory:
        mounts.append({"name": _SHM_VOLUME, "mountPath": _SHM})
    options = {
        "image": config.image,
        "imagePullPolicy": config.image_pull_policy,
        "env": environment(config),
        "volumeMounts": mounts,
    }
    return {name: value for name, value in options.items() if value}


def _own(replica: Replica | None) -> dict[str, Any]:
    given = replica or Replica()
    options = {"image": given.image, "resources": requirements(given)}
    return {name: value for name, value in options.items() if value}


def _runners_container(role: Role, main: Mapping[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = {}
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
        # Until it answers once; a readiness probe would fill the server's log for as long as it runs.
        container["startupProbe"] = {"tcpSocket": {"port": role.port}, "periodSeconds": 1, "failureThreshold": 1800}
    return container


def environment(config: ClusterConfig) -> list[dict[str, Any]]:
    """Variables: the user's, and those from Secrets."""
    plain = [{"name": name, "value": value} for name, value in (config.env or {}).items()]
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": dict(key)}}  # type: ignore[arg-type] # checked: a mapping
        for name, key in (config.env_secrets or {}).items()
    ]
    return [*plain, *secret]


def _pod(config: ClusterConfig) -> dict[str, Any]:
    volumes = [dict(volume) for volume in config.volumes or ()]
    if config.shared_memory:
        size = {"sizeLimit": config.shared_memory} if isinstance(config.shared_memory, str) else {}
        volumes.append({"name": _SHM_VOLUME, "emptyDir": {"medium": "Memory", **size}})
    settings = {
        "volumes": volumes,
        "nodeSelector": config.node_selector,
        "tolerations": config.tolerations,
        "affinity": config.affinity,
        "priorityClassName": config.priority_class,
        "schedulerName": config.scheduler_name,
        "serviceAccountName": config.service_account,
        "imagePullSecrets": [{"name": name} for name in config.image_pull_secrets or ()],
    }
    return {name: value for name, value in settings.items() if value}


def _runners_pod(role: Role) -> dict[str, Any]:
    pod: dict[str, Any] = {}
    if role.secret:
        pod["volumes"] = [
            {"name": _SECRET_VOLUME, "secret": {"secretName": role.secret, "defaultMode": 0o444}},
            {"name": _SCRATCH_VOLUME, "emptyDir": {}},
        ]
    if role.restart_policy:
        pod["restartPolicy"] = role.restart_policy
    return pod


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
