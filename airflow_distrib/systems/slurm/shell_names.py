"""What a shell script itself defines, and its words as commands see them."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from airflow_distrib.systems.slurm import shell_syntax
from airflow_distrib.systems.slurm.shell_programs import NUMBER, TEXT, Takes
from airflow_distrib.systems.slurm.shell_syntax import Node, children, literal, nodes

# Stands for a place while the script is parsed.
TOKEN = re.compile(r"\$\{AIRFLOW_PLACE_(\d+)\}")
TOKEN_NAME = re.compile(r"AIRFLOW_PLACE_(\d+)")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Argument:
    """A word of a command.

    Attributes:
        parts: its text; None for each part that a value or an expansion supplies.
        place: whether a value of the DAG is in it.
        one: whether quotes keep it one word.
    """

    parts: tuple[str | None, ...]
    place: bool = False
    one: bool = False

    @property
    def text(self) -> str | None:
        """All of it; None where an expansion supplies a part."""
        return None if None in self.parts else self.around

    @property
    def around(self) -> str:
        """What is known of it."""
        return "".join(each or "" for each in self.parts)

    @property
    def start(self) -> str:
        """What it begins with in any case."""
        known = [*self.parts, None]
        return "".join(each or "" for each in known[: known.index(None)])

    @property
    def name(self) -> str | None:
        """The name of the command that it is, wherever it lies; None if only the job knows."""
        known = [None, *self.parts][::-1]
        last = "".join(each or "" for each in known[: known.index(None)][::-1])
        return last.rpartition("/")[2] if "/" in last or None not in self.parts else None

    @property
    def is_option(self) -> bool:
        return self.start.startswith(("-", "+")) and self.text not in ("-", "--")


@dataclass
class Functions:
    """The script's own functions and aliases.

    Attributes:
        takes: what their words take.
        starters: functions that run their words as a command, with how many they take away before.
        bodies: of the functions.
        variables: what variables take because of their uses.
    """

    takes: dict[str, Takes] = field(default_factory=dict)
    starters: dict[str, int] = field(default_factory=dict)
    bodies: dict[str, list[Node]] = field(default_factory=dict)
    variables: Mapping[str, Takes] = field(default_factory=dict)

    def add(self, other: Functions) -> None:
        """Take over those of code within the script."""
        self.takes |= other.takes
        self.starters |= other.starters
        self.bodies |= other.bodies


def argument(word: Node) -> Argument:
    """A word as commands see it."""
    parts: list[str | None] = []
    for each in shell_syntax.unquoted(word):
        # A place in single quotes is text to the parser.
        split = [each] if each is None else TOKEN.split(each)
        parts += [
            None if number % 2 else text for number, text in enumerate(split) if number % 2 or text or len(split) == 1
        ]
    several = any(each.get("Param", {}).get("Value") == "@" or "Index" in each for each in nodes(word))
    quoted = all(each["Type"] == "DblQuoted" for each in word.get("Parts", []))
    return Argument(tuple(parts), _holds_place(word), quoted and not several)


def arguments(call: Node) -> list[Argument]:
    """All words of a command."""
    return [argument(each) for each in children(call, "Args")]


def _holds_place(word: Node) -> bool:
    """Whether a value is in a word itself, and not only in a substitution."""
    return any(
        (part["Type"] == "DblQuoted" and _holds_place(part))
        or (part["Type"] == "SglQuoted" and TOKEN.search(part.get("Value", "")) is not None)
        or (part["Type"] == "ParamExp" and TOKEN_NAME.fullmatch(part.get("Param", {}).get("Value", "")) is not None)
        for part in word.get("Parts", [])
    )


def words_below(tree: object) -> Iterator[Node]:
    """The outermost words of a tree."""
    if isinstance(tree, list):
        for each in tree:
            yield from words_below(each)
    elif isinstance(tree, dict):
        if tree.get("Type") == "Word" or ("Parts" in tree and "Type" not in tree):
            yield tree
        else:
            yield from words_below(list(tree.values()))


def flags(node: Node) -> str:
    """Letters of the options of ``declare`` and its like."""
    bare = [each.get("Value") for each in children(node, "Args") if not each.get("Name")]
    return "".join(text[1:] for each in bare if (text := literal(each) or "").startswith(("-", "+")))


def declared(tree: Node) -> dict[str, Takes]:
    """Variables whose values the shell evaluates, wherever it is told so.

    The empty name is for all variables; arrays are ``name[]``.
    """
    found: dict[str, Takes] = {}
    for node in nodes(tree):
        if node.get("Type") == "CallExpr" and {each.name for each in arguments(node)} & {"declare", "typeset", "local"}:
            found[""] = NUMBER
        if node.get("Type") != "DeclClause" or node["Variant"]["Value"] == "export":
            continue
        given, letters = children(node, "Args"), set(flags(node))
        names = [each["Name"]["Value"] for each in given if each.get("Name")]
        if node["Variant"]["Value"] != "readonly" and any(
            not each.get("Name") and literal(each.get("Value")) is None for each in given
        ):
            found[""] = NUMBER
        if letters & set("in"):
            found.update(dict.fromkeys(names, NUMBER))
        if letters & set("aA"):
            found.update(dict.fromkeys((f"{name}[]" for name in names), NUMBER))
    return found


def is_all_words(word: Node) -> bool:
    """Whether a word is ``"$@"``, with which a function runs its words."""
    return _only_parameter(word) in ("@", "*")


def _only_parameter(word: Node | None) -> str | None:
    """The name of the variable that is all of a word."""
    parts = (word or {}).get("Parts", [])
    inner = parts[0].get("Parts", parts) if len(parts) == 1 else []
    name = inner[0].get("Param", {}).get("Value") if len(inner) == 1 else None
    return str(name) if name else None


def file_of(word: Node | None) -> str | None:
    """A file's name in a form by which it is found again."""
    text, variable = literal(word), _only_parameter(word)
    return os.path.normpath(text) if text else f"${variable}" if variable else None


def own(tree: Node, known: Mapping[str, Takes]) -> Functions:
    """The script's functions and aliases; commands that are hashed are what the script says."""
    found = Functions(variables=known)
    for node in nodes(tree):
        if node.get("Type") == "FuncDecl":
            name = node["Name"]["Value"]
            found.takes[name] = min(known.get(f"{name}()", TEXT), found.takes.get(name, TEXT))
            found.bodies.setdefault(name, []).append(node["Body"])
            calls = [each["Args"] for each in nodes(node) if each.get("Type") == "CallExpr" and each.get("Args")]
            if any(is_all_words(each[0]) for each in calls):
                found.starters[name] = sum(literal(each[0]) == "shift" for each in calls)
        elif node.get("Type") == "CallExpr" and (words := arguments(node)) and words[0].name in ("alias", "hash"):
            found.takes.update(dict.fromkeys((each.start.partition("=")[0] for each in words[1:]), NUMBER))
    return found
