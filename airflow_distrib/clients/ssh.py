"""A login node over SSH: scripts for its shell and files over SFTP, through one connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from airflow_distrib.core.errors import ClusterError, ConfigError, MissingExtra

if TYPE_CHECKING:
    import asyncssh

log = logging.getLogger(__name__)

T = TypeVar("T")

# OpenSSH allows 10 sessions on a connection (MaxSessions); SFTP takes one for itself.
SESSIONS = 8
# Files read or written at once through the one SFTP session.
TRANSFERS = 16
# How often a call is tried when the connection breaks or cannot be made: about two minutes.
ATTEMPTS = 10
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
# A connection that is silent for so long is dead: three keep-alives.
KEEPALIVE_SECONDS, KEEPALIVES = 15, 3
COMMAND_SECONDS = 90.0


class Unreachable(ClusterError):
    """The login node does not answer, or the connection to it broke."""


class Refused(ClusterError):
    """The login node, or we, refused to go on: a key, a host key."""


@dataclass(frozen=True)
class SshSettings:
    """How to reach a login node.

    Attributes:
        private_keys: texts of keys, with their certificates if they have one.
        known_hosts: lines of a known_hosts file; None takes the user's own file.
        host_key: the server's one public key, instead of ``known_hosts``.
        any_host: trust whoever answers.
        jump: a host to go through.
        slurm_path: folder of Slurm's commands, where the login shell does not find them.
        workdir: where jobs' private folders are made, unless a job says otherwise.
    """

    host: str
    port: int = 22
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    private_keys: tuple[tuple[str, str | None], ...] = field(default=(), repr=False)
    passphrase: str | None = field(default=None, repr=False)
    use_agent: bool = True
    known_hosts: str | None = None
    host_key: str | None = None
    any_host: bool = False
    proxy_command: str | None = None
    jump: SshSettings | None = None
    connect_timeout: float = 30.0
    slurm_path: str = ""
    workdir: str = ""

    @property
    def place(self) -> str:
        """For messages: ``user@host:port``."""
        return f"{self.username or '(the worker)'}@{self.host}:{self.port}"


class Finished(NamedTuple):
    """What a script left."""

    code: int
    out: str
    err: str


def _asyncssh() -> Any:
    try:
        import asyncssh
    except ImportError as error:
        raise MissingExtra("slurm", "asyncssh") from error
    # Every connection and channel is told at INFO, into the log of whichever task came first.
    asyncssh.set_log_level(logging.WARNING)
    return asyncssh


class SshClient:
    """One connection, made when it is first needed and made again when it breaks.

    Args:
        renew: reads the settings again before each further connection: a key may have changed.
        attempts: how often a call is tried in all.
    """

    def __init__(
        self,
        settings: SshSettings,
        renew: Callable[[], Awaitable[SshSettings]] | None = None,
        *,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.settings = settings
        self._renew = renew
        self.connections = 0
        self._ssh = _asyncssh()
        self._attempts = attempts
        self._connection: asyncssh.SSHClientConnection | None = None
        self._jumps: list[asyncssh.SSHClientConnection] = []
        self._sftp: asyncssh.SFTPClient | None = None
        self._lock = asyncio.Lock()
        self._sftp_lock = asyncio.Lock()
        self._sessions = asyncio.Semaphore(SESSIONS)
        self._transfers = asyncio.Semaphore(TRANSFERS)
        self._last_error: tuple[float, ClusterError] | None = None
        self._pause = FIRST_PAUSE

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------ connecting

    async def _connected(self) -> asyncssh.SSHClientConnection:
        """The connection; after one that failed, nobody else tries for a while."""
        async with self._lock:
            if self._connection is not None and not self._connection.is_closed():
                return self._connection
            if self._last_error is not None and time.monotonic() < self._last_error[0]:
                raise self._last_error[1]
            await self._drop()
            try:
                if self._renew is not None and (self.connections or self._last_error):
                    self.settings = await self._renew()
                self._connection = await self._connect(self.settings)
            except ClusterError as error:
                self._last_error = (time.monotonic() + self._pause * random.uniform(0.5, 1.0), error)  # noqa: S311
                self._pause = min(self._pause * 2, LONGEST_PAUSE)
                raise
            self._last_error, self._pause = None, FIRST_PAUSE
            self.connections += 1
            return self._connection

    async def _connect(self, settings: SshSettings) -> asyncssh.SSHClientConnection:
        ssh = self._ssh
        tunnel = None
        if settings.jump is not None:
            tunnel = await self._connect(settings.jump)
            self._jumps.append(tunnel)
        options = self._options(settings)
        try:
            async with asyncio.timeout(settings.connect_timeout):
                connection: asyncssh.SSHClientConnection = await ssh.connect(
                    settings.host, port=settings.port, tunnel=tunnel, **options
                )
        except ssh.HostKeyNotVerifiable as error:
            raise Refused(
                f"the host key of {settings.host}:{settings.port} is not the one that is trusted, or none is: {error}. "
                "Put the right one into known_hosts or host_key of the connection's extra; if it has changed, find out "
                "why first"
            ) from error
        except ssh.PermissionDenied as error:
            raise Refused(f"{settings.place} does not accept the connection's key or password: {error}") from error
        except (OSError, TimeoutError, ssh.Error) as error:
            told = str(error) or f"no answer within {settings.connect_timeout:g} s"
            raise Unreachable(f"no SSH connection to {settings.place}: {told}") from error
        return connection

    def _options(self, settings: SshSettings) -> dict[str, Any]:
        options: dict[str, Any] = {
            "known_hosts": self._trusted(settings),
            "keepalive_interval": KEEPALIVE_SECONDS,
            "keepalive_count_max": KEEPALIVES,
            "passphrase": settings.passphrase,
            "encoding": "utf-8",
        }
        if settings.username:
            options["username"] = settings.username
        if settings.password:
            options["password"] = settings.password
        if settings.private_keys:
            options["client_keys"] = [self._key(settings, *each) for each in settings.private_keys]
        if not settings.use_agent:
            options["agent_path"] = None
        if settings.proxy_command:
            options["proxy_command"] = settings.proxy_command
        return options

    def _key(self, settings: SshSettings, key: str, certificate: str | None) -> Any:
        """Keys are only ever in memory."""
        try:
            loaded = self._ssh.import_private_key(key, settings.passphrase)
        except (self._ssh.KeyImportError, ValueError) as error:
            raise ConfigError("private_key", f"of the connection to {settings.host} cannot be read: {error}") from None
        if certificate is None:
            return loaded
        try:
            return loaded, self._ssh.import_certificate(certificate)
        except (self._ssh.KeyImportError, ValueError) as error:
            raise ConfigError("certificate", f"of the connection to {settings.host} cannot be read: {error}") from None

    def _trusted(self, settings: SshSettings) -> Any:
        if settings.any_host:
            log.warning("the host key of %s is not checked: no_host_key_check is set", settings.host)
            return None
        try:
            if settings.host_key is not None:
                return [self._ssh.import_public_key(settings.host_key)], [], []
            text = settings.known_hosts
            if text is None:
                own = Path("~/.ssh/known_hosts").expanduser()
                text = own.read_text(encoding="utf-8") if own.exists() else ""
            return self._ssh.import_known_hosts(text)
        except (self._ssh.KeyImportError, ValueError) as error:
            name = "host_key" if settings.host_key is not None else "known_hosts"
            raise ConfigError(name, f"of the connection to {settings.host} cannot be read: {error}") from None

    async def _drop(self) -> None:
        connections = [each for each in (self._connection, *reversed(self._jumps)) if each is not None]
        self._connection, self._jumps, self._sftp = None, [], None
        for connection in connections:
            connection.abort()

    async def close(self) -> None:
        """Hang up."""
        connection, jumps = self._connection, self._jumps
        self._connection, self._jumps, self._sftp = None, [], None
        for each in (connection, *reversed(jumps)):
            if each is not None:
                each.close()
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(3):
                        await each.wait_closed()

    # ------------------------------------------------------------------ calls

    async def run(self, script: str, *, attempts: int | None = None, seconds: float = COMMAND_SECONDS) -> Finished:
        """Run a script by the login node's ``sh``; it must be one that may be run again.

        It goes through standard input: nothing of it shows in a process list, and the
        user's own shell, whatever it is, has nothing to expand.

        Raises:
            Unreachable: the connection broke, or could not be made, each time.
            Refused: a key or host key is not accepted.
        """
        return await self._tried(lambda: self._run(script, seconds), attempts)

    async def _run(self, script: str, seconds: float) -> Finished:
        async with self._sessions:
            connection = await self._connected()
            path = self.settings.slurm_path
            head = f'PATH={shlex.quote(path)}:"$PATH"; ' if path else ""
            try:
                async with asyncio.timeout(seconds):
                    # Everything is read before any of it runs, so that no command reads the script.
                    done = await connection.run(
                        "exec sh -s", input=f"{{ {head}export LC_ALL=C\n{script}\n}} </dev/null\n"
                    )
            except TimeoutError:
                raise Unreachable(f"{self.settings.place}: no answer to a command within {seconds:g} s") from None
            except (OSError, self._ssh.Error) as error:
                raise Unreachable(f"{self.settings.place}: {type(error).__name__}: {error}") from error
        if done.exit_status is None:
            # The channel closed without a word: a killed sshd, a broken connection.
            raise Unreachable(f"{self.settings.place}: the connection broke while a command ran")
        # Signals are negative, as everywhere here.
        return Finished(int(done.exit_status), str(done.stdout or ""), str(done.stderr or ""))

    async def _tried(self, call: Callable[[], Awaitable[T]], attempts: int | None) -> T:
        left = self._attempts if attempts is None else attempts
        pause = FIRST_PAUSE
        while True:
            left -= 1
            try:
                return await call()
            except Unreachable as error:
                if left <= 0:
                    raise
                log.debug("%s; trying again", error)
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311 - no secret
            pause = min(pause * 2, LONGEST_PAUSE)

    @contextlib.asynccontextmanager
    async def _files(self) -> AsyncIterator[asyncssh.SFTPClient]:
        ssh = self._ssh
        async with self._transfers:
            try:
                async with self._sftp_lock:
                    connection = await self._connected()
                    if self._sftp is None:
                        self._sftp = await connection.start_sftp_client()
                yield self._sftp
            except (ssh.SFTPConnectionLost, ssh.SFTPNoConnection, ssh.DisconnectError, ssh.ChannelOpenError) as error:
                self._sftp = None
                raise Unreachable(f"{self.settings.place}: SFTP: {type(error).__name__}: {error}") from error
            except ssh.SFTPError:
                raise
            except (ssh.Error, OSError) as error:
                self._sftp = None
                raise Unreachable(f"{self.settings.place}: SFTP: {error}") from error

    async def write(self, path: str, content: bytes, *, attempts: int | None = None) -> None:
        """Write a file that only the user may read.

        Raises:
            ClusterError: it cannot be written: no room, no right.
        """

        async def write() -> None:
            async with self._files() as sftp:
                attributes = self._ssh.SFTPAttrs(permissions=0o600)
                async with sftp.open(path, "wb", attributes) as file:
                    await file.write(content)

        try:
            await self._tried(write, attempts)
        except self._ssh.SFTPError as error:
            raise self._not_written(path, error) from error

    def _not_written(self, path: str, error: Exception) -> ClusterError:
        return ClusterError(
            f"{path} cannot be written on {self.settings.host}: {str(error) or type(error).__name__} (is there room, "
            "and may the user write there?)"
        )

    async def read(self, path: str, offset: int = 0, size: int = -1, *, attempts: int | None = None) -> bytes | None:
        """Read a piece of a file; None when there is no such file, or it may not be read."""

        async def read() -> bytes | None:
            async with self._files() as sftp:
                try:
                    async with sftp.open(path, "rb") as file:
                        piece: Any = await file.read(size, offset)
                        return bytes(piece)
                except (self._ssh.SFTPNoSuchFile, self._ssh.SFTPNoSuchPath, self._ssh.SFTPPermissionDenied):
                    return None
                except self._ssh.SFTPEOFError:
                    return b""

        try:
            return await self._tried(read, attempts)
        except self._ssh.SFTPError as error:
            raise ClusterError(f"{path} cannot be read on {self.settings.host}: {error}") from error

    async def size(self, path: str) -> int | None:
        """How long a file is; None when there is no such file, or it may not be looked at."""
        async with self._files() as sftp:
            try:
                return (await sftp.stat(path)).size
            except (self._ssh.SFTPNoSuchFile, self._ssh.SFTPNoSuchPath, self._ssh.SFTPPermissionDenied):
                return None
            except self._ssh.SFTPError as error:
                raise ClusterError(f"{path} cannot be looked at on {self.settings.host}: {error}") from error

    async def fetch(self, remote: str, local: Path) -> None:
        """Copy a file or a folder from the login node.

        Raises:
            ClusterError: there is no such file, or it cannot be read.
        """

        async def fetch() -> None:
            async with self._files() as sftp:
                await sftp.get(remote, str(local), recurse=True)

        try:
            await self._tried(fetch, None)
        except self._ssh.SFTPError as error:
            raise ClusterError(
                f"{remote} cannot be fetched from {self.settings.host}: {error}", permanent=True
            ) from error

    async def send(self, local: Path, remote: str) -> None:
        """Copy a file or a folder to the login node.

        Raises:
            ClusterError: it cannot be written.
        """

        async def send() -> None:
            async with self._files() as sftp:
                await sftp.put(str(local), remote, recurse=True)

        try:
            await self._tried(send, None)
        except self._ssh.SFTPError as error:
            raise self._not_written(remote, error) from error
