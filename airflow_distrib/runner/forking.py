"""Ranks that are forked, by a process that has imported torch and loaded the function for all of them.

It supervises them as the outermost supervisor would, whose child it is: that one must not
load what users wrote.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from typing import Dict, Iterator, Optional

from airflow_distrib.runner import call, payload, process, work
from airflow_distrib.runner.spec import Spec
from airflow_distrib.runner.supervisor import Child, Supervisor

# Part of the grace period that the ranks get; the rest is for the report.
_SHARE = 0.8


def main(spec: Spec, count: int) -> int:
    """Run ``count`` forked ranks to their end; returns the exit status."""
    # What belongs to the outermost supervisor is left to it.
    own = spec._replace(
        log_ranks=None,
        termination_log=None,
        reports=False,
        lifeline=False,
        grace_seconds=_SHARE * spec.grace_seconds,
    )
    return _Forking(own, count, _load(spec)).run()


def _load(spec: Spec) -> Optional[payload.Call]:
    """Import what the ranks will share; None if that fails, and then each rank tries and reports it."""
    with contextlib.suppress(ImportError):
        import torch.distributed  # noqa: F401 - shared by the ranks
    try:
        return call.load(spec)
    except BaseException:  # noqa: BLE001 - whatever the modules of users raise
        return None


class _Forking(Supervisor):
    def __init__(self, spec: Spec, count: int, loaded: Optional[payload.Call]) -> None:
        super().__init__(spec, archive="")
        self._count, self._loaded = count, loaded

    def _new_children(self, base: Dict[str, str]) -> Iterator[Child]:
        for number in range(self._count):
            environment = {**base, **self._variables(number, self._count, base)}
            yield Child(number, _Forked(self.spec, self._loaded, environment))


class _Forked:
    """A forked rank, with what a :class:`Child` needs of a process."""

    def __init__(self, spec: Spec, loaded: Optional[payload.Call], environment: Dict[str, str]) -> None:
        self.output, write = os.pipe()
        parent = os.getpid()
        # The rank gets what a process of Python's multiprocessing has, at its start and at its end.
        self._process = multiprocessing.get_context("fork").Process(
            target=_rank, args=(spec, loaded, environment, parent, write)
        )
        self._process.start()
        os.close(write)
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.returncode: Optional[int] = None

    def poll(self) -> Optional[int]:
        self.returncode = self._process.exitcode
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)


def _rank(spec: Spec, loaded: Optional[payload.Call], environment: Dict[str, str], parent: int, output: int) -> None:
    process.die_with(parent)
    process.restore_signals()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.update(environment)
    sys.exit(work.run(spec, loaded))
