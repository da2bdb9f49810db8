"""What a job writes, read piece by piece from where the last piece ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_distrib.core.errors import ClusterError
from airflow_distrib.core.reference import JobRef
from airflow_distrib.jobs.launcher import Emit
from airflow_distrib.jobs.pace import MAX_BYTES, Pace
from airflow_distrib.jobs.waiting import Waiting
from airflow_distrib.runner.lines import RELAYED_LINE_BYTES, LineSplitter
from airflow_distrib.systems.slurm.ssh import SshClient
from airflow_distrib.systems.slurm.submission import ELEMENT
from airflow_distrib.systems.slurm.timing import TIMING, Timing

log = logging.getLogger(__name__)

PIECE_BYTES = 256 * 1024
BATCH_LINES = 64
# The end of a file, for an error.
TAIL_BYTES = 16 * 1024
TAIL_LINES = 30


@dataclass
class OutputFile:
    """One file, and how far it has been shown.

    Attributes:
        offset: bytes that were shown, up to the end of a line.
        shown: bytes that were shown in all, for the limit.
        shrank: whether the last look found it shorter than what was shown.
    """

    path: str
    prefix: str = ""
    offset: int = 0
    shown: int = 0
    shrank: bool = False

    def take(self, batch: bytes) -> list[str]:
        """The lines of a batch, which count as shown from now on."""
        self.offset += len(batch)
        self.shown += len(batch)
        splitter = LineSplitter(limit=RELAYED_LINE_BYTES)
        lines = [self.prefix + line for line in (*splitter.feed(batch), *splitter.flush())]
        if self.shown > MAX_BYTES:
            lines.append(f"{self.prefix}[the rest of this log is not shown: more than {MAX_BYTES // 2**20} MiB]")
        return lines


def batches(data: bytes, *, last: bool) -> Iterator[bytes]:
    """Some whole lines at a time; a line that is not whole is left out, unless it is the last or very long."""
    *whole, rest = data.split(b"\n")
    lines = [line + b"\n" for line in whole]
    if rest and (last or (not lines and len(data) >= PIECE_BYTES)):
        lines.append(rest)
    for begin in range(0, len(lines), BATCH_LINES):
        yield b"".join(lines[begin : begin + BATCH_LINES])


class JobOutput:
    """Follows the output of a job, or of some elements of an array.

    Args:
        positions: how far an earlier reader came, by path.
    """

    def __init__(
        self,
        client: SshClient,
        waiting: Waiting,
        emit: Emit,
        positions: Mapping[str, Any] | None = None,
        timing: Timing = TIMING,
    ) -> None:
        self._client, self._emit, self._timing = client, emit, timing
        self._pace = Pace()
        self._task: asyncio.Task[None] | None = None
        known = positions or {}
        self.files = [
            OutputFile(path, prefix, *known.get(path, (0, 0)))
            for path, prefix in _paths(waiting.ref, waiting.log_parts or (), named=waiting.named)
        ]

    def positions(self) -> dict[str, Any]:
        """How far every file has been shown."""
        return {file.path: [file.offset, file.shown] for file in self.files if file.offset}

    def start(self) -> None:
        """Begin to follow, once there may be something."""
        if self._task is None and self.files:
            self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        pause = self._timing.shortest_read
        while True:
            grown = False
            for file in self.files:
                try:
                    grown |= await self._read(file, last=False, pace=self._pace)
                except ClusterError as error:
                    log.debug("output %s: %s", file.path, error)
            pause = self._timing.shortest_read if grown else min(pause * 1.5, self._timing.longest_read)
            await asyncio.sleep(pause)

    async def _read(self, file: OutputFile, *, last: bool, pace: Pace | None) -> bool:
        """Show what is new in a file; True if anything was."""
        # A trigger looks again soon; a worker has only this once.
        attempts = None if pace is None else 1
        size = await self._client.size(file.path, attempts=attempts)
        if size is None or file.shown > MAX_BYTES or not self._goes_on(file, size, last=last):
            return False
        before = file.offset
        while file.offset < size and file.shown <= MAX_BYTES:
            data = await self._client.read(
                file.path, file.offset, min(PIECE_BYTES, size - file.offset), attempts=attempts
            )
            at = file.offset
            for batch in batches(data or b"", last=last and at + len(data or b"") >= size):
                lines = file.take(batch)
                for line in lines:
                    self._emit(line)
                # Whoever is cancelled here has shown just what the offset says.
                await (asyncio.sleep(0) if pace is None else pace.spend(len(lines)))
                if file.shown > MAX_BYTES:
                    break
            if file.offset == at:
                break
        return file.offset > before

    def _goes_on(self, file: OutputFile, size: int, *, last: bool) -> bool:
        """Whether there is more to show; a file that is shorter now may only look so from another login node."""
        shrank, file.shrank = file.shrank, size < file.offset
        if not file.shrank:
            return size > file.offset
        if not shrank or last:
            return False
        self._emit(f"{file.prefix}[{file.path} was written anew]")
        file.offset, file.shrank = 0, False
        return True

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
