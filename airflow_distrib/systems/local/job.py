"""One job of local processes: start it, read its log, stop it, take its outcomes.

The supervisor gets a session of its own, so that the whole job is one process group. It ends
whatever its ranks leave behind, also what has left the group. Its standard input is the
lifeline: it ends when this process ends, however that happens, and the supervisor then stops
the job and removes its folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

from airflow_distrib.core import archive
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.runner import process, report
from airflow_distrib.runner.lines import RELAYED_LINE_BYTES, LineSplitter, RankLine, parse
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.systems.local.plan import LocalPlan

# What the kernel says of a file that is no interpreter.
_NO_INTERPRETER = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC)
# The supervisor ends within its grace period; after this much longer it is killed too.
_PATIENCE_SECONDS = 2.0

# Times that what is left of the process group is looked at, every 0.05 s, before it is killed.
_TRACKER_LOOKS = 8


def port_for(plan: LocalPlan) -> int | None:
    """Choose the job's port, or check the one that the user chose.

    Raises:
        ConfigError: the chosen port is taken.
    """
    name, chosen = plan.port
    if chosen is None and not plan.needs_port:
        return None
    with socket.socket() as probe:
        # As torch binds: a port that only waits for old packets is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", chosen or 0))
        except OSError as error:
            raise ConfigError(
                name,
                f"port {chosen} is taken on {socket.gethostname()} ({error.strerror}); "
                "leave it out and a free one is chosen",
            ) from error
        return int(probe.getsockname()[1])


class LocalJob:
    """A running supervisor with its processes."""

    def __init__(self, supervisor: asyncio.subprocess.Process, directory: Path, grace: float) -> None:
        self._supervisor = supervisor
        self.directory = directory
        self._grace = grace
        self._closed = False
        self.pid, self.host = supervisor.pid, socket.gethostname()
        # The start time tells it from another process that gets the same pid later.
        self.uid = f"{self.pid}:{process.start_time(self.pid)}"

    @property
    def returncode(self) -> int | None:
        """The supervisor's exit status; None while it runs."""
        return self._supervisor.returncode

    async def wait(self) -> int:
        """Wait for the supervisor's end."""
        return await self._supervisor.wait()

    @classmethod
    async def start(
        cls, plan: LocalPlan, payload: bytes, *, python: str | None = None, options: Mapping[str, Any]
    ) -> Self:
        """Write the job's folder and start its supervisor.

        Args:
            options: further fields of the :class:`~airflow_distrib.runner.spec.Spec`.

        Raises:
            ConfigError: a port that the user chose is taken, or ``python`` does not exist.
        """
        port = port_for(plan)
        directory = Path(tempfile.mkdtemp(prefix="airflow-distrib-"))
        try:
            spec = plan.spec(str(directory), port, options)
            (directory / "payload").write_bytes(payload)
            (directory / "spec.json").write_text(spec.to_json(), encoding="utf-8")
            (directory / "runner.pyz").write_bytes(archive.build())
            supervisor = await asyncio.create_subprocess_exec(
                python or sys.executable,
                "-u",
                str(directory / "runner.pyz"),
                str(directory / "spec.json"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=plan.environment(os.environ, port),
                start_new_session=True,
            )
        except BaseException as error:
            shutil.rmtree(directory, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in _NO_INTERPRETER:
                text = f"{python!r} cannot be started on {socket.gethostname()}: {error.strerror}"
                raise ConfigError("python", text) from error
            raise
        return cls(supervisor, directory, spec.grace_seconds)

    async def lines(self) -> AsyncIterator[RankLine]:
        """Lines of the chosen ranks as they come, until the job is over."""
        assert self._supervisor.stdout is not None
        splitter = LineSplitter(limit=RELAYED_LINE_BYTES)
        while data := await self._supervisor.stdout.read(65536):
            for line in splitter.feed(data):
                yield parse(line)
        for line in splitter.flush():
            yield parse(line)

    async def outcomes(self) -> tuple[int, list[Outcome]]:
        """Wait for the end; return the supervisor's exit status and what it left."""
        code = await self._supervisor.wait()
        return code, report.collect(str(self.directory))

    def terminate(self) -> None:
        """Ask the job to stop; returns at once and may be called from a signal handler."""
        if self._supervisor.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    async def close(self) -> None:
        """Stop the job if it still runs, kill what is left of its group, remove its folder."""
        if self._closed:
            return
        self._closed = True
        try:
            self.terminate()
            async with asyncio.timeout(self._grace + _PATIENCE_SECONDS):
                # Nobody reads the log any more; a supervisor that cannot write it cannot end.
                await asyncio.gather(self._discard_output(), self._supervisor.wait())
        except TimeoutError:
            pass
        finally:
            if self._supervisor.returncode is None:
                _kill_all(self.pid)
            await self._let_trackers_end()
            _kill_group(self.pid)
            shutil.rmtree(self.directory, ignore_errors=True)

    async def _let_trackers_end(self) -> None:
        """Python's resource trackers outlive their process by a moment, to remove its semaphores."""
        for _ in range(_TRACKER_LOOKS):
            try:
                os.killpg(self.pid, 0)
            except (ProcessLookupError, PermissionError):
                return
            await asyncio.sleep(0.05)

    async def _discard_output(self) -> None:
        assert self._supervisor.stdout is not None
        while await self._supervisor.stdout.read(65536):
            pass


def _kill_group(group: int) -> None:
    """Kill what a rank left running; usually nobody is there any more."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _kill_all(supervisor: int) -> None:
    """Kill a living supervisor, with what it would have ended."""
    process.kill(process.descendants(supervisor))
    _kill_group(supervisor)


def is_alive(uid: str) -> bool:
    """Whether a job's supervisor still runs on this machine."""
    pid, _, started = uid.partition(":")
    return process.start_time(int(pid)) == started


async def end(uid: str, directory: Path, *, at_once: bool) -> bool:
    """End a job that another process, or another event loop, has started; returns whether it is gone.

    Args:
        at_once: kill it and remove its folder; otherwise its supervisor is asked to do so.
    """
    group = int(uid.partition(":")[0])
    if is_alive(uid) and not at_once:
        with contextlib.suppress(ProcessLookupError):
            os.kill(group, signal.SIGTERM)
        return False
    if is_alive(uid):
        _kill_all(group)
    shutil.rmtree(directory, ignore_errors=True)
    return True
