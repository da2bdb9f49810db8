"""What has to be so before a launcher such as mpirun is started."""

from __future__ import annotations

import socket
import time
from typing import Callable, List, Mapping

# A worker's image may have to be pulled; the job's own deadline is the real limit. Seconds.
PATIENCE = 1800.0


def exports(names: List[str], environment: Mapping[str, str]) -> List[str]:
    """``-x NAME`` for the variables that are set here: mpirun would complain about the others."""
    return [word for name in names if name in environment for word in ("-x", name)]


def wait_for_hosts(hostfile: str, port: int, say: Callable[[str], None], goes_on: Callable[[], bool]) -> None:
    """Wait until every host of ``hostfile`` takes connections on ``port``, or patience ends."""
    end = time.monotonic() + PATIENCE
    # The launcher itself may run ranks too; it needs no SSH server for them.
    waiting = [host for host in hosts(hostfile) if host.partition(".")[0] != socket.gethostname()]
    logged_at = time.monotonic()
    while waiting and goes_on():
        waiting = [host for host in waiting if not _answers(host, port)]
        now = time.monotonic()
        if now > end:
            say("no sshd on {} after {:.0f} s: starting all the same".format(", ".join(waiting), PATIENCE))
            return
        if waiting and now - logged_at > 30:
            logged_at = now
            say("waiting for sshd on {}".format(", ".join(waiting[:5])))
        time.sleep(0.2 if waiting else 0)


def hosts(hostfile: str) -> List[str]:
    """Names in a hostfile of Open MPI (``host slots=2``) or of Intel MPI and MPICH (``host:2``)."""
    with open(hostfile, encoding="utf-8") as file:
        return [line.split()[0].partition(":")[0] for line in file if line.strip() and not line.startswith("#")]


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False
