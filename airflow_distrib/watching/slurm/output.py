"""What a job writes, read piece by piece from where the last piece ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_distrib.backends.slurm.plan import ELEMENT
from airflow_distrib.clients.ssh import SshClient
from airflow_distrib.core.errors import ClusterError
from airflow_distrib.core.reference import JobRef
from airflow_distrib.runner.lines import LineSplitter
from airflow_distrib.watching.pace import MAX_BYTES, Pace

log = logging.getLogger(__name__)

PIECE_BYTES = 256 * 1024
# Pauses between two looks at a file: short while it grows.
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 10.0
# How often reading on is tried for a file that the login node does not show yet.
TAIL_BYTES = 16 * 1024
TAIL_LINES = 30

Emit = Callable[[str], None]


@dataclass
class OutputFile:
    """One file, and how far it has been shown.

    Attributes:
        offset: bytes that were shown, up to the end of a line.
        shown: bytes that were shown in all, for the limit.
    """

    path: str
    prefix: str = ""
    offset: int = 0
    shown: int = 0

    def cut(self, data: bytes, *, last: bool) -> list[str]:
        """Lines of a piece that begins at the offset; a line that is not whole is left, unless it is the last."""
        end = data.rfind(b"\n") + 1
        if end == 0 and (last or len(data) >= PIECE_BYTES):
            end = len(data)
        whole = data[: len(data) if last else end]
        self.offset += len(whole)
        if self.shown > MAX_BYTES:
            return []
        self.shown += len(whole)
        splitter = LineSplitter()
        lines = [self.prefix + line for line in (*splitter.feed(whole), *splitter.flush())]
        if self.shown > MAX_BYTES:
            lines.append(f"{self.prefix}[the rest of this log is not shown: more than {MAX_BYTES // 2**20} MiB]")
        return lines


class JobOutput:
    """Follows the output of a job, or of some elements of an array.

    Args:
        chosen: indexes of the elements; empty for a job that is no array.
        positions: how far an earlier reader came, by path.
    """

    def __init__(
        self,
        client: SshClient,
        ref: JobRef,
        chosen: tuple[str, ...],
        emit: Emit,
        *,
        named: bool,
        positions: Mapping[str, Any],
    ) -> None:
        self._client, self._emit = client, emit
        self._pace = Pace()
        self._task: asyncio.Task[None] | None = None
        self.files = [
            OutputFile(path, prefix, *positions.get(path, (0, 0))) for path, prefix in _paths(ref, chosen, named=named)
        ]

    def positions(self) -> dict[str, Any]:
        """How far every file has been shown."""
        return {file.path: [file.offset, file.shown] for file in self.files if file.offset}

    def start(self) -> None:
        """Begin to follow, once there may be something."""
        if self._task is None and self.files:
            self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        pause = SHORTEST_SECONDS
        while True:
            grown = False
            for file in self.files:
                try:
                    grown |= await self._read(file, last=False, pace=self._pace)
                except ClusterError as error:
                    log.debug("output %s: %s", file.path, error)
            pause = SHORTEST_SECONDS if grown else min(pause * 1.5, LONGEST_SECONDS)
            await asyncio.sleep(pause)

    async def _read(self, file: OutputFile, *, last: bool, pace: Pace | None) -> bool:
        """Show what is new in a file; True if anything was."""
        size = await self._client.size(file.path)
        if size is None or size == file.offset:
            return False
        if size < file.offset:
            self._emit(f"{file.prefix}[{file.path} was written anew]")
            file.offset = 0
        before = file.offset
        while file.offset < size:
            data = await self._client.read(file.path, file.offset, min(PIECE_BYTES, size - file.offset), attempts=1)
            if not data:
                break
            at = file.offset
            lines = file.cut(data, last=last and at + len(data) >= size)
            for begin in range(0, len(lines), 64):
                for line in lines[begin : begin + 64]:
                    self._emit(line)
                if pace is not None:
                    await pace.spend(len(lines[begin : begin + 64]))
                await asyncio.sleep(0)
            if file.offset == at:
                break
        return file.offset > before

    async def finish(self, seconds: float) -> None:
        """Show what is left, but not for longer than that; whoever comes next reads the rest."""
        await self.close()
        try:
            async with asyncio.timeout(seconds):
                for file in self.files:
                    await self._read(file, last=False, pace=self._pace)
        except (TimeoutError, ClusterError) as error:
            log.debug("the end of the output: %r", error)

    async def rest(self) -> None:
        """Show all that is left, at full speed; for a worker."""
        for file in self.files:
            try:
                await self._read(file, last=True, pace=None)
            except ClusterError as error:
                self._emit(f"[{file.path} cannot be read: {error}]")

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None


def _paths(ref: JobRef, chosen: tuple[str, ...], *, named: bool) -> list[tuple[str, str]]:
    """Files to show, each with what stands before its lines."""
    found: dict[str, str] = {}
    for element in chosen or ("",):
        name = f"[{element}] " if named and element else ""
        for key, mark in (("stdout", ""), ("stderr", "[stderr] ")):
            path = ref.address.get(key, "").replace(ELEMENT, element)
            if path:
                found.setdefault(path, name + mark)
    return list(found.items())


async def tail(client: SshClient, ref: JobRef, element: str) -> list[str]:
    """The last lines of a job's errors, or of its output where there are none."""
    for path, _ in reversed(_paths(ref, (element,) if element else (), named=False)):
        try:
            size = await client.size(path)
            data = await client.read(path, max(0, size - TAIL_BYTES), TAIL_BYTES) if size else None
        except ClusterError:
            continue
        splitter = LineSplitter()
        lines = [line for line in (*splitter.feed(data or b""), *splitter.flush()) if line.strip()]
        if lines:
            return lines[-TAIL_LINES:]
    return []
