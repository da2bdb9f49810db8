"""A payload is checked before it is unpickled, so that a wrong one is an error with a reason."""

from __future__ import annotations

import json

import cloudpickle
import pytest

from airflow_distrib.runner import payload


def add(a: int, b: int) -> int:
    """The function of these tests."""
    return a + b


def packed() -> bytes:
    """A call of :func:`add`."""
    return payload.wrap(cloudpickle.dumps((add, (1,), {"b": 2}, {})), "add")


def test_a_call_comes_back_as_it_was() -> None:
    """Ranks call the very function, with the very arguments, that the worker packed."""
    function, args, kwargs = payload.unwrap(packed())
    assert function(*args, **kwargs) == 3


def test_damage_is_found_before_anything_is_unpickled() -> None:
    """One changed bit could otherwise run anything, or fail in a way that nobody understands."""
    data = bytearray(packed())
    data[-5] ^= 1
    with pytest.raises(payload.PayloadError, match="damaged"):
        payload.unwrap(bytes(data))


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\nx", b"not json\nx", b'{"format": 1}', packed()[:20]])
def test_a_file_that_is_no_payload_is_an_error(data: bytes) -> None:
    """The file may be cut, or may belong to another program."""
    with pytest.raises(payload.PayloadError, match="header"):
        payload.unwrap(data)


def test_another_python_version_is_an_error_that_names_both() -> None:
    """The byte code of one minor version has no meaning in another."""
    header, _, pickled = packed().partition(b"\n")
    other = json.dumps({**json.loads(header), "python": "3.7"}).encode()
    with pytest.raises(payload.PayloadError, match=r"add was pickled by Python 3\.7 .* runs Python 3\.1"):
        payload.unwrap(other + b"\n" + pickled)


def test_a_missing_library_is_named() -> None:
    """The user learns what the image lacks for the function."""
    pickled = b"cno_such_library\nthing\n."
    with pytest.raises(payload.PayloadError, match="f needs a module .*no_such_library"):
        payload.unwrap(payload.wrap(pickled, "f"))
