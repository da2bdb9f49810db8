"""Jobs get names and labels that clusters accept and that no other task has."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_distrib.core.identity import JobIdentity

TASK = JobIdentity("my_dag", "manual__2026-01-02T03:04:05+00:00", "group.train", 3, 1)
identities = st.builds(
    JobIdentity,
    dag_id=st.text(),
    run_id=st.text(),
    task_id=st.text(),
    map_index=st.integers(-1, 9999),
    try_number=st.integers(1, 99),
)


@given(identities, st.sampled_from([47, 52, 63]))
def test_every_name_is_a_dns_label_within_its_limit(identity: JobIdentity, limit: int) -> None:
    """Kubernetes rejects any other name, and Ray any with more than 47 characters."""
    name = identity.name(limit)
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
    assert len(name) <= limit


@given(identities)
def test_every_label_value_is_valid(identity: JobIdentity) -> None:
    """Run ids hold colons and plus signs, which Kubernetes does not accept in labels."""
    for value in identity.labels().values():
        assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", value)


def test_a_name_is_readable_and_the_same_each_time() -> None:
    """People recognise their job, and a submission whose answer was lost can be looked up by its name."""
    assert TASK.name().startswith("my-dag-group-train-")
    assert TASK.name() == dataclasses.replace(TASK).name()


@pytest.mark.parametrize(
    "change", [{"dag_id": "x"}, {"run_id": "x"}, {"task_id": "x"}, {"map_index": 4}, {"try_number": 2}]
)
def test_names_of_different_tries_differ(change: dict[str, object]) -> None:
    """Two tries, or two mapped tasks, never collide on the cluster."""
    assert dataclasses.replace(TASK, **change).name() != TASK.name()  # type: ignore[arg-type] # one field each


def test_parts_of_an_identity_are_kept_apart() -> None:
    """The task "bc" of the DAG "a" is not the task "c" of the DAG "ab"."""
    one = JobIdentity("a", "r", "bc", -1, 1)
    assert one.digest != JobIdentity("ab", "r", "c", -1, 1).digest


def test_tries_of_one_task_share_a_label() -> None:
    """Jobs of earlier tries can be found by it, and those of other mapped tasks are not."""
    later = dataclasses.replace(TASK, try_number=2)
    label = "airflow-distrib/task-instance"
    assert later.labels()[label] == TASK.labels()[label]
    assert dataclasses.replace(TASK, map_index=4).labels()[label] != TASK.labels()[label]


def test_the_annotation_holds_everything_unshortened() -> None:
    """Before a job is adopted its whole identity is compared, since names and labels are shortened."""
    assert json.loads(TASK.annotation()["airflow-distrib/identity"]) == dataclasses.asdict(TASK)
