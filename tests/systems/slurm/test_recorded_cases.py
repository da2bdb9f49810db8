"""Output of squeue, sacct and scontrol, recorded on a real Slurm 22.05, is read into the state of a job.

Each folder below ``cases`` holds what the scripts of :mod:`airflow_distrib.systems.slurm.commands`
printed for one job, unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from airflow_distrib.core.status import Category, JobState
from airflow_distrib.systems.slurm import status
from airflow_distrib.systems.slurm.status import Part, aggregated, from_sacct, from_scontrol, from_squeue, of_job

CASES = Path(__file__).parent / "cases"


class Expected(NamedTuple):
    """What is known of a job.

    Attributes:
        parts: Slurm's word for each part.
        exits: exit status of each part, as the controller reports it; empty is 0 for all.
        problem: reason and category of what ended the job, or keeps it from starting.
        accounted: Slurm's words in the accounting, where they differ.
    """

    state: JobState
    parts: Mapping[str, str]
    exits: Mapping[str, int] = {}
    problem: tuple[str, Category] | None = None
    accounted: Mapping[str, str] | None = None


WHOLE = "+"
EXPECTED = {
    "pending": Expected(JobState.QUEUED, {WHOLE: "PENDING"}),
    "dependency-never-satisfied": Expected(
        JobState.QUEUED, {WHOLE: "PENDING"}, problem=("DependencyNeverSatisfied", Category.NOT_STARTED)
    ),
    "partition-node-limit": Expected(
        JobState.QUEUED, {WHOLE: "PENDING"}, problem=("PartitionNodeLimit", Category.NOT_STARTED)
    ),
    "running": Expected(JobState.RUNNING, {WHOLE: "RUNNING"}),
    "on-a-named-cluster": Expected(JobState.RUNNING, {WHOLE: "RUNNING"}),
    "suspended": Expected(JobState.SUSPENDED, {WHOLE: "SUSPENDED"}),
    "completed": Expected(JobState.SUCCEEDED, {WHOLE: "COMPLETED"}),
    # The accounting learns of a job's name later than of its end.
    "just-completed": Expected(JobState.SUCCEEDED, {WHOLE: "COMPLETED"}, accounted={}),
    "failed": Expected(JobState.FAILED, {WHOLE: "FAILED"}, {WHOLE: 3}, ("JobFailed", Category.FAILED)),
    "killed-by-signal": Expected(JobState.FAILED, {WHOLE: "FAILED"}, {WHOLE: -9}, ("JobFailed", Category.FAILED)),
    # Without control groups only the job's own output reveals the cause.
    "out-of-memory": Expected(JobState.FAILED, {WHOLE: "FAILED"}, {WHOLE: -9}, ("JobFailed", Category.FAILED)),
    "cancelled": Expected(JobState.FAILED, {WHOLE: "CANCELLED"}, {WHOLE: 143}, ("Cancelled", Category.LOST)),
    "timeout": Expected(JobState.FAILED, {WHOLE: "TIMEOUT"}, {WHOLE: 143}, ("TimedOut", Category.TIMED_OUT)),
    "preempted": Expected(JobState.FAILED, {WHOLE: "PREEMPTED"}, {WHOLE: 143}, ("Preempted", Category.PREEMPTED)),
    "node-failed": Expected(JobState.FAILED, {WHOLE: "NODE_FAIL"}, problem=("NodeLost", Category.LOST)),
    "requeued": Expected(JobState.QUEUED, {WHOLE: "PENDING"}),
    "requeue-hold": Expected(JobState.QUEUED, {WHOLE: "PENDING"}, accounted={WHOLE: "REQUEUED"}),
    "array-partly-done": Expected(
        JobState.RUNNING,
        {"0+": "COMPLETED", "1+": "FAILED", "2+": "RUNNING", "3+": "RUNNING", "[4-7%2]+": "PENDING"},
        {"1+": 4},
    ),
    "heterogeneous-running": Expected(JobState.RUNNING, {"+0": "RUNNING", "+1": "RUNNING"}),
    "heterogeneous-completed": Expected(JobState.SUCCEEDED, {"+0": "COMPLETED", "+1": "COMPLETED"}),
}


def words(parts: Mapping[str, Part]) -> dict[str, str]:
    """Return Slurm's word for each part."""
    return {key: part.state for key, part in parts.items()}


@pytest.mark.parametrize("case", sorted({*EXPECTED, *(path.name for path in CASES.iterdir())}))
def test_all_commands_of_a_real_slurm_show_the_same_job(case: str) -> None:
    """Queue, accounting and controller can stand in for each other, because all three are read into the same parts."""
    expected = EXPECTED[case]
    printed = {path.stem: path.read_text() for path in (CASES / case).iterdir()}
    ((job, detailed),) = from_scontrol(printed["scontrol"]).items()
    name = next(iter(detailed.values())).name
    queued = of_job(from_squeue(printed["squeue"]), job, name)
    accounted = of_job(from_sacct(printed["sacct"]), job, name)

    assert words(detailed) == words(queued) == expected.parts
    assert words(accounted) == (expected.parts if expected.accounted is None else expected.accounted)
    assert {key: part.exit_code for key, part in detailed.items()} == {
        key: expected.exits.get(key, 0) for key in expected.parts
    }
    assert {part.by for part in accounted.values()} - {""} == ({"0"} if case == "cancelled" else set())

    for parts in (queued, detailed, accounted or queued):
        whole = aggregated(parts.values())
        assert whole.state is expected.state
        stuck = status.stuck(parts.values())
        problem = status.problem_of(parts.values()) if whole.state is JobState.FAILED else stuck and stuck[0]
        assert (problem and (problem.reason, problem.category)) == expected.problem
