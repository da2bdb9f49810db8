"""Arguments of functions are checked and completed before they travel to ranks."""

from __future__ import annotations

import datetime
import inspect
from typing import Any

import pendulum
import pytest
from airflow.sdk.definitions.param import ParamsDict

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.operators.arguments import call_arguments, check_function, plain


def test_context_values_fill_parameters_of_their_name() -> None:
    """Functions written for TaskFlow work as they are, and arguments that were given win."""

    def train(lr: float, run_id: str, ds: str = "", *, ts: str = "") -> None: ...

    context = {"run_id": "r", "ds": "d", "ts": "t", "ti": object(), "lr": 9}
    assert call_arguments(train, [0.1], {"ds": "given"}, context) == ([0.1], {"run_id": "r", "ds": "given", "ts": "t"})


def test_a_positional_argument_is_not_given_twice() -> None:
    """A parameter may have the name of a context value and still be given by position."""

    def train(try_number: str) -> None: ...

    assert call_arguments(train, ["1"], {}, {"try_number": 5}) == (["1"], {})


def test_functions_that_take_anything_get_the_context_as_far_as_it_can_travel() -> None:
    """A function with **context works as in TaskFlow, only without Airflow's live objects."""

    def train(**context: Any) -> None: ...

    given = call_arguments(train, [], {"a": 1}, {"ds": "d", "ti": object()})
    assert given == ([], {"a": 1, "ds": "d"})


def test_a_name_given_by_position_is_not_offered_again() -> None:
    """A function that takes any keyword must not get the same parameter twice."""

    def train(ds: str, **context: Any) -> None: ...

    assert call_arguments(train, ["mine"], {}, {"ds": "d", "ts": "t"}) == (["mine"], {"ts": "t"})


def test_arguments_that_do_not_fit_are_refused() -> None:
    """No job is started for a call that can only fail, and context values count as given."""

    def train(rate: float, run_id: str, *, ds: str) -> None: ...

    check_function(train, [0.1], {})
    with pytest.raises(ConfigError, match="do not fit train: missing a required argument: 'rate'"):
        check_function(train, [], {})
    with pytest.raises(ConfigError, match="do not fit train: got an unexpected keyword argument 'rat'"):
        check_function(train, [0.1], {"rat": 1})


def test_generators_are_refused() -> None:
    """Calling a generator function runs nothing yet, so the job would do no work."""

    def train() -> Any:
        yield 1

    with pytest.raises(ConfigError, match="train is a generator; return a list"):
        check_function(train, [], {})


@pytest.mark.parametrize("default", [inspect.Parameter.empty, None])
def test_a_parameter_that_airflow_would_fill_with_a_live_object_is_refused(default: Any) -> None:
    """With a default it would quietly stay None on the ranks, where TaskFlow fills it."""

    def train(**_: Any) -> None: ...

    parameter = inspect.Parameter("ti", inspect.Parameter.KEYWORD_ONLY, default=default)
    train.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined] # functions may have one
    with pytest.raises(ConfigError, match="parameter 'ti' of train: is an object of Airflow"):
        check_function(train, [], {})


@pytest.mark.parametrize("given", [([], {"ti": 1}), ([1], {})])
def test_a_live_name_is_fine_when_its_value_is_given(given: tuple[list[Any], dict[str, Any]]) -> None:
    """A parameter called ti may hold anything that the user passes, and only Airflow's own object is refused."""

    def train(ti: int) -> None: ...

    check_function(train, *given)


def test_airflows_types_become_plain() -> None:
    """The ranks have neither pendulum nor Airflow to unpickle such values with."""
    moment = pendulum.datetime(2026, 1, 2, tz="UTC")
    value = plain({"when": [moment], "params": ParamsDict({"a": 1})})
    assert value == {"when": [datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)], "params": {"a": 1}}
    assert type(value["when"][0]) is datetime.datetime
