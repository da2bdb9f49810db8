"""Pauses and time limits for watching jobs on Kubernetes, as one value that tests can replace."""

from __future__ import annotations

from typing import NamedTuple


class Timing(NamedTuple):
    """Seconds.

    Attributes:
        watch: the server ends a watch after this time plus up to a random minute, so that
            watches move between its replicas.
        first_pause, longest_pause: between two attempts to list or watch.
        refused: how long a refusal (such as 403 after a role was removed) is tolerated.
        first_events, longest_events: first and longest interval between requests for events.
        log: how long the log may take to catch up once the job is over; the worker reads the rest.
        log_poll: interval for reading logs that cannot be followed.
        log_quiet: a log that is silent for this long is reopened, because kubelet may have lost it.
    """

    watch: int = 300
    first_pause: float = 0.5
    longest_pause: float = 30.0
    refused: float = 300.0
    first_events: float = 8.0
    longest_events: float = 240.0
    log: float = 15.0
    log_poll: float = 15.0
    log_quiet: float = 300.0


TIMING = Timing()
