"""``{inputs.x}`` and ``{outputs.y}`` in a shell script: places for values.

Values never become part of the script. Each place is replaced by a variable, quoted as its
surroundings need it, and the variables are set before the script, quoted as a whole. So all
other braces, ``${...}`` and ``$(...)`` stay what they are. Where the shell, or a program that
it starts, takes a word for more than data, only values may stand that can do nothing there.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.slurm import shell_places
from airflow_distrib.systems.slurm.shell_programs import TEXT, WORD, Takes

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PLACE = re.compile(rf"\{{(inputs|outputs)\.({NAME.pattern})\}}")
# A place, or one that is to stay as it is.
_EITHER = re.compile(rf"\{{{PLACE.pattern}\}}|{PLACE.pattern}")
# What is nearly a place, and would stay as it is.
_NEARLY = re.compile(r"\$?\{\s*(inputs?|outputs?)\s*[.\[][^{}\n]*\}")


@dataclass(frozen=True)
class Place:
    """A place in a script.

    Attributes:
        kind: ``inputs`` or ``outputs``.
        takes: what a value may be there, because of ``why``.
    """

    kind: str
    name: str
    line: int
    takes: Takes
    why: str

    def __str__(self) -> str:
        return f"{{{self.kind}.{self.name}}}"


@dataclass(frozen=True)
class Script:
    """A script with variables in its places.

    Attributes:
        text: the script; the variables still have to be set.
        places: the places that were there.
    """

    text: str
    places: tuple[Place, ...] = ()

    def check(self, values: Mapping[str, Mapping[str, str | None]]) -> None:
        """Check values.

        Args:
            values: by ``inputs`` and ``outputs``, the names there are; None for what still has to come.

        Raises:
            ConfigError: a place without a value, or one that might do more than stand there.
        """
        for place in self.places:
            named = values.get(place.kind, {})
            if place.name not in named:
                there = ", ".join(named) or "none"
                raise ConfigError("script", f"line {place.line} says {place}, but {place.kind} has {there}")
            value = named[place.name]
            if value is not None and not place.takes.fits(value):
                raise ConfigError(
                    "script", f"line {place.line} says {place} {place.why}; there it must be {place.takes.needs}"
                )

    def unused(self, kind: str, names: Mapping[str, object]) -> str | None:
        """The first of these that the script does not name."""
        used = {place.name for place in self.places if place.kind == kind}
        return next((name for name in names if name not in used and variable(kind, name) not in self.text), None)


def variable(kind: str, name: str) -> str:
    """The variable behind a place."""
    return f"AIRFLOW_{kind.upper()}_{name}"


@functools.lru_cache(64)
def read(script: str, *, sure: bool = True) -> Script:
    """Find all places of a script, and put variables there.

    Args:
        sure: whether it is for bash or sh; other shells evaluate more.

    Raises:
        ConfigError: it cannot be parsed, or a place stands where no value can.
    """
    _refuse_near_misses(script)
    found: list[tuple[str, str, int]] = []

    def parsed_as(match: re.Match[str]) -> str:
        if match[3] is None:
            return match[0][1:-1]
        found.append((match[3], match[4], script.count("\n", 0, match.start()) + 1))
        return shell_places.token(len(found) - 1)

    text = _EITHER.sub(parsed_as, script)
    if not found:
        return Script(text)
    spots = shell_places.spots(text, TEXT if sure else WORD)
    places = []
    for number, (kind, name, line) in enumerate(found):
        mark, spot = shell_places.token(number), spots.get(number)
        if spot is None or _backslash(text, mark, spot.quoting):
            why = (
                "behind a backslash, or where the shell expands nothing, as with a quoted delimiter of a here-document"
            )
            place = f"{{{kind}.{name}}}"
            raise ConfigError("script", f"line {line} says {place} {why}; write {{{place}}} for that text")
        if spot.quoting == shell_places.COMMENT:
            text = text.replace(mark, f"{{{kind}.{name}}}")
            continue
        text = text.replace(mark, _quoted(f"${{{variable(kind, name)}}}", spot.quoting))
        places.append(Place(kind, name, line, spot.takes, spot.why or "for another shell than bash or sh"))
    return Script(text, tuple(places))


def _refuse_near_misses(script: str) -> None:
    for match in _NEARLY.finditer(script):
        literal = script[: match.start()].endswith("{") and script[match.end() :].startswith("}")
        if literal or PLACE.fullmatch(match[0]):
            continue
        line = script.count("\n", 0, match.start()) + 1
        meant = f"{{{match[1].rstrip('s')}s.name}}"
        raise ConfigError("script", f"line {line} says {match[0]}; write {meant}, or {{{match[0]}}} for that text")


def _backslash(text: str, mark: str, quoting: str) -> bool:
    before = text[: text.index(mark)]
    return quoting == shell_places.ANSI and (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _quoted(reference: str, quoting: str) -> str:
    if quoting == shell_places.SINGLE:
        return f"'\"{reference}\"'"
    if quoting == shell_places.ANSI:
        return f"'\"{reference}\"$'"
    return reference if quoting == shell_places.DOUBLE else f'"{reference}"'


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
