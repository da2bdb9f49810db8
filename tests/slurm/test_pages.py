"""A real browser shows what a user sees of a job on a Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_stack import AirflowStack
from browser import BROWSER, shoot
from slurm_cluster import SlurmCluster

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium")


def test_a_deferred_task_shows_its_log_and_its_link(stack: AirflowStack, slurm: SlurmCluster, tmp_path: Path) -> None:
    """Users can follow a running job on the task's pages, which show lines of the worker and of the triggerer."""
    run = stack.trigger("slurm_hanging", {"seconds": "600"})
    stack.wait_for_log("slurm_hanging", run, "wait", "hanging now")
    assert stack.task("slurm_hanging", run, "wait")["state"] == "deferred"
    task = f"{stack.url}/dags/slurm_hanging/runs/{run}/tasks/wait"
    log = shoot(task, "slurm_log.png", tmp_path)
    assert "Created Slurm job" in log
    assert "[rank 0] hanging now" in log
    assert "Job dashboard" in shoot(f"{task}/details", "slurm_details.png", tmp_path)
    stack.set_state("slurm_hanging", run, "wait", "failed")
    slurm.wait_for_nothing_left(run)
