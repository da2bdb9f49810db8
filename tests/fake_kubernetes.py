"""FakeKubernetes is an API server in memory that lists, watches, streams logs and refuses as the real one does."""

from __future__ import annotations

import asyncio
import collections
import copy
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Self

from aiohttp import web

from airflow_distrib.systems.kubernetes.client import KubernetesClient, KubernetesSettings


class FakeKubernetes:
    """A server that holds objects by path; ``async with`` starts and stops it.

    Attributes:
        requests: how often each method and path was requested.
        refuse: is called for every request; the request is answered with what it returns, unless that is None.
        logs: the text of each pod's log, as whole lines that begin with a time.
        log_closed: pods whose logs are complete, so that whoever follows them comes to an end.
        log_bytes: how many bytes of logs were sent.
        oldest: the version before which a watch cannot begin any more.
        tokens: the credentials that are accepted.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = collections.defaultdict(dict)
        self.requests: collections.Counter[str] = collections.Counter()
        self.refuse: Callable[[web.Request], int | web.Response | None] = lambda _: None
        self.logs: dict[str, str] = {}
        self.log_closed: set[str] = set()
        self.log_bytes = 0
        self.version = 100
        self.oldest = 0
        self.tokens = {"t0"}
        self._events: list[tuple[int, str, str, dict[str, Any]]] = []
        self._changed = asyncio.Event()
        self._streams: set[web.StreamResponse] = set()

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        await self._runner.cleanup()

    def settings(self, user: dict[str, Any] | None = None) -> KubernetesSettings:
        """Return the settings with which a client reaches this server."""
        kubeconfig = {
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": user or {"token": "t0"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        return KubernetesSettings(kube_config=kubeconfig, namespace="ns")

    def client(self) -> KubernetesClient:
        """Return a new client of this server."""
        return KubernetesClient(self.settings())

    # ------------------------------------------------------------------ changing

    def put(self, path: str, found: dict[str, Any], *, silently: bool = False) -> dict[str, Any]:
        """Create or change an object; no watch hears of it if ``silently``."""
        name = found["metadata"]["name"]
        kind = "MODIFIED" if name in self.objects[path] else "ADDED"
        stored = copy.deepcopy(found)
        self.version += 1
        stored["metadata"].setdefault("uid", f"uid-{name}")
        stored["metadata"]["resourceVersion"] = str(self.version)
        self.objects[path][name] = stored
        if not silently:
            self._publish(kind, path, stored)
        return stored

    def remove(self, path: str, name: str, *, silently: bool = False) -> None:
        """Delete an object; no watch hears of it if ``silently``."""
        self.version += 1
        gone = self.objects[path].pop(name)
        gone["metadata"]["resourceVersion"] = str(self.version)
        if not silently:
            self._publish("DELETED", path, gone)

    def bookmark(self, path: str) -> None:
        """Send a bookmark, which names the version that a watch has reached."""
        self._publish("BOOKMARK", path, {"metadata": {"resourceVersion": str(self.version)}})

    def forget_history(self) -> None:
        """Break every stream and answer 410 to watches that begin before now."""
        self.oldest = self.version + 1
        self.version += 1
        self.cut()

    def cut(self) -> None:
        """Break every stream."""
        for stream in list(self._streams):
            if stream._req is not None and stream._req.transport is not None:
                stream._req.transport.abort()

    def _publish(self, kind: str, path: str, found: dict[str, Any]) -> None:
        self._events.append((self.version, kind, path, copy.deepcopy(found)))
        self._changed.set()
        self._changed = asyncio.Event()

    # ------------------------------------------------------------------ serving

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        watching = request.query.get("watch") == "true"
        self.requests[f"{'WATCH' if watching else request.method} {request.path}"] += 1
        refused = self.refuse(request)
        if isinstance(refused, web.Response):
            return refused
        if refused is None and request.headers.get("Authorization", "")[7:] not in self.tokens:
            refused = 401
        if refused is not None:
            return _status(refused, "Refused", "by the test")
        if watching:
            return await self._watch(request)
        if request.path.endswith("/log"):
            return await self._log(request)
        return await self._plain(request)

    async def _plain(self, request: web.Request) -> web.Response:
        path, _, name = request.path.rpartition("/")
        if request.method == "POST":
            body = await request.json()
            if body["metadata"]["name"] in self.objects[request.path]:
                return _status(409, "AlreadyExists", f"{body['metadata']['name']} already exists")
            body["metadata"].setdefault("namespace", "ns")
            return web.json_response(self.put(request.path, body), status=201)
        if name in self.objects.get(path, {}):
            found = self.objects[path][name]
            if request.method == "DELETE":
                wanted = ((await request.json()).get("preconditions") or {}).get("uid")
                if wanted not in (None, found["metadata"]["uid"]):
                    return _status(409, "Conflict", "another uid")
                self.remove(path, name)
            return web.json_response(found)
        if request.path in self.objects or name in ("pods", "events", "pytorchjobs"):
            return self._list(request)
        return _status(404, "NotFound", f"{request.path} not found")

    def _list(self, request: web.Request) -> web.Response:
        items = sorted(self.objects[request.path].values(), key=lambda each: str(each["metadata"]["name"]))
        selector = request.query.get("labelSelector", "")
        key, equals, value = selector.partition("=")
        if equals:
            items = [each for each in items if each["metadata"].get("labels", {}).get(key) == value]
        begin, limit = int(request.query.get("continue", 0)), int(request.query.get("limit", 1000))
        metadata = {"resourceVersion": str(self.version)}
        if begin + limit < len(items):
            metadata["continue"] = str(begin + limit)
        return web.json_response({"metadata": metadata, "items": items[begin : begin + limit]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        if since < self.oldest:
            return _status(410, "Expired", "too old resource version")
        response = web.StreamResponse()
        await response.prepare(request)
        self._streams.add(response)
        try:
            while True:
                changed = self._changed
                for version, kind, path, found in self._events:
                    fresh = version > since or (kind == "BOOKMARK" and version == since)
                    if fresh and path == request.path:
                        await response.write(json.dumps({"type": kind, "object": found}).encode() + b"\n")
                since = self.version
                await changed.wait()
        finally:
            self._streams.discard(response)

    async def _log(self, request: web.Request) -> web.StreamResponse:
        pod = request.path.split("/")[-2]
        if pod not in self.logs:
            return _status(404, "NotFound", "no such pod")
        since = request.query.get("sinceTime", "")[:19]
        if seconds := request.query.get("sinceSeconds"):
            since = datetime.fromtimestamp(time.time() - float(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%S")
        response = web.StreamResponse()
        await response.prepare(request)
        self._streams.add(response)
        sent = 0
        try:
            while True:
                lines = [line for line in self.logs[pod].splitlines(keepends=True) if line[:19] >= since]
                for line in lines[sent:]:
                    shown = line if request.query.get("timestamps") else line.partition(" ")[2]
                    self.log_bytes += len(shown)
                    await response.write(shown.encode())
                sent = len(lines)
                if request.query.get("follow") != "true" or pod in self.log_closed:
                    return response
                await asyncio.sleep(0.02)
        finally:
            self._streams.discard(response)


def _status(code: int, reason: str, message: str) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return web.json_response(body, status=code)
