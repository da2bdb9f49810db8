"""Checks pod templates when the DAG file is parsed: names of fields, and lists."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.kubernetes import quantities
from airflow_distrib.systems.kubernetes.kind import Manifest, Object

# Kubernetes 1.34: PodSpec and Container.
# https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
POD = frozenset(
    """
    activeDeadlineSeconds affinity automountServiceAccountToken containers dnsConfig dnsPolicy enableServiceLinks
    ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers hostname hostnameOverride imagePullSecrets
    initContainers nodeName nodeSelector os overhead preemptionPolicy priority priorityClassName readinessGates
    resourceClaims resources restartPolicy runtimeClassName schedulerName schedulingGates securityContext
    serviceAccount serviceAccountName setHostnameAsFQDN shareProcessNamespace subdomain
    terminationGracePeriodSeconds tolerations topologySpreadConstraints volumes
    """.split()  # noqa: SIM905 - a list of forty words would take forty lines
)
CONTAINER = frozenset(
    """
    args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe resizePolicy
    resources restartPolicy restartPolicyRules securityContext startupProbe stdin stdinOnce terminationMessagePath
    terminationMessagePolicy tty volumeDevices volumeMounts workingDir
    """.split()  # noqa: SIM905
)
METADATA = frozenset({"labels", "annotations", "name", "namespace", "generateName", "finalizers"})

# Lists of a pod's spec, and the key that each item must have.
_LISTS = {
    "containers": "",
    "initContainers": "name",
    "volumes": "name",
    "tolerations": "",
    "imagePullSecrets": "name",
}


def check_pod_template(name: str, value: object) -> Manifest:
    """Check for a pod template: a mapping with ``metadata`` and ``spec``, its field names and its quantities."""
    if not isinstance(value, Mapping) or not value or not set(value) <= {"metadata", "spec"}:
        raise ConfigError(name, f"must be a mapping with 'metadata' and 'spec' as in a PodTemplateSpec; got {value!r}")
    _check_names(f"{name}.metadata", value.get("metadata"), METADATA)
    spec = value.get("spec")
    _check_names(f"{name}.spec", spec, POD)
    for kind, key in _LISTS.items():
        _check_list(f"{name}.spec.{kind}", (spec or {}).get(kind), key)
    for kind in ("containers", "initContainers"):
        for index, container in enumerate((spec or {}).get(kind) or ()):
            where = f"{name}.spec.{kind}[{index}]"
            _check_names(where, container, CONTAINER)
            for inner, key in (("env", "name"), ("volumeMounts", "mountPath"), ("ports", "containerPort")):
                _check_list(f"{where}.{inner}", container.get(inner), key)
            quantities.check_requirements(f"{where}.resources", container.get("resources"))
    quantities.check_requirements(f"{name}.spec.resources", (spec or {}).get("resources"))
    quantities.check_volumes(f"{name}.spec.volumes", (spec or {}).get("volumes"))
    return dict(value)


def _check_list(where: str, given: object, key: str) -> None:
    """Lists are merged by a key of their items, so every item must have it."""
    if given is None:
        return
    if not isinstance(given, list | tuple):
        raise ConfigError(where, f"must be a list; got {given!r}")
    for index, item in enumerate(given):
        if not isinstance(item, Mapping) or (key and not item.get(key)):
            raise ConfigError(f"{where}[{index}]", f"must be a mapping{f' with {key}' if key else ''}; got {item!r}")


def _check_names(where: str, given: object, known: Iterable[str]) -> None:
    if given is None:
        return
    if not isinstance(given, Mapping):
        raise ConfigError(where, f"must be a mapping; got {given!r}")
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(str(name), list(known), 1, 0.6)
            raise ConfigError(
                f"{where}.{name}", "Kubernetes has no such field" + (f"; did you mean {close[0]!r}?" if close else "")
            )


def volume_names(template: Object | None) -> set[str]:
    """Names of the volumes in a pod template."""
    return {volume["name"] for volume in ((template or {}).get("spec") or {}).get("volumes") or ()}
