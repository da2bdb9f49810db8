"""The function and its arguments as they travel: one header line, then a pickle.

The header is JSON: ``format``, ``python`` (major.minor that wrote it), ``function``
(for messages) and ``sha256`` of the pickle.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any, Callable, Dict, NamedTuple, Tuple

from airflow_distrib.runner import modules

FORMAT = 1


class Call(NamedTuple):
    """A function with its arguments."""

    function: Callable[..., object]
    args: Tuple[object, ...]
    kwargs: Dict[str, object]


class PayloadError(Exception):
    """The payload cannot be run here; a retry meets the same fault."""


def python_version() -> str:
    """Major and minor version, the part a pickle of code depends on."""
    return "{}.{}".format(*sys.version_info[:2])


def fetch(place: str) -> bytes:
    """Read a payload from a path or, where fsspec is installed, from a URL.

    Raises:
        PayloadError: the URL needs a library that is not there.
    """
    scheme, separator, path = place.partition("://")
    if not separator or scheme == "file":
        with open(path if separator else place, "rb") as file:
            return file.read()
    try:
        import fsspec

        with fsspec.open(place, "rb") as file:
            return bytes(file.read())
    except ImportError as error:
        raise PayloadError(
            "payload_path {} needs fsspec and the library for {}:// where the ranks run: {}".format(
                place, scheme, error
            )
        ) from None


def wrap(pickled: bytes, function: str) -> bytes:
    """Put the header before a pickle of a :class:`Call` written by this interpreter."""
    header = {
        "format": FORMAT,
        "python": python_version(),
        "function": function,
        "sha256": hashlib.sha256(pickled).hexdigest(),
    }
    return json.dumps(header).encode() + b"\n" + pickled


def header_of(data: bytes) -> Dict[str, Any]:
    """Return the header without touching the pickle."""
    line, newline, _ = data.partition(b"\n")
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not newline or not isinstance(header, dict) or header.get("format") != FORMAT:
        raise PayloadError(
            "the payload has no header of format {}: it was cut or written by another version".format(FORMAT)
        )
    return header


def unwrap(data: bytes) -> Call:
    """Check digest and Python version, then unpickle.

    Raises:
        PayloadError: the payload is damaged, was written by another Python, or needs a
            module that is not installed here.
    """
    header = header_of(data)
    pickled = data.partition(b"\n")[2]
    if hashlib.sha256(pickled).hexdigest() != header["sha256"]:
        raise PayloadError("the payload of {} is damaged: its digest does not match".format(header["function"]))
    if header["python"] != python_version():
        raise PayloadError(
            "{} was pickled by Python {} on the Airflow worker but this rank runs Python {}: "
            "use the same major.minor version in the image (or environment) and on the worker".format(
                header["function"], header["python"], python_version()
            )
        )
    import cloudpickle

    try:
        function, args, kwargs, sources = cloudpickle.loads(pickled)
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "airflow":
            raise
        raise PayloadError(
            "{} needs a module that is not installed where it runs: {}".format(header["function"], error)
        ) from error
    # Helpers from the DAG folder that the function imports while it runs.
    modules.install(sources)
    return Call(function, tuple(args), dict(kwargs))
