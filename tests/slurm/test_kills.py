"""However a task ends and whatever dies meanwhile, no job is lost or run twice, and nothing remains."""

from __future__ import annotations

import os
import signal
import time

import pytest

from airflow_stack import AirflowStack, wait_for
from slurm_cluster import SlurmCluster

DAG = "slurm_hanging"


def hang(stack: AirflowStack, slurm: SlurmCluster, seconds: float = 600, dag_id: str = DAG) -> tuple[str, str]:
    """Start a job that hangs, and return run and job once the task is deferred and its ranks run."""
    run = stack.trigger(dag_id, {"seconds": str(seconds)})
    stack.wait_for_state(dag_id, run, "wait", "deferred")
    stack.wait_for_log(dag_id, run, "wait", "hanging now")
    return run, slurm.job(run)


@pytest.mark.parametrize("state", ["failed", "success"])
def test_marking_a_deferred_task_cancels_its_job(stack: AirflowStack, slurm: SlurmCluster, state: str) -> None:
    """The buttons in Airflow's UI free the nodes of a job that nobody wants any more."""
    run, _ = hang(stack, slurm)
    stack.set_state(DAG, run, "wait", state)
    slurm.wait_for_nothing_left(run)
    assert stack.task(DAG, run, "wait")["state"] == state


def test_a_job_that_waits_for_its_nodes_is_cancelled_too(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """A job that still pends is cancelled like one that runs, and its folder goes."""
    run = stack.trigger("slurm_waiting")
    stack.wait_for_log("slurm_waiting", run, "wait", ": queued")
    stack.set_state("slurm_waiting", run, "wait", "failed")
    slurm.wait_for_nothing_left(run)


def test_a_task_that_holds_its_worker_is_killed_with_its_job(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """The signal handler cancels the job within the five seconds that Airflow allows."""
    run = stack.trigger("slurm_held")
    stack.wait_for_log("slurm_held", run, "wait", "hanging now")
    stack.set_state("slurm_held", run, "wait", "failed")
    slurm.wait_for_nothing_left(run)


def test_failing_the_dag_run_cancels_the_job(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """A user who fails a run frees the nodes of all of its tasks."""
    run, _ = hang(stack, slurm)
    stack.call("PATCH", f"/dags/{DAG}/dagRuns/{run}", json={"state": "failed"})
    slurm.wait_for_nothing_left(run)


def test_a_later_submission_removes_what_a_failed_run_forgot(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """The folder of a job does not stay for ever where its run failed before a worker could read the result."""
    run, _ = hang(stack, slurm, 5)
    # No worker takes the task again.
    stack.set_slots(0)
    try:
        stack.wait_for_state(DAG, run, "wait", "scheduled")
        stack.call("PATCH", f"/dags/{DAG}/dagRuns/{run}", json={"state": "failed"})
    finally:
        stack.set_slots(128)
    base = slurm.home / ".airflow-distrib"
    (owner,) = [path for path in base.glob("*/*/owner") if run in path.read_text()]
    for path in (owner, base / ".swept"):
        os.utime(path, (time.time() - 3600,) * 2)
    later = stack.trigger(DAG, {"seconds": "1"})
    stack.wait_for_state(DAG, later, "wait", "success")
    assert not owner.exists()
    slurm.wait_for_nothing_left(run)


def test_a_busy_scheduler_does_not_fail_a_healthy_task(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """A task succeeds although the scheduler hangs from before its deferral until after its job's end."""
    run = stack.trigger(DAG, {"seconds": "1"})
    slurm.job(run)
    scheduler = min(stack.processes_of("scheduler"))
    os.kill(scheduler, signal.SIGSTOP)
    try:
        stack.wait_for_state(DAG, run, "wait", "deferred", "scheduled")
        # Longer than anything that could be guessed.
        time.sleep(12)
    finally:
        os.kill(scheduler, signal.SIGCONT)
    stack.wait_for_state(DAG, run, "wait", "success", "failed", "up_for_retry")
    assert (stack.task(DAG, run, "wait")["state"], stack.task(DAG, run, "wait")["try_number"]) == ("success", 1)
    slurm.wait_for_nothing_left(run)


def test_clearing_a_deferred_task_runs_it_afresh(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """A user who clears a task gets a fresh job, and the old one does not go on to hold its nodes."""
    run, job = hang(stack, slurm)
    stack.clear(DAG, run, "wait")
    stack.wait_for_state(DAG, run, "wait", "success", seconds=180)
    assert stack.xcom(DAG, run, "wait") != job
    slurm.wait_for_nothing_left(run)


def test_execution_timeout_counts_while_deferred(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """A deferred task ends on time although Airflow itself does not enforce the timeout then."""
    run, _ = hang(stack, slurm, dag_id="slurm_overdue")
    stack.wait_for_state("slurm_overdue", run, "wait", "failed")
    assert "JobTimedOut" in stack.log("slurm_overdue", run, "wait")
    slurm.wait_for_nothing_left(run)


def test_a_deferral_that_times_out_cancels_the_job(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """A job whose time is over ends even if no triggerer is there to cancel it."""
    run, _ = hang(stack, slurm, dag_id="slurm_overdue")
    stack.kill_component("triggerer")
    stack.wait_for_state("slurm_overdue", run, "wait", "failed", seconds=240)
    slurm.wait_for_nothing_left(run)
    stack.start_component("triggerer")


@pytest.mark.parametrize(
    ("moment", "adopted"),
    [
        ("before_submit", False),
        ("with_files_only", False),
        ("between_submit_and_record", True),
        ("after_record", True),
        ("before_the_result", True),
        ("with_the_result", True),
    ],
)
def test_a_killed_worker_costs_no_job(stack: AirflowStack, slurm: SlurmCluster, moment: str, adopted: bool) -> None:
    """A worker that dies at any moment costs no computed hours, because the next try goes on with the one job."""
    dag_id = f"slurm_dies_{moment}"
    run = stack.trigger(dag_id)
    stack.wait_for_state(dag_id, run, "wait", "success", seconds=240)
    assert stack.task(dag_id, run, "wait")["try_number"] == 2
    # The only job of the run, in whatever state.
    assert stack.xcom(dag_id, run, "wait") == slurm.job(run)
    log = stack.log(dag_id, run, "wait", try_number=2)
    assert ("Adopted Slurm job" in log, "Created Slurm job" in log) == (adopted, not adopted)
    slurm.wait_for_nothing_left(run)


def test_a_killed_triggerer_costs_no_job(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """A new triggerer continues the wait, without a further try."""
    run, job = hang(stack, slurm, 40)
    stack.kill_component("triggerer")
    stack.start_component("triggerer")
    stack.wait_for_state(DAG, run, "wait", "success", seconds=180)
    assert (stack.xcom(DAG, run, "wait"), stack.task(DAG, run, "wait")["try_number"]) == (job, 1)
    slurm.wait_for_nothing_left(run)


def test_a_job_lives_on_when_its_trigger_moves(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """A job survives on_kill of a triggerer that only lost its trigger to another one."""
    run, job = hang(stack, slurm, 45)
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
    assert stack.xcom(DAG, run, "wait") == job
    stack.kill_component("second")
    slurm.wait_for_nothing_left(run)


def test_cut_connections_cost_neither_job_nor_line(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """Every line of the log comes once and in sequence, although connections break while it is read."""
    run = stack.trigger("slurm_chatty")
    stack.wait_for_log("slurm_chatty", run, "wait", "line 100 ")
    cut = 0
    for _ in range(4):
        cut += slurm.kill_connections()
        time.sleep(3)
    assert cut
    stack.wait_for_state("slurm_chatty", run, "wait", "success", seconds=180)
    lines = [line for line in stack.log("slurm_chatty", run, "wait").splitlines() if "[rank 0] line " in line]
    assert [int(line.partition("] line ")[2].split()[0]) for line in lines] == list(range(2000))
    slurm.wait_for_nothing_left(run)


def test_a_login_node_that_is_gone_for_a_minute_costs_no_job(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """An outage of the login node costs no job, although it runs, ends and is to be fetched meanwhile."""
    run, job = hang(stack, slurm, 20)
    slurm.kill("sshd")
    slurm.kill_connections()
    time.sleep(60)
    slurm.start_ssh()
    stack.wait_for_state(DAG, run, "wait", "success", seconds=180)
    assert (stack.xcom(DAG, run, "wait"), stack.task(DAG, run, "wait")["try_number"]) == (job, 1)
    slurm.wait_for_nothing_left(run)


def test_a_controller_that_is_gone_for_a_minute_costs_no_job(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """An outage of the controller costs no job, although the job ends while nobody can be asked."""
    run, job = hang(stack, slurm, 20)
    # Not by SIGKILL, after which it may forget what it has not yet saved.
    slurm.kill("slurmctld", signal.SIGTERM)
    time.sleep(50)
    slurm.start_controller()
    stack.wait_for_state(DAG, run, "wait", "success", seconds=240)
    assert (stack.xcom(DAG, run, "wait"), stack.task(DAG, run, "wait")["try_number"]) == (job, 1)
    slurm.wait_for_nothing_left(run)


def test_a_job_is_cancelled_by_a_controller_that_comes_back(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """A job that is not wanted any more ends once its controller answers again."""
    run, _ = hang(stack, slurm)
    slurm.kill("slurmctld", signal.SIGTERM)
    stack.set_state(DAG, run, "wait", "failed")
    time.sleep(20)
    slurm.start_controller()
    slurm.wait_for_nothing_left(run)


def test_a_job_that_someone_else_cancels_is_an_error_that_may_be_retried(
    stack: AirflowStack, slurm: SlurmCluster
) -> None:
    """Users learn who cancelled their job, and the next try gets a job of its own."""
    run, job = hang(stack, slurm)
    slurm.run("scancel", job)
    stack.wait_for_state(DAG, run, "wait", "success", seconds=180)
    assert stack.task(DAG, run, "wait")["try_number"] == 2
    assert "CANCELLED by user id 0" in stack.log(DAG, run, "wait", try_number=1)
    slurm.wait_for_nothing_left(run)


def test_a_job_that_slurm_starts_again_is_the_same_job(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """A job that Slurm requeues, after a lost node for example, is waited for as before."""
    run, job = hang(stack, slurm, 15)
    slurm.run("scontrol", "requeue", job)
    stack.wait_for_state(DAG, run, "wait", "success", seconds=300)
    assert (stack.xcom(DAG, run, "wait"), stack.task(DAG, run, "wait")["try_number"]) == (job, 1)
    assert stack.log(DAG, run, "wait").count("hanging now") == 2
    slurm.wait_for_nothing_left(run)


def test_a_lost_node_is_an_error_that_may_be_retried(stack: AirflowStack, slurm: SlurmCluster) -> None:
    """A task whose node is lost succeeds in its next try, on another node."""
    run, job = hang(stack, slurm)
    slurm.run("scontrol", "update", f"JobId={job}", "Requeue=0")
    node = next(iter(slurm.nodes_of(job)))
    slurm.kill(f"slurmd-{node}")
    try:
        slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        stack.wait_for_state(DAG, run, "wait", "success", seconds=300)
    finally:
        slurm.start_node(node)
        slurm.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
    assert stack.task(DAG, run, "wait")["try_number"] == 2
    assert "NODE_FAIL" in stack.log(DAG, run, "wait", try_number=1)
    slurm.wait_for_nothing_left(run)
