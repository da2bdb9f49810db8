"""Merging of Kubernetes objects: what is written last wins, and nothing is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Lists of objects that Kubernetes itself merges by a key of theirs (its "patchMergeKey").
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

# Of these an item is one choice among several: merging two would make both.
WHOLE = frozenset({"env", "volumes", "volumeMounts"})

# Every toleration of a list counts, so both lists do.
JOINED = frozenset({"tolerations", "envFrom"})


def merged(base: Any, over: Any, field: str = "", keys: Mapping[str, str] = KEYS) -> Any:
    """Merge ``over`` into ``base`` without changing either.

    Mappings are merged key by key, and a None removes the key. Lists of named objects are
    merged by name, tolerations are joined, every other list and value is replaced.

    Args:
        keys: by which key of their items lists are merged.
    """
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        result = dict(base)
        for key, value in over.items():
            if value is None:
                result.pop(key, None)
            else:
                result[key] = merged(base.get(key), value, str(key), keys)
        return result
    if _is_list(over) and (base is None or _is_list(base)):
        known = base or []
        if field in keys:
            return _by_key(known, over, field, keys)
        if field in JOINED:
            return [*known, *(item for item in over if item not in known)]
    if isinstance(over, Mapping):
        return merged({}, over, field, keys)
    return list(over) if _is_list(over) else over


def _by_key(base: Sequence[Any], over: Sequence[Any], field: str, keys: Mapping[str, str]) -> list[Any]:
    result = list(base)
    for item in over:
        # Two of the same name within one list are the user's own business: port 53 twice, for one.
        places = [index for index, known in enumerate(base) if _key(known, field, keys) == _key(item, field, keys)]
        if places:
            result[places[0]] = merged({} if field in WHOLE else base[places[0]], item, keys=keys)
        else:
            result.append(merged({}, item, keys=keys))
    return result


def _key(item: Mapping[str, Any], field: str, keys: Mapping[str, str]) -> tuple[Any, ...]:
    extra = {"ports": "protocol", "topologySpreadConstraints": "whenUnsatisfiable"}.get(field)
    return item.get(keys[field]), item.get(extra) if extra else None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
