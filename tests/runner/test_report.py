"""Outcomes are carried by files, termination messages and lines of a log."""

from __future__ import annotations

import os
import random
import string
from pathlib import Path

import pytest

from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import report
from airflow_distrib.runner.outcome import Outcome


def success(size: int = 2) -> Outcome:
    """A success whose result does not compress."""
    letters = random.Random(0).choices(string.ascii_letters + string.digits, k=size)
    return Outcome(outcomes.SUCCESS, 0, result='"' + "".join(letters) + '"')


def test_outcomes_of_a_folder_are_collected_by_rank(tmp_path: Path) -> None:
    """A later outcome of a rank replaces the earlier one, and the agent's comes last."""
    report.leave(str(tmp_path), Outcome(outcomes.FAILURE, None, message="agent"), "agent-0")
    for rank in (10, 2):
        report.leave(str(tmp_path), Outcome(outcomes.SUCCESS, rank))
    report.leave(str(tmp_path), Outcome(outcomes.FAILURE, 2))
    found = report.collect(str(tmp_path))
    assert [(each.rank, each.kind) for each in found] == [(2, "failure"), (10, "success"), (None, "failure")]


def test_files_are_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    """A result_path is for others to read too: the worker is often another user."""
    before = os.umask(0o027)
    try:
        report.write_file(str(tmp_path / "result.json"), "1")
    finally:
        os.umask(before)
    assert (tmp_path / "result.json").stat().st_mode & 0o777 == 0o640
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]


def test_ranks_that_the_job_shrank_below_do_not_count(tmp_path: Path) -> None:
    """An elastic job of four ranks that went on as two has only two outcomes."""
    report.leave(str(tmp_path), Outcome(outcomes.FAILURE, 3, world_size=4, time=1.0))
    report.leave(str(tmp_path), Outcome(outcomes.SUCCESS, 0, world_size=2, time=2.0))
    assert [each.rank for each in report.collect(str(tmp_path))] == [0]


def test_a_restarted_rank_forgets_its_earlier_outcome(tmp_path: Path) -> None:
    """A failure before the restart is not a failure of the job."""
    report.leave(str(tmp_path), Outcome(outcomes.FAILURE, 1))
    assert report.has_left(str(tmp_path), 1)
    for _ in range(2):
        report.forget(str(tmp_path), 1)
    assert not report.has_left(str(tmp_path), 1)
    assert report.collect(str(tmp_path)) == []


def test_a_small_outcome_fits_the_termination_message() -> None:
    """A pod's state can carry it, and it comes back as it was."""
    text = report.termination_message(success(2000))
    assert text is not None
    assert len(text) <= report.MAX_TERMINATION_BYTES
    assert report.from_termination_message(text) == success(2000)


def test_a_large_outcome_does_not_fit_the_termination_message() -> None:
    """The kubelet would cut it, and a cut document is worthless."""
    assert report.termination_message(success(6000)) is None


def test_another_programs_termination_message_is_not_an_outcome() -> None:
    """Some images write messages of their own."""
    assert report.from_termination_message("Segmentation fault") is None


def test_frames_are_found_among_other_lines_in_any_sequence() -> None:
    """Lines of other processes may appear between them in a log."""
    lines = report.frames(success(30_000))
    assert len(lines) > 2
    mixed = ["epoch 1", *reversed(lines), "done"]
    assert report.from_frames(mixed) == success(30_000)


def test_the_last_document_counts() -> None:
    """A restarted rank writes again into the same log."""
    assert report.from_frames([*report.frames(success(5)), *report.frames(success(9))]) == success(9)


def test_a_log_without_frames_has_no_document() -> None:
    """The caller knows whether one was promised, so that this is no error by itself."""
    assert report.from_frames(["epoch 1", "::airflow-distrib nonsense"]) is None


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_a_damaged_document_is_an_error(damage: str) -> None:
    """Neither a lost nor a changed line may lead to a wrong result."""
    lines = report.frames(success(30_000))
    if damage == "missing":
        del lines[1]
    else:
        lines[1] = lines[1][:-4] + ("AAAA" if not lines[1].endswith("AAAA") else "BBBB")
    with pytest.raises(report.FramesDamaged):
        report.from_frames(lines)


def test_a_one_mebibyte_result_travels_in_frames() -> None:
    """The documented limit holds for a result without result_path."""
    assert report.from_frames(report.frames(success(2**20 - 2))) == success(2**20 - 2)
