"""Jobs that run to their end, on a real Airflow."""

from __future__ import annotations

from pathlib import Path

from airflow_stack import AirflowStack, processes_with, wait_for


def test_main_dag_trains_and_hands_rank_zeros_metrics_on(stack: AirflowStack) -> None:
    """The digits DAG reaches its accuracy, saves its picture and feeds the downstream task."""
    run = stack.trigger("digits_ddp")
    stack.wait_for_state("digits_ddp", run, "report", "success", seconds=180)
    metrics = stack.xcom("digits_ddp", run, "train")
    assert metrics["world_size"] == 2
    assert metrics["accuracy"] > 0.9
    assert Path(metrics["picture"]).read_bytes().startswith(b"\x89PNG")
    assert "2 ranks" in stack.xcom("digits_ddp", run, "report")


def test_progress_of_every_rank_is_in_the_task_log(stack: AirflowStack) -> None:
    """Lines of all ranks arrive, each with its rank in front."""
    run = stack.trigger("digits_ddp")
    stack.wait_for_state("digits_ddp", run, "train", "success", seconds=180)
    log = stack.log("digits_ddp", run, "train")
    for rank in (0, 1):
        assert f"[rank {rank}] epoch 8/8" in log


def test_size_of_a_job_comes_from_an_upstream_task(stack: AirflowStack) -> None:
    """An XCom replaces a field of the config, and only the chosen ranks are logged."""
    run = stack.trigger("pytorch_job_local")
    stack.wait_for_state("pytorch_job_local", run, "add_up", "success")
    assert stack.xcom("pytorch_job_local", run, "add_up") == {"sum": 10.0, "ranks": 3}
    log = stack.log("pytorch_job_local", run, "add_up")
    assert "[rank 0] hello" in log
    assert "[rank 2] hello" in log
    assert "[rank 1]" not in log
    assert "worker.requests has no effect with launcher='local'" in log


def test_mapped_tasks_are_jobs_of_their_own(stack: AirflowStack) -> None:
    """Each element gets a job; a NaN becomes null with a warning that names it."""
    run = stack.trigger("mapped")
    wait_for("the run to succeed", lambda: stack.run_state("mapped", run) == "success", 120)
    for index, doubled in enumerate((0.2, 0.4)):
        assert stack.xcom("mapped", run, "train", index) == {"doubled": doubled, "run": run, "bad": None}
    assert "result['bad'] is nan" in stack.log("mapped", run, "train", map_index=0)


def test_failing_rank_is_named_with_its_traceback(stack: AirflowStack) -> None:
    """Rank 1's exception is the task's error, and the hanging rank 0 is gone."""
    run = stack.trigger("failing_rank")
    stack.wait_for_state("failing_rank", run, "train", "failed")
    log = stack.log("failing_rank", run, "train")
    assert "rank 1 of 2 failed first" in log
    assert "ZeroDivisionError: batch of no examples" in log
    assert 'raise ZeroDivisionError("batch of no examples")' in log
    assert "about to divide" in log
    assert processes_with(run) == {}


def test_killed_rank_is_named_rather_than_its_peers_broken_connection(stack: AirflowStack) -> None:
    """A SIGKILL of rank 1 is reported as such, although rank 0 complained first."""
    run = stack.trigger("killed_rank")
    stack.wait_for_state("killed_rank", run, "train", "failed")
    log = stack.log("killed_rank", run, "train")
    assert "rank 1 failed first" in log
    assert "SIGKILL" in log
    # The kernel's own count of its kills tells, where it can be read, that it was not for memory.
    assert "somebody sent it SIGKILL" in log or "OOM killer" in log
    assert processes_with(run) == {}


def test_permanent_failure_is_not_retried(stack: AirflowStack) -> None:
    """NonRecoverableError ends the task at its first try."""
    run = stack.trigger("permanent_failure")
    stack.wait_for_state("permanent_failure", run, "train", "failed")
    assert stack.task("permanent_failure", run, "train")["try_number"] == 1
    assert "the data set does not exist" in stack.log("permanent_failure", run, "train")
