"""Kubernetes quantities, and the mistakes that are easily made with them: a wrong unit is a valid quantity too.

Syntax and suffixes: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from airflow_distrib.core import config
from airflow_distrib.core.config import Check
from airflow_distrib.core.errors import ConfigError

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(m|k|[MGTPE]|[KMGTPE]i)?")
# As people and other tools write bytes: 8GB, 512 mb, 4gib, 8g.
_COLLOQUIAL = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp])(?:i?b|)", re.IGNORECASE)
_FACTORS = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    **{name: Decimal(1000) ** power for power, name in enumerate("kMGTPE", 1)},
    **{f"{name}i": Decimal(1024) ** power for power, name in enumerate("KMGTPE", 1)},
}
# The full name of a resource that Kubernetes itself does not have: a domain and a name.
_EXTENDED = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")

# Nothing runs in less memory than this, and no machine has more cores.
_LEAST_BYTES, _MOST_CORES = 2**20, 4096


def amount(text: object) -> Decimal:
    """The number that a checked quantity stands for: cores, bytes or pieces."""
    number, suffix = _split(text) or ("0", "")
    return Decimal(number) * _FACTORS[suffix]


def _split(value: object) -> tuple[str, str] | None:
    """Number and suffix; None for what is no quantity."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    match = _QUANTITY.fullmatch(str(value))
    return (match[1], match[2] or "") if match else None


def cores(name: str, value: object) -> str:
    """Check for an amount of CPU, as text or number."""
    parts = _split(value)
    if parts is None:
        raise ConfigError(name, f"must be a number of cores such as 2, '0.5' or '500m'; got {value!r}")
    if parts[1] not in ("", "m"):
        raise ConfigError(name, f"is a number of cores, but {value!r} is a size; write {parts[0]!r}, or set memory")
    if amount(value) > _MOST_CORES:
        number = parts[0].removesuffix(".0")
        raise ConfigError(name, f"{value!r} is {amount(value):f} cores; did you mean '{number}m' (thousandths)?")
    return str(value)


def size(name: str, value: object) -> str:
    """Check for an amount of memory or storage in bytes, as text or number; 0 is allowed."""
    parts = _split(value)
    if parts is None:
        match = _COLLOQUIAL.fullmatch(str(value).strip())
        hint = f"; did you mean '{match[1]}{match[2].upper()}i'?" if match else ""
        raise ConfigError(name, f"must be a size such as '512Mi' or '4Gi'; got {value!r}{hint}")
    if 0 < amount(value) < _LEAST_BYTES:
        tiny = _TINY.get(parts[1], "less than a mebibyte")
        raise ConfigError(name, f"{value!r} is {tiny}; did you mean {_likely_size(*parts)!r}?")
    return str(value)


# What is too small, by its suffix.
_TINY = {"": "a number of bytes", "m": "thousandths of a byte"}


def _likely_size(number: str, suffix: str) -> str:
    if suffix:
        return f"{number}Mi"
    plain = f"{Decimal(number):f}"
    # Machines have few gibibytes, and many mebibytes.
    return f"{plain}{'Gi' if Decimal(number) < 100 else 'Mi'}"


def pieces(name: str, value: object) -> str:
    """Check for a number of devices or the like, which cannot be divided."""
    if _split(value) is None or amount(value) % 1:
        raise ConfigError(name, f"must be a whole number, because it cannot be divided; got {value!r}")
    return str(value)


def _of_resource(name: str) -> Check | None:
    """The check for a resource of Kubernetes' own or with a full name; None for a name that means nothing."""
    if name == "cpu":
        return cores
    if name in ("memory", "ephemeral-storage", "storage") or name.startswith("hugepages-"):
        return size
    return pieces if _EXTENDED.fullmatch(name) else None


def resource_list(name: str, value: object) -> dict[str, str]:
    """Check for a mapping of resources, by Kubernetes' names for them, to quantities."""
    found = {}
    for key, item in _mapping(name, value).items():
        check = _of_resource(key)
        if check is None:
            raise ConfigError(f"{name}[{key!r}]", _UNNAMED)
        found[key] = _checked(f"{name}[{key!r}]", check, item)
    return found


_UNNAMED = "is not the name of a resource; write its full name, such as 'nvidia.com/gpu' or 'rdma/hca'"

# Resources with a field of their own, which must not be asked for twice.
_FIELDS = {"cpu": "cpu", "memory": "memory", "gpu": "gpu", "ephemeral-storage": "ephemeral_storage"}


def extended(name: str, value: object) -> dict[str, str]:
    """Check for a mapping of resources that have no field of their own to quantities."""
    given = _mapping(name, value)
    for key in given:
        if field := _FIELDS.get(key.replace("_", "-")):
            raise ConfigError(f"{name}[{key!r}]", f"is the field {field}; set it there")
    return resource_list(name, given)


def _mapping(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(name, f"must be a mapping of resource names to quantities; got {value!r}")
    return {str(key): item for key, item in value.items()}


def _checked(name: str, check: Check, value: object) -> str:
    return value if config.is_template(value) else check(name, value)  # type: ignore[return-value] # a template is text


def check_requirements(where: str, given: object) -> None:
    """Check ``requests`` and ``limits`` of a container, a pod or a claim, as they stand in a manifest."""
    for kind in ("requests", "limits"):
        if isinstance(given, Mapping) and isinstance(given.get(kind), Mapping):
            resource_list(f"{where}.{kind}", given[kind])


def check_volumes(where: str, given: object) -> None:
    """Check the sizes of volumes that are made for a pod."""
    for index, volume in enumerate(given if isinstance(given, list | tuple) else ()):
        scratch = volume.get("emptyDir") or {}
        if isinstance(scratch, Mapping) and scratch.get("sizeLimit") is not None:
            _checked(f"{where}[{index}].emptyDir.sizeLimit", size, scratch["sizeLimit"])
        claim = volume.get("ephemeral") or {}
        for key in ("volumeClaimTemplate", "spec", "resources"):
            claim = (claim.get(key) if isinstance(claim, Mapping) else None) or {}
        check_requirements(f"{where}[{index}].ephemeral.volumeClaimTemplate.spec.resources", claim)
