"""What a replica requests and how a job ends: shared by the configs of all systems on Kubernetes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import ClassVar

from airflow_distrib.core import config
from airflow_distrib.core.config import Check, Config
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.kubernetes import podfields
from airflow_distrib.systems.kubernetes.kind import Object

# Kubernetes quantities, such as 500m, 2, 1.5, 4Gi or 1e3.
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")


def quantity(name: str, value: object) -> str:
    """Check for a Kubernetes quantity, as text or number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not _QUANTITY.fullmatch(str(value)):
        raise ConfigError(name, f"must be a quantity such as '500m', '2' or '4Gi'; got {value!r}")
    return str(value)


def quantities(name: str, value: object) -> dict[str, str]:
    """Check for a mapping of resource names to quantities."""
    if not isinstance(value, Mapping):
        raise ConfigError(name, f"must be a mapping of resource names to quantities; got {value!r}")
    return {
        str(key): item if config.is_template(item) else quantity(f"{name}[{key!r}]", item)
        for key, item in value.items()
    }


_FACTORS = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    **{name: Decimal(1000) ** power for power, name in enumerate("kMGTPE", 1)},
    **{f"{name}i": Decimal(1024) ** power for power, name in enumerate("KMGTPE", 1)},
}


def amount(text: str | int | float) -> Decimal:
    """The number that a quantity stands for: cores, bytes or pieces."""
    number, suffix = re.fullmatch(r"([\d.]+(?:[eE][+-]?\d+)?)(\D*)", str(text)).groups()  # type: ignore[union-attr] # checked
    return Decimal(number) * _FACTORS[suffix]


class Resources(Config):
    """Resources of one pod.

    Attributes:
        cpu: cores, such as ``"4"`` or ``"500m"``.
        memory: bytes, such as ``"16Gi"``.
        gpu: number of GPUs.
        ephemeral_storage: bytes of scratch space.
        extended: other resources by their full name, such as ``{"rdma/hca": 1}``.
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
        "cpu": quantity,
        "memory": quantity,
        "gpu": config.whole(0),
        "ephemeral_storage": quantity,
        "extended": quantities,
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


class RunPolicy(Config):
    """How a job ends and what remains of it; None takes the operator's default.

    Attributes:
        clean_pod_policy: which pods are removed at the end.
        ttl_seconds_after_finished: seconds until the finished job itself is removed.
        active_deadline_seconds: seconds that the job may run.
        backoff_limit: restarts before the job fails.
    """

    clean_pod_policy: CleanPodPolicy | str | None = None
    ttl_seconds_after_finished: int | str | None = None
    active_deadline_seconds: int | str | None = None
    backoff_limit: int | str | None = None

    checks: ClassVar[Mapping[str, Check]] = {
        "clean_pod_policy": config.member(CleanPodPolicy),
        "ttl_seconds_after_finished": config.whole(0),
        "active_deadline_seconds": config.whole(0),
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
    """

    replicas: int | str | None = None
    image: str | None = None
    requests: Resources | Mapping[str, object] | None = None
    limits: Resources | Mapping[str, object] | None = None
    restart_policy: RestartPolicy | str | None = None
    pod_template: Object | None = None

    checks: ClassVar[Mapping[str, Check]] = {
        "replicas": config.whole(0),
        "image": config.text,
        "requests": config.of(Resources),
        "limits": config.of(Resources),
        "restart_policy": config.member(RestartPolicy),
        "pod_template": podfields.check_pod_template,
    }

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
