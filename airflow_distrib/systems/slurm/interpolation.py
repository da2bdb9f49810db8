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

_COMPARED = re.compile(r"(?:^|\s)-(?:eq|ne|lt|le|gt|ge|v|R)\s")
# ${name:-text} and its like take text; everything else in ${...} is evaluated.
_TAKES_TEXT = re.compile(r"\$\{[A-Za-z_]\w*(?:\[[^]]*\])?(?::?[-=?+]|##?|%%?|//?)")

# Words before a command's own name, and assignments.
_BEFORE_COMMAND = re.compile(
    r"(?:(?:if|then|else|elif|while|until|do|time|coproc|!|\{)\s+|[A-Za-z_]\w*\+?=(?:\"[^\"]*\"|'[^']*'|\S)*\s+)*"
)
# Commands of the shell whose words are more than text to it: code, arithmetic, names of variables.
_NEVER = frozenset({"eval", "let", "trap", "read", "mapfile", "readarray", "unset", "getopts", "alias", "ssh", "su"})
_DECLARING = frozenset({"declare", "typeset", "local", "readonly"})
_OPTION_I = re.compile(r"\s-\w*[in]\w*\s")
_OPTION_V = re.compile(r"\s-v\s+$")
# Programs that take code as text; inside quotes a value would be part of it.
_INTERPRETERS = re.compile(
    r"(?:^|[\s/])(?:(?:ba|da|k|z|c|tc|fi)?sh|python[\d.]*|perl|ruby|node|lua|Rscript|R|julia|php|octave|sed|"
    r"[gmn]?awk|psql|mysql|sqlite3|eval|trap|ssh|su|parallel|watch|xargs)(?=\s)"
)
_CODE_OPTION = re.compile(r"\s(?:-\w*[ce]\w*|--command|--eval|--wrap)(?:[\s=]|$)")
_CODE_ALWAYS = re.compile(r"(?:^|[\s/])(?:[gmn]?awk|sed|eval|trap|ssh|su|parallel|watch)\s")
_TEXT_READERS = frozenset({"cat", "tee"})

PLAIN, DOUBLE, SINGLE, ANSI, ARITHMETIC, BRACES, BACKTICK, COMMENT = (
    *("plain", "double quotes", "single quotes", "$'...'", "arithmetic", "${...}", "backticks", "a comment"),
)


_ADVICE = """sh -c '... "$1"' _ {inputs.x}"""


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


def text_of(where: str, value: object) -> str:
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
        # What is open, how many parentheses stand in it, where it began, and where its present command did.
        self._open: list[list[Any]] = [[PLAIN, 0, 0, 0]]
        self._heredocs: list[tuple[str, bool, bool, str]] = []

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

    def _starts(self, text: str | tuple[str, ...]) -> bool:
        return self._script.startswith(text, self._at)

    def _enter(self, state: str, opening: str) -> None:
        self._take(opening)
        self._open.append([state, 0, self._at, self._at])

    def _leave(self, closing: str) -> None:
        self._take(closing)
        if len(self._open) > 1:
            self._open.pop()

    # ------------------------------------------------------------------ places

    def _line(self) -> int:
        return self._script.count("\n", 0, self._at) + 1

    def _replacement(self, kind: str, name: str, text: str) -> str:
        if self._state == COMMENT:
            return text
        reference = self._known(kind, name, text)
        if not self._is_number(kind, name) and (why := self._evaluated()):
            raise ConfigError("script", f"line {self._line()} says {text} {why}; there it must be a number")
        quoted = {SINGLE: f"'\"{reference}\"'", ANSI: f"'\"{reference}\"$'"}
        if self._state in quoted:
            return quoted[self._state]
        open_states = [each[0] for each in self._open]
        bare = self._state in (PLAIN, BACKTICK) or (self._state == BRACES and DOUBLE not in open_states)
        return f'"{reference}"' if bare else reference

    def _is_number(self, kind: str, name: str) -> bool:
        return bool(_NUMBER.fullmatch(self._values.get(kind, {}).get(name, "")))

    def _known(self, kind: str, name: str, text: str) -> str:
        """The variable of a place.

        Raises:
            ConfigError: there is no such input or output.
        """
        named = self._values.get(kind, {})
        if name not in named:
            there = ", ".join(named) or "none"
            raise ConfigError("script", f"line {self._line()} says {text}, but {kind} has {there}")
        return f"${{{variable(kind, name)}}}"

    def _command(self) -> str:
        """The simple command at this place, as far as it is read, without what stands before its name."""
        begin = next(each[3] for each in reversed(self._open) if each[0] in (PLAIN, BACKTICK))
        text = self._script[begin : self._at].replace("\\\n", " ").lstrip()
        return text[_BEFORE_COMMAND.match(text).end() :]  # type: ignore[union-attr] # it matches nothing, too

    def _evaluated(self) -> str:
        """Why the shell would take a text at this place for more than a text; empty when it would not."""
        if any(each[0] == ARITHMETIC for each in self._open):
            return "in arithmetic, which the shell evaluates"
        for each in self._open:
            if each[0] == BRACES and not _TAKES_TEXT.match(self._script, each[2] - 2):
                return "in ${...}, which the shell evaluates"
        if self._inside_condition():
            return "in a comparison of numbers, which the shell evaluates"
        command = self._command()
        word = re.split(r"[\s;&|]", command)[-1] if self._state == PLAIN else ""
        if word.count("[") > word.count("]"):
            return "as an index, which the shell evaluates"
        return self._evaluated_by(command)

    def _evaluated_by(self, command: str) -> str:
        """The same, because of the command whose word this is."""
        name = command.split(maxsplit=1)[0].rpartition("/")[2] if command.strip() else ""
        words = f" {command}"
        if name in _NEVER or (name in _DECLARING and _OPTION_I.search(words)) or _OPTION_V.search(words):
            return f"for {name}, which evaluates it"
        quoted = self._state in (SINGLE, DOUBLE, ANSI)
        interprets = _INTERPRETERS.search(words) and (_CODE_OPTION.search(words) or _CODE_ALWAYS.search(words))
        if (quoted and interprets) or (quoted and "--wrap" in words):
            return f"in the text of another program, which evaluates it; pass it as an argument, as in {_ADVICE}"
        return ""

    def _inside_condition(self) -> bool:
        """Whether this is in a [[ ... ]] that compares numbers, or asks for a variable."""
        before = self._script[: self._at].replace("\\\n", " ")
        begin = before.rfind("[[ ")
        if begin < 0 or before.rfind(" ]]") > begin:
            return False
        after = self._script[self._at :].replace("\\\n", " ").partition("]]")[0]
        return bool(_COMPARED.search(f"{before[begin + 2 :]}{after}"))

    # ------------------------------------------------------------------ states

    def _plain(self) -> None:
        if self._starts("\\"):
            self._take(self._script[self._at : self._at + 2])
        elif self._starts(("\n", ";", "&", "|")):
            self._end_command()
        elif self._starts("#") and self._begins_word():
            self._enter(COMMENT, "#")
        elif self._starts(("'", '"')):
            self._enter(SINGLE if self._starts("'") else DOUBLE, self._script[self._at])
        elif self._starts("<<<"):
            self._take("<<<")
        elif self._starts("<<") and (found := _HEREDOC.match(self._script, self._at)):
            word = found[3]
            literal = bool(found[2]) or word[0] in "'\""
            reader = (self._command().split(maxsplit=1) or [""])[0].rpartition("/")[2]
            self._heredocs.append((word.strip("'\""), bool(found[1]), literal, reader))
            self._take(found[0])
        elif self._starts("(("):
            self._enter(ARITHMETIC, "((")
        elif not self._dollar():
            self._parentheses()

    def _end_command(self) -> None:
        ends_line = self._starts("\n")
        self._take(self._script[self._at])
        if ends_line:
            self._read_heredocs()
        self._open[-1][3] = self._at

    def _parentheses(self) -> None:
        if self._starts("("):
            self._open[-1][1] += 1
            self._open[-1][3] = self._at + 1
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
        elif self._starts("$["):
            self._enter(ARITHMETIC, "$[")
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
        bracket = self._script.startswith("$[", self._open[-1][2] - 2)
        closing = "]" if bracket else "))"
        if self._starts(closing) and self._open[-1][1] == 0:
            self._leave(closing)
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
        """The bodies of the here-documents that begin on the line before."""
        for word, strips, literal, reader in self._heredocs:
            body = ""
            while self._at < len(self._script):
                end = self._script.find("\n", self._at)
                line = self._script[self._at : len(self._script) if end < 0 else end + 1]
                if (line.lstrip("\t") if strips else line).rstrip("\n") == word:
                    self._take(line)
                    break
                self._take(line, self._of_heredoc(line, body, literal=literal, reader=reader))
                body += line
        self._heredocs = []

    def _of_heredoc(self, line: str, body: str, *, literal: bool, reader: str) -> str:
        def replace(found: re.Match[str]) -> str:
            why = ""
            if literal:
                why = "with a quoted delimiter, where the shell expands nothing; take the quotes from the delimiter"
            elif _has_open_substitution(body + line[: found.start()]):
                why = "inside a substitution; set a variable before it and use that"
            elif reader not in _TEXT_READERS and not _NUMBER.fullmatch(
                self._values.get(found[1], {}).get(found[2], "")
            ):
                why = f"for {reader}, which may evaluate it; write it to a file by cat, or use the environment"
            if why:
                raise ConfigError("script", f"line {self._line()} says {found[0]} in a here-document {why}")
            return self._known(found[1], found[2], found[0])

        return PLACE.sub(replace, line)


def _has_open_substitution(text: str) -> bool:
    """Whether a text of a here-document ends inside ``$(...)``, ``${...}`` or backticks."""
    before = None
    while before != text:
        before, text = text, _CLOSED.sub("", text)
    return any(mark in text for mark in ("$(", "`", "${", "$["))


_CLOSED = re.compile(r"\\.|\$?\([^()`]*\)|\$\{[^{}`]*\}|`[^`]*`|\$\[[^][`]*\]")


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
