"""One rank's work: load the function, call it, write down how that went."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import logging
import os
import socket
import sys
from typing import Any, Dict, NoReturn, Optional

from airflow_distrib.runner import jsonable, outcome, payload, report
from airflow_distrib.runner.errors import NonRecoverableError
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.runner.rank import Rank
from airflow_distrib.runner.spec import Spec


def load(spec: Spec) -> payload.Call:
    """Read and check the payload that ``spec`` names."""
    data = payload.fetch(spec.payload)
    if spec.payload_sha256 and hashlib.sha256(data).hexdigest() != spec.payload_sha256:
        raise payload.PayloadError(
            "{} is not what this job was submitted with: its digest differs".format(spec.payload)
        )
    return payload.unwrap(data)


def run(spec: Spec, rank: Rank, call: Optional[payload.Call] = None) -> int:
    """Call the function and leave the outcome in the job's folder.

    Args:
        call: the function, if it was loaded before a fork.

    Returns:
        The exit status for this process: 0 only when the function returned.
    """
    pid = os.getpid()
    # What an earlier restart of this rank left is over.
    report.forget(spec.directory, rank.rank)
    _report_early_exit(spec, rank)
    with contextlib.suppress(Exception):
        # Where to look when a rank hangs.
        print(
            "rank {} of {} on {}, process {}".format(rank.rank, rank.world_size, socket.gethostname(), pid), flush=True
        )
    ended = _called(spec, rank, call)
    if os.getpid() != pid:
        # A child that the function forked came back here; the rank is its parent.
        os._exit(0 if ended.kind == outcome.SUCCESS else 1)
    # First of all: printing may block, or fail where the function closed stdout.
    report.leave(spec.directory, ended)
    with contextlib.suppress(Exception):
        if ended.kind == outcome.FAILURE:
            print(ended.traceback or ended.message, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    return 0 if ended.kind == outcome.SUCCESS else 1


def _called(spec: Spec, rank: Rank, call: Optional[payload.Call]) -> Outcome:
    """Call the function; the time of the outcome is the moment at which it ended."""
    place = _place(rank)
    try:
        function, args, kwargs = call or load(spec)
        _show_info()
        value = function(*args, **kwargs)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
        fields = _result(value, spec) if rank.rank == 0 else {}
        return outcome.now(outcome.SUCCESS, rank.rank, **place, **fields)
    except SystemExit as error:
        fields = {**outcome.failure_fields(error), **_early_exit("sys.exit({!r})".format(error.code))}
    except (payload.PayloadError, jsonable.ResultError) as error:
        fields = {**outcome.failure_fields(error), "recoverable": False}
    except BaseException as error:  # noqa: BLE001 - whatever a user's function raises is this rank's outcome
        fields = outcome.failure_fields(error)
    return outcome.now(outcome.FAILURE, rank.rank, **place, **fields)


def _show_info() -> None:
    """Let logging.info() of the function reach the log, as in any Airflow task.

    Without a handler of its own: a function that calls logging.basicConfig() gets what it asks for.
    """
    logging.getLogger().setLevel(logging.INFO)
    if logging.lastResort is not None:
        logging.lastResort.setLevel(logging.INFO)


def _place(rank: Rank) -> Dict[str, Any]:
    return {
        "world_size": rank.world_size,
        "pid": os.getpid(),
        "restart": int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
    }


def _early_exit(call: str) -> Dict[str, Any]:
    message = "the function called {} before it returned, so there is no result".format(call)
    return {"error_type": outcome.EXITED_EARLY, "message": message}


def _report_early_exit(spec: Spec, rank: Rank) -> None:
    """Have os._exit() of the rank leave an outcome and a bad status.

    With status 0 torch's agent would wait for the function's return value for ever.
    Children that the function forks end by os._exit() as a matter of course.
    """
    pid, leave_at_once = os.getpid(), os._exit

    def _exit(status: int = 0) -> NoReturn:
        if os.getpid() == pid and not report.has_left(spec.directory, rank.rank):
            fields = {**_place(rank), **_early_exit("os._exit({!r})".format(status))}
            report.leave(spec.directory, outcome.now(outcome.FAILURE, rank.rank, **fields))
            status = status or 1
        leave_at_once(status)

    os._exit = _exit


def _result(value: object, spec: Spec) -> Dict[str, Any]:
    """What rank 0's outcome says of the return value."""
    text, warnings = jsonable.to_json(value)
    size = len(text.encode())
    if size <= jsonable.MAX_RESULT_BYTES:
        return {"result": text, "warnings": warnings}
    if not spec.result_path:
        raise jsonable.ResultError(
            "the result is {:.1f} MiB of JSON, more than the {} MiB that travel with a job: "
            "return less, or set result_path to a place that the ranks and the Airflow worker both reach".format(
                size / 2**20, jsonable.MAX_RESULT_BYTES // 2**20
            )
        )
    try:
        _write_result(text, spec.result_path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise jsonable.ResultError(
            "result_path {} cannot be written on {}: {}".format(spec.result_path, socket.gethostname(), error)
        ) from error
    return {"result_path": spec.result_path, "warnings": warnings}


def _write_result(text: str, target: str) -> None:
    scheme, separator, path = target.partition("://")
    if not separator or scheme == "file":
        report.write_file(path if separator else target, text)
        return
    try:
        import fsspec
    except ImportError:
        raise NonRecoverableError(
            "result_path {} needs fsspec and the library for {}:// where rank 0 runs".format(target, scheme)
        ) from None
    with fsspec.open(target, "w", encoding="utf-8") as file:
        file.write(text)
