"""Functions as they travel."""

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
    """Function and arguments survive the way."""
    function, args, kwargs = payload.unwrap(packed())
    assert function(*args, **kwargs) == 3


def test_damage_is_found_before_anything_is_unpickled() -> None:
    """One changed bit in the pickle."""
    data = bytearray(packed())
    data[-5] ^= 1
    with pytest.raises(payload.PayloadError, match="damaged"):
        payload.unwrap(bytes(data))


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\nx", b"not json\nx", b'{"format": 1}', packed()[:20]])
def test_what_is_not_a_payload_is_an_error(data: bytes) -> None:
    """A cut file, or one of another program."""
    with pytest.raises(payload.PayloadError, match="header"):
        payload.unwrap(data)


def test_another_python_version_is_an_error_that_names_both() -> None:
    """Byte code of one minor version is nonsense in another."""
    header, _, pickled = packed().partition(b"\n")
    other = json.dumps({**json.loads(header), "python": "3.7"}).encode()
    with pytest.raises(payload.PayloadError, match=r"add was pickled by Python 3\.7 .* runs Python 3\.1"):
        payload.unwrap(other + b"\n" + pickled)


def test_a_missing_library_is_named() -> None:
    """The image lacks what the function needs."""
    pickled = b"cno_such_library\nthing\n."
    with pytest.raises(payload.PayloadError, match="f needs a module .*no_such_library"):
        payload.unwrap(payload.wrap(pickled, "f"))
