"""Names and labels of a job, the same for every attempt to submit the same try of a task."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass

# Longest value of a label, and longest DNS label.
MAX_LABEL = 63
_HASH = 10
PREFIX = "airflow-distrib/"
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class JobIdentity:
    """Which try of which task a job belongs to; ``map_index`` is -1 for unmapped tasks.

    Attributes:
        scope: random text that all tries of one task instance share, so that the same run
            of the same DAG in another Airflow never meets this one's jobs.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    scope: str = ""

    @property
    def digest(self) -> str:
        """Ten hexadecimal digits that differ between any two tries of any two tasks."""
        return _digest(json.dumps(list(asdict(self).values())))

    @property
    def task_digest(self) -> str:
        """The same for all tries of one task instance."""
        return _digest(json.dumps([self.dag_id, self.run_id, self.task_id, self.map_index, self.scope]))

    def name(self, limit: int = MAX_LABEL) -> str:
        """A DNS-1035 label: starts with a letter, then ``a-z0-9-``, at most ``limit`` long."""
        readable = re.sub(r"[^a-z0-9]+", "-", f"{self.dag_id}-{self.task_id}".lower()).strip("-")
        if not readable[:1].isalpha():
            readable = f"a{'-' if readable else ''}{readable}"
        cut = readable[: limit - _HASH - 1].rstrip("-")
        return f"{cut}-{self.digest}"

    def labels(self) -> dict[str, str]:
        """Labels to select by; values that a label cannot hold are replaced by their hash."""
        return {
            f"{PREFIX}dag": _label(self.dag_id),
            f"{PREFIX}task": _label(self.task_id),
            f"{PREFIX}run": _label(self.run_id),
            f"{PREFIX}map-index": str(self.map_index).replace("-1", "none"),
            f"{PREFIX}try": str(self.try_number),
            f"{PREFIX}task-instance": self.task_digest,
        }

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> JobIdentity:
        """The reverse."""
        return cls(**json.loads(text))

    def annotation(self) -> dict[str, str]:
        """The whole identity, unshortened: what adoption compares."""
        return {f"{PREFIX}identity": self.to_json()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH]


def _label(value: str) -> str:
    return value if _LABEL_VALUE.fullmatch(value) else f"h-{_digest(value)}"
