"""Every way to end a task, and every part that can die: no job lost, none run twice, nothing left."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from airflow_stack import AirflowStack, wait_for
from kubernetes_cluster import Cluster

DAG = "cluster_hanging"


def hang(stack: AirflowStack, cluster: Cluster, seconds: float = 600, dag_id: str = DAG) -> tuple[str, str]:
    """Start a job that hangs; returns run and name of the job once it is deferred and its ranks run."""
    run = stack.trigger(dag_id, {"seconds": str(seconds)})
    stack.wait_for_state(dag_id, run, "wait", "deferred")
    name = cluster.job(run, "wait")["metadata"]["name"]
    stack.wait_for_log(dag_id, run, "wait", "hanging now")
    return run, name


@pytest.mark.parametrize("state", ["failed", "success"])
def test_marking_a_deferred_task_cancels_its_job(stack: AirflowStack, cluster: Cluster, state: str) -> None:
    """By the buttons in the UI."""
    run, _ = hang(stack, cluster)
    stack.set_state(DAG, run, "wait", state)
    cluster.wait_for_nothing_left(run, "wait")
    assert stack.task(DAG, run, "wait")["state"] == state


def test_failing_the_dag_run_cancels_the_job(stack: AirflowStack, cluster: Cluster) -> None:
    """Its tasks go with it."""
    run, _ = hang(stack, cluster)
    stack.call("PATCH", f"/dags/{DAG}/dagRuns/{run}", json={"state": "failed"})
    cluster.wait_for_nothing_left(run, "wait")


def test_clearing_a_deferred_task_runs_it_afresh(stack: AirflowStack, cluster: Cluster) -> None:
    """The old job is cancelled, the new try has a job of its own."""
    run, name = hang(stack, cluster)
    stack.clear(DAG, run, "wait")
    stack.wait_for_state(DAG, run, "wait", "success", seconds=180)
    assert stack.xcom(DAG, run, "wait") != name
    cluster.wait_for_nothing_left(run, "wait")


def test_execution_timeout_counts_while_deferred(stack: AirflowStack, cluster: Cluster) -> None:
    """Airflow itself does not look at it then."""
    run, _ = hang(stack, cluster, dag_id="cluster_overdue")
    stack.wait_for_state("cluster_overdue", run, "wait", "failed")
    assert "JobTimedOut" in stack.log("cluster_overdue", run, "wait")
    cluster.wait_for_nothing_left(run, "wait")


def test_a_deferral_that_times_out_cancels_the_job(stack: AirflowStack, cluster: Cluster) -> None:
    """No triggerer was there to do it in time."""
    run, _ = hang(stack, cluster, dag_id="cluster_overdue")
    stack.kill_component("triggerer")
    stack.wait_for_state("cluster_overdue", run, "wait", "failed", seconds=240)
    cluster.wait_for_nothing_left(run, "wait")
    stack.start_component("triggerer")


@pytest.mark.parametrize(
    ("moment", "adopted"),
    [
        ("before_submit", False),
        ("between_submit_and_record", True),
        ("after_record", True),
        ("before_the_result", True),
        ("with_the_result", True),
    ],
)
def test_a_killed_worker_costs_no_job(stack: AirflowStack, cluster: Cluster, moment: str, adopted: bool) -> None:
    """The next try goes on with the job, or reads its result; it is submitted once."""
    dag_id = f"cluster_dies_{moment}"
    run = stack.trigger(dag_id)
    name = cluster.job(run, "wait")["metadata"]["name"]
    stack.wait_for_state(dag_id, run, "wait", "success", seconds=240)
    assert stack.task(dag_id, run, "wait")["try_number"] == 2
    assert stack.xcom(dag_id, run, "wait") == name
    log = stack.log(dag_id, run, "wait", try_number=2)
    assert ("Adopted PyTorchJob" in log, "Created PyTorchJob" in log) == (adopted, not adopted)
    cluster.wait_for_nothing_left(run, "wait")


def test_a_killed_triggerer_costs_no_job(stack: AirflowStack, cluster: Cluster) -> None:
    """A new one waits on."""
    run, name = hang(stack, cluster, 40)
    stack.kill_component("triggerer")
    stack.start_component("triggerer")
    stack.wait_for_state(DAG, run, "wait", "success", seconds=180)
    assert (stack.xcom(DAG, run, "wait"), stack.task(DAG, run, "wait")["try_number"]) == (name, 1)
    cluster.wait_for_nothing_left(run, "wait")


def test_a_job_lives_on_when_its_trigger_moves(stack: AirflowStack, cluster: Cluster) -> None:
    """Airflow calls on_kill of the triggerer that lost it, once that one wakes up."""
    run, name = hang(stack, cluster, 45)
    sleepers = stack.processes_of("triggerer")
    for pid in sleepers:
        os.kill(pid, signal.SIGSTOP)
    stack.start_component("triggerer", "second")
    try:
        begun = f"{run}/wait/-1/1"
        wait_for("the second to take over", lambda: stack.log(DAG, run, "wait").count(f"{begun} (ID") >= 2 or None, 60)
    finally:
        for pid in sleepers:
            os.kill(pid, signal.SIGCONT)
    stack.wait_for_log(DAG, run, "wait", "the task is still deferred, so its job goes on")
    stack.wait_for_state(DAG, run, "wait", "success", seconds=180)
    assert stack.xcom(DAG, run, "wait") == name
    stack.kill_component("second")
    cluster.wait_for_nothing_left(run, "wait")


def test_an_api_server_that_is_gone_for_a_minute_costs_no_job(stack: AirflowStack, cluster: Cluster) -> None:
    """While the job runs, ends, and is to be fetched."""
    run, name = hang(stack, cluster, 20)
    with cluster.proxy.down():
        time.sleep(60)
    stack.wait_for_state(DAG, run, "wait", "success", seconds=180)
    assert (stack.xcom(DAG, run, "wait"), stack.task(DAG, run, "wait")["try_number"]) == (name, 1)
    cluster.wait_for_nothing_left(run, "wait")


def test_a_job_that_someone_else_deletes_is_an_error_that_may_be_retried(stack: AirflowStack, cluster: Cluster) -> None:
    """It is not waited for until the end of time."""
    run, name = hang(stack, cluster)
    cluster.call("DELETE", f"/apis/kubeflow.org/v1/namespaces/{cluster.namespace}/pytorchjobs/{name}")
    stack.wait_for_state(DAG, run, "wait", "success", seconds=180)
    assert stack.task(DAG, run, "wait")["try_number"] == 2
    assert "JobLost: Deleted" in stack.log(DAG, run, "wait", try_number=1)
    cluster.wait_for_nothing_left(run, "wait")


def test_a_namespace_that_is_gone_is_an_error(stack: AirflowStack, cluster: Cluster) -> None:
    """With all that is in it."""
    other = f"{cluster.namespace}-b"
    cluster.create_namespace(other)
    try:
        run = stack.trigger("cluster_elsewhere")
        stack.wait_for_log("cluster_elsewhere", run, "wait", "hanging now")
    finally:
        cluster.delete_namespace(other)
    stack.wait_for_state("cluster_elsewhere", run, "wait", "failed", seconds=180)
    # Pods, job and Secret go in any order, so the last thing seen of the job differs.
    assert re.search("Job(Lost|Failed|Terminated): ", stack.log("cluster_elsewhere", run, "wait"))
