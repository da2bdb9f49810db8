"""``{inputs.x}`` and ``{outputs.y}`` in a shell script: places that no value can break.

Values never become part of the script. Each place is replaced by a variable, quoted as its
surroundings need it, and the variables are set before the script, quoted as a whole. So all
other braces, ``${...}`` and ``$(...)`` stay what they are. In arithmetic the shell itself
evaluates what a variable holds, so there only numbers may stand.
"""

from __future__ import annotations

import datetime
import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from airflow_distrib.core.errors import ConfigError

PLACE = re.compile(r"\{(inputs|outputs)\.([A-Za-z_][A-Za-z0-9_]*)\}")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEREDOC = re.compile(r"<<(-?)[ \t]*(\\?)('[^'\n]*'|\"[^\"\n]*\"|[^\s;&|<>()'\"]+)")

_NUMBER = re.compile(r"-?\d+(\.\d+)?")

# Where the shell evaluates what a variable holds. Read backwards from a place, on its own line.
_EVALUATED = re.compile(
    r"(?:^|[;&|(\s])(?:let|eval)\s[^;&|\n]*$"  # the arguments of let and eval
    r"|[A-Za-z_]\w*\[[^]]*$"  # an array's index
)
_COMPARED = re.compile(r"\s-(?:eq|ne|lt|le|gt|ge)\s")
_OTHER_SHELL = re.compile(r"\b(?:ba|da|z|k)?sh\s+(?:-\w+\s+)*-\w*c\s[^;&|\n]*$")
# ${name:-text} and its like take text; everything else in ${...} is evaluated.
_TAKES_TEXT = re.compile(r"[A-Za-z_]\w*(?:\[[^]]*\])?(?::?[-=?+]|##?|%%?|//?)")

PLAIN, DOUBLE, SINGLE, ANSI, ARITHMETIC, BRACES, BACKTICK, COMMENT = (
    *("plain", "double quotes", "single quotes", "$'...'", "arithmetic", "${...}", "backticks", "a comment"),
)


def variable(kind: str, name: str) -> str:
    """The variable behind a place."""
    return f"AIRFLOW_{kind.upper()}_{name}"


def interpolated(script: str, values: Mapping[str, Mapping[str, str]]) -> str:
    """Replace all places.

    Args:
        values: by ``inputs`` and ``outputs``, the names there are.

    Raises:
        ConfigError: a place without a value, or where the shell would evaluate the value.
    """
    return _Reader(script, values).run()


def assignments(values: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Lines of shell that set the variables."""
    return [
        f"{variable(kind, name)}={shlex.quote(text)}" for kind, named in values.items() for name, text in named.items()
    ]


def text_of(where: str, value: Any) -> str:
    """A value as the shell sees it: text as it is, lists and mappings as JSON.

    Raises:
        ConfigError: nothing that a shell can hold.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float | PurePath):
        text = str(value)
    elif isinstance(value, datetime.date | datetime.datetime):
        text = value.isoformat()
    elif value is None:
        raise ConfigError(where, "is None; a shell has no such value, so give it text or leave it out")
    else:
        try:
            text = json.dumps(value)
        except (TypeError, ValueError):
            raise ConfigError(where, f"must be text, a number, a list or a mapping; got {value!r}") from None
    if "\0" in text:
        raise ConfigError(where, "holds a zero byte, which no shell takes")
    return text


class _Reader:
    """Reads a script once and knows at every character how it is quoted."""

    def __init__(self, script: str, values: Mapping[str, Mapping[str, str]]) -> None:
        self._script, self._values = script, values
        self._at = 0
        self._out: list[str] = []
        # What is open, how many parentheses stand in it, and where it began.
        self._open: list[list[Any]] = [[PLAIN, 0, 0]]
        self._heredocs: list[tuple[str, bool, bool]] = []

    def run(self) -> str:
        while self._at < len(self._script):
            place = PLACE.match(self._script, self._at)
            if place:
                self._take(place[0], self._replacement(place[1], place[2], place[0]))
            else:
                _RULES[self._state](self)
        return "".join(self._out)

    @property
    def _state(self) -> str:
        return str(self._open[-1][0])

    def _take(self, read: str, written: str | None = None) -> None:
        self._out.append(read if written is None else written)
        self._at += len(read)

    def _starts(self, text: str) -> bool:
        return self._script.startswith(text, self._at)

    def _enter(self, state: str, opening: str) -> None:
        self._take(opening)
        self._open.append([state, 0, self._at])

    def _leave(self, closing: str) -> None:
        self._take(closing)
        if len(self._open) > 1:
            self._open.pop()

    # ------------------------------------------------------------------ places

    def _line(self) -> int:
        return self._script.count("\n", 0, self._at) + 1

    def _replacement(self, kind: str, name: str, text: str) -> str:
        named = self._values.get(kind, {})
        if self._state == COMMENT:
            return text
        if name not in named:
            there = ", ".join(named) or "none"
            raise ConfigError("script", f"line {self._line()} says {text}, but {kind} has {there}")
        if not _NUMBER.fullmatch(named[name]) and (why := self._evaluated()):
            raise ConfigError("script", f"line {self._line()} says {text} {why}; there it must be a number")
        reference = f"${{{variable(kind, name)}}}"
        quoted = {SINGLE: f"'\"{reference}\"'", ANSI: f"'\"{reference}\"$'"}
        if self._state in quoted:
            return quoted[self._state]
        open_states = [each[0] for each in self._open]
        bare = self._state in (PLAIN, BACKTICK) or (self._state == BRACES and DOUBLE not in open_states)
        return f'"{reference}"' if bare else reference

    def _evaluated(self) -> str:
        """Why the shell would take a text at this place for more than a text; empty when it would not."""
        begin = self._script.rfind("\n", 0, self._at) + 1
        end = self._script.find("\n", self._at)
        before, after = self._script[begin : self._at], self._script[self._at : end if end >= 0 else None]
        if any(each[0] == ARITHMETIC for each in self._open):
            return "in arithmetic, which the shell evaluates"
        if self._state == BRACES and not _TAKES_TEXT.match(self._script[self._open[-1][2] : self._at]):
            return "in ${...}, which the shell evaluates"
        if _EVALUATED.search(before):
            return "as an index, or for let or eval, which the shell evaluates"
        condition = before.rpartition("[[")[2] if "[[" in before else None
        if condition is not None and "]]" not in condition and _COMPARED.search(condition + after.partition("]]")[0]):
            return "in a comparison of numbers, which the shell evaluates"
        if self._state in (SINGLE, DOUBLE, ANSI) and _OTHER_SHELL.search(before):
            return "in the text of another shell, which evaluates it; pass it as an argument: sh -c '... \"$1\"' _ " + (
                "{inputs.x}"
            )
        return ""

    # ------------------------------------------------------------------ states

    def _plain(self) -> None:
        if self._starts("\\"):
            self._take(self._script[self._at : self._at + 2])
        elif self._starts("\n"):
            self._take("\n")
            self._read_heredocs()
        elif self._starts("#") and self._begins_word():
            self._enter(COMMENT, "#")
        elif self._starts("'"):
            self._enter(SINGLE, "'")
        elif self._starts('"'):
            self._enter(DOUBLE, '"')
        elif self._starts("<<<"):
            self._take("<<<")
        elif self._starts("<<") and (found := _HEREDOC.match(self._script, self._at)):
            word = found[3]
            literal = bool(found[2]) or word[0] in "'\""
            self._heredocs.append((word.strip("'\""), bool(found[1]), literal))
            self._take(found[0])
        elif self._starts("((") and self._begins_word():
            self._enter(ARITHMETIC, "((")
        elif not self._dollar():
            self._parentheses()

    def _parentheses(self) -> None:
        if self._starts("("):
            self._open[-1][1] += 1
        elif self._starts(")"):
            if self._open[-1][1] == 0:
                self._leave(")")
                return
            self._open[-1][1] -= 1
        self._take(self._script[self._at])

    def _begins_word(self) -> bool:
        return self._at == 0 or self._script[self._at - 1] in " \t\n;&|("

    def _dollar(self) -> bool:
        """What begins with a dollar, or a backtick, in text that the shell expands."""
        if self._starts("$'") and self._state == PLAIN:
            self._enter(ANSI, "$'")
        elif self._starts("$(("):
            self._enter(ARITHMETIC, "$((")
        elif self._starts("$("):
            self._enter(PLAIN, "$(")
        elif self._starts("${"):
            self._enter(BRACES, "${")
        elif self._starts("`"):
            if self._state == BACKTICK:
                self._leave("`")
            else:
                self._enter(BACKTICK, "`")
        else:
            return False
        return True

    def _double(self) -> None:
        if self._starts("\\"):
            self._take(self._script[self._at : self._at + 2])
        elif self._starts('"'):
            self._leave('"')
        elif not self._dollar():
            self._take(self._script[self._at])

    def _single(self) -> None:
        if self._starts("'"):
            self._leave("'")
        else:
            self._take(self._script[self._at])

    def _ansi(self) -> None:
        if self._starts("\\"):
            self._take(self._script[self._at : self._at + 2])
        else:
            self._single()

    def _comment(self) -> None:
        if self._starts("\n"):
            self._open.pop()
        else:
            self._take(self._script[self._at])

    def _arithmetic(self) -> None:
        if self._starts("))") and self._open[-1][1] == 0:
            self._leave("))")
        elif not self._dollar():
            if self._starts("("):
                self._open[-1][1] += 1
            elif self._starts(")"):
                self._open[-1][1] -= 1
            self._take(self._script[self._at])

    def _braces(self) -> None:
        if self._starts("\\"):
            self._take(self._script[self._at : self._at + 2])
        elif self._starts("}"):
            self._leave("}")
        elif self._starts("'") and not any(each[0] == DOUBLE for each in self._open):
            self._enter(SINGLE, "'")
        elif self._starts('"'):
            self._enter(DOUBLE, '"')
        elif not self._dollar():
            self._take(self._script[self._at])

    def _backtick(self) -> None:
        if self._starts("\\"):
            self._take(self._script[self._at : self._at + 2])
        elif self._starts("'"):
            self._enter(SINGLE, "'")
        elif self._starts('"'):
            self._enter(DOUBLE, '"')
        elif not self._dollar():
            self._take(self._script[self._at])

    # ------------------------------------------------------------------ here-documents

    def _read_heredocs(self) -> None:
        """The bodies of the here-documents that the line before announced."""
        for word, strips, literal in self._heredocs:
            while self._at < len(self._script):
                end = self._script.find("\n", self._at)
                line = self._script[self._at : len(self._script) if end < 0 else end + 1]
                if (line.lstrip("\t") if strips else line).rstrip("\n") == word:
                    self._take(line)
                    break
                self._take(line, self._of_heredoc(line, literal=literal))
        self._heredocs = []

    def _of_heredoc(self, line: str, *, literal: bool) -> str:
        def replace(found: re.Match[str]) -> str:
            if literal:
                raise ConfigError(
                    "script",
                    f"line {self._line()} says {found[0]} in a here-document with a quoted delimiter, where the shell "
                    "expands nothing; take the quotes from the delimiter",
                )
            if self._inside_substitution(line[: found.start()]):
                raise ConfigError(
                    "script",
                    f"line {self._line()} says {found[0]} in a substitution inside a here-document; set a variable "
                    "before it and use that",
                )
            return self._replacement(found[1], found[2], found[0]).strip('"')

        return PLACE.sub(replace, line)

    @staticmethod
    def _inside_substitution(before: str) -> bool:
        return any(mark in before for mark in ("$(", "`", "${"))


_RULES: Mapping[str, Callable[[_Reader], None]] = {
    PLAIN: _Reader._plain,  # noqa: SLF001 - the class's own table
    DOUBLE: _Reader._double,  # noqa: SLF001
    SINGLE: _Reader._single,  # noqa: SLF001
    ANSI: _Reader._ansi,  # noqa: SLF001
    ARITHMETIC: _Reader._arithmetic,  # noqa: SLF001
    BRACES: _Reader._braces,  # noqa: SLF001
    BACKTICK: _Reader._backtick,  # noqa: SLF001
    COMMENT: _Reader._comment,  # noqa: SLF001
}
