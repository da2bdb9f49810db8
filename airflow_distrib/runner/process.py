"""Processes of this machine: dying with a parent, telling one apart from a namesake."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Optional

# Tells a child who started it, so that it can see that this one is gone already.
PARENT = "AIRFLOW_DISTRIB_PARENT"

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however it ends.

    Linux only; elsewhere the parent's own signal handling has to do. A parent that was
    gone before the call is noticed too.
    """
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        except (OSError, AttributeError):
            return
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def restore_signals() -> None:
    """Undo in a forked process what its parent does with signals."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal {}".format(number)


def start_time(pid: int) -> Optional[str]:
    """When a process started, in clock ticks since boot; None when it is gone or a zombie.

    Together with the pid it names one process for good: pids are used again.
    """
    try:
        with open("/proc/{}/stat".format(pid), encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


# Where the kernel counts its kills for lack of memory: control groups version 2, then 1.
# A line of /proc/self/cgroup is "number:controllers:path"; version 2 has no controllers.
_OOM_COUNTERS = (("", "/sys/fs/cgroup", "memory.events"), ("memory", "/sys/fs/cgroup/memory", "memory.oom_control"))


def oom_kills() -> Optional[int]:
    """How often the kernel killed for memory in this process's control group; None if unknown."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            groups = dict(line.strip().split(":", 2)[1:] for line in file)
    except (OSError, ValueError):
        return None
    for controller, root, name in _OOM_COUNTERS:
        # In a container the path may be the host's, and the root is its own group.
        for folder in (root + groups.get(controller, "/"), root):
            try:
                with open("{}/{}".format(folder, name), encoding="ascii") as file:
                    return int(dict(line.split() for line in file)["oom_kill"])
            except (OSError, KeyError, ValueError):
                continue
    return None
