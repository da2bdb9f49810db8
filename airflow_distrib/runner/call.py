"""One rank's work: load the function, call it, write down how that went."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import Any, Dict, Optional

from airflow_distrib.runner import jsonable, outcome, payload, report
from airflow_distrib.runner.errors import NonRecoverableError
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.runner.rank import Rank
from airflow_distrib.runner.spec import Spec


def load(spec: Spec) -> payload.Call:
    """Read and check the payload that ``spec`` names."""
    with open(spec.payload, "rb") as file:
        return payload.unwrap(file.read())


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
    place: Dict[str, Any] = {
        "world_size": rank.world_size,
        "pid": os.getpid(),
        "restart": int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
    }
    try:
        function, args, kwargs = call or load(spec)
        value = function(*args, **kwargs)
        fields = _result(value, spec) if rank.rank == 0 else {}
        return outcome.now(outcome.SUCCESS, rank.rank, **place, **fields)
    except SystemExit as error:
        fields = _early_exit(error)
    except (payload.PayloadError, jsonable.ResultError) as error:
        fields = {**outcome.failure_fields(error), "recoverable": False}
    except BaseException as error:  # noqa: BLE001 - whatever a user's function raises is this rank's outcome
        fields = outcome.failure_fields(error)
    return outcome.now(outcome.FAILURE, rank.rank, **place, **fields)


def _early_exit(error: SystemExit) -> Dict[str, Any]:
    fields = outcome.failure_fields(error)
    fields["error_type"] = outcome.EXITED_EARLY
    fields["message"] = "the function called sys.exit({!r}) before it returned, so there is no result".format(
        error.code
    )
    return fields


def _result(value: Any, spec: Spec) -> Dict[str, Any]:
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
    _write_result(text, spec.result_path)
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


def unexpected(error: BaseException) -> Outcome:
    """An outcome of the processes around the ranks, for what they did not foresee."""
    traceback.print_exception(type(error), error, error.__traceback__)
    return outcome.now(outcome.FAILURE, None, **outcome.failure_fields(error))
