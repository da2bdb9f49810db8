"""What a task asks for besides its config: the arguments of its operator, and who it is."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from airflow_distrib.core.config import Config
from airflow_distrib.core.identity import JobIdentity

# The cluster itself ends a job so many seconds after the task's own timeout, in case Airflow is gone.
DEADLINE_MARGIN_SECONDS = 300

# SIGTERM to SIGKILL is 30 seconds on most clusters; the runner needs a few of them to report.
REMOTE_GRACE_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """One try of a task.

    Attributes:
        runs_function: whether ranks call a function; otherwise an argument says what runs.
        python: interpreter of the ranks; None is the launcher's own default.
        log_ranks: ranks whose output is shown; None is all of them.
        result_path: where rank 0 writes a large result.
        grace_seconds: time between SIGTERM and SIGKILL; None is the launcher's own default.
        deadline_seconds: after how long the cluster itself ends the job.
        payload: the pickled call; None where nothing is submitted, and where it is at ``payload_file``.
        payload_file: path or URL from which ranks read the payload.
        payload_sha256: its digest.
        arguments: operator arguments of launchers.
    """

    identity: JobIdentity
    runs_function: bool = True
    python: str | None = None
    log_ranks: list[int] | None = field(default_factory=lambda: [0])
    result_path: str | None = None
    grace_seconds: float | None = None
    deadline_seconds: int | None = None
    payload: bytes | None = field(default=None, repr=False)
    payload_file: str | None = None
    payload_sha256: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def of(self, identity: JobIdentity) -> JobRequest:
        """The same for another try."""
        return dataclasses.replace(self, identity=identity)

    @property
    def shows_log(self) -> bool:
        """Whether any rank's output is wanted."""
        return self.log_ranks is None or bool(self.log_ranks)

    def options(self, grace_seconds: float = REMOTE_GRACE_SECONDS) -> dict[str, Any]:
        """Fields of the runner's spec.

        Args:
            grace_seconds: the launcher's default.
        """
        fields: dict[str, Any] = {
            "log_ranks": self.log_ranks,
            "result_path": self.result_path,
            "grace_seconds": grace_seconds if self.grace_seconds is None else self.grace_seconds,
        }
        if self.payload_file is not None:
            fields |= {"payload_file": self.payload_file, "payload_sha256": self.payload_sha256}
        return fields


def digest(what: Mapping[str, object], function: Callable[..., object] | None) -> str:
    """Digest of what a task wants, the same for every try that wants the same.

    It counts what the user wrote, not what is rendered from it: a release of this package that
    renders otherwise must not replace running jobs. Of the function its source counts, because
    its pickle differs from process to process.
    """
    parts: list[object] = [what]
    if function is not None:
        try:
            parts.append(inspect.getsource(inspect.unwrap(function)))
        except (OSError, TypeError):
            parts.append(getattr(function, "__qualname__", type(function).__qualname__))
    return hashlib.sha256(json.dumps(_stable(parts)).encode()).hexdigest()


def _stable(value: object) -> object:
    """Plain values that are the same in every process: without addresses, and in order."""
    if isinstance(value, Config):
        return _stable(value.serialize())
    if isinstance(value, Mapping):
        return sorted([str(_stable(key)), _stable(item)] for key, item in value.items())
    if isinstance(value, list | tuple):
        return [_stable(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(str(_stable(item)) for item in value)
    if value is None or isinstance(value, str | int | float | date | os.PathLike) or hasattr(value, "protocol"):
        return str(value)
    return type(value).__qualname__
