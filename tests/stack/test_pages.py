"""What a user sees: pages of the UI in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_stack import AirflowStack
from browser import BROWSER, SHOTS, shoot

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium")


def test_grid_and_task_log_show_the_job(stack: AirflowStack, tmp_path: Path) -> None:
    """The run is in the grid, and the log of its task has the lines of both ranks."""
    run = stack.trigger("digits_ddp")
    stack.wait_for_state("digits_ddp", run, "report", "success", seconds=180)
    grid = shoot(f"{stack.url}/dags/digits_ddp", "grid.png", tmp_path)
    assert "train" in grid
    assert "report" in grid
    log = shoot(f"{stack.url}/dags/digits_ddp/runs/{run}/tasks/train", "task_log.png", tmp_path)
    for rank in (0, 1):
        assert f"[rank {rank}] epoch 8/8" in log
    for name in ("grid.png", "task_log.png"):
        assert (SHOTS / name).stat().st_size > 20_000


def test_the_log_of_a_failed_task_says_who_failed_first(stack: AirflowStack, tmp_path: Path) -> None:
    """Where a user looks first."""
    run = stack.trigger("failing_rank")
    stack.wait_for_state("failing_rank", run, "train", "failed")
    log = shoot(f"{stack.url}/dags/failing_rank/runs/{run}/tasks/train", "failed_log.png", tmp_path)
    assert "rank 1 of 2 failed first" in log
    assert "batch of no examples" in log
