"""What each place of a shell script takes, and how it is quoted: a walk over the script's syntax.

A place takes free text only where this module knows that it is data. Variables count too: what a
place takes is what the strictest use of the variable takes that it is assigned to. For that the
walk is repeated until it finds no stricter use.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from airflow_distrib.systems.slurm import shell_commands, shell_syntax
from airflow_distrib.systems.slurm.shell_commands import Argument, Functions, Reading
from airflow_distrib.systems.slurm.shell_programs import NUMBER, TEXT, WORD, Takes, of_variable
from airflow_distrib.systems.slurm.shell_syntax import Node, children, literal, nodes

# Stands for a place while the script is parsed.
_TOKEN = re.compile(r"\$\{AIRFLOW_PLACE_(\d+)\}")
_TOKEN_NAME = re.compile(r"AIRFLOW_PLACE_(\d+)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ARITHMETIC = "in arithmetic, which the shell evaluates"
_PATTERN_OPS = ("#", "##", "%", "%%", "^", "^^", ",", ",,")
PLAIN, DOUBLE, SINGLE, ANSI, COMMENT = "plain", "double", "single", "ansi", "comment"


def token(number: int) -> str:
    """What stands for a place while the script is parsed."""
    return f"${{AIRFLOW_PLACE_{number}}}"


@dataclass(frozen=True)
class Spot:
    """Where a place stands.

    Attributes:
        takes: what a value may be there.
        why: why it may be no other, for messages.
        quoting: how it is quoted.
    """

    takes: Takes
    why: str
    quoting: str


def spots(script: str, most: Takes = TEXT) -> dict[int, Spot]:
    """What each place takes; a place that is missing stands where no value can.

    Args:
        script: with a :func:`token` for each place.
        most: what any place takes at most.

    Raises:
        ConfigError: it cannot be read.
    """
    tree = shell_syntax.parsed(script)
    known: Mapping[str, Takes] = {}
    while True:
        walk = _Walk(tree, known, most)
        if walk.uses == known:
            return walk.found
        known = walk.uses


class _Walk:
    """One walk over a script.

    Attributes:
        found: the places.
        uses: the strictest use of each variable, and of the words of each function, as ``name()``.
    """

    def __init__(self, tree: Node, known: Mapping[str, Takes], most: Takes) -> None:
        self.found: dict[int, Spot] = {}
        self.uses: dict[str, Takes] = {}
        self._known, self._function = known, ""
        self._cap = (most, "")
        self._declared, self._own = _declared(tree), _own(tree, known)
        for comment in (each["Text"] for each in nodes(tree) if isinstance(each.get("Text"), str)):
            for number in _TOKEN.findall(comment):
                self.found[int(number)] = Spot(TEXT, "", COMMENT)
        fed = [each for each in nodes(tree) if each.get("Op") == ">(" or each.get("Type") == "CoprocClause"]
        with self._at_most(*min((self._fed_to(each) for each in fed), default=(TEXT, ""))):
            self._statements(tree)

    # ------------------------------------------------------------------ words

    @contextlib.contextmanager
    def _at_most(self, takes: Takes, why: str) -> Iterator[None]:
        before = self._cap
        self._cap = min(before, (takes, why), key=lambda each: each[0])
        yield
        self._cap = before

    def _word(self, word: Node | None, takes: Takes, why: str = "", quoting: str = PLAIN) -> None:
        for part in children(word or {}, "Parts"):
            kind = part["Type"]
            if kind == "DblQuoted":
                self._word(part, takes, why, DOUBLE)
            elif kind == "SglQuoted":
                for number in _TOKEN.findall(part.get("Value", "")):
                    self._note(int(number), takes, why, ANSI if part.get("Dollar") else SINGLE)
            elif kind == "ParamExp":
                self._parameter(part, takes, why, quoting)
            elif kind in ("CmdSubst", "ProcSubst"):
                with self._at_most(takes, why):
                    self._statements(part)
            elif kind == "ArithmExp":
                self._arithmetic(part)

    def _note(self, number: int, takes: Takes, why: str, quoting: str) -> None:
        takes, why = min(self._cap, (takes, why), key=lambda each: each[0])
        self.found[number] = Spot(takes, why, quoting)

    def _used(self, name: str, takes: Takes) -> None:
        if not (_VARIABLE.fullmatch(name) or name.isdecimal() or name in ("@", "*")):
            return
        key = name if _VARIABLE.fullmatch(name) else f"{self._function}()"
        takes = min(takes, self._cap[0])
        if takes < self.uses.get(key, TEXT):
            self.uses[key] = takes

    def _parameter(self, part: Node, takes: Takes, why: str, quoting: str) -> None:
        name = part.get("Param", {}).get("Value", "")
        if place := _TOKEN_NAME.fullmatch(name):
            self._note(int(place[1]), takes, why, quoting)
            return
        more = part.get("Exp") or {}
        prompt = more.get("Op") == "@" and literal(more.get("Word")) in ("P", "E")
        self._used(name, NUMBER if part.get("Excl") or prompt else TEXT if part.get("Length") else takes)
        self._word(
            more.get("Word"),
            min(takes, self._of(name)) if more.get("Op") in ("=", ":=") else takes,
            why,
            PLAIN if more.get("Op") in _PATTERN_OPS else quoting,
        )
        for each in children(part.get("Repl") or {}, "Orig", "With"):
            self._word(each, takes, why)
        self._arithmetic(children(part, "Slice", "Index"))

    def _arithmetic(self, tree: object) -> None:
        for each in _words_below(tree):
            self._word(each, NUMBER, _ARITHMETIC, DOUBLE)
            for name in _VARIABLE.findall(literal(each) or ""):
                self._used(name, NUMBER)

    def _of(self, name: str) -> Takes:
        """What a variable takes, because of what it is and how it is used."""
        return min(
            of_variable(name), self._declared.get(name, TEXT), self._declared.get("", TEXT), self._known.get(name, TEXT)
        )

    def _assign(self, node: Node, own: Takes = TEXT) -> None:
        name = node.get("Name", {}).get("Value", "")
        takes = min(self._of(name), own)
        why = f"as the value of {name}, which is used for more than text"
        self._arithmetic(children(node, "Index"))
        self._word(node.get("Value"), takes, why)
        for each in children(node.get("Array") or {}, "Elems"):
            self._arithmetic(children(each, "Index"))
            self._word(each.get("Value"), min(takes, self._of(name)), why)

    # ------------------------------------------------------------------ commands

    def _statements(self, node: Node, *names: str) -> None:
        for each in children(node, *(names or ("Stmts",))):
            self._statement(each)

    def _statement(self, statement: Node) -> None:
        command = statement.get("Cmd") or {}
        for redirect in children(statement, "Redirs"):
            self._redirect(redirect, command)
        if command:
            _HANDLERS[command["Type"]](self, command)

    def _redirect(self, redirect: Node, command: Node) -> None:
        operator = redirect["Op"]
        if operator.startswith("<<") or operator in ("<", "<>"):
            takes, why = self._fed_to(command, WORD)
            if operator in ("<", "<>"):
                takes = TEXT if takes > NUMBER else NUMBER
            self._word(redirect.get("Hdoc"), takes, why, DOUBLE)
        else:
            takes, why = (NUMBER if operator in (">&", "<&") else TEXT), "as the number of a file"
        self._word(redirect.get("Word"), NUMBER if redirect.get("Hdoc") else takes, why)

    def _fed_to(self, tree: Node, unknown: Takes = TEXT) -> tuple[Takes, str]:
        """What standard input of commands takes."""
        calls = [each for each in nodes(tree) if each.get("Type") == "CallExpr" and each.get("Args")]
        if tree.get("Type") != "CallExpr":
            unknown = TEXT
        found = (TEXT, "")
        for call in calls:
            words = _arguments(call)
            takes = Reading(words, self._own).stdin(unknown)
            names = [each.text for each in words[1:] if each.text and _VARIABLE.fullmatch(each.text)]
            if words[0].name in ("read", "mapfile", "readarray"):
                takes = min([takes, self._of("REPLY"), self._of("MAPFILE"), *map(self._of, names)])
            found = min(found, (takes, f"as the input of {words[0].around or 'a program'}, which may run it"))
        return found

    def _call(self, call: Node) -> None:
        for each in children(call, "Assigns"):
            self._assign(each)
        words = _arguments(call)
        kept = self._kept_by(words)
        for word, (takes, why) in zip(children(call, "Args"), Reading(words, self._own).takes, strict=True):
            if not (word is call["Args"][0] and _is_all_words(word)):
                self._word(word, *min((takes, why), kept, key=lambda each: each[0]))

    def _kept_by(self, words: list[Argument]) -> tuple[Takes, str]:
        """What the words of a command take because of the variables that it sets."""
        texts = [each.text or "" for each in words]
        if texts[:1] == ["set"]:
            return self._known.get(f"{self._function}()", TEXT), "as one of the script's own words"
        if texts[:1] == ["printf"] and texts[1:2] and texts[1].startswith("-v"):
            name = texts[1][2:] or texts[2]
            return self._of(name), f"as the value of {name}, which is used for more than text"
        return TEXT, ""

    def _binary(self, node: Node) -> None:
        takes = self._fed_to(node["Y"]) if node["Op"].startswith("|") and node["Op"] != "||" else (TEXT, "")
        with self._at_most(*takes):
            self._statement(node["X"])
        self._statement(node["Y"])

    def _declare(self, node: Node) -> None:
        flags = _flags(node)
        own = NUMBER if set("ain") & set(flags.lower()) and node["Variant"]["Value"] != "export" else TEXT
        for each in children(node, "Args"):
            value = each.get("Value")
            if each.get("Name"):
                self._assign(each, TEXT if each.get("Array") else own)
            elif value:
                known = shell_commands.SETS.fullmatch(_argument(value).start)
                self._word(value, min(own, self._of(known[1])) if known else NUMBER, "as the name of a variable")

    def _loop(self, node: Node) -> None:
        loop = node["Loop"]
        takes = self._of(loop.get("Name", {}).get("Value", ""))
        for each in children(loop, "Items"):
            self._word(each, takes, "for a variable that is used for more than text")
        self._arithmetic(children(loop, "Init", "Cond", "Post"))
        self._statements(node, "Do")

    def _case(self, node: Node) -> None:
        self._word(node["Word"], TEXT)
        for item in children(node, "Items"):
            for each in children(item, "Patterns"):
                self._word(each, TEXT)
            self._statements(item)

    def _define(self, node: Node) -> None:
        before, self._function = self._function, node["Name"]["Value"]
        self._statement(node["Body"])
        self._function = before

    def _test(self, node: Node) -> None:
        kind, operator = node.get("Type"), node.get("Op", "")
        if kind == "Word":
            self._word(node, TEXT)
        elif operator in ("-v", "-R") or (operator in shell_commands.COMPARES and kind == "BinaryTest"):
            self._arithmetic(children(node, "X", "Y"))
        else:
            for each in children(node, "X", "Y"):
                self._test(each)

    def _if(self, node: Node) -> None:
        self._statements(node, "Cond", "Then")
        for each in children(node, "Else"):
            self._if(each)


def _inside(*names: str) -> Callable[[_Walk, Node], None]:
    return lambda walk, node: walk._statements(node, *names)  # noqa: SLF001 - the class's own table


_HANDLERS: Mapping[str, Callable[[_Walk, Node], None]] = {
    "CallExpr": _Walk._call,  # noqa: SLF001
    "BinaryCmd": _Walk._binary,  # noqa: SLF001
    "DeclClause": _Walk._declare,  # noqa: SLF001
    "ForClause": _Walk._loop,  # noqa: SLF001
    "CaseClause": _Walk._case,  # noqa: SLF001
    "FuncDecl": _Walk._define,  # noqa: SLF001
    "IfClause": _Walk._if,  # noqa: SLF001
    "TestClause": lambda walk, node: walk._test(node["X"]),  # noqa: SLF001
    "ArithmCmd": _Walk._arithmetic,  # noqa: SLF001
    "LetClause": _Walk._arithmetic,  # noqa: SLF001
    "WhileClause": _inside("Cond", "Do"),
    "Block": _inside("Stmts"),
    "Subshell": _inside("Stmts"),
    "TimeClause": _inside("Stmt"),
    "CoprocClause": _inside("Stmt"),
}


def _argument(word: Node) -> Argument:
    parts: list[str | None] = []
    for each in shell_syntax.unquoted(word):
        # A place in single quotes is text to the parser.
        split = [each] if each is None else _TOKEN.split(each)
        parts += [
            None if number % 2 else text for number, text in enumerate(split) if number % 2 or text or len(split) == 1
        ]
    return Argument(tuple(parts), _holds_place(word))


def _arguments(call: Node) -> list[Argument]:
    return [_argument(each) for each in children(call, "Args")]


def _holds_place(word: Node) -> bool:
    """Whether a value is in a word itself, and not only in a substitution."""
    return any(
        (part["Type"] == "DblQuoted" and _holds_place(part))
        or (part["Type"] == "SglQuoted" and _TOKEN.search(part.get("Value", "")) is not None)
        or (part["Type"] == "ParamExp" and _TOKEN_NAME.fullmatch(part.get("Param", {}).get("Value", "")) is not None)
        for part in word.get("Parts", [])
    )


def _words_below(tree: object) -> Iterator[Node]:
    """The outermost words of a tree."""
    if isinstance(tree, list):
        for each in tree:
            yield from _words_below(each)
    elif isinstance(tree, dict):
        if tree.get("Type") == "Word" or ("Parts" in tree and "Type" not in tree):
            yield tree
        else:
            yield from _words_below(list(tree.values()))


def _flags(node: Node) -> str:
    bare = [each.get("Value") for each in children(node, "Args") if not each.get("Name")]
    return "".join(text[1:] for each in bare if (text := literal(each) or "").startswith(("-", "+")))


def _declared(tree: Node) -> dict[str, Takes]:
    """Variables whose values the shell evaluates, wherever it is told so; the empty name is for all."""
    found: dict[str, Takes] = {}
    for node in nodes(tree):
        if node.get("Type") == "CallExpr":
            words = _arguments(node)
            if {each.name for each in words} & {"declare", "typeset", "local"}:
                found[""] = NUMBER
        if node.get("Type") != "DeclClause" or node["Variant"]["Value"] in ("export", "readonly"):
            continue
        arguments = children(node, "Args")
        hidden = any(not each.get("Name") and literal(each.get("Value")) is None for each in arguments)
        if hidden or set("inaA") & set(_flags(node)):
            evaluated = hidden or set("in") & set(_flags(node))
            names = [each["Name"]["Value"] for each in arguments if each.get("Name")]
            found.update(dict.fromkeys(names, NUMBER) if evaluated else {})
            if hidden:
                found[""] = NUMBER
    return found


def _is_all_words(word: Node) -> bool:
    """Whether a word is ``"$@"``, with which a function runs its words."""
    parts = word.get("Parts", [])
    inner = parts[0].get("Parts", parts) if len(parts) == 1 else []
    return len(inner) == 1 and inner[0].get("Param", {}).get("Value") in ("@", "*")


def _own(tree: Node, known: Mapping[str, Takes]) -> Functions:
    """The script's functions and aliases; commands that are hashed are what the script says."""
    takes: dict[str, Takes] = {}
    starters: dict[str, bool] = {}
    for node in nodes(tree):
        if node.get("Type") == "FuncDecl":
            name = node["Name"]["Value"]
            takes[name] = min(known.get(f"{name}()", TEXT), takes.get(name, TEXT))
            calls = [each for each in nodes(node) if each.get("Type") == "CallExpr"]
            if any(_is_all_words(each["Args"][0]) for each in calls if each.get("Args")):
                starters[name] = any(literal(each["Args"][0]) == "shift" for each in calls if each.get("Args"))
        elif node.get("Type") == "CallExpr" and (words := _arguments(node)) and words[0].name in ("alias", "hash"):
            for each in words[1:]:
                takes[each.start.partition("=")[0]] = NUMBER
    return Functions(takes, starters)
