"""Makes again on a rank what pickle would only look up by name in a module that the rank does not have."""

from __future__ import annotations

import contextvars
import functools
from typing import Any, Callable, Mapping, Tuple


def cached(function: Callable[..., Any], maxsize: Any, typed: bool) -> Any:
    """A function under ``functools.lru_cache``, with nothing in its cache."""
    return functools.lru_cache(maxsize, typed)(function)


def dispatching(default: Callable[..., Any], implementations: Mapping[type, Callable[..., Any]]) -> Any:
    """A ``functools.singledispatch`` function with its implementations."""
    dispatcher = functools.singledispatch(default)
    for kind, implementation in implementations.items():
        dispatcher.register(kind, implementation)
    return dispatcher


def context_variable(name: str, default: Tuple[Any, ...], current: Tuple[Any, ...]) -> Any:
    """A ``contextvars.ContextVar``; default and value are tuples, empty where there is none."""
    variable: Any = contextvars.ContextVar(name, **({"default": default[0]} if default else {}))
    if current:
        variable.set(current[0])
    return variable


def new_type(name: str, kind: Any) -> Any:
    """A ``typing.NewType``."""
    from typing import NewType

    return NewType(name, kind)
