"""The function of a task as ranks get it: pickled, with the job or in a folder that both sides reach."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow.sdk import Context, ObjectStoragePath, conf

from airflow_distrib.core import packing
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.operators.arguments import call_arguments
from airflow_distrib.operators.record_store import RecordStore


def pack(operator: Any, context: Context) -> bytes:
    """Pickle an operator's function and its arguments."""
    # Airflow's own context has no try number but in the task instance.
    values = {**context, "try_number": context["ti"].try_number}
    function = operator.python_callable
    args, kwargs = call_arguments(function, operator.op_args, operator.op_kwargs, values)
    return packing.pack(function, args, kwargs, _dag_folders(operator, context))


def _dag_folders(operator: Any, context: Context) -> list[Path]:
    """Where the modules of this DAG lie, which the ranks do not have."""
    folders = [Path(folder) for folder in [conf.get("core", "dags_folder", fallback="")] if folder]
    bundle = getattr(context["ti"], "bundle_instance", None)
    if bundle is not None:
        folders.append(Path(bundle.path))
    if operator.has_dag() and operator.dag.fileloc:
        folders.append(Path(operator.dag.fileloc).parent)
    return folders


@contextlib.contextmanager
def place_payload(
    payload: bytes | None, folder: object, identity: JobIdentity, store: RecordStore
) -> Iterator[dict[str, Any]]:
    """Write the payload below ``folder``, if there is one; it is removed once the job is consumed.

    Yields:
        The fields of a :class:`~airflow_distrib.jobs.request.JobRequest`.
    """
    if folder is None:
        yield {"payload": payload}
        return
    # One for all tries: the job that a later one adopts reads the same.
    name = dataclasses.replace(identity, try_number=0).name()
    place = ObjectStoragePath(str(folder)) / f"{name}.payload"
    fields = {}
    if payload is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(payload)
        fields = {"payload_file": str(place), "payload_sha256": hashlib.sha256(payload).hexdigest()}
    try:
        yield fields
    finally:
        if store.consumed:
            place.unlink(missing_ok=True)
