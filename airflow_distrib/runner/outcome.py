"""How one rank ended, as a JSON document that the worker can trust to be only data."""

from __future__ import annotations

import json
import socket
import time
import traceback
from types import TracebackType
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from airflow_distrib.runner import errors
from airflow_distrib.runner.lines import as_written

FORMAT = 1
SUCCESS = "success"
FAILURE = "failure"
TERMINATED = "terminated"

# Longest parts of a document, in characters: a traceback's end names the fault.
MAX_MESSAGE = 4000
MAX_TRACEBACK = 12000

# A process that was killed cannot write its own outcome; its death is seen a moment
# later than the connection errors it causes in its peers. Seconds of head start it gets.
KILLED_HEAD_START = 1.0


class Outcome(NamedTuple):
    """One rank's end.

    Attributes:
        kind: ``success``, ``failure``, or ``terminated`` (asked to stop by a signal).
        rank: global rank, or None for a process that is not a rank (torch's agent).
        time: seconds since the epoch at which the rank ended.
        result: JSON text of rank 0's return value; None everywhere else.
        result_path: where rank 0 wrote its result instead, if it was asked to.
        error_type: class name of the exception, or a name of our own such as ``ProcessKilled``.
        recoverable: True or False where the function said so; None where it did not.
        exit_code: exit status; negative is the number of the signal, as in subprocess.
    """

    kind: str
    rank: Optional[int]
    world_size: Optional[int] = None
    host: str = ""
    pid: int = 0
    time: float = 0.0
    restart: int = 0
    result: Optional[str] = None
    result_path: Optional[str] = None
    warnings: List[str] = []
    error_type: str = ""
    message: str = ""
    traceback: str = ""
    recoverable: Optional[bool] = None
    exit_code: Optional[int] = None
    log_tail: List[str] = []

    def to_json(self) -> str:
        """Render as one line of JSON; fields at their default are left out."""
        defaults = self._field_defaults
        fields = {key: value for key, value in self._asdict().items() if key not in defaults or value != defaults[key]}
        # ASCII: an error's text may hold surrogates, as names of files do, which no encoding takes.
        return json.dumps({"format": FORMAT, **fields})

    @property
    def died_silently(self) -> bool:
        """True for a rank that ended without writing anything itself."""
        return self.error_type in (PROCESS_KILLED, OUT_OF_MEMORY)


# What a message about SIGKILL says where the kernel's own count rules out memory.
NOT_FOR_MEMORY = "; the kernel killed nothing here for lack of memory"

PROCESS_KILLED = "ProcessKilled"
OUT_OF_MEMORY = "OutOfMemory"
EXITED_EARLY = "ExitedEarly"
NEEDS_AIRFLOW = "AirflowNeeded"


class OutcomeUnreadable(ValueError):
    """A document is not an outcome of a format this version reads."""


def from_json(text: str) -> Outcome:
    """Read a document; fields this version does not know are dropped.

    Raises:
        OutcomeUnreadable: it is not JSON, or of another format.
    """
    try:
        document = json.loads(text)
        known = {key: value for key, value in document.items() if key in Outcome._fields}
        # Ranks name files.
        numbered = known.get("rank") is None or (type(known["rank"]) is int and known["rank"] >= 0)
        if document["format"] == FORMAT and numbered:
            return Outcome(**{"rank": None, **known})
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise OutcomeUnreadable("not an outcome document of format {}: {:.200}".format(FORMAT, text))


def now(kind: str, rank: Optional[int], **fields: Any) -> Outcome:
    """An outcome of this host at this moment."""
    return Outcome(kind, rank, host=socket.gethostname(), time=time.time(), **fields)


def failure_fields(error: BaseException) -> Dict[str, Any]:
    """What an outcome says of an exception."""
    needs_airflow = _needs_airflow(error)
    recoverable: Optional[bool] = None
    if isinstance(error, errors.RecoverableError):
        recoverable = True
    elif isinstance(error, errors.NonRecoverableError) or needs_airflow:
        recoverable = False
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - a user's __str__ may raise anything
        message = "<its text could not be made: {!r}>".format(broken)
    # Without the function that the class is defined in.
    name = type(error).__qualname__.rpartition("<locals>.")[2]
    if needs_airflow:
        name, message = NEEDS_AIRFLOW, "{}: {}".format(name, message)
    lines = traceback.format_exception(type(error), error, _user_frames(error))
    return {
        "error_type": name,
        "message": as_written(message)[:MAX_MESSAGE],
        "traceback": as_written("".join(lines))[-MAX_TRACEBACK:],
        "recoverable": recoverable,
    }


def with_cause_of_kill(killed: Outcome, kills: Optional[int]) -> Outcome:
    """What the kernel's count of its kills for lack of memory says of a rank that was killed.

    Args:
        kills: how many there were since the job began; None where nothing counts them.
    """
    by_signal = killed.exit_code == -9 or "SIGKILL" in killed.message
    if killed.error_type != PROCESS_KILLED or not by_signal or kills is None:
        return killed
    if kills:
        message = "rank {} was killed by the kernel because memory ran out".format(killed.rank)
        return killed._replace(error_type=OUT_OF_MEMORY, message=message)
    return killed._replace(message=killed.message + NOT_FOR_MEMORY)


# Where Airflow asks its own process around a task, or its database, for something.
_ASKING = (
    "airflow.models",
    "airflow.sdk.bases",
    "airflow.sdk.definitions",
    "airflow.sdk.execution_time",
    "airflow.settings",
    "airflow.utils.session",
)
# What only that process can act on.
_FOR_AIRFLOW = frozenset({"AirflowFailException", "AirflowSkipException", "AirflowRescheduleException", "TaskDeferred"})


def _needs_airflow(error: BaseException) -> bool:
    """Whether the function asked Airflow for something, or left a word for it, which works in a task only."""
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "airflow":
        return True
    kinds = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.partition(".")[0] == "airflow"}
    if kinds & _FOR_AIRFLOW:
        return True
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(module == each or module.startswith(each + ".") for module in modules for each in _ASKING)


def _user_frames(error: BaseException) -> Optional[TracebackType]:
    """Skip the runner's own frames at the top: they say nothing about the user's code."""
    frame = error.__traceback__
    while frame is not None and "airflow_distrib/runner/" in frame.tb_frame.f_code.co_filename.replace("\\", "/"):
        frame = frame.tb_next
    return frame or error.__traceback__


def earliest_failure(outcomes: Iterable[Outcome]) -> Optional[Outcome]:
    """The failure that came first, which is the one to name.

    Processes that were only asked to stop are named when nothing else is, and torch's agent
    only when no rank failed. A rank killed from outside gets :data:`KILLED_HEAD_START`. Equal
    times go to the lower rank.
    """

    def order(outcome: Outcome) -> Tuple[bool, bool, float, int]:
        at = outcome.time - (KILLED_HEAD_START if outcome.died_silently else 0.0)
        stopped = outcome.kind != FAILURE
        agent = outcome.rank is None and not stopped
        return (stopped, agent, at, outcome.rank or 0)

    failed = [outcome for outcome in outcomes if outcome.kind != SUCCESS]
    return min(failed, key=order) if failed else None
