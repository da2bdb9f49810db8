"""What is stored about a task's job, and what the next ``execute`` does about it.

The record lives in Airflow's ``task_state_store``: it survives a lost worker, a retry and
a user's *clear*, and a trigger cannot write it. Local ranks know three of the phases; the
others are for systems whose jobs outlive the worker. Each says who held the job last:

========================  ====================================================
``submitting``            a worker was about to create the job
``submitted``             the job exists, a worker holds it
``deferred``              a trigger waits for the job
``resumed``               a worker was fetching the result
``trigger_lost``          the trigger failed or timed out
``consumed``              the result was fetched, or the job was cancelled
========================  ====================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from airflow_distrib.core.reference import JobRef

FORMAT = 3


class Phase(Enum):
    """Who held the job last."""

    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    DEFERRED = "deferred"
    RESUMED = "resumed"
    TRIGGER_LOST = "trigger_lost"
    CONSUMED = "consumed"


class Action(Enum):
    """What ``execute`` does with the recorded job."""

    SUBMIT = "submit"
    ADOPT = "adopt"
    REPLACE = "replace"


@dataclass(frozen=True)
class JobRecord:
    """The stored record.

    Attributes:
        try_number: the try that wrote it.
        spec_hash: digest of what was submitted; another one means another job is wanted.
        scope: the identity's, which all tries of the task instance share.
        max_tries: Airflow's number of the last try at the time; a user's *clear* raises it.
        ref: while ``submitting`` without a uid: the job may or may not exist, under its
            deterministic name.
    """

    phase: Phase
    try_number: int
    spec_hash: str
    scope: str = ""
    max_tries: int = 0
    ref: JobRef | None = None

    def to_json(self) -> dict[str, object]:
        """As plain JSON values."""
        return {
            "format": FORMAT,
            "phase": self.phase.value,
            "try_number": self.try_number,
            "spec_hash": self.spec_hash,
            "scope": self.scope,
            "max_tries": self.max_tries,
            "ref": self.ref.to_json() if self.ref else None,
        }

    @classmethod
    def from_json(cls, document: Any) -> JobRecord | None:
        """Read a stored value; None for nothing, and for what another version wrote."""
        if not isinstance(document, Mapping) or document.get("format") != FORMAT:
            return None
        ref = document.get("ref")
        return cls(
            Phase(document["phase"]),
            int(document["try_number"]),
            str(document["spec_hash"]),
            str(document["scope"]),
            int(document["max_tries"]),
            JobRef.from_json(ref) if ref else None,
        )


def next_action(
    record: JobRecord | None, try_number: int, max_tries: int, spec_hash: str, *, outlives_worker: bool
) -> Action:
    """Decide what a new ``execute`` does, from the record alone.

    - Nothing recorded, or the result was consumed: submit.
    - A later try of Airflow's own: whoever held the job was lost, in whatever phase. Adopt,
      if the system keeps jobs whose worker died and the same thing is wanted; a job whose
      spec changed in between is replaced.
    - A try after a user's *clear*, which raises the number of the last try: a fresh run is
      wanted. Replace.

    Args:
        outlives_worker: False for local processes, which die with their worker; what may
            be left of them is removed first.
    """
    if record is None or record.phase is Phase.CONSUMED:
        return Action.SUBMIT
    # Tries only count upwards; a lower one is of a task instance that was created anew.
    same_run = record.try_number <= try_number and record.max_tries == max_tries
    if same_run and outlives_worker and record.spec_hash == spec_hash:
        return Action.ADOPT
    return Action.REPLACE
