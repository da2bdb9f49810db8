"""Lines of a job become entries of the task log."""

from __future__ import annotations

import pytest
import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.processors import CallsiteParameter, CallsiteParameterAdder
from structlog.testing import LogCapture

from airflow_distrib.triggers.task_log import emitter


@pytest.mark.parametrize("on_worker", [True, False])
def test_a_line_is_an_entry_at_its_level_without_what_would_make_it_slow(on_worker: bool) -> None:
    """A job may write hundreds of lines a second; only in a triggerer must each say whose it is."""
    capture = LogCapture()
    place = CallsiteParameterAdder([CallsiteParameter.LINENO])
    before = structlog.get_config()["processors"]
    structlog.configure(processors=[merge_contextvars, place, capture])
    try:
        emit = emitter(on_worker=on_worker)
        with bound_contextvars(trigger_id=7):
            emit("[rank 0] epoch 1 at 100 %s")
            emit("[rank 0] WARNING:root:loss is high")
    finally:
        structlog.configure(processors=before)
    names = {} if on_worker else {"trigger_id": 7}
    assert capture.entries == [
        {"event": "[rank 0] epoch 1 at 100 %s", "log_level": "info", **names},
        {"event": "[rank 0] WARNING:root:loss is high", "log_level": "warning", **names},
    ]
