"""What a user sees: pages of the UI in a real browser."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from airflow_stack import AirflowStack

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium")

SHOTS = Path(os.environ.get("SCREENSHOTS", "test-output"))
# Without these a headless browser looks for its maker's servers at every start.
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def shoot(url: str, name: str, profile: Path) -> str:
    """Save a picture of a page; returns the page's text as the browser built it."""
    assert BROWSER is not None
    SHOTS.mkdir(parents=True, exist_ok=True)
    common = [BROWSER, *QUIET, f"--user-data-dir={profile}", "--window-size=1600,1000", "--virtual-time-budget=20000"]
    subprocess.run([*common, f"--screenshot={SHOTS / name}", url], check=True, capture_output=True, timeout=120)
    page = subprocess.run([*common, "--dump-dom", url], check=True, capture_output=True, text=True, timeout=120)
    return page.stdout


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
