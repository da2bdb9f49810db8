"""What a replica requests and how a job ends: shared by the configs of all systems on Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import ClassVar

from airflow_distrib.core import config
from airflow_distrib.core.config import Check, Config
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.kubernetes import podfields, quantities
from airflow_distrib.systems.kubernetes.kind import Object
from airflow_distrib.systems.kubernetes.quantities import amount

# How often each pod may restart by default. Without a limit, a function that always fails would be called for ever.
RESTARTS = 3


class Resources(Config):
    """Resources of one pod.

    Attributes:
        cpu: cores, such as ``"4"`` or ``"500m"``.
        memory: a size, such as ``"16Gi"``; a number without a unit would be bytes, and less than 1 MiB is refused.
        gpu: number of GPUs.
        ephemeral_storage: size of the scratch space.
        extended: whole numbers of other resources by their full name, such as ``{"rdma/hca": 1}``.
    """

    cpu: str | int | float | None = None
    memory: str | int | None = None
    gpu: int | str | None = None
    ephemeral_storage: str | int | None = None
    extended: Mapping[str, str | int] | None = None

    def check_together(self) -> None:
        if self.gpu is not None and "nvidia.com/gpu" in (self.extended or {}):
            raise ConfigError("extended['nvidia.com/gpu']", "is the same as gpu; set only one of them")

    checks: ClassVar[Mapping[str, Check]] = {
        "cpu": quantities.cores,
        "memory": quantities.size,
        "gpu": config.whole(0),
        "ephemeral_storage": quantities.size,
        "extended": quantities.extended,
    }


class RestartPolicy(Enum):
    """What happens when a container of a replica has ended."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    # Flyte's name for it.
    FAILURE = "OnFailure"
    NEVER = "Never"


class CleanPodPolicy(Enum):
    """Which pods are removed when the job is over."""

    NONE = "None"
    RUNNING = "Running"
    ALL = "All"


def _time_to_live(name: str, value: object) -> int:
    found = config.whole(0)(name, value)
    if not found:
        raise ConfigError(name, "0 removes the job before its result is read; leave it out, the task deletes its job")
    return found


class RunPolicy(Config):
    """How a job ends and what remains of it.

    Attributes:
        clean_pod_policy: which pods are removed at the end.
        ttl_seconds_after_finished: seconds until the finished job itself is removed, at least 1; a day by default.
        active_deadline_seconds: seconds that the job may run, at least 1; five minutes more than
            ``execution_timeout`` by default.
        backoff_limit: restarts before the job fails; by default three for each pod that may restart.
    """

    clean_pod_policy: CleanPodPolicy | str | None = None
    ttl_seconds_after_finished: int | str | None = None
    active_deadline_seconds: int | str | None = None
    backoff_limit: int | str | None = None

    checks: ClassVar[Mapping[str, Check]] = {
        "clean_pod_policy": config.member(CleanPodPolicy),
        "ttl_seconds_after_finished": _time_to_live,
        "active_deadline_seconds": config.whole(1),
        "backoff_limit": config.whole(0),
    }


class Replica(Config):
    """One group of equal pods.

    Attributes:
        replicas: how many pods.
        image: image of this group; None takes the job's.
        requests: what the scheduler reserves for each pod.
        limits: what each pod may use at most.
        restart_policy: what happens when a container has ended.
        pod_template: a PodTemplateSpec to start from, as a mapping.
        command: a program and its arguments for this group, in a task without a function.
    """

    replicas: int | str | None = None
    image: str | None = None
    requests: Resources | Mapping[str, object] | None = None
    limits: Resources | Mapping[str, object] | None = None
    restart_policy: RestartPolicy | str | None = None
    pod_template: Object | None = None
    command: Sequence[str] | None = None

    checks: ClassVar[Mapping[str, Check]] = {
        "replicas": config.whole(0),
        "image": config.text,
        "requests": config.of(Resources),
        "limits": config.of(Resources),
        "restart_policy": config.member(RestartPolicy),
        "pod_template": podfields.check_pod_template,
        "command": config.words,
    }

    def over(self, base: Replica) -> Replica:
        """The same with the fields of ``base`` where it sets none itself; resources are taken one by one."""
        return base.merged(self.plain())

    def check_together(self) -> None:
        limits = _amounts(self.limits)
        for name, requested in _amounts(self.requests).items():
            limit = limits.get(name)
            if limit is None:
                continue
            if amount(requested) > amount(limit):
                raise ConfigError(f"requests.{name}", f"is {requested}, more than its limit of {limit}")
            if "/" in name and amount(requested) != amount(limit):
                raise ConfigError(
                    f"requests.{name}", f"is {requested} and its limit {limit}; Kubernetes requires them to be equal"
                )


def _amounts(given: object) -> dict[str, str | int | float]:
    """Quantities by field or full name, without those that are still templates."""
    if not isinstance(given, Resources):
        return {}
    fields = {name: value for name, value in given.values().items() if name != "extended"}
    fields["nvidia.com/gpu"] = fields.pop("gpu")
    known = {**fields, **(given.extended or {})}
    return {name: value for name, value in known.items() if value is not None and not config.is_template(value)}
