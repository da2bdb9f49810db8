"""Who called this package: errors are raised, and warnings given, where the user's own line is seen."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from airflow_distrib.core.errors import DistribError

P = ParamSpec("P")
R = TypeVar("R")


def raises_at_caller(function: Callable[P, R]) -> Callable[P, R]:
    """Raise a function's error as if its caller had called nothing else.

    Airflow shows the two innermost frames of a DAG file's import error: this one, and the user's.
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except DistribError as error:
            raise error.with_traceback(None) from None

    return called


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn about the line that called this package, however deep below it this is called."""
    level, frame = 1, sys._getframe()  # noqa: SLF001 - the documented way to the caller
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("airflow", "airflow_distrib"):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)
