"""All pauses and limits of watching jobs on Slurm, in seconds, as one value that tests can replace."""

from __future__ import annotations

from typing import NamedTuple


class Timing(NamedTuple):
    """Seconds.

    Attributes:
        shortest_look, longest_look: between two looks at the queue: short after a change, then
            longer and longer.
        gather: jobs that come in one after the other are looked at together.
        ask: how often jobs are asked for of which something is unknown.
        refused: how long a refusal (a key that was taken away) is tolerated.
        away: how long a login node, or a controller, may be away: a long maintenance.
        unknown: how long a job that nobody knows is looked for; the accounting is late at times.
        log: how long the log may take to catch up once the job is over; the worker reads the rest.
        shortest_read, longest_read: between two looks at a file: short while it grows.
        settle: pauses between looks for a file that another machine has just written. A shared
            file system may show it seconds later, NFS by default up to a minute for folders.
        failed: the same for a job that failed: its own output explains as much.
        confirm: how long a cancel waits to see the job gone, when there is time.
    """

    shortest_look: float = 2.0
    longest_look: float = 15.0
    gather: float = 0.3
    ask: float = 30.0
    refused: float = 300.0
    away: float = 6 * 3600.0
    unknown: float = 60.0
    log: float = 15.0
    shortest_read: float = 1.0
    longest_read: float = 10.0
    settle: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    failed: tuple[float, ...] = (0.5, 1.0, 2.0)
    confirm: float = 30.0


TIMING = Timing()
