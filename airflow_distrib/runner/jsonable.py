"""A function's return value as JSON: what is converted, what is refused, and where."""

from __future__ import annotations

import datetime
import json
import math
from typing import List, Mapping, NamedTuple, Set

from airflow_distrib.runner.lines import as_written

# Largest result that travels with the outcome itself, in bytes of JSON. Larger ones
# need result_path: the XCom of a task lives in Airflow's database.
MAX_RESULT_BYTES = 1024 * 1024


class ResultError(Exception):
    """What the function returned cannot become an XCom."""


class Jsonable(NamedTuple):
    """JSON text of a value, and what had to be changed to make it."""

    text: str
    warnings: List[str]


def to_json(value: object) -> Jsonable:
    """Render ``value`` as JSON.

    Tuples become lists, numpy scalars Python numbers, dates and times ISO 8601 text.
    NaN and infinities become null and number keys become text, each with a warning that
    names the place. Anything else is refused.

    Raises:
        ResultError: the value, or something inside it, is of another type.
    """
    warnings: List[str] = []
    plain = _convert(value, "result", warnings, set())
    return Jsonable(json.dumps(plain, allow_nan=False, ensure_ascii=False), warnings)


def _convert(value: object, place: str, warnings: List[str], parents: Set[int]) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _finite(float(value), place, warnings)
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
            return _convert_mapping(value, place, warnings, inside)
        return [_convert(item, "{}[{}]".format(place, index), warnings, inside) for index, item in enumerate(value)]
    if _is_numpy_scalar(value):
        return _convert(getattr(value, "item")(), place, warnings, parents)  # noqa: B009 - numpy is not imported for it
    raise ResultError(_refusal(value, place))


def _convert_mapping(value: Mapping[object, object], place: str, warnings: List[str], parents: Set[int]) -> object:
    plain = {}
    for key, item in value.items():
        at = "{}[{!r}]".format(place, key)
        if not isinstance(key, str):
            if isinstance(key, bool) or not (isinstance(key, (int, float)) or _is_numpy_scalar(key)):
                raise ResultError("{} has a key of type {}; keys must be text".format(place, _type_name(key)))
            warnings.append("{}: the key became text".format(at))
        text = str.__str__(key) if isinstance(key, str) else str(key)
        if text in plain:
            raise ResultError("{} has two keys that are both {!r} as text".format(place, text))
        plain[text] = _convert(item, at, warnings, parents)
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


def _finite(value: float, place: str, warnings: List[str]) -> object:
    if math.isfinite(value):
        return value
    warnings.append("{} is {}, which JSON cannot hold: it became null".format(place, value))
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
