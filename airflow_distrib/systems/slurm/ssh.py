"""A login node over SSH: scripts for its shell and files over SFTP, through one connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import shlex
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from airflow_distrib.core.errors import ClusterError
from airflow_distrib.systems.slurm.ssh_settings import SshSettings, library, options

if TYPE_CHECKING:
    import asyncssh

__all__ = ["Finished", "Refused", "SshClient", "SshSettings", "Unreachable"]

log = logging.getLogger(__name__)

T = TypeVar("T")

# OpenSSH allows 10 sessions on a connection (MaxSessions). SFTP takes one for itself, and those that
# have just ended may count a moment longer there.
SESSIONS = 6
# A connection on which nothing has worked for so long, and that takes no further session, is given up.
STALE_SECONDS = 60.0
# Files read or written at once through the one SFTP session.
TRANSFERS = 16
# How often a call is tried when the connection breaks or cannot be made: about five minutes.
ATTEMPTS = 16
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
COMMAND_SECONDS = 90.0
TRANSFER_SECONDS = 600.0


class Unreachable(ClusterError):
    """The login node does not answer, or the connection to it broke."""


class Refused(ClusterError):
    """The login node, or we, refused to go on: a key, a host key."""


class Finished(NamedTuple):
    """What a script left."""

    code: int
    out: str
    err: str


class SshClient:
    """One connection, made when it is first needed and made again when it breaks.

    Args:
        renew: reads the settings again before each further connection: a key may have changed.
        prelude: lines of shell before every script.
        attempts: how often a call is tried in all.
    """

    def __init__(
        self,
        settings: SshSettings,
        renew: Callable[[], Awaitable[SshSettings]] | None = None,
        *,
        attempts: int = ATTEMPTS,
        prelude: str = "export LC_ALL=C",
    ) -> None:
        self.settings = settings
        self._renew = renew
        self._prelude = prelude
        self.connections = 0
        self._ssh = library()
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
        self._worked_at = time.monotonic()

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
        known = options(settings)
        try:
            async with asyncio.timeout(settings.connect_timeout):
                connection: asyncssh.SSHClientConnection = await ssh.connect(
                    settings.host, port=settings.port, tunnel=tunnel, **known
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
            reason = str(error) or f"no answer within {settings.connect_timeout:g} s"
            raise Unreachable(f"no SSH connection to {settings.place}: {reason}") from error
        return connection

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
                    done = await self._finished(connection, f"{{ {head}{self._prelude}\n{script}\n}} </dev/null\n")
            except TimeoutError:
                # The command goes on there, and its channel counts; another node may answer.
                await self._drop()
                raise Unreachable(f"{self.settings.place}: no answer to a command within {seconds:g} s") from None
            except (OSError, self._ssh.Error) as error:
                if isinstance(error, self._ssh.ChannelOpenError) and time.monotonic() > self._worked_at + STALE_SECONDS:
                    # Not only busy: sessions that hang count there for ever.
                    await self._drop()
                raise Unreachable(f"{self.settings.place}: {type(error).__name__}: {error}") from error
        if done.exit_status is None:
            # The channel closed without a word: a killed sshd, a broken connection.
            raise Unreachable(f"{self.settings.place}: the connection broke while a command ran")
        self._worked_at = time.monotonic()
        # Signals are negative, as everywhere here.
        return Finished(int(done.exit_status), str(done.stdout or ""), str(done.stderr or ""))

    async def _finished(self, connection: asyncssh.SSHClientConnection, script: str) -> Any:
        """Run a script and close its channel, whatever happens."""
        process = await connection.create_process("exec sh -s", input=script)
        try:
            return await process.wait()
        finally:
            process.close()

    async def _tried(self, call: Callable[[], Awaitable[T]], attempts: int | None) -> T:
        left = self._attempts if attempts is None else attempts
        pause = FIRST_PAUSE
        while True:
            left -= 1
            try:
                return await call()
            except (Unreachable, TimeoutError) as error:
                if left <= 0:
                    if isinstance(error, TimeoutError):
                        raise Unreachable(f"{self.settings.place}: no answer from its file system") from error
                    raise
                log.debug("%r; trying again", error)
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
            async with asyncio.timeout(TRANSFER_SECONDS), self._files() as sftp:
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
            async with asyncio.timeout(COMMAND_SECONDS), self._files() as sftp:
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

    async def size(self, path: str, *, attempts: int | None = None) -> int | None:
        """How long a file is; None when there is no such file, or it may not be looked at."""

        async def look() -> int | None:
            async with asyncio.timeout(COMMAND_SECONDS), self._files() as sftp:
                try:
                    return (await sftp.stat(path)).size
                except (self._ssh.SFTPNoSuchFile, self._ssh.SFTPNoSuchPath, self._ssh.SFTPPermissionDenied):
                    return None

        try:
            return await self._tried(look, attempts)
        except self._ssh.SFTPError as error:
            raise ClusterError(f"{path} cannot be looked at on {self.settings.host}: {error}") from error

    async def fetch(self, remote: str, local: Path) -> None:
        """Copy a file or a folder from the login node.

        Raises:
            ClusterError: there is no such file, or it cannot be read.
        """

        async def fetch() -> None:
            # What an earlier attempt left would be taken for a folder to copy into.
            await asyncio.to_thread(_remove, local)
            async with self._files() as sftp:
                await sftp.get(remote, str(local), recurse=True, follow_symlinks=True)

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
            await self.run(f"rm -rf -- {shlex.quote(remote)}")
            async with self._files() as sftp:
                await sftp.put(str(local), remote, recurse=True, follow_symlinks=True)

        try:
            await self._tried(send, None)
        except self._ssh.SFTPError as error:
            raise self._not_written(remote, error) from error


def _remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
