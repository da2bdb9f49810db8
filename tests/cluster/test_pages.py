"""What a user sees of a job on a cluster, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_stack import AirflowStack
from browser import BROWSER, shoot
from kubernetes_cluster import Cluster

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium")


def test_a_deferred_task_shows_its_log_and_its_links(stack: AirflowStack, cluster: Cluster, tmp_path: Path) -> None:
    """While the job runs; both come from the triggerer and from the leg that deferred."""
    run = stack.trigger("cluster_hanging", {"seconds": "600"})
    stack.wait_for_log("cluster_hanging", run, "wait", "hanging now")
    assert stack.task("cluster_hanging", run, "wait")["state"] == "deferred"
    task = f"{stack.url}/dags/cluster_hanging/runs/{run}/tasks/wait"
    log = shoot(task, "cluster_log.png", tmp_path)
    assert "Created PyTorchJob" in log
    assert "[rank 0] hanging now" in log
    details = shoot(f"{task}/details", "cluster_details.png", tmp_path)
    assert "Job dashboard" in details
    assert "Job logs" in details
    stack.set_state("cluster_hanging", run, "wait", "failed")
    cluster.wait_for_nothing_left(run, "wait")
