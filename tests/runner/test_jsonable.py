"""Return values become JSON, and what cannot is refused with its path."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from airflow_distrib.runner.jsonable import ResultError, to_json


class Point(NamedTuple):
    """A tuple with names."""

    x: int
    y: int


class Color(str, enum.Enum):  # noqa: UP042 - the older kind, whose str() is its name
    """Text with a name."""

    RED = "red"


@dataclasses.dataclass
class Metrics:
    """Not JSON by itself."""

    loss: float


CONVERTED = [
    (None, None),
    (True, True),
    (1, 1),
    (0.5, 0.5),
    ("é\n", "é\n"),
    ([1, [2]], [1, [2]]),
    ((1, 2), [1, 2]),
    ({Color.RED: Color.RED}, {"red": "red"}),
    (Point(1, 2), [1, 2]),
    (np.float32(0.5), 0.5),
    (np.float64(0.25), 0.25),
    (np.int64(3), 3),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    ({"a": {"b": (np.float32(1), None)}}, {"a": {"b": [1.0, None]}}),
    (datetime.date(2026, 1, 2), "2026-01-02"),
    (datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC), "2026-01-02T03:04:00+00:00"),
    (datetime.time(3, 4), "03:04:00"),
]


@pytest.mark.parametrize(("value", "plain"), CONVERTED)
def test_values_that_json_can_hold_are_converted_without_a_warning(value: Any, plain: Any) -> None:
    """Scalars of numpy, tuples and dates are common in results and have an obvious form in JSON."""
    text, warnings = to_json(value)
    assert json.loads(text) == plain
    assert warnings == []


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (float("nan"), "result is nan"),
        ({"loss": float("inf")}, "result['loss'] is inf"),
        ({"curve": [1.0, np.float32("nan")]}, "result['curve'][1] is nan"),
    ],
)
def test_numbers_that_are_not_finite_become_null_with_a_warning_that_names_the_key(value: Any, path: str) -> None:
    """A diverged loss does not fail the task, and does not pass for a number either."""
    text, warnings = to_json(value)
    assert "null" in text
    assert len(warnings) == 1
    assert path in warnings[0]


def test_number_keys_become_text_with_a_warning() -> None:
    """Losses by epoch number are common, and JSON has only text for keys."""
    text, warnings = to_json({1: 0.5, np.int64(2): 0.25})
    assert json.loads(text) == {"1": 0.5, "2": 0.25}
    assert warnings == ["result[1] has a number as its key, which became text (and 1 more like it)"]


def test_many_numbers_that_are_not_finite_are_one_warning_with_their_count() -> None:
    """A diverged model returns thousands of them, which would bury the rest of the log."""
    text, warnings = to_json({"losses": [1.0] + [float("nan")] * 5000, "worst": float("inf")})
    assert json.loads(text)["losses"][:2] == [1.0, None]
    assert warnings == [
        "result['losses'][1] is nan, which JSON cannot hold: it became null (and 4999 more like it)",
        "result['worst'] is inf, which JSON cannot hold: it became null",
    ]


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**30])
def test_an_integer_of_more_than_64_bits_is_refused_with_its_place(value: int) -> None:
    """Airflow cannot carry it, and would try the whole job again in vain."""
    with pytest.raises(ResultError, match=r"result\['n'\] is an integer of more than 64 bits.*return str\(\)"):
        to_json({"n": value})
    for most in (2**64 - 1, -(2**63)):
        assert json.loads(to_json(most).text) == most


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"model": {"w": torch.ones(2)}}, ["result['model']['w']", "torch.Tensor", ".tolist()"]),
        ({"a": [1, np.ones(2)]}, ["result['a'][1]", "numpy.ndarray", ".tolist()"]),
        ({"tags": {1, 2}}, ["result['tags']", "set", "sorted"]),
        ({"file": "bad\udcff.txt"}, ["result['file']", "surrogates"]),
        (b"x", ["result is of type bytes"]),
        (Metrics(1.0), ["Metrics", "dataclasses.asdict"]),
        (1j, ["complex"]),
        ({(1, 2): 3}, ["result has a key of type tuple"]),
        ({1: "a", "1": "b"}, ["two keys", "'1'"]),
    ],
)
def test_everything_else_is_refused_with_the_type_and_the_key(value: Any, words: list[str]) -> None:
    """The error names where the value is, what it is and what to return instead."""
    with pytest.raises(ResultError) as caught:
        to_json(value)
    for word in words:
        assert word in str(caught.value)


def test_a_value_that_contains_itself_is_refused() -> None:
    """The error names the value, where Python would only report its recursion limit."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ResultError, match=r"result\[0\] contains itself"):
        to_json(loop)


def test_the_same_object_twice_is_converted_twice() -> None:
    """Only an object inside itself has no form in JSON."""
    shared = [1]
    assert json.loads(to_json([shared, shared]).text) == [[1], [1]]
