"""The client against a server that refuses, breaks and comes back."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from airflow_distrib.clients import kubernetes
from airflow_distrib.systems.kubernetes.client import ApiError, KubernetesClient, KubernetesSettings, Unreachable
from airflow_distrib.core.errors import ClusterError, MissingExtra
from fake_kubernetes import FakeKubernetes

PODS = "/api/v1/namespaces/ns/pods"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "FIRST_PAUSE", 0.001)


def run(test: Callable[[FakeKubernetes], Coroutine[Any, Any, None]]) -> None:
    """Run a test with a server of its own."""

    async def main() -> None:
        async with FakeKubernetes() as api:
            await test(api)

    asyncio.run(main())


def answers(*statuses: int | web.Response) -> Callable[[Any], int | web.Response | None]:
    """Refuse with each of these once."""
    left = list(statuses)
    return lambda _: left.pop(0) if left else None


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_for_again(status: int) -> None:
    """With growing pauses."""

    async def test(api: FakeKubernetes) -> None:
        api.refuse = answers(status, status, status)
        async with api.client() as client:
            assert (await client.request("GET", PODS))["items"] == []
        assert api.requests[f"GET {PODS}"] == 4

    run(test)


@pytest.mark.parametrize(("status", "permanent"), [(400, True), (403, False), (404, False), (409, False), (422, True)])
def test_what_stays_refused_is_an_error_with_the_servers_words(status: int, permanent: bool) -> None:
    """And not asked for again."""

    async def test(api: FakeKubernetes) -> None:
        api.refuse = lambda _: status
        async with api.client() as client:
            with pytest.raises(ApiError, match=f"GET {PODS}: {status} Refused: by the test") as caught:
                await client.request("GET", PODS)
        assert caught.value.permanent is permanent
        assert api.requests[f"GET {PODS}"] == 1

    run(test)


def test_a_server_says_itself_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry-After."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float, *_: Any) -> None:
        pauses.append(seconds)
        await sleep(0)

    async def test(api: FakeKubernetes) -> None:
        api.refuse = answers(web.Response(status=429, headers={"Retry-After": "7"}))
        async with api.client() as client:
            monkeypatch.setattr(kubernetes.asyncio, "sleep", note)
            await client.request("GET", PODS)

    run(test)
    assert 7 in pauses


def test_a_new_token_is_asked_for_when_the_old_one_is_refused(tmp_path: Path) -> None:
    """By the kubeconfig's exec plugin, and without breaking anybody's stream."""
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

    async def test(api: FakeKubernetes) -> None:
        async with KubernetesClient(api.settings({"exec": exec_plugin})) as client:
            await client.request("GET", PODS)
            api.tokens = {"t1"}
            await client.request("GET", PODS)
        assert count.read_text() == "2"

    run(test)


def test_a_server_that_is_not_there_is_named() -> None:
    """With its address."""

    async def main() -> None:
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

    asyncio.run(main())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (KubernetesSettings(kube_config_path="/no/such/file"), "kubeconfig is /no/such/file"),
        (KubernetesSettings(in_cluster=True), "the connection says in_cluster"),
        (KubernetesSettings(kube_config={"clusters": []}), "the connection holds the kubeconfig"),
    ],
)
def test_a_login_that_cannot_work_says_where_it_comes_from(settings: KubernetesSettings, message: str) -> None:
    """Not only what is wrong."""

    async def main() -> None:
        async with KubernetesClient(settings) as client:
            with pytest.raises(ClusterError, match=f"cannot log in to Kubernetes: .*{message}"):
                await client.request("GET", PODS, attempts=1)

    asyncio.run(main())


def test_without_its_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready to be copied."""
    monkeypatch.setitem(sys.modules, "kubernetes_asyncio", None)

    async def main() -> None:
        async with KubernetesClient(KubernetesSettings()) as client:
            with pytest.raises(MissingExtra, match=r"pip install 'airflow-distrib\[kubernetes\]'"):
                await client.request("GET", PODS)

    asyncio.run(main())


def test_a_stream_that_falls_silent_is_an_error() -> None:
    """A connection may die without a word."""

    async def test(api: FakeKubernetes) -> None:
        query = {"watch": "true", "resourceVersion": "100"}
        async with api.client() as client:
            with pytest.raises(Unreachable, match="the stream ended"):
                async with client.stream(PODS, query, quiet_for=0.1) as pieces:
                    async for piece in pieces:
                        raise AssertionError(json.loads(piece))

    run(test)
