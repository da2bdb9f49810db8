"""Output of ranks that another library starts: each rank writes into a named pipe.

torch's agent starts its workers itself, so nobody can hand them a pipe. The agent makes
one named pipe per local rank; a worker opens its own and puts it under its stdout and
stderr. What it wrote before it was killed is still read. The pipe closing tells when a
worker ended, to the millisecond, which torch's own timestamps (whole seconds) do not.
"""

from __future__ import annotations

import os
import re
import selectors
import sys
import threading
import time
from typing import Callable, Dict, List, Optional, Set

from airflow_distrib.runner.lines import LineSplitter, RankLine, prefixed

_LAST_READS = 64

# A worker introduces itself with this line, its rank and restart, before anything else.
_HELLO = "\x1erank {} {}"
_IS_HELLO = re.compile("\x1erank ([0-9]+) ([0-9]+)")


def pipe_path(folder: str, node: int, local_rank: int) -> str:
    """Where the pipe of a local rank lies."""
    return os.path.join(folder, "stream-{}-{}".format(node, local_rank))


def redirect_output(path: str, rank: int, restart: int) -> None:
    """In a worker: send stdout and stderr, of C libraries too, into the pipe."""
    sys.stdout.flush()
    sys.stderr.flush()
    pipe = os.open(path, os.O_WRONLY)
    os.write(pipe, (_HELLO.format(rank, restart) + "\n").encode())
    os.dup2(pipe, 1)
    os.dup2(pipe, 2)
    # The third descriptor stays open, and is not inherited by programs that the rank starts:
    # its closing means the end of this process, even if the function points 1 and 2 elsewhere.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)


class _Stream:
    def __init__(self, path: str) -> None:
        self.path = path
        self.rank: Optional[int] = None
        self.splitter = LineSplitter()
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)


class Pump(threading.Thread):
    """In the agent: reads every pipe and writes prefixed lines to stdout.

    Uses descriptors only, no buffered file: with start_method "fork" a lock held here
    at the moment of the fork would stay locked in the child for ever.
    """

    def __init__(self, folder: str, node: int, local_ranks: int, new_round: Callable[[int, Set[int]], None]) -> None:
        """Make the pipes; ``new_round`` is called with the number of each restart and the ranks so far."""
        super().__init__(name="pump", daemon=True)
        self._new_round = new_round
        self._round = 0
        self._ranks: Set[int] = set()
        # Ranks whose process is gone, and when it went.
        self.ended_at: Dict[int, float] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._last_round = False
        for local_rank in range(local_ranks):
            path = pipe_path(folder, node, local_rank)
            os.mkfifo(path, 0o600)
            self._watch(_Stream(path))

    def _watch(self, stream: _Stream) -> None:
        self._selector.register(stream.descriptor, selectors.EVENT_READ, stream)

    def run(self) -> None:
        while not self._last_round:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._read(key.data)
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                self._drain(key.data)

    def finish(self) -> None:
        """Read what is left and stop."""
        self._last_round = True
        os.write(self._wake_write, b"x")
        self.join(5)

    def _read(self, stream: _Stream) -> bool:
        """Pass on one piece; False when there is nothing more for now."""
        try:
            data = os.read(stream.descriptor, 65536)
        except BlockingIOError:
            return False
        if data:
            self._emit(stream, stream.splitter.feed(data))
            return True
        self._ended(stream)
        return False

    def _drain(self, stream: _Stream) -> None:
        # Bounded: what a rank left behind may go on writing faster than anybody reads.
        for _ in range(_LAST_READS):
            if not self._read(stream):
                return

    def _ended(self, stream: _Stream) -> None:
        """Every writer is gone: note when, and open again for the next restart.

        A pipe whose writers are gone reports its end for ever; a fresh one waits.
        """
        self._emit(stream, stream.splitter.flush())
        if stream.rank is not None:
            self.ended_at[stream.rank] = time.time()
        self._selector.unregister(stream.descriptor)
        os.close(stream.descriptor)
        if not self._last_round:
            self._watch(_Stream(stream.path))

    def _emit(self, stream: _Stream, lines: List[str]) -> None:
        """Write lines all at once, with the rank that wrote them; a worker's introduction is for this process."""
        texts = []
        for line in lines:
            hello = _IS_HELLO.fullmatch(line)
            if hello:
                self._begin(stream, *map(int, hello.groups()))
            else:
                texts.append(prefixed(RankLine(stream.rank, line)) + "\n")
        data = "".join(texts).encode("utf-8", "replace")
        while data:
            data = data[os.write(1, data) :]

    def _begin(self, stream: _Stream, rank: int, restart: int) -> None:
        stream.rank = rank
        self.ended_at.pop(rank, None)
        if restart > self._round:
            # Those that have not started yet ended in the round before, which is over.
            self.ended_at.clear()
            self._round = restart
            self._new_round(restart, set(self._ranks))
        self._ranks.add(rank)
