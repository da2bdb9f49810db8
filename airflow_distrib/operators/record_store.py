"""The job's record in Airflow's task state store."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from airflow.sdk import conf

from airflow_distrib.core.record import JobRecord, Phase
from airflow_distrib.core.reference import JobRef

KEY = "airflow_distrib.job"


class RecordStore:
    """Reads and writes the record of one task instance; with ``durable=False`` it forgets.

    Attributes:
        scope: what all tries of this task instance share and nobody else has.
        max_tries: Airflow's number of the last try.
        spec_hash: digest of what is wanted now; set before the first write.
        consumed: whether the last write said that nothing of the job is needed any more.
    """

    def __init__(self, context: Any, *, durable: bool) -> None:
        self._state = context.get("task_state_store") if durable else None
        ti = context["ti"]
        self._try_number, self.max_tries = int(ti.try_number), int(getattr(ti, "max_tries", None) or 0)
        earlier = self.read()
        self.scope = (earlier.scope if earlier else "") or (secrets.token_hex(8) if durable else _deployment())
        self.spec_hash = ""
        self.consumed = False

    def read(self) -> JobRecord | None:
        """The last record, perhaps of an earlier try."""
        return JobRecord.from_json(self._state.get(KEY)) if self._state is not None else None

    def write(self, phase: Phase, ref: JobRef | None = None) -> None:
        """Replace the record."""
        self.consumed = phase is Phase.CONSUMED
        if self._state is not None:
            record = JobRecord(phase, self._try_number, self.spec_hash, self.scope, self.max_tries, ref)
            self._state.set(KEY, record.to_json())


def _deployment() -> str:
    """What tells this Airflow from another, where nothing can be stored: the address of its API."""
    address = conf.get("core", "execution_api_server_url", fallback="") or conf.get("api", "base_url", fallback="")
    return hashlib.sha256(str(address).encode()).hexdigest()[:16]
