"""Merging of Kubernetes objects: the later value wins, and nothing else is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeGuard

from airflow_distrib.systems.kubernetes.kind import Manifest, Object

# Lists that Kubernetes itself merges by a key of their items (its "patchMergeKey").
# https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/
KEYS = {
    "containers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ports": "containerPort",
    "resourceClaims": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}

# Items of these exclude alternatives (a value or a valueFrom), so they are replaced, not merged.
WHOLE = frozenset({"env", "volumes", "volumeMounts"})

# All items of both lists apply.
JOINED = frozenset({"tolerations", "envFrom"})


def merged(base: Object, over: Object, keys: Mapping[str, str] = KEYS) -> Manifest:
    """Merge ``over`` into ``base`` without changing either.

    Mappings are merged key by key, and a None removes the key. Lists of named objects are
    merged by name, tolerations are joined, every other list and value is replaced.

    Args:
        keys: by which key of their items lists are merged.
    """
    result = dict(base)
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged_value(base.get(key), value, str(key), keys)
    return result


def _merged_value(base: object, over: object, field: str, keys: Mapping[str, str]) -> object:
    if isinstance(over, Mapping):
        return merged(base if isinstance(base, Mapping) else {}, over, keys)
    if not _is_list(over):
        return over
    if base is None or _is_list(base):
        known = base or []
        if field in keys:
            return _merged_by_key(known, over, field, keys)
        if field in JOINED:
            return [*known, *(item for item in over if item not in known)]
    return list(over)


def _merged_by_key(base: Sequence[Object], over: Sequence[Object], field: str, keys: Mapping[str, str]) -> list[Object]:
    result = list(base)
    for item in over:
        # Duplicates within one list are kept, such as port 53 for both UDP and TCP.
        matches = [index for index, known in enumerate(base) if _key(known, field, keys) == _key(item, field, keys)]
        if matches:
            result[matches[0]] = merged({} if field in WHOLE else base[matches[0]], item, keys)
        else:
            result.append(merged({}, item, keys))
    return result


def _key(item: Object, field: str, keys: Mapping[str, str]) -> tuple[object, object]:
    extra = {"ports": "protocol", "topologySpreadConstraints": "whenUnsatisfiable"}.get(field)
    return item.get(keys[field]), item.get(extra) if extra else None


def _is_list(value: object) -> TypeGuard[Sequence[Object]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
