"""A namespace of its own on any cluster that KUBECONFIG leads to, behind a proxy that can fail."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from airflow_distrib.systems.kubernetes.client import ApiError, KubernetesClient, KubernetesSettings
from airflow_stack import wait_for

RBAC = Path(__file__).parents[1] / "docs" / "rbac.yaml"
PLURALS = {"ServiceAccount": "serviceaccounts", "Role": "roles", "RoleBinding": "rolebindings"}
JOBS = {
    "pytorchjobs": "/apis/kubeflow.org/v1/namespaces/{}/pytorchjobs",
    "mpijobs": "/apis/kubeflow.org/v2beta1/namespaces/{}/mpijobs",
    "pods": "/api/v1/namespaces/{}/pods",
    "secrets": "/api/v1/namespaces/{}/secrets",
}
LABEL = "airflow-distrib/job"


class Proxy:
    """Passes connections on to the API server, until it is told not to."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: set[socket.socket] = set()
        self._down = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._down:
                client.close()
                continue
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._pairs |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            self._pairs.discard(end)

    def cut(self) -> None:
        """Break every connection there is."""
        for end in list(self._pairs):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Refuse everybody for a while."""
        self._down = True
        self.cut()
        try:
            yield
        finally:
            self._down = False

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
        self.cut()


class Cluster:
    """One namespace, with the account that docs/rbac.yaml describes."""

    def __init__(self) -> None:
        self.namespace = f"airflow-distrib-{secrets.token_hex(3)}"
        self._admin = KubernetesSettings(kube_config_path=os.environ["KUBECONFIG"].split(":")[0])
        self._server: dict[str, Any] = {}
        self.proxy = self._make_proxy()

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One request as the owner of the kubeconfig."""

        async def call() -> Any:
            async with KubernetesClient(self._admin) as client:
                return await client.request(method, path, attempts=3, **arguments)

        return asyncio.run(call())

    def _make_proxy(self) -> Proxy:
        kubeconfig = yaml.safe_load(Path(str(self._admin.kube_config_path)).read_text())
        context = next(c["context"] for c in kubeconfig["contexts"] if c["name"] == kubeconfig["current-context"])
        self._server = next(c["cluster"] for c in kubeconfig["clusters"] if c["name"] == context["cluster"])
        address = urlsplit(self._server["server"])
        return Proxy(str(address.hostname), address.port or 443)

    # ------------------------------------------------------------------ set-up

    def create_namespace(self, name: str) -> None:
        """A namespace with the account's rights in it."""
        self.call("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
        for document in yaml.safe_load_all(RBAC.read_text()):
            group = "/api/v1" if document["apiVersion"] == "v1" else f"/apis/{document['apiVersion']}"
            if document["kind"] == "RoleBinding":
                document["subjects"][0]["namespace"] = self.namespace
            self.call("POST", f"{group}/namespaces/{name}/{PLURALS[document['kind']]}", body=document)

    def delete_namespace(self, name: str) -> None:
        """With everything in it."""
        with contextlib.suppress(ApiError):
            self.call("DELETE", f"/api/v1/namespaces/{name}")

    def connection(self) -> str:
        """An Airflow connection, as JSON, that has the account's rights and goes through the proxy."""
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/airflow-distrib/token"
        body = {"spec": {"expirationSeconds": 7200}}
        token = self.call("POST", path, body=body)["status"]["token"]
        address = urlsplit(self._server["server"])
        server = {**self._server, "server": f"https://127.0.0.1:{self.proxy.port}"}
        if address.hostname != "127.0.0.1":
            server["tls-server-name"] = address.hostname
        authority = server.pop("certificate-authority", None)
        if authority:
            server["certificate-authority-data"] = base64.b64encode(Path(authority).read_bytes()).decode()
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": server}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        extra = {"kube_config": json.dumps(kubeconfig), "namespace": self.namespace}
        return json.dumps({"conn_type": "kubernetes", "extra": extra})

    # ------------------------------------------------------------------ looking

    def objects(self, plural: str, namespace: str | None = None) -> list[Mapping[str, Any]]:
        """This package's objects of one kind."""
        path = JOBS[plural].format(namespace or self.namespace)
        return list(self.call("GET", path, query={"labelSelector": LABEL})["items"])

    def of_run(self, run_id: str, task_id: str) -> dict[str, list[str]]:
        """Names of all that is left of a task's jobs, by kind."""
        found: dict[str, list[str]] = {}
        names = set()
        for plural in ("pytorchjobs", "mpijobs"):
            for item in self.objects(plural):
                identity = json.loads(item["metadata"]["annotations"]["airflow-distrib/identity"])
                if (identity["run_id"], identity["task_id"]) == (run_id, task_id):
                    found.setdefault(plural, []).append(item["metadata"]["name"])
        for plural in ("pods", "secrets"):
            for item in self.objects(plural):
                labels = item["metadata"]["labels"]
                names.add(labels[LABEL])
                if labels["airflow-distrib/task"] == task_id and self._is_of(labels, run_id):
                    found.setdefault(plural, []).append(item["metadata"]["name"])
        return found

    @staticmethod
    def _is_of(labels: Mapping[str, str], run_id: str) -> bool:
        from airflow_distrib.core.identity import JobIdentity

        return labels["airflow-distrib/run"] == JobIdentity("", run_id, "", -1, 1).labels()["airflow-distrib/run"]

    def job(self, run_id: str, task_id: str, plural: str = "pytorchjobs") -> Mapping[str, Any]:
        """The one job of a task; waits for it."""

        def look() -> Mapping[str, Any] | None:
            for item in self.objects(plural):
                identity = json.loads(item["metadata"]["annotations"].get("airflow-distrib/identity", "{}"))
                if (identity.get("run_id"), identity.get("task_id")) == (run_id, task_id):
                    return None if item["metadata"].get("deletionTimestamp") else item
            return None

        return wait_for(f"the job of {task_id}", look, 120)

    def wait_for_nothing_left(self, run_id: str, task_id: str) -> None:
        """No job, pod or Secret of a task; fails with what is there."""
        try:
            wait_for("nothing to be left", lambda: not self.of_run(run_id, task_id), 90, every=1)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.of_run(run_id, task_id)}") from None


@contextlib.contextmanager
def running() -> Iterator[Cluster]:
    """A namespace that is deleted in the end."""
    cluster = Cluster()
    cluster.create_namespace(cluster.namespace)
    try:
        yield cluster
    finally:
        cluster.delete_namespace(cluster.namespace)
        cluster.proxy.close()
