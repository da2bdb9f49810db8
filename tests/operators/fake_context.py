"""A task's context without a supervisor: a task instance and a task state store in memory."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass
class FakeTaskInstance:
    """What the operator asks of a task instance."""

    dag_id: str = "dag"
    run_id: str = "run"
    task_id: str = "train"
    map_index: int | None = -1
    try_number: int = 1


class FakeStateStore:
    """Remembers every value that was written."""

    def __init__(self) -> None:
        self.value: Any = None
        self.phases: list[str] = []

    def get(self, key: str, default: Any = None) -> Any:
        """The last value."""
        assert key == "airflow_distrib.job"
        return default if self.value is None else self.value

    def set(self, key: str, value: Any) -> None:
        """Replace it."""
        assert key == "airflow_distrib.job"
        self.value = value
        self.phases.append(value["phase"])


def context(store: FakeStateStore | None = None, **values: Any) -> dict[str, Any]:
    """A context for ``execute``."""
    ti = values.pop("ti", None) or FakeTaskInstance()
    return {"ti": ti, "run_id": ti.run_id, "task_state_store": store or FakeStateStore(), "params": {}, **values}
