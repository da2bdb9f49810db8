"""How a failed task ends for Airflow: with one error, and without the frames between it and Airflow."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout

from airflow_distrib.core.errors import DistribError

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

log = logging.getLogger(__name__)


def ends_the_task(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Raise an operator method's errors as Airflow is to print them: once, and with no more frames than must be.

    Airflow prints an error with its causes, each with all its frames. What a user needs is in
    the error's text; the frames are in the log at level DEBUG.
    """

    @functools.wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except (DistribError, AirflowTaskTimeout) as error:
            log.debug("where the error below comes from", exc_info=True)
            raise as_airflow(error).with_traceback(None) from None

    return run


def as_airflow(error: BaseException) -> BaseException:
    """The same error; a permanent one also as the AirflowFailException that ends a task whatever its retries."""
    if not isinstance(error, DistribError) or not error.permanent or isinstance(error, AirflowFailException):
        return error
    return _permanent(type(error), error.args, vars(error))


def _permanent(kind: type[DistribError], args: tuple[object, ...], fields: dict[str, Any]) -> DistribError:
    both = _permanent_kind(kind)  # type: ignore[arg-type] # classes can be hashed
    found = both.__new__(both, *args)
    vars(found).update(fields)
    return found


@functools.cache
def _permanent_kind(kind: type[DistribError]) -> type[DistribError]:
    """An error's class that is an AirflowFailException too."""
    body: dict[str, Any] = {
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
        # The class itself has no name by which it could be unpickled.
        "__reduce__": lambda error: (_permanent, (kind, error.args, vars(error))),
    }
    return type(kind.__name__, (AirflowFailException, kind), body)
