"""These tests run the client against a server that refuses, breaks off and comes back."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from airflow_distrib.core.errors import ClusterError, MissingExtra
from airflow_distrib.systems.kubernetes import client as clients
from airflow_distrib.systems.kubernetes.client import ApiError, KubernetesClient, KubernetesSettings, Unreachable
from fake_kubernetes import FakeKubernetes

PODS = "/api/v1/namespaces/ns/pods"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "FIRST_PAUSE", 0.001)


@pytest.fixture
async def api() -> AsyncIterator[FakeKubernetes]:
    """Start a server for one test."""
    async with FakeKubernetes() as server:
        yield server


def answers(*statuses: int | web.Response) -> Callable[[web.Request], int | web.Response | None]:
    """Return a refusal that refuses once with each of these."""
    remaining = list(statuses)
    return lambda _: remaining.pop(0) if remaining else None


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_what_may_pass_is_requested_again(api: FakeKubernetes, status: int) -> None:
    """A server that is busy or restarts does not fail a task."""
    api.refuse = answers(status, status, status)
    async with api.client() as client:
        assert (await client.request("GET", PODS))["items"] == []
    assert api.requests[f"GET {PODS}"] == 4


@pytest.mark.parametrize(("status", "permanent"), [(400, True), (403, False), (404, False), (409, False), (422, True)])
async def test_a_refusal_that_stays_is_an_error_with_the_words_of_the_server(
    api: FakeKubernetes, status: int, permanent: bool
) -> None:
    """The user reads the server's own reason at once, and the same request is not sent in vain again."""
    api.refuse = lambda _: status
    async with api.client() as client:
        with pytest.raises(ApiError, match=f"GET {PODS}: {status} Refused: by the test") as caught:
            await client.request("GET", PODS)
    assert caught.value.permanent is permanent
    assert api.requests[f"GET {PODS}"] == 1


async def test_the_pause_is_as_long_as_the_server_asks_for(
    api: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that protects itself with Retry-After is not asked again too early."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float, result: object = None) -> object:
        pauses.append(seconds)
        return await sleep(0, result)

    api.refuse = answers(web.Response(status=429, headers={"Retry-After": "7"}))
    async with api.client() as client:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "sleep", note)
            await client.request("GET", PODS)
    assert 7 in pauses


async def test_a_new_token_is_requested_when_the_old_one_is_refused(api: FakeKubernetes, tmp_path: Path) -> None:
    """A token from a kubeconfig's exec plugin may expire in the middle of a job without failing it."""
    count = tmp_path / "count"
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "import json, pathlib\n"
        f"path = pathlib.Path({str(count)!r})\n"
        "n = int(path.read_text()) if path.exists() else 0\n"
        "path.write_text(str(n + 1))\n"
        "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential',"
        " 'status': {'token': f't{n}'}}))\n"
    )
    exec_plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": [str(plugin)],
        "interactiveMode": "Never",
    }
    async with KubernetesClient(api.settings({"exec": exec_plugin})) as client:
        await client.request("GET", PODS)
        api.tokens = {"t1"}
        await client.request("GET", PODS)
    assert count.read_text() == "2"


async def test_a_server_that_is_not_there_is_named() -> None:
    """The user sees from the address that the connection leads somewhere else than intended."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    kubeconfig = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    async with KubernetesClient(KubernetesSettings(kube_config=kubeconfig)) as client:
        with pytest.raises(Unreachable, match=f"http://127.0.0.1:{port} does not answer"):
            await client.request("GET", PODS, attempts=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (KubernetesSettings(kube_config_path="/no/such/file"), "kubeconfig is /no/such/file"),
        (KubernetesSettings(in_cluster=True), "in_cluster is set in the connection"),
        (KubernetesSettings(kube_config={"clusters": []}), "the kubeconfig is in the connection"),
    ],
)
async def test_a_login_that_cannot_work_names_where_it_comes_from(settings: KubernetesSettings, message: str) -> None:
    """The user learns which of several kubeconfigs to correct, and not only what is wrong with it."""
    async with KubernetesClient(settings) as client:
        with pytest.raises(ClusterError, match=f"cannot log in to Kubernetes: .*{message}"):
            await client.request("GET", PODS, attempts=1)


async def test_without_its_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error holds the command that installs what is missing, ready to be copied."""
    monkeypatch.setitem(sys.modules, "kubernetes_asyncio", None)
    async with KubernetesClient(KubernetesSettings()) as client:
        with pytest.raises(MissingExtra, match=r"pip install 'airflow-distrib\[kubernetes\]'"):
            await client.request("GET", PODS)


async def test_a_stream_that_falls_silent_is_an_error(api: FakeKubernetes) -> None:
    """A connection may die unnoticed, and a watch on it would wait for ever."""
    query = {"watch": "true", "resourceVersion": "100"}
    async with api.client() as client:
        with pytest.raises(Unreachable, match="the stream ended"):
            async with client.stream(PODS, query, quiet_for=0.1) as pieces:
                async for piece in pieces:
                    raise AssertionError(json.loads(piece))
