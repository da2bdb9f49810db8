"""Workers that die at a moment of a test's choosing: copied beside the DAG files of the suites on real systems."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from airflow_distrib.core.record import Phase
from airflow_distrib.operators.record_store import RecordStore

MOMENTS = ("before_submit", "between_submit_and_record", "after_record", "before_the_result", "with_the_result")


def die() -> None:
    """End this process as one ends that ran out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def dying(operator: type[Any], moment: str, client: type[Any], *, after: Callable[[str], None] = lambda _: None) -> Any:
    """An operator that kills its own process in its first try.

    Args:
        client: the job client of its launcher.
        after: patches more, for moments of one system only.
    """

    class DyingOperator(operator):  # type: ignore[misc] # which one is up to the caller
        def execute(self, context: Any) -> Any:
            _arm(context, moment, client, after)
            return super().execute(context)

        def execute_complete(self, context: Any, *args: Any, **kwargs: Any) -> Any:
            _arm(context, moment, client, after)
            if moment == "before_the_result" and context["ti"].try_number == 1:
                die()
            return super().execute_complete(context, *args, **kwargs)

    return DyingOperator


def _arm(context: Any, moment: str, client: Any, after: Callable[[str], None]) -> None:
    if context["ti"].try_number > 1:
        return
    submit, write = client.submit, RecordStore.write

    async def dying_submit(self: Any, *args: Any) -> Any:
        if moment == "before_submit":
            die()
        result = await submit(self, *args)
        if moment == "between_submit_and_record":
            die()
        return result

    def dying_write(self: RecordStore, phase: Phase, *args: Any) -> None:
        write(self, phase, *args)
        if (moment, phase) in (("after_record", Phase.SUBMITTED), ("with_the_result", Phase.RESUMED)):
            die()

    client.submit = dying_submit
    RecordStore.write = dying_write  # type: ignore[method-assign, assignment] # of a process that is about to die
    after(moment)
