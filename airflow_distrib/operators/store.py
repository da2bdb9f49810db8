"""The job's record in Airflow's task state store."""

from __future__ import annotations

import secrets
from typing import Any

from airflow_distrib.core.record import JobRecord, Phase
from airflow_distrib.core.reference import JobRef

KEY = "airflow_distrib.job"


class RecordStore:
    """Reads and writes the record of one task instance; with ``durable=False`` it forgets.

    Attributes:
        scope: what all tries of this task instance share and nobody else has.
        spec_hash: digest of what is wanted now; set before the first write.
        consumed: whether the last write said that nothing of the job is needed any more.
    """

    def __init__(self, context: Any, *, durable: bool) -> None:
        self._state = context.get("task_state_store") if durable else None
        self._try_number = int(context["ti"].try_number)
        earlier = self.read()
        self.scope = (earlier.scope if earlier else "") or secrets.token_hex(8)
        self.spec_hash = ""
        self.consumed = False

    def read(self) -> JobRecord | None:
        """The record that an earlier leg left."""
        return JobRecord.from_json(self._state.get(KEY)) if self._state is not None else None

    def write(self, phase: Phase, ref: JobRef | None = None) -> None:
        """Replace the record."""
        self.consumed = phase is Phase.CONSUMED
        if self._state is not None:
            record = JobRecord(phase, self._try_number, self.spec_hash, self.scope, ref)
            self._state.set(KEY, record.to_json())
