"""What in a function's code needs Airflow's own task around it, which ranks do not have."""

from __future__ import annotations

import dis
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.packing import is_shipped, reached

_GIVE = "pass its value to the function instead: as a template or in op_kwargs"
# Attributes that ask Airflow for something, by the name of Airflow's class.
_ASKING = {
    "Variable": ({"get", "set", "delete"}, f"{_GIVE}, such as '{{{{ var.value.my_key }}}}'"),
    "Connection": (
        {"get", "get_connection_from_secrets"},
        f"{_GIVE}, such as '{{{{ conn.my_conn.host }}}}', or give the ranks a Secret",
    ),
    "BaseHook": (
        {"get_connection", "get_hook"},
        f"{_GIVE}, such as '{{{{ conn.my_conn.host }}}}', or give the ranks a Secret",
    ),
}
_CONTEXT = "name what you need as parameters (run_id, ds, params, ...), or pass templates in op_kwargs"
_RAISED = (
    "raise airflow_distrib.NonRecoverableError where a retry cannot help, and RecoverableError or any other "
    "exception where it may"
)


def check_airflow_use(function: Callable[..., object]) -> None:
    """Reject functions that talk to Airflow, as far as their code and that of their helpers shows.

    Raises:
        ConfigError: names what is used, and what to do instead.
    """
    waiting, seen = [inspect.unwrap(function)], set[int]()
    while waiting:
        each = waiting.pop()
        if not isinstance(each, types.FunctionType) or id(each) in seen:
            continue
        seen.add(id(each))
        for what, advice in _used(each.__code__, each):
            raise ConfigError(f"python_callable: {each.__qualname__}", f"{what} does not work on ranks; {advice}")
        waiting += [
            inspect.unwrap(value) for _, value in reached(each) if callable(value) and is_shipped(inspect.unwrap(value))
        ]


def _used(code: types.CodeType, function: types.FunctionType) -> Iterator[tuple[str, str]]:
    names = _names(code, function)
    instructions = [each for each in dis.get_instructions(code) if each.opname not in ("CACHE", "PUSH_NULL")]
    raised = [each.positions for each in instructions if each.opname == "RAISE_VARARGS" and each.argval]
    for number, each in enumerate(instructions):
        # Attribute by attribute, for names of modules: airflow.sdk.Variable.get.
        value, at = names.get(str(each.argval)) if each.opname.startswith("LOAD_") else None, number
        while isinstance(value, types.ModuleType) and instructions[at + 1].opname in ("LOAD_ATTR", "LOAD_METHOD"):
            at += 1
            value = getattr(value, str(instructions[at].argval), None)
        name = _name_in_airflow(value)
        if not name:
            continue
        if name == "get_current_context":
            yield f"{name}()", _CONTEXT
        kinds = [kind.__name__ for kind in getattr(value, "__mro__", ()) if _name_in_airflow(kind)]
        for kind in [kind for kind in kinds if kind in _ASKING]:
            attributes, advice = _ASKING[kind]
            if instructions[at + 1].argval in attributes:
                yield f"{name}.{instructions[at + 1].argval}()", advice
        if "AirflowException" in kinds and any(_within(each.positions, whole) for whole in raised):
            yield f"raise {name}", _RAISED
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _used(constant, function)


def _within(part: Any, whole: Any) -> bool:
    if None in part or None in whole:
        return False
    return (whole.lineno, whole.col_offset) <= (part.lineno, part.col_offset) and (
        part.end_lineno,
        part.end_col_offset,
    ) <= (whole.end_lineno, whole.end_col_offset)


def _names(code: types.CodeType, function: types.FunctionType) -> dict[str, object]:
    """What names stand for: globals, closure variables, and what the code imports from Airflow itself."""
    closure = {what.split("'")[1]: value for what, value in reached(function) if what.startswith("closure")}
    names = {**function.__globals__, **closure}
    module, part = "", ""
    for each in dis.get_instructions(code):
        if each.opname == "IMPORT_NAME":
            module = part = str(each.argval)
        elif each.opname == "IMPORT_FROM":
            part = str(each.argval)
        elif each.opname.startswith("STORE_") and part:
            if module.partition(".")[0] == "airflow" and part != module:
                names[str(each.argval)] = _imported(module, part)
            part = ""
    return names


def _imported(module: str, name: str) -> object:
    """Without an import of what nobody has imported: DAG files are parsed over and over."""
    known = sys.modules.get(module) or (importlib.import_module("airflow.sdk") if module == "airflow.sdk" else None)
    return getattr(known, name, None)


def _name_in_airflow(value: object) -> str:
    module = getattr(value, "__module__", None)
    if not isinstance(module, str) or module.partition(".")[0] != "airflow" or not callable(value):
        return ""
    name = getattr(value, "__name__", "")
    return name if isinstance(name, str) else ""
