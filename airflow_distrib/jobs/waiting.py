"""What is waited for, and how the waiting ended: plain values that travel through Airflow's database."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import Problem
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome

# Outcomes that travel in an event: it is a row in Airflow's database.
MAX_OUTCOMES = 12


@dataclass(frozen=True)
class Waiting:
    """What to wait for.

    Attributes:
        connection: id of the Airflow connection.
        deadline: seconds since the epoch at which the task's time is over; None is never.
        patience: how long the job may be stuck.
        logs: whether to follow logs at all.
        log_parts: roles, or elements of a job array, whose logs are followed; None is all.
        named: whether to put the role or element before each line.
    """

    ref: JobRef
    connection: str
    deadline: float | None = None
    patience: Mapping[str, float | None] = field(default_factory=dict)
    logs: bool = True
    log_parts: tuple[str, ...] | None = None
    named: bool = False

    def to_json(self) -> dict[str, object]:
        """As plain JSON values, without what is at its default: older triggers do not know new names."""
        plain = vars(Waiting(self.ref, self.connection))
        values = {name: value for name, value in vars(self).items() if value != plain[name]}
        if self.log_parts is not None:
            values["log_parts"] = list(self.log_parts)
        return {"ref": self.ref.to_json(), "connection": self.connection, **values}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Waiting:
        """The reverse of :meth:`to_json`; names this version does not know are passed over."""
        known = {each.name for each in dataclasses.fields(cls)}
        values = {name: value for name, value in document.items() if name in known}
        if values.get("log_parts") is not None:
            values["log_parts"] = tuple(values["log_parts"])
        return cls(**{**values, "ref": JobRef.from_json(document["ref"])})


@dataclass(frozen=True)
class Ending:
    """How the waiting ended.

    Attributes:
        succeeded: what the system says; None when it was not asked.
        outcomes: what the ranks reported, as far as the waiting saw it.
        log: how far each log was shown.
    """

    succeeded: bool | None
    reason: str = ""
    message: str = ""
    problem: Problem | None = None
    outcomes: tuple[Outcome, ...] = ()
    log: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """As plain JSON values, small enough for a row in a database."""
        return {
            "succeeded": self.succeeded,
            "reason": self.reason,
            "message": self.message[:2000],
            "problem": self.problem.to_json() if self.problem else None,
            "outcomes": [each.to_json() for each in _worth_keeping(self.outcomes)],
            "log": dict(self.log),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Ending:
        """The reverse of :meth:`to_json`."""
        problem = document.get("problem")
        return cls(
            document.get("succeeded"),
            str(document.get("reason") or ""),
            str(document.get("message") or ""),
            Problem.from_json(problem) if problem else None,
            tuple(outcomes.from_json(text) for text in document.get("outcomes") or ()),
            dict(document.get("log") or {}),
        )


def _worth_keeping(reported: tuple[Outcome, ...]) -> list[Outcome]:
    """Rank 0's outcome, and the earliest failures."""
    failed = sorted((each for each in reported if each.kind != outcomes.SUCCESS), key=lambda each: each.time)
    first = [each for each in reported if each.rank == 0 and each.kind == outcomes.SUCCESS]
    return [*first, *failed[:MAX_OUTCOMES]]
