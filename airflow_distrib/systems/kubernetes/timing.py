"""All pauses and limits of watching jobs on Kubernetes, in seconds, as one value that tests can replace."""

from __future__ import annotations

from typing import NamedTuple


class Timing(NamedTuple):
    """Seconds.

    Attributes:
        watch: after which the server ends a watch, so that watches move between its replicas;
            a random minute on top spreads them.
        first_pause, longest_pause: between two attempts to list or watch.
        refused: how long a refusal (403: a role that was taken away) is tolerated.
        first_events, longest_events: how soon, and how rarely in the end, to ask for events.
        log: how long the log may take to catch up once the job is over; the worker reads the rest.
        log_poll: how often a log is read that cannot be followed.
        log_quiet: after which a silent log is opened again, because kubelet may have lost it.
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
