"""Processes of this machine: dying with a parent, ending what is left, telling one apart from a namesake."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import stat
import sys
import time
from typing import Container, Dict, Iterable, List, Optional

# Tells a child who started it, so that it can see that this one is gone already.
PARENT = "AIRFLOW_DISTRIB_PARENT"

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

# How long what was killed may take to be gone: a process in the kernel's hands cannot be killed at once.
_KILLED_SECONDS = 2.0


def _prctl(option: int, value: int) -> bool:
    """Ask the kernel for something about this process; False where it is not Linux."""
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
    return False


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however it ends.

    Linux only; elsewhere the parent's own signal handling has to do. A parent that was
    gone before the call is noticed too.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def keep_pipes() -> None:
    """Have children inherit none of the pipes by which a multiprocessing parent sees this process end.

    Otherwise a program that is left running in the background, or a forked child, would keep
    this process alive in the eyes of its parent.
    """
    from multiprocessing import resource_tracker

    tracker = resource_tracker.getfd()
    pipes: Dict[int, int] = {}
    for descriptor in map(int, os.listdir("/dev/fd")):
        with contextlib.suppress(OSError):
            if descriptor > 2:
                os.set_inheritable(descriptor, False)
            about = os.fstat(descriptor)
            writes = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
            if descriptor > 2 and descriptor != tracker and writes and stat.S_ISFIFO(about.st_mode):
                pipes[descriptor] = about.st_ino

    def close() -> None:
        for descriptor, inode in pipes.items():
            with contextlib.suppress(OSError):
                # It may have been closed, and the number used again.
                if os.fstat(descriptor).st_ino == inode:
                    os.close(descriptor)

    os.register_at_fork(after_in_child=close)


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


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, on Linux.

    So a process that has left the process group, or was started by one that is gone, is still found.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def reap_orphans(own: Container[int]) -> None:
    """Let adopted processes that have ended go; ``own`` are children whose exit status somebody waits for."""
    if not hasattr(os, "waitid"):
        return
    with contextlib.suppress(ChildProcessError):
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid in own:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)


def end_descendants(patience: float) -> None:
    """Kill what is left below this process, after ``patience`` seconds for what is about to end by itself."""
    kill_at = time.monotonic() + patience
    give_up_at = kill_at + _KILLED_SECONDS
    while True:
        reap_orphans(())
        left, now = descendants(os.getpid()), time.monotonic()
        if not left or now > give_up_at:
            return
        if now >= kill_at:
            kill(left)
        time.sleep(0.02)


def kill(pids: Iterable[int]) -> None:
    """Kill processes, as far as they are there and this user may."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def descendants(ancestor: int) -> List[int]:
    """Living processes below one, on Linux; elsewhere none are found."""
    children: Dict[int, List[int]] = {}
    with contextlib.suppress(FileNotFoundError):
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            fields = _stat(pid)
            if fields is not None:
                children.setdefault(int(fields[1]), []).append(pid)
    found = list(children.get(ancestor, ()))
    for pid in found:
        found += children.get(pid, ())
    return found


def start_time(pid: int) -> Optional[str]:
    """When a process started, in clock ticks since boot; None when it is gone or a zombie.

    Together with the pid it names one process for good: pids are used again.
    """
    fields = _stat(pid)
    return None if fields is None else fields[19]


def _stat(pid: int) -> Optional[List[str]]:
    """Fields of a living process, from its state on; None when it is gone or a zombie."""
    try:
        with open("/proc/{}/stat".format(pid), encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields


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
