"""What a replica asks for and how a job ends: shared by the configs of all cluster systems."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar

from airflow_distrib.core import config
from airflow_distrib.core.config import Check, Config
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.kubernetes import podfields

# Kubernetes quantities, such as 500m, 2, 1.5, 4Gi or 1e3.
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")


def quantity(name: str, value: Any) -> str:
    """Check for a Kubernetes quantity; numbers are taken as well."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not _QUANTITY.fullmatch(str(value)):
        raise ConfigError(name, f"must be a quantity such as '500m', '2' or '4Gi'; got {value!r}")
    return str(value)


def quantities(name: str, value: Any) -> dict[str, str]:
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
    number, suffix = re.fullmatch(r"([\d.]+(?:[eE][+-]?\d+)?)(\D*)", str(text)).groups()  # type: ignore[union-attr]
    return Decimal(number) * _FACTORS[suffix]


def _gpus(name: str, value: Any) -> int:
    return int(config.whole(0)(name, value))


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
            raise ConfigError("extended['nvidia.com/gpu']", "is gpu by another name; leave one of them")

    checks: ClassVar[Mapping[str, Check]] = {
        "cpu": quantity,
        "memory": quantity,
        "gpu": _gpus,
        "ephemeral_storage": quantity,
        "extended": quantities,
    }


class RestartPolicy(Enum):
    """What Kubernetes does with a replica's pod that ended."""

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
    """How a job ends and what is left of it; zero means zero, None leaves it to the operator.

    Attributes:
        clean_pod_policy: which pods are removed at the end.
        ttl_seconds_after_finished: seconds until the finished job itself is removed.
        active_deadline_seconds: seconds the job may run.
        backoff_limit: restarts before the job is given up.
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
        requests: what the scheduler sets aside for each pod.
        limits: what each pod may use at most.
        restart_policy: what happens to a pod that ended.
        pod_template: a PodTemplateSpec to start from, as a mapping.
    """

    replicas: int | str | None = None
    image: str | None = None
    requests: Resources | Mapping[str, Any] | None = None
    limits: Resources | Mapping[str, Any] | None = None
    restart_policy: RestartPolicy | str | None = None
    pod_template: Mapping[str, Any] | None = None

    checks: ClassVar[Mapping[str, Check]] = {
        "replicas": config.whole(0),
        "image": config.text,
        "requests": config.of(Resources),
        "limits": config.of(Resources),
        "restart_policy": config.member(RestartPolicy),
        "pod_template": podfields.check_pod_template,
    }

    def check_together(self) -> None:
        requests, limits = (
            given if isinstance(given, Resources) else Resources() for given in (self.requests, self.limits)
        )
        for name, asked in _amounts(requests).items():
            most = _amounts(limits).get(name)
            if most is None:
                continue
            if amount(asked) > amount(most):
                raise ConfigError(f"requests.{name}", f"is {asked}, more than its limit of {most}")
            if "/" in name and amount(asked) != amount(most):
                raise ConfigError(f"requests.{name}", f"is {asked} and its limit {most}; Kubernetes wants them equal")


def _amounts(given: Resources) -> dict[str, Any]:
    """What is known already: names of fields, or full names, and quantities."""
    fields = {name: value for name, value in given.values().items() if name != "extended"}
    fields["nvidia.com/gpu"] = fields.pop("gpu")
    known = {**fields, **(given.extended or {})}
    return {name: value for name, value in known.items() if value is not None and not config.is_template(value)}
