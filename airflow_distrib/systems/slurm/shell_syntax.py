"""The syntax of a shell script, as the parser of ``shfmt`` reads it: a tree of mappings.

``shfmt`` has the whole grammar of bash, and refuses what it cannot read instead of guessing.
It is a program without dependencies in a Python package, found when a script is read.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any, TypeAlias

from airflow_distrib.core.errors import ConfigError, MissingExtra

Node: TypeAlias = dict[str, Any]

_PACKAGE, _SECONDS = "shfmt-py", 60
_ERROR = re.compile(r"(?:<[^>\n]*>:)?(\d+):(?:\d+:)? ([^\n]*)")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED_IN_QUOTES = re.compile(r'\\(["\\$`])')
# What takes expansions, and so can come out as anything.
_VARIES = frozenset({"ParamExp", "CmdSubst", "ArithmExp", "ProcSubst", "ExtGlob", "BraceExp"})


@functools.lru_cache(256)
def parsed(script: str) -> Node:
    """The tree of a script.

    Raises:
        ConfigError: it is no script of bash.
        MissingExtra: the parser is not installed.
    """
    command = [_program(), "--language-dialect=bash", "--to-json"]
    done = subprocess.run(command, input=script.encode(), capture_output=True, timeout=_SECONDS, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        found = _ERROR.match(said)
        where, what = (f"line {found[1]} ", found[2]) if found else ("", said)
        raise ConfigError("script", f"{where}cannot be read: {what}")
    tree: Node = json.loads(done.stdout)
    return tree


@functools.cache
def _program() -> str:
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in ("shfmt", "shfmt.exe"):
            return str(file.locate())
    raise MissingExtra("slurm", _PACKAGE)


def nodes(tree: object) -> Iterator[Node]:
    """All nodes of a tree, outer ones first."""
    if isinstance(tree, dict):
        yield tree
        for each in tree.values():
            yield from nodes(each)
    elif isinstance(tree, list):
        for each in tree:
            yield from nodes(each)


def children(node: Node, *names: str) -> list[Node]:
    """The nodes that fields of a node hold, one or several each."""
    found: list[Node] = []
    for name in names:
        value = node.get(name)
        found += value if isinstance(value, list) else [value] if isinstance(value, dict) else []
    return found


def pieces(word: Node | None) -> list[str | None]:
    """The parts of a word as the shell would see them; None for each that an expansion supplies."""
    found: list[str | None] = []
    for part in (word or {}).get("Parts", []):
        kind = part["Type"]
        if kind == "DblQuoted":
            inner = pieces(part)
            found += [_ESCAPED_IN_QUOTES.sub(r"\1", each) if each is not None else None for each in inner]
        elif kind == "SglQuoted":
            # Escapes of $'...' can spell any name.
            text = part.get("Value", "")
            found.append(None if part.get("Dollar") and "\\" in text else text)
        elif kind in _VARIES:
            found.append(None)
        else:
            found.append(part.get("Value", ""))
    return found


def unquoted(word: Node | None) -> list[str | None]:
    """The same, with backslashes outside quotes taken away."""
    plain = [part["Type"] == "Lit" for part in (word or {}).get("Parts", []) for _ in _flat(part)]
    return [
        _ESCAPED.sub(lambda found: "" if found[1] == "\n" else found[1], each) if bare and each is not None else each
        for each, bare in zip(pieces(word), plain, strict=True)
    ]


def _flat(part: Node) -> list[Node]:
    return [each for inner in part.get("Parts", []) for each in _flat(inner)] if part["Type"] == "DblQuoted" else [part]


def literal(word: Node | None) -> str | None:
    """The text of a word; None if an expansion supplies a part of it."""
    found = unquoted(word)
    return None if None in found else "".join(each or "" for each in found)


def bare(word: Node) -> str | None:
    """The text of a word that is written without quotes; None for any other."""
    parts = word.get("Parts", [])
    return str(parts[0].get("Value", "")) if len(parts) == 1 and parts[0]["Type"] == "Lit" else None
