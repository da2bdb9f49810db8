"""A function and its arguments as a payload, by value where the ranks cannot import."""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import cloudpickle

from airflow_distrib.core import pickling
from airflow_distrib.core.errors import FunctionNotPicklable
from airflow_distrib.core.neighbours import sources
from airflow_distrib.runner import payload
from airflow_distrib.runner.lines import as_written


def pack(
    function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object], folders: Iterable[Path] = ()
) -> bytes:
    """Pickle a call for :func:`airflow_distrib.runner.payload.unwrap`.

    Args:
        folders: where DAG files live. Modules below them go by value, also those that the
            function imports only when it runs: the ranks have the user's libraries but not
            the user's DAG folder.

    Raises:
        FunctionNotPicklable: names the object and how the function reaches it.
    """
    places = [folder.resolve() for folder in folders]
    neighbours = sources(_file_of(function), places)
    with _by_value(function, places):
        try:
            pickled = pickling.dumps((function, tuple(args), dict(kwargs), neighbours))
        except Exception as error:
            raise FunctionNotPicklable(_explain(function, args, kwargs, error)) from error
    return payload.wrap(pickled, _name(function))


@contextlib.contextmanager
def _by_value(function: Callable[..., object], folders: list[Path]) -> Iterator[None]:
    registered = []
    for module in _own_modules(function, folders):
        if module.__name__ not in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.register_pickle_by_value(module)
            registered.append(module)
    try:
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


def _module_of(function: Callable[..., object]) -> types.ModuleType | None:
    inner = inspect.unwrap(_innermost(function))
    return inspect.getmodule(inner) or inspect.getmodule(type(inner))


def _file_of(function: Callable[..., object]) -> Path:
    return Path(getattr(_module_of(function), "__file__", None) or "")


def _own_modules(function: Callable[..., object], folders: list[Path]) -> Iterator[types.ModuleType]:
    own = _module_of(function)
    for module in list(sys.modules.values()):
        # Some libraries put objects there that only look like modules.
        if type(module) is not types.ModuleType or module.__name__ == "__main__":
            continue
        if module is own and not _is_installed(module):
            yield module
            continue
        if _lies_in(module, folders):
            yield module


def _lies_in(module: types.ModuleType, folders: list[Path]) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or _is_installed(module):
        return False
    return any(Path(file).resolve().is_relative_to(folder) for folder in folders)


def _is_installed(module: types.ModuleType) -> bool:
    """True for libraries, also those of a virtual environment inside the DAG folder."""
    file = getattr(module, "__file__", None) or ""
    root = module.__name__.partition(".")[0]
    return (
        root in sys.stdlib_module_names
        or root in ("airflow", "airflow_distrib")
        or any(part in ("site-packages", "dist-packages") for part in Path(file).parts)
    )


def is_shipped(value: object) -> bool:
    """Whether something is defined in a module of the user's rather than in a library."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    return module is not None and not _is_installed(module)


def _innermost(function: Callable[..., object]) -> Callable[..., object]:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _name(function: Callable[..., object]) -> str:
    inner = _innermost(function)
    return getattr(inner, "__qualname__", type(inner).__qualname__)


def _explain(
    function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object], error: Exception
) -> str:
    """Find the object at fault by pickling every part by itself."""
    name = _name(function)
    parts = {f"argument {index + 1}": value for index, value in enumerate(args)}
    parts |= {f"argument {key!r}": value for key, value in kwargs.items()}
    for what, value in parts.items():
        if (problem := _fault(value)) is not None:
            return f"cannot ship {what} of {name}, a {_kind(value)}: {problem}"
    found = _fault_inside(_innermost(function), name, set())
    return found or f"cannot ship {name}: {error}"


def _fault_inside(holder: object, name: str, seen: set[int], fix: str = "Create it inside the function") -> str | None:
    """Name what cannot be pickled among that which ``holder``, a function, class or module, holds."""
    holder = inspect.unwrap(holder) if callable(holder) else holder
    if not isinstance(holder, types.FunctionType | types.ModuleType | type) or id(holder) in seen:
        return None
    seen.add(id(holder))
    if isinstance(holder, types.ModuleType):
        name, fix = as_written(f"module {holder.__name__}"), f"Import {as_written(holder.__name__)} inside the function"
    for what, value in reached(holder) if isinstance(holder, types.FunctionType) else _members(holder):
        if (problem := _fault(value)) is not None:
            nested = _fault_inside(value, getattr(value, "__qualname__", ""), seen, fix)
            return nested or f"cannot ship {name}: its {what} is a {_kind(value)}: {problem}. {fix} instead"
    return None


def _members(holder: types.ModuleType | type) -> Iterator[tuple[str, object]]:
    for name, value in vars(holder).items():
        if name not in ("__builtins__", "__dict__", "__weakref__"):
            yield f"variable {name!r}", value.__func__ if isinstance(value, classmethod | staticmethod) else value


def reached(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    """Closure variables, global variables and defaults of a function, each with what it is called."""
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # an empty cell has no value yet
            yield f"closure variable {variable!r}", cell.cell_contents
    for variable in _global_names(function.__code__):
        if variable in function.__globals__:
            yield f"global variable {variable!r}", function.__globals__[variable]
    defaults = function.__defaults__ or ()
    parameters = function.__code__.co_varnames[: function.__code__.co_argcount]
    for variable, value in zip(parameters[len(parameters) - len(defaults) :], defaults, strict=True):
        yield f"default of {variable!r}", value
    for variable, value in (function.__kwdefaults__ or {}).items():
        yield f"default of {variable!r}", value


def _global_names(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _fault(value: object) -> str | None:
    try:
        pickling.dumps(value)
    except Exception as error:  # noqa: BLE001 - whatever a user's __reduce__ raises is the answer
        return str(error)
    return None


def _kind(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else as_written(f"{kind.__module__}.{kind.__qualname__}")
