"""Bytes of a stream, cut into lines that a log can hold."""

from __future__ import annotations

import re
import time
from typing import Callable, List, NamedTuple, Optional

# Longer lines are cut: Airflow loses log records of several megabytes.
MAX_LINE_BYTES = 64 * 1024
# For lines that were cut before: with the rank in front, and three bytes for each that was no
# text, they are longer, and would lose their rank if they were cut again.
RELAYED_LINE_BYTES = 4 * MAX_LINE_BYTES

# Airflow imports DAG files under names of its own making.
_MADE_UP = "unusual_prefix_"
_MADE_UP_NAME = re.compile(_MADE_UP + "[0-9a-f]{40}_")

# How often a progress bar that rewrites its line is shown, in seconds.
PROGRESS_SECONDS = 30.0

_PREFIX = re.compile(r"\[rank (\d+)\] ")


class LineSplitter:
    """Collects bytes and gives back whole lines, decoded, without their end.

    Args:
        keep_returns: leave carriage returns to the caller, where something stands before them.
        limit: longer lines are cut.
        clock: seconds, for the progress bars that are shown before their line ends.
    """

    def __init__(
        self,
        keep_returns: bool = False,
        limit: int = MAX_LINE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rest = b""
        self._limit = limit
        self._keeps, self._shown = keep_returns, str if keep_returns else shown
        self._clock, self._show_at = clock, 0.0

    def feed(self, data: bytes) -> List[str]:
        """Add ``data`` and return the lines it completes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        lines = [self._shown(text) for line in whole for text in self._cut(line)]
        if b"\r" in self._rest and not self._keeps:
            lines += self._progress(begins=bool(whole) or not self._show_at)
        while len(self._rest) > self._limit:
            lines.append(self._shown(_text(self._rest[: self._limit])))
            self._rest = self._rest[self._limit :]
        return lines

    def _progress(self, begins: bool) -> List[str]:
        """What a progress bar that has not ended shows now, if it is time; only that is kept."""
        now = self._clock()
        if begins:
            self._show_at = now + PROGRESS_SECONDS
        self._rest = self._rest[self._rest.rstrip(b"\r").rfind(b"\r") + 1 :]
        if now < self._show_at or not self._rest:
            return []
        self._show_at = now + PROGRESS_SECONDS
        return [self._shown(_text(self._rest))]

    def flush(self) -> List[str]:
        """Return what stands after the last line end."""
        rest, self._rest = self._rest, b""
        return [self._shown(text) for text in self._cut(rest)] if rest else []

    def _cut(self, line: bytes) -> List[str]:
        return [_text(line[at : at + self._limit]) for at in range(0, len(line), self._limit)] or [""]


def _text(line: bytes) -> str:
    return as_written(line.decode("utf-8", "replace"))


def as_written(text: str) -> str:
    """Text with the names of DAG files as their authors know them."""
    return _MADE_UP_NAME.sub("", text) if _MADE_UP in text else text


def shown(text: str) -> str:
    """What a terminal would show of a line that a progress bar rewrites with carriage returns."""
    return text.rstrip("\r").rpartition("\r")[2]


class RankLine(NamedTuple):
    """A line and the rank that wrote it; None for the processes around the ranks."""

    rank: Optional[int]
    text: str


def prefixed(line: RankLine) -> str:
    """``[rank 3] text``; a line of no rank stands as it is."""
    return line.text if line.rank is None else "[rank {}] {}".format(line.rank, line.text)


def parse(text: str) -> RankLine:
    """The reverse of :func:`prefixed`."""
    match = _PREFIX.match(text)
    return RankLine(int(match.group(1)), text[match.end() :]) if match else RankLine(None, text)
