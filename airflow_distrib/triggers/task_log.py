"""What a job writes, as entries of its task's log."""

from __future__ import annotations

import structlog
from structlog.contextvars import merge_contextvars
from structlog.processors import CallsiteParameterAdder

from airflow_distrib.core.levels import Levels
from airflow_distrib.jobs.launcher import Emit


def emitter(*, on_worker: bool) -> Emit:
    """Writes lines, each at the level that its text tells.

    Without the place in this package's code that wrote them: looking it up for each line costs more
    than everything else, and its name says nothing about the job.

    Args:
        on_worker: also without the names of the task, which stand once in the path of its log; in
            a triggerer they tell whose line it is.
    """
    processors = [
        each
        for each in structlog.get_config()["processors"]
        if not isinstance(each, CallsiteParameterAdder) and not (on_worker and each is merge_contextvars)
    ]
    logger = structlog.wrap_logger(None, processors=processors, logger_factory_args=("airflow_distrib",)).bind()
    levels = Levels()

    def emit(text: str) -> None:
        logger.log(levels.of(text), text)

    return emit
