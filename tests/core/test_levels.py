"""Levels are told by the text of lines, so that warnings and errors can be filtered in Airflow's log."""

from __future__ import annotations

import logging

import pytest

from airflow_distrib.core.levels import Levels

DATE = "2026-01-02 03:04:05,678"


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("WARNING:root:loss is high", logging.WARNING),
        ("ERROR:train:no file", logging.ERROR),
        ("ERROR no file", logging.ERROR),
        ("[rank 3] CRITICAL:x:y", logging.CRITICAL),
        ("[worker-0] [rank 3] ERROR: y", logging.ERROR),
        ("[stderr] [WARNING] y", logging.WARNING),
        (f"{DATE} - train - ERROR - no file", logging.ERROR),
        (f"{DATE} WARNING no file", logging.WARNING),
        (f"[{DATE}][ERROR] no file", logging.ERROR),
        (f"{DATE} [ERROR] train: no file", logging.ERROR),
        ("W0102 03:04:05.678000 77 torch/distributed/run.py:1] y", logging.WARNING),
        ("/a/b.py:7: UserWarning: y", logging.WARNING),
        ("INFO:root:the WARNING level is off", logging.INFO),
        (f"{DATE} - train - INFO - ERROR rate 0.1", logging.INFO),
        ("ERRORS: 0", logging.INFO),
        ("error rate 0.1", logging.INFO),
        ("Warnings are off", logging.INFO),
        ("epoch 1 loss 0.5", logging.INFO),
        ("", logging.INFO),
    ],
)
def test_a_line_has_the_level_that_its_logger_wrote(text: str, level: int) -> None:
    """Every usual format of a logger is known, and words inside a sentence are none."""
    assert Levels().of(text) == level


def test_a_traceback_is_an_error_up_to_its_last_line_also_between_lines_of_other_ranks() -> None:
    """Filtered for errors, the log still shows where and why."""
    levels = Levels()
    lines = [
        ("[rank 0] Traceback (most recent call last):", logging.ERROR),
        ("[rank 1] epoch 1", logging.INFO),
        ('[rank 0]   File "dag.py", line 1, in train', logging.ERROR),
        ("[rank 0] ValueError: no data", logging.ERROR),
        ("[rank 0] ", logging.ERROR),
        ("[rank 0] During handling of the above exception, another exception occurred:", logging.ERROR),
        ("[rank 0] ", logging.ERROR),
        ("[rank 0] Traceback (most recent call last):", logging.ERROR),
        ("[rank 0] KeyError: 1", logging.ERROR),
        ("[rank 0] epoch 1", logging.INFO),
        ("[rank 0]   indented", logging.INFO),
    ]
    assert [levels.of(text) for text, _ in lines] == [level for _, level in lines]
