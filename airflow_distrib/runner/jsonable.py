"""A function's return value as JSON: what is converted, what is refused, and where."""

from __future__ import annotations

import datetime
import json
import math
from typing import Dict, List, Mapping, NamedTuple, Set, Tuple

from airflow_distrib.runner.lines import as_written

# Largest result that travels with the outcome itself, in bytes of JSON. Larger ones
# need result_path: the XCom of a task lives in Airflow's database.
MAX_RESULT_BYTES = 1024 * 1024


# What happened to values, with the first place and how often.
Changes = Dict[str, Tuple[str, int]]


class ResultError(Exception):
    """What the function returned cannot become an XCom."""


class Jsonable(NamedTuple):
    """JSON text of a value, and what had to be changed to make it."""

    text: str
    warnings: List[str]


def to_json(value: object) -> Jsonable:
    """Render ``value`` as JSON.

    Tuples become lists, numpy scalars Python numbers, dates and times ISO 8601 text.
    NaN and infinities become null and number keys become text, each kind with one warning
    that counts them and names the first place. Anything else is refused.

    Raises:
        ResultError: the value, or something inside it, is of another type, or an integer of
            more than 64 bits.
    """
    changes: Changes = {}
    plain = _convert(value, "result", changes, set())
    text = json.dumps(plain, allow_nan=False, ensure_ascii=False)
    return Jsonable(text, [_warning(what, *seen) for what, seen in changes.items()])


def _warning(what: str, first: str, count: int) -> str:
    return "{} {}{}".format(first, what, " (and {} more like it)".format(count - 1) if count > 1 else "")


def _note(changes: Changes, what: str, place: str) -> None:
    first, count = changes.get(what, (place, 0))
    changes[what] = (first, count + 1)


def _convert(value: object, place: str, changes: Changes, parents: Set[int]) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _whole(int(value), place)
    if isinstance(value, float):
        return _finite(float(value), place, changes)
    if isinstance(value, str):
        # Not str(value): for an enumeration of text that is its name.
        return _encodable(str.__str__(value), place)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (dict, list, tuple)):
        if id(value) in parents:
            raise ResultError("{} contains itself".format(place))
        inside = parents | {id(value)}
        if isinstance(value, dict):
            return _convert_mapping(value, place, changes, inside)
        return [_convert(item, "{}[{}]".format(place, index), changes, inside) for index, item in enumerate(value)]
    if _is_numpy_scalar(value):
        return _convert(getattr(value, "item")(), place, changes, parents)  # noqa: B009 - numpy is not imported for it
    raise ResultError(_refusal(value, place))


def _convert_mapping(value: Mapping[object, object], place: str, changes: Changes, parents: Set[int]) -> object:
    plain = {}
    for key, item in value.items():
        at = "{}[{!r}]".format(place, key)
        if not isinstance(key, str):
            if isinstance(key, bool) or not (isinstance(key, (int, float)) or _is_numpy_scalar(key)):
                raise ResultError("{} has a key of type {}; keys must be text".format(place, _type_name(key)))
            _note(changes, "has a number as its key, which became text", at)
        text = str.__str__(key) if isinstance(key, str) else str(key)
        if text in plain:
            raise ResultError("{} has two keys that are both {!r} as text".format(place, text))
        plain[text] = _convert(item, at, changes, parents)
    return plain


def _encodable(value: str, place: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ResultError(
            "{} holds bytes that are no text (surrogates, as in names of files): "
            "return it with .encode(errors='surrogateescape').decode(errors='replace')".format(place)
        ) from None
    return value


def _whole(value: int, place: str) -> int:
    # What Airflow's own messages can hold; it would fail on the way, and be tried again in vain.
    if not -(2**63) <= value < 2**64:
        raise ResultError(
            "{} is an integer of more than 64 bits, which no XCom holds: return str() of it".format(place)
        )
    return value


def _finite(value: float, place: str, changes: Changes) -> object:
    if math.isfinite(value):
        return value
    _note(changes, "is {}, which JSON cannot hold: it became null".format(value), place)
    return None


def _is_numpy_scalar(value: object) -> bool:
    # By name: numpy is the user's library, it may not be here at all.
    return type(value).__module__ == "numpy" and hasattr(value, "item") and not hasattr(value, "__len__")


def _type_name(value: object) -> str:
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return as_written("{}.{}".format(kind.__module__, kind.__qualname__))


def _refusal(value: object, place: str) -> str:
    name = _type_name(value)
    hint = "return numbers, text, lists and dicts, and save large objects to a file whose path you return"
    if name == "torch.Tensor":
        hint = "call .item() or .tolist() on it"
    elif name == "numpy.ndarray":
        hint = "call .tolist() on it"
    elif hasattr(value, "__dataclass_fields__"):
        hint = "return dataclasses.asdict(...)"
    elif isinstance(value, (set, frozenset)):
        hint = "return sorted(...) of it"
    return "{} is of type {}, which is not JSON: {}".format(place, name, hint)
