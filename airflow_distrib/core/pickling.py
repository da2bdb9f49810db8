"""Pickles by value what cloudpickle would pickle by its name in a module that the ranks do not have.

cloudpickle takes functions, classes and modules by value. Everything else that pickle finds by
name, such as a function under ``functools.cache``, would be looked up in the DAG file.
"""

from __future__ import annotations

import contextlib
import contextvars
import copyreg
import functools
import io
import sys
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any

import cloudpickle

from airflow_distrib.runner import rebuild

_LRU_CACHE = type(functools.cache(lambda: None))
_DISPATCHER: Any = functools.singledispatch(lambda _: None)


def dumps(value: object) -> bytes:
    """Pickle; modules registered with cloudpickle, and what they define, go by value."""
    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()


class Pickler(cloudpickle.Pickler):  # type: ignore[misc] # cloudpickle has no types
    """cloudpickle's, for more kinds of objects."""

    def reducer_override(self, obj: Any) -> Any:
        """Called by pickle for every object that is not of a builtin type."""
        found = _REDUCERS.get(type(obj), _named_only)(obj)
        return super().reducer_override(obj) if found is NotImplemented else found


def importable(obj: object, name: str) -> bool:
    """Whether a rank finds an object under ``name`` in the module that defines it."""
    module = getattr(obj, "__module__", None)
    if not isinstance(module, str) or module == "__main__" or _goes_by_value(module):
        return False
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is obj


def _goes_by_value(module: str) -> bool:
    registered = cloudpickle.list_registry_pickle_by_value()
    return any(module == name or module.startswith(f"{name}.") for name in registered)


def _cached(obj: Any) -> Any:
    if importable(obj, getattr(obj, "__qualname__", "")):
        return NotImplemented
    parameters = obj.cache_parameters()
    return rebuild.cached, (obj.__wrapped__, parameters["maxsize"], parameters["typed"]), vars(obj)


def _dispatching(obj: Any) -> Any:
    if obj.__code__ is not _DISPATCHER.__code__ or importable(obj, obj.__qualname__):
        return NotImplemented
    implementations = dict(obj.registry)
    return rebuild.dispatching, (implementations.pop(object), implementations)


def _context_variable(obj: contextvars.ContextVar[Any]) -> Any:
    default: tuple[Any, ...] = ()
    current: tuple[Any, ...] = ()
    with contextlib.suppress(LookupError):
        current = (obj.get(),)
    with contextlib.suppress(LookupError):
        default = (contextvars.Context().run(obj.get),)
    changed = current and (not default or current[0] is not default[0])
    return rebuild.context_variable, (obj.name, default, current if changed else ())


def _cached_property(obj: functools.cached_property[Any]) -> Any:
    # Before Python 3.12 it holds a lock.
    return functools.cached_property, (obj.func,), {"attrname": obj.attrname, "__doc__": obj.__doc__}


def _weak(obj: Any) -> Any:
    """What nothing else holds on a rank is gone there again."""
    return type(obj), (list(obj) if isinstance(obj, weakref.WeakSet) else dict(obj),)


def _new_type(obj: Any) -> Any:
    if importable(obj, obj.__qualname__):
        return NotImplemented
    return rebuild.new_type, (obj.__name__, obj.__supertype__), {"__module__": obj.__module__}


def _parameters(obj: typing.ParamSpec) -> Any:
    return NotImplemented if importable(obj, obj.__name__) else (typing.ParamSpec, (obj.__name__,))


def _named_only(obj: Any) -> Any:
    """An object whose own ``__reduce__`` only says a name, as singletons do."""
    kind: Any = type(obj)
    if isinstance(obj, type) or not _goes_by_value(kind.__module__) or kind.__reduce__ is object.__reduce__:
        return NotImplemented
    name = obj.__reduce__()
    if not isinstance(name, str) or importable(obj, name):
        return NotImplemented
    return copyreg.__newobj__, (kind,), object.__getstate__(obj)  # type: ignore[attr-defined] # since Python 3.11


_REDUCERS: dict[type, Callable[[Any], Any]] = {
    _LRU_CACHE: _cached,
    types.FunctionType: _dispatching,
    functools.cached_property: _cached_property,
    weakref.WeakKeyDictionary: _weak,
    weakref.WeakValueDictionary: _weak,
    weakref.WeakSet: _weak,
    contextvars.ContextVar: _context_variable,
    typing.NewType: _new_type,
    typing.ParamSpec: _parameters,
}
