"""The job's record in Airflow's task state store."""

from __future__ import annotations

from typing import Any

from airflow_distrib.core.record import JobRecord, Phase
from airflow_distrib.core.reference import JobRef

KEY = "airflow_distrib.job"


class RecordStore:
    """Reads and writes the record of one task instance; with ``durable=False`` it forgets."""

    def __init__(self, context: Any, *, durable: bool, spec_hash: str) -> None:
        self._state = context.get("task_state_store") if durable else None
        self._try_number = int(context["ti"].try_number)
        self._spec_hash = spec_hash

    def read(self) -> JobRecord | None:
        """The record that an earlier leg left."""
        return JobRecord.from_json(self._state.get(KEY)) if self._state is not None else None

    def write(self, phase: Phase, ref: JobRef | None = None) -> None:
        """Replace the record."""
        if self._state is not None:
            record = JobRecord(phase, self._try_number, self._spec_hash, ref)
            self._state.set(KEY, record.to_json())
