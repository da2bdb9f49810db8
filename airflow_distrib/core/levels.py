"""The level of a line that a rank wrote, where its text tells."""

from __future__ import annotations

import logging
import re

_WORDS = {
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "FATAL": logging.CRITICAL,
    "CRITICAL": logging.CRITICAL,
}
_WORD = "(" + "|".join(_WORDS) + ")"
# Marks in front of a line: of ranks, pods, elements of arrays, and the stream of errors.
_MARKS = re.compile(r"(?:\[(?!" + _WORD + r"\])[\w .-]{1,80}\] )*")
# "WARNING:root:text", "ERROR text", "[WARNING] text", "2026-01-02 03:04:05,678 - name - ERROR - text",
# "W0102 03:04:05.678 file.py:1] text" as torch writes, and what Python's warnings module prints.
_LEVEL = re.compile(
    r"\[?" + _WORD + r"(?:\]|\b[:|]|\s)"
    r"|\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S*[^A-Za-z]*(?:[\w.]+[\s\]:|-]+)??" + _WORD + r"\b"
    r"|([WEF])\d{4} \d\d:\d\d:\d\d\.\d+ "
    r"|\S+:\d+: (?:\w*Warning): "
)
_LETTERS = {"W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}
_TRACEBACK = "Traceback (most recent call last):"
# Between two tracebacks of which one caused the other.
_BETWEEN = ("The above exception was", "During handling of the above")


class Levels:
    """Tells the level of one line after the other; tracebacks are errors from their first line to their last."""

    def __init__(self) -> None:
        # Marks of the streams that are inside a traceback, with whether its last line was seen.
        self._tracebacks: dict[str, bool] = {}

    def of(self, text: str) -> int:
        """The level as in :mod:`logging`; INFO where the text does not tell."""
        marks = _MARKS.match(text)
        at = marks.end() if marks else 0
        if text.startswith(_TRACEBACK, at):
            self._tracebacks[text[:at]] = False
            return logging.ERROR
        if self._tracebacks and text[:at] in self._tracebacks and self._goes_on(text[:at], text[at:]):
            return logging.ERROR
        found = _LEVEL.match(text, at)
        if not found:
            return logging.INFO
        word, dated, letter = found.groups()
        return _LETTERS[letter] if letter else _WORDS.get(word or dated, logging.WARNING)

    def _goes_on(self, marks: str, rest: str) -> bool:
        """Whether a line belongs to the traceback before it."""
        if not rest or rest[0] in " \t" or rest.startswith(_BETWEEN):
            return True
        over = self._tracebacks[marks]
        self._tracebacks[marks] = True
        if over:
            del self._tracebacks[marks]
        return not over
