"""The job's record in Airflow's task state store."""

from __future__ import annotations

import functools
import secrets
from typing import Any

from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.record import JobRecord, Phase
from airflow_distrib.core.reference import JobRef
from airflow_distrib.operators.installation import installation
from airflow_distrib.triggers.states import has_ended

KEY = "airflow_distrib.job"


class RecordStore:
    """Reads and writes the record of one task instance; with ``durable=False`` it forgets.

    Attributes:
        scope: what all tries of this task instance share and nobody else has; begins with what
            tells this Airflow from another.
        max_tries: Airflow's number of the last try.
        spec_hash: digest of what is wanted now; set before the first write.
        consumed: whether the last write said that nothing of the job is needed any more.
    """

    def __init__(self, context: Any, *, durable: bool) -> None:
        self._state = context.get("task_state_store") if durable else None
        ti = context["ti"]
        self._try_number, self.max_tries = int(ti.try_number), int(getattr(ti, "max_tries", None) or 0)
        earlier = self.read()
        self.scope = earlier.scope if earlier else ""
        if not self.scope:
            self.scope = f"{self._airflow}-{secrets.token_hex(4)}" if durable else self._airflow
        self.spec_hash = ""
        self.consumed = False

    @functools.cached_property
    def _airflow(self) -> str:
        """This Airflow; asked once, because each folder of a sweep is compared with it."""
        return installation()

    def read(self) -> JobRecord | None:
        """The last record, perhaps of an earlier try."""
        return JobRecord.from_json(self._state.get(KEY)) if self._state is not None else None

    def write(self, phase: Phase, ref: JobRef | None = None) -> None:
        """Replace the record."""
        self.consumed = phase is Phase.CONSUMED
        if self._state is not None:
            record = JobRecord(phase, self._try_number, self.spec_hash, self.scope, self.max_tries, ref)
            self._state.set(KEY, record.to_json())

    def ended(self, identity: JobIdentity) -> bool:
        """Whether a task instance of this Airflow waits for its job no more; False for another Airflow's."""
        if identity.scope.partition("-")[0] != self._airflow:
            return False
        return has_ended(identity.dag_id, identity.run_id, identity.task_id, identity.map_index)
