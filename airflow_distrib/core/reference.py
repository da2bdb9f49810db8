"""The address of one submitted job: enough to find, watch and cancel it, and no secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class JobRef:
    """Where a job is.

    Attributes:
        launcher: name of the launcher that submitted it.
        name: name of the job there.
        uid: identity that no later job of the same name shares.
        address: what else the launcher needs (namespace, host, ...), as text.
    """

    launcher: str
    name: str
    uid: str
    address: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> JobRef:
        """The reverse of :meth:`to_json`."""
        return cls(document["launcher"], document["name"], document["uid"], dict(document.get("address") or {}))
