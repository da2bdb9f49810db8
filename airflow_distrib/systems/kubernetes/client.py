"""A small asynchronous client of the Kubernetes API that speaks plain JSON.

kubernetes_asyncio finds out where the cluster is and how to log in (in-cluster account,
kubeconfig, exec plugins, OIDC); requests go through one aiohttp session that lives as
long as the client. Its generated models cost three times the time per call (measured:
1.0 against 0.3 ms) and know no custom resources.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from airflow_distrib.core.errors import ClusterError, MissingExtra

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger(__name__)

JSON = "application/json"

# Answers that a later attempt may improve: too many requests, and a server in trouble.
RETRIED = frozenset({429, 500, 502, 503, 504})
# A server that has never answered is more likely misspelt than down: some 100 seconds. One
# that has is waited for: some 5 minutes.
FIRST_ATTEMPTS, ATTEMPTS = 12, 24
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
# Seconds for one answer; watches and logs have no end of their own.
TIMEOUT = 30.0


class ApiError(ClusterError):
    """The API server's refusal.

    Attributes:
        status: the HTTP status, such as 404.
        reason: Kubernetes' word for it, such as ``AlreadyExists``.
        message: its sentence.
        retry_after: seconds that the server asks to wait.
    """

    def __init__(self, status: int, reason: str, message: str, what: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{what}: {status} {reason}: {message}", permanent=status in (400, 405, 413, 415, 422))
        self.status, self.reason, self.message, self.what = status, reason, message, what
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[ApiError], tuple[int, str, str, str]]:
        return type(self), (self.status, self.reason, self.message, self.what)


class Unreachable(ClusterError):
    """No answer: connection refused or lost, name not found, certificate not trusted."""


@dataclass(frozen=True)
class KubernetesSettings:
    """Where a cluster is and how to log in, as an Airflow connection of type ``kubernetes`` says it.

    Attributes:
        in_cluster: True uses the pod's own service account; None does so where there is one
            and nothing else is set.
        kube_config_path: path of a kubeconfig; None is $KUBECONFIG or ~/.kube/config.
        kube_config: a whole kubeconfig.
        context: context of the kubeconfig; None is its current one.
        namespace: namespace of jobs that name none.
        verify_tls: False trusts any certificate.
    """

    in_cluster: bool | None = None
    kube_config_path: str | None = None
    kube_config: Mapping[str, Any] | None = None
    context: str | None = None
    namespace: str = "default"
    verify_tls: bool = True


class KubernetesClient:
    """Requests to one API server; use it as an asynchronous context manager, in one event loop.

    Args:
        anew: reads the settings again, when the credentials they hold are refused.
    """

    def __init__(
        self, settings: KubernetesSettings, anew: Callable[[], Awaitable[KubernetesSettings]] | None = None
    ) -> None:
        self.settings = settings
        self._anew = anew
        self.requests = 0
        self._configuration: Any = None
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._has_answered = False

    @property
    def namespace(self) -> str:
        """Namespace of jobs that name none."""
        return self.settings.namespace

    @property
    def host(self) -> str:
        """Address of the API server, once it was asked."""
        return str(self._configuration.host) if self._configuration else ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; the next request opens them again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # ------------------------------------------------------------------ requests

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
        attempts: int | None = None,
    ) -> Any:
        """One request and its JSON answer, asked again with growing pauses while that may help.

        Raises:
            ApiError: the server refused.
            Unreachable: it never answered.
        """
        attempt = 0
        while True:
            attempt += 1
            limit = attempts or (ATTEMPTS if self._has_answered else FIRST_ATTEMPTS)
            try:
                async with self._send(method, path, query, body, content_type, TIMEOUT) as response:
                    return await _json_of(response)
            except ApiError as error:
                if error.status not in RETRIED or attempt >= limit:
                    raise
                pause = max(_pause(attempt), error.retry_after)
            except Unreachable as error:
                if attempt >= limit:
                    raise
                pause = _pause(attempt)
                log.info("%s; attempt %s of %s", error, attempt, limit)
            await asyncio.sleep(pause)

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], *, quiet_for: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open an answer that goes on, such as a watch or a log; gives its pieces as they come.

        Args:
            quiet_for: seconds of silence after which the connection counts as lost.

        Raises:
            ApiError: the server refused.
            Unreachable: it does not answer, or fell silent.
        """
        async with self._send("GET", path, query, None, JSON, None, quiet_for) as response:
            yield self._pieces(response)

    @staticmethod
    async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        import aiohttp

        try:
            async for piece, _ in response.content.iter_chunks():
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"the stream ended: {type(error).__name__}: {error}") from error

    @contextlib.asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content_type: str,
        total: float | None,
        quiet_for: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send once, and once more with fresh credentials when they were refused."""
        import aiohttp

        await self._open()
        timeout = aiohttp.ClientTimeout(total=total, sock_connect=10, sock_read=quiet_for)
        data = json.dumps(body).encode() if body is not None else None
        for again in (True, False):
            response = await self._answer(method, path, query, data, content_type, timeout)
            self._has_answered = True
            async with response:
                if response.status == 401 and again:
                    await self._open(renew=True)
                    continue
                if response.status >= 400:
                    raise await _error_of(response, f"{method} {path}")
                yield response
                return

    async def _answer(
        self, method: str, path: str, query: Any, data: bytes | None, content_type: str, limits: Any
    ) -> aiohttp.ClientResponse:
        import aiohttp

        assert self._session is not None
        configuration = self._configuration
        headers = {"Content-Type": content_type, "Accept": JSON, "User-Agent": "airflow-distrib"}
        try:
            token = await configuration.get_api_key_with_prefix("BearerToken")
        except Exception as error:
            raise Unreachable(f"no token for {configuration.host}: {type(error).__name__}: {error}") from error
        if token:
            headers["Authorization"] = token
        options = {"proxy": configuration.proxy} if configuration.proxy else {}
        if configuration.tls_server_name:
            options["server_hostname"] = configuration.tls_server_name
        self.requests += 1
        try:
            return await self._session.request(
                method,
                f"{configuration.host}{path}",
                params=query,
                data=data,
                headers=headers,
                timeout=limits,
                **options,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            detail = str(error) or type(error).__name__
            raise Unreachable(f"the Kubernetes API at {configuration.host} does not answer: {detail}") from error

    # ------------------------------------------------------------------ logging in

    async def _open(self, *, renew: bool = False) -> None:
        async with self._opening:
            if self._session is not None and not self._session.closed and not renew:
                return
            import aiohttp

            if renew and self._anew is not None:
                self.settings = await self._anew()
            self._configuration = await _configuration(self.settings)
            if self._session is not None and not self._session.closed and not self._configuration.cert_file:
                # A new token goes into the next request's header; streams of others live on.
                return
            await self.close()
            tls = await asyncio.to_thread(_tls_of, self._configuration)
            # The default of 100 connections would make the 101st log wait for another's end.
            connector = aiohttp.TCPConnector(ssl=tls, limit=0)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=True, read_bufsize=2**21)


async def _json_of(response: aiohttp.ClientResponse) -> Any:
    import aiohttp

    try:
        return await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        # The server went away in the middle of its answer.
        raise Unreachable(f"the answer broke off: {type(error).__name__}: {error}") from error


def _pause(attempt: int) -> float:
    """Growing, and different for everybody: a server that comes back is not met by all at once."""
    return float(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5))  # noqa: S311 - no secret


async def _error_of(response: aiohttp.ClientResponse, what: str) -> ApiError:
    text = await response.text(errors="replace")
    try:
        status = json.loads(text)
        reason, message = str(status.get("reason") or response.reason), str(status.get("message") or text)
    except (ValueError, AttributeError):
        reason, message = str(response.reason), text[:500]
    retry_after = 0.0
    with contextlib.suppress(ValueError):
        retry_after = min(60.0, float(response.headers.get("Retry-After", "0")))
    return ApiError(response.status, reason, message, what, retry_after)


async def _configuration(settings: KubernetesSettings) -> Any:
    """Find the cluster.

    Raises:
        MissingExtra: kubernetes_asyncio is not installed.
        ClusterError: what the settings name is not there or cannot be used.
    """
    try:
        from kubernetes_asyncio import config
        from kubernetes_asyncio.client import Configuration
    except ImportError:
        raise MissingExtra("kubernetes", "kubernetes_asyncio") from None
    configuration = Configuration()
    try:
        if settings.in_cluster or (settings.in_cluster is None and _nothing_named(settings)):
            try:
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            except config.ConfigException:
                if settings.in_cluster:
                    raise
                await config.load_kube_config(client_configuration=configuration, persist_config=False)
        elif settings.kube_config is not None:
            await config.load_kube_config_from_dict(
                dict(settings.kube_config), context=settings.context, client_configuration=configuration
            )
        else:
            await config.load_kube_config(
                settings.kube_config_path, settings.context, configuration, persist_config=False
            )
    except (config.ConfigException, OSError, KeyError, TypeError, ValueError) as error:
        raise ClusterError(f"cannot log in to Kubernetes: {error}; {_wanted(settings)}") from error
    configuration.verify_ssl = configuration.verify_ssl and settings.verify_tls
    return configuration


def _nothing_named(settings: KubernetesSettings) -> bool:
    return settings.kube_config is None and not settings.kube_config_path and not settings.context


def _wanted(settings: KubernetesSettings) -> str:
    if settings.in_cluster:
        return "the connection says in_cluster"
    if settings.kube_config is not None:
        return "the connection holds the kubeconfig"
    return f"the kubeconfig is {settings.kube_config_path or '$KUBECONFIG or ~/.kube/config'}"


def _tls_of(configuration: Any) -> ssl.SSLContext:
    """Reads files and parses certificates, so it runs in a thread."""
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if getattr(configuration, "disable_strict_ssl_verification", False):
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
