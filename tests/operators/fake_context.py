"""A task's context without a supervisor: the task instance and the task state store are in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from airflow.sdk import Context


@dataclasses.dataclass
class FakeTaskInstance:
    """What the operator asks of a task instance."""

    dag_id: str = "dag"
    run_id: str = "run"
    task_id: str = "train"
    map_index: int | None = -1
    try_number: int = 1
    max_tries: int = 0


class FakeStateStore:
    """Remembers the last value, and the phase of every value that was written."""

    def __init__(self) -> None:
        self.value: Any = None
        self.phases: list[str] = []

    def get(self, key: str, default: Any = None) -> Any:
        """The last value."""
        assert key == "airflow_distrib.job"
        return default if self.value is None else self.value

    def set(self, key: str, value: Mapping[str, Any]) -> None:
        """Replace it."""
        assert key == "airflow_distrib.job"
        self.value = value
        self.phases.append(value["phase"])


def context(store: FakeStateStore | None = None, *, ti: FakeTaskInstance | None = None, **values: Any) -> Context:
    """A context for ``execute``."""
    ti = ti or FakeTaskInstance()
    known = {"ti": ti, "run_id": ti.run_id, "task_state_store": store or FakeStateStore(), "params": {}}
    return {**known, **values}  # type: ignore[typeddict-item] # only what the operator reads of it
