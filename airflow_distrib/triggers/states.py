"""What state Airflow says that a task instance is in."""

from __future__ import annotations

# Of a task instance that nothing follows until a user asks for it.
ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


def task_state(dag_id: str, run_id: str, task_id: str, map_index: int) -> str | None:
    """The state now, "None" for one that was cleared; None where there is no such task instance any more."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(
        dag_id=dag_id, task_ids=[task_id], run_ids=[run_id], map_index=map_index
    )
    name = task_id if map_index < 0 else f"{task_id}_{map_index}"
    of_run = states.get(run_id) or {}
    return str(of_run[name]) if name in of_run else None


def has_ended(dag_id: str, run_id: str, task_id: str, map_index: int) -> bool:
    """Whether nobody waits for a job of that task instance."""
    state = task_state(dag_id, run_id, task_id, map_index)
    return state is None or state in ENDED
