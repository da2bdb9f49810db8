"""The ``kubernetes`` connection of Airflow, as this package uses it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_distrib.core.errors import ClusterError, ConfigError, DistribError
from airflow_distrib.hooks.fields import flag
from airflow_distrib.systems.kubernetes.client import KubernetesClient, KubernetesSettings
from airflow_distrib.systems.kubernetes.registry import kinds, rights

DEFAULT = "kubernetes_default"

# Fields of the connection's extra that this package reads, as Airflow's own provider names them.
_FIELDS = (
    "in_cluster",
    "kube_config_path",
    "kube_config",
    "cluster_context",
    "namespace",
    "disable_verify_ssl",
)


class KubernetesHook(BaseHook):
    """Makes clients from a connection of type ``kubernetes``.

    The connection's extra is that of Airflow's own provider: ``in_cluster``,
    ``kube_config_path``, ``kube_config`` (JSON), ``cluster_context``, ``namespace`` and
    ``disable_verify_ssl``. Without a connection named ``kubernetes_default`` the default
    one is the pod's own service account or, outside a cluster, $KUBECONFIG.

    Args:
        kubernetes_conn_id: id of the connection.
    """

    conn_name_attr = "kubernetes_conn_id"
    default_conn_name = DEFAULT
    conn_type = "kubernetes"
    hook_name = "Kubernetes Cluster Connection"

    def __init__(self, kubernetes_conn_id: str = DEFAULT) -> None:
        super().__init__()
        self.kubernetes_conn_id = kubernetes_conn_id

    def settings(self) -> KubernetesSettings:
        """Read the connection.

        Raises:
            ConfigError: it holds something that cannot work.
        """
        try:
            return settings_of(self.get_connection(self.kubernetes_conn_id))
        except AirflowNotFoundException:
            return self._without_connection()

    async def asettings(self) -> KubernetesSettings:
        """Read the connection from within an event loop, as a trigger has to."""
        try:
            return settings_of(await self.aget_connection(self.kubernetes_conn_id))
        except AirflowNotFoundException:
            return self._without_connection()

    def _without_connection(self) -> KubernetesSettings:
        if self.kubernetes_conn_id != DEFAULT:
            raise ConfigError("kubernetes_conn_id", f"there is no connection {self.kubernetes_conn_id!r}") from None
        inside = "KUBERNETES_SERVICE_HOST" in os.environ
        if not inside and not os.environ.get("KUBECONFIG") and not Path("~/.kube/config").expanduser().exists():
            raise ConfigError(
                "kubernetes_conn_id",
                f"there is no connection {DEFAULT!r}, this is no pod of a cluster, and neither $KUBECONFIG nor "
                "~/.kube/config leads to one: make a connection of type kubernetes",
            ) from None
        return KubernetesSettings()

    def get_conn(self) -> KubernetesClient:
        """A client; use it inside the event loop that calls this."""
        return KubernetesClient(self.settings())

    def test_connection(self) -> tuple[bool, str]:
        """For the *Test* button: the server's version, or what is missing."""
        try:
            return True, asyncio.run(self._look())
        except DistribError as error:
            return False, str(error)

    async def _look(self) -> str:
        async with KubernetesClient(self.settings()) as client:
            version = await client.request("GET", "/version", attempts=1)
            groups = await client.request("GET", "/apis", attempts=1)
            names = {group["name"] for group in groups["groups"]}
            groups_wanted = dict.fromkeys(kind.group for kind in kinds() if kind.group)
            found = [f"{name} is {'installed' if name in names else 'missing'}" for name in groups_wanted]
            wanted = [(verb, each.group, each.resource) for each in rights() for verb in each.verbs]
            refused = [each for each in wanted if not await _allowed(client, *each)]
            if refused:
                missing = ", ".join(f"{verb} {resource}" for verb, _, resource in refused)
                raise ClusterError(
                    f"Kubernetes {version['gitVersion']} answers, but in namespace {client.namespace} this account "
                    f"may not {missing}; docs/rbac.yaml lists what is needed"
                )
            return (
                f"Kubernetes {version['gitVersion']} at {client.host}, namespace {client.namespace}; {', '.join(found)}"
            )


async def _allowed(client: KubernetesClient, verb: str, group: str, resource: str) -> bool:
    name, _, sub = resource.partition("/")
    asked = {"namespace": client.namespace, "verb": verb, "group": group, "resource": name, "subresource": sub}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    answer = await client.request("POST", path, body=body, attempts=1)
    return bool(answer["status"]["allowed"])


def settings_of(connection: Connection) -> KubernetesSettings:
    """Settings from a connection's extra.

    Raises:
        ConfigError: a field holds something that cannot work.
    """
    extra = connection.extra_dejson
    values: dict[str, Any] = {name: extra.get(name, extra.get(f"extra__kubernetes__{name}")) for name in _FIELDS}
    values = {name: value for name, value in values.items() if value not in (None, "")}
    where = f"connection {connection.conn_id!r}"
    named = [name for name in ("in_cluster", "kube_config_path", "kube_config") if values.get(name)]
    if len(named) > 1:
        raise ConfigError(where, f"sets {' and '.join(named)}; set only one of them")
    return KubernetesSettings(
        in_cluster=True if flag(where, values, "in_cluster") else None,
        kube_config_path=values.get("kube_config_path"),
        kube_config=_kube_config(where, values.get("kube_config")),
        context=values.get("cluster_context"),
        namespace=values.get("namespace", "default"),
        verify_tls=not flag(where, values, "disable_verify_ssl"),
    )


def _kube_config(where: str, value: Any) -> Mapping[str, object] | None:
    if value is None or isinstance(value, Mapping):
        return value
    try:
        document = json.loads(value)
    except (TypeError, ValueError):
        document = None
    if not isinstance(document, Mapping):
        raise ConfigError(where, "kube_config must be a kubeconfig as JSON")
    return document
