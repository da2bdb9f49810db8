"""Every way to end a running job from outside; no process of it may survive any of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from airflow_stack import AirflowStack, processes_with, wait_for

pytestmark = pytest.mark.parametrize("task_id", ["ranks", "elastic"])


def hang(stack: AirflowStack, task_id: str) -> str:
    """Start the hanging DAG and wait until the task's ranks hang."""
    run = stack.trigger("hanging")
    stack.wait_for_log("hanging", run, task_id, "hanging now")
    other = {"ranks": "elastic", "elastic": "ranks"}[task_id]
    stack.wait_for_state("hanging", run, other, "running")
    stack.set_state("hanging", run, other, "success")
    return run


def wait_for_nothing_left(stack: AirflowStack, run: str, task_id: str) -> None:
    """No process and no file of the job; fails with the list of survivors."""
    job = f"{run}/{task_id}"
    try:
        wait_for("the job's processes to end", lambda: not processes_with(job), 20)
        wait_for("the job's folders to be removed", lambda: not folders_left(stack), 20)
    except AssertionError as error:
        raise AssertionError(f"{error}: {processes_with(job)} {folders_left(stack)}") from None


def folders_left(stack: AirflowStack) -> list[Path]:
    """Folders of jobs, and of torch's agents, that nobody removed."""
    return [path for name in ("airflow-distrib-*", "torchelastic*") for path in stack.temporary.glob(name)]


def supervisor_of(run: str, task_id: str) -> int:
    """Process id of the job's supervisor."""
    job = f"{run}/{task_id}"
    return next(pid for pid, command in processes_with(job).items() if "runner.pyz" in command and " --" not in command)


def parent_of(pid: int) -> int:
    """Parent process id."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_marking_failed_ends_every_process(stack: AirflowStack, task_id: str) -> None:
    """Mark failed in the UI stops ranks, agents and their children."""
    run = hang(stack, task_id)
    stack.set_state("hanging", run, task_id, "failed")
    wait_for_nothing_left(stack, run, task_id)


def test_clearing_starts_a_fresh_run_after_ending_the_old_one(stack: AirflowStack, task_id: str) -> None:
    """Clear stops the running try; the next one succeeds."""
    run = hang(stack, task_id)
    stack.clear("hanging", run, task_id)
    stack.wait_for_state("hanging", run, task_id, "success", seconds=180)
    assert stack.xcom("hanging", run, task_id) == "try 2"
    wait_for_nothing_left(stack, run, task_id)


def test_killed_task_process_takes_the_job_with_it(stack: AirflowStack, task_id: str) -> None:
    """SIGKILL of the task's own process ends the job, and a retry succeeds."""
    run = hang(stack, task_id)
    os.kill(parent_of(supervisor_of(run, task_id)), signal.SIGKILL)
    stack.wait_for_state("hanging", run, task_id, "success", seconds=180)
    assert stack.task("hanging", run, task_id)["try_number"] == 2
    wait_for_nothing_left(stack, run, task_id)


def test_killed_worker_takes_the_job_with_it(stack: AirflowStack, task_id: str) -> None:
    """SIGKILL of the worker that supervises the task ends the job, and a retry succeeds."""
    run = hang(stack, task_id)
    os.kill(parent_of(parent_of(supervisor_of(run, task_id))), signal.SIGKILL)
    wait_for_nothing_left(stack, run, task_id)
    stack.wait_for_state("hanging", run, task_id, "success", seconds=240)
    wait_for_nothing_left(stack, run, task_id)


def test_killed_supervisor_takes_the_ranks_with_it(stack: AirflowStack, task_id: str) -> None:
    """SIGKILL of the job's own supervisor is an error of the task, never a success."""
    run = hang(stack, task_id)
    os.kill(supervisor_of(run, task_id), signal.SIGKILL)
    stack.wait_for_state("hanging", run, task_id, "success", seconds=180)
    assert "left no word why" in stack.log("hanging", run, task_id)
    wait_for_nothing_left(stack, run, task_id)


def test_execution_timeout_ends_every_process(stack: AirflowStack, task_id: str) -> None:
    """A task that runs past its execution_timeout fails, and nothing of it runs on."""
    run = stack.trigger("overdue")
    stack.wait_for_log("overdue", run, task_id, "sleeping past the timeout")
    stack.wait_for_state("overdue", run, task_id, "failed")
    wait_for_nothing_left(stack, run, task_id)
