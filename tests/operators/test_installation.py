"""Airflows that share a cluster are told apart, and only what is this one's own counts as ended."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.operators import installation
from airflow_distrib.operators.record_store import RecordStore
from fake_context import FakeStateStore, context


class Variables:
    """Airflow's variables, in memory."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, key: str, default: str | None = None) -> str | None:
        """One of them."""
        return self.values.get(key, default)

    def set(self, key: str, value: str, description: str) -> None:
        """Replace one."""
        assert description
        self.values[key] = value


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Variables:
    """Those of an Airflow."""
    found = Variables()
    monkeypatch.setattr(installation, "Variable", found)
    return found


def test_an_airflow_has_one_name_and_no_other_airflow_has_it(
    variables: Variables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two Airflows with the same address, each behind its own localhost, never share the names of jobs."""
    first = installation.installation()
    assert installation.installation() == first
    monkeypatch.setattr(installation, "Variable", Variables())
    assert installation.installation() != first


@pytest.mark.parametrize("durable", [True, False])
def test_the_scope_of_a_job_begins_with_its_airflow(variables: Variables, durable: bool) -> None:
    """Whoever finds a job can tell whose it is; only with a record every task instance has a scope of its own."""
    scopes = {RecordStore(context(FakeStateStore()), durable=durable).scope for _ in range(2)}
    assert {scope.partition("-")[0] for scope in scopes} == {installation.installation()}
    assert len(scopes) == (2 if durable else 1)


@pytest.mark.parametrize(
    ("states", "ended"),
    [
        ({"run": {"train_3": "success"}}, True),
        ({"run": {"train_3": "failed"}}, True),
        ({"run": {"train_3": "deferred"}}, False),
        ({"run": {"train_3": "up_for_retry"}}, False),
        ({"run": {"train_3": None}}, False),
        ({"run": {}}, True),
        ({}, True),
    ],
)
def test_a_task_has_ended_when_airflow_says_so_or_has_deleted_it(
    variables: Variables, monkeypatch: pytest.MonkeyPatch, states: dict[str, Any], ended: bool
) -> None:
    """Nothing is removed of a task that may still come for its result, and a cleared one is about to."""
    asked = []

    def get_task_states(**arguments: Any) -> dict[str, Any]:
        asked.append(arguments)
        return states

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", get_task_states)
    store = RecordStore(context(FakeStateStore()), durable=True)
    assert store.ended(JobIdentity("dag", "run", "train", 3, 1, store.scope)) is ended
    assert asked == [{"dag_id": "dag", "task_ids": ["train"], "run_ids": ["run"], "map_index": 3}]


def test_a_task_of_another_airflow_is_left_alone(variables: Variables) -> None:
    """An Airflow never removes what belongs to another one, whose tasks it does not know."""
    store = RecordStore(context(FakeStateStore()), durable=True)
    assert not store.ended(JobIdentity("dag", "run", "train", 3, 1, "another-1234"))
