"""Streams of bytes are cut into lines, each with the rank that wrote it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_distrib.runner.lines import MAX_LINE_BYTES, RELAYED_LINE_BYTES, LineSplitter, RankLine, parse, prefixed


@given(st.lists(st.text(st.characters(exclude_characters="\n\r"), max_size=30)), st.integers(1, 7))
def test_lines_are_whole_however_the_bytes_arrive(lines: list[str], step: int) -> None:
    """Pieces of a stream may end inside a line, or even inside a character."""
    data = "".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass")
    splitter = LineSplitter()
    found = [line for at in range(0, len(data), step) for line in splitter.feed(data[at : at + step])]
    assert found + splitter.flush() == [
        line.encode("utf-8", "surrogatepass").decode("utf-8", "replace") for line in lines
    ]


def test_text_after_the_last_line_end_is_not_lost() -> None:
    """The last words of a process that dies in the middle of a line are often the cause."""
    splitter = LineSplitter()
    assert splitter.feed(b"whole\nhalf") == ["whole"]
    assert splitter.flush() == ["half"]
    assert splitter.flush() == []


def test_a_progress_bar_is_shown_as_a_terminal_shows_it() -> None:
    """Only the text after the last carriage return is meant to be visible."""
    assert LineSplitter().feed(b" 10%|#   |\r 50%|##  |\r100%|####|\n") == ["100%|####|"]
    assert LineSplitter().feed(b"dos\r\n") == ["dos"]


def test_a_progress_bar_without_line_ends_is_shown_every_thirty_seconds() -> None:
    """Otherwise a training of hours would show nothing, or every step."""
    times = iter(range(1, 1000))
    splitter = LineSplitter(clock=lambda: next(times))
    shown = [line for step in range(100) for line in splitter.feed(f"\r{step}%|{'#' * 2000}".encode())]
    assert [line.partition("|")[0] for line in shown] == ["30%", "60%", "90%"]
    assert splitter.feed(b"\r100%|done\nnext\r\n") == ["100%|done", "next"]
    assert splitter.feed(b"\rnew 1%") + splitter.feed(b"\rnew 2%") == []
    assert splitter.flush() == ["new 2%"]


def test_endless_lines_are_cut() -> None:
    """A log record of many megabytes would be lost as a whole."""
    lines = LineSplitter().feed(b"x" * (2 * MAX_LINE_BYTES + 5) + b"\n")
    assert [len(line) for line in lines] == [MAX_LINE_BYTES, MAX_LINE_BYTES, 5]


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    """It is passed on in pieces before its end is seen."""
    assert [len(line) for line in LineSplitter().feed(b"x" * (MAX_LINE_BYTES + 1))] == [MAX_LINE_BYTES]


@pytest.mark.parametrize("data", [b"x" * 5_000_000, b"\xff" * 200_000, "ü".encode() * 200_000])
def test_every_piece_of_a_very_long_line_keeps_its_rank(data: bytes) -> None:
    """The pieces get their rank in front and are read once more, by somebody who must not cut them again."""
    pieces = LineSplitter().feed(data + b"\n")
    sent = "".join(prefixed(RankLine(3, piece)) + "\n" for piece in pieces).encode()
    received = [parse(line) for line in LineSplitter(limit=RELAYED_LINE_BYTES).feed(sent)]
    assert received == [RankLine(3, piece) for piece in pieces]


def test_names_of_dag_files_are_shown_as_their_authors_wrote_them() -> None:
    """Airflow imports a DAG file under a name with a digest, which loggers and warnings repeat."""
    line = f"INFO:unusual_prefix_{'0f' * 20}_my_dag:epoch 1\n"
    assert LineSplitter().feed(line.encode()) == ["INFO:my_dag:epoch 1"]


def test_bytes_that_are_no_text_are_shown_with_replacements() -> None:
    """A line of binary data does not end the log."""
    assert LineSplitter().feed(b"\xff\xfe ok\n") == ["\ufffd\ufffd ok"]


@pytest.mark.parametrize("line", [RankLine(3, "text"), RankLine(None, "text"), RankLine(0, "")])
def test_prefix_and_parse_are_each_others_reverse(line: RankLine) -> None:
    """The rank of a line survives the way through a pipe or a file."""
    assert parse(prefixed(line)) == line
