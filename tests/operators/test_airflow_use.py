"""Functions that talk to Airflow are refused when the DAG file is parsed, with what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import airflow.sdk
import pytest
from airflow.sdk import BaseHook, Connection, Variable, get_current_context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.operators.arguments import check_function

Exceptions = (AirflowException, ValueError)


def variable() -> str:
    """A global name."""
    return str(Variable.get("x"))


def variable_inside() -> str:
    """An import inside the function."""
    from airflow.sdk import Variable as Mine

    return str(Mine.get("x"))


def variable_of_module() -> str:
    """The way over the module."""
    return str(airflow.sdk.Variable.get("x"))


def variable_in_nested() -> list[str]:
    """A function inside the function."""

    def get(key: str) -> str:
        return str(Variable.get(key))

    return [get("x")]


def connection() -> Any:
    """A connection."""
    return Connection.get("x")


def hook() -> Any:
    """The older way to a connection."""
    return BaseHook.get_connection("x")


def current() -> Any:
    """The context."""
    return get_current_context()["run_id"]


def fails() -> None:
    """An exception for Airflow."""
    raise AirflowFailException("no data")


def skips() -> None:
    """Another one, as a class."""
    raise AirflowSkipException


def fails_inside() -> None:
    """Imported where it is raised."""
    from airflow.sdk.exceptions import AirflowException

    raise AirflowException("no data")


def helper() -> str:
    """Calls one that is refused."""
    return variable()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (variable, r"variable: Variable\.get\(\) does not work on ranks; pass its value .*var\.value\.my_key"),
        (variable_inside, r"Variable\.get\(\)"),
        (variable_of_module, r"Variable\.get\(\)"),
        (variable_in_nested, r"Variable\.get\(\)"),
        (helper, r"python_callable: variable: Variable\.get\(\)"),
        (connection, r"Connection\.get\(\) .*conn\.my_conn\.host"),
        (hook, r"BaseHook\.get_connection\(\)"),
        (current, r"get_current_context\(\) .*name what you need as parameters"),
        (fails, "raise AirflowFailException .*NonRecoverableError"),
        (skips, "raise AirflowSkipException"),
        (fails_inside, "raise AirflowException"),
    ],
)
def test_what_asks_airflow_for_something_is_refused_with_what_to_do_instead(
    function: Callable[..., Any], message: str
) -> None:
    """Hours later, on the cluster, the error would be about a missing module or a database."""
    with pytest.raises(ConfigError, match=message):
        check_function(function, (), {})


def test_types_of_airflow_and_exceptions_that_are_only_caught_are_left_alone() -> None:
    """They work wherever Airflow is installed, as for local ranks."""

    def train(given: Variable | None = None) -> str:
        try:
            made = Connection(conn_id="x", conn_type="http", host="h")
            return f"{made.host} {isinstance(given, Variable)}"
        except AirflowException as error:
            raise ValueError("no data") from error
        except Exceptions:
            raise

    check_function(train, (), {})
    check_function(print, (), {})
