"""What each place of a shell script takes, and how it is quoted: a walk over the script's syntax.

A place takes free text only where this module knows that it is data. Variables count too: what a
place takes is what the strictest use of the variable takes that it is assigned to. For that the
walk is repeated until it finds no stricter use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.slurm import shell_commands, shell_syntax
from airflow_distrib.systems.slurm.shell_commands import Reading
from airflow_distrib.systems.slurm.shell_names import (
    TOKEN,
    TOKEN_NAME,
    VARIABLE,
    Argument,
    argument,
    arguments,
    declared,
    file_of,
    flags,
    is_all_words,
    own,
    words_below,
)
from airflow_distrib.systems.slurm.shell_programs import NUMBER, TEXT, WORD, Takes, of_variable
from airflow_distrib.systems.slurm.shell_syntax import Node, children, literal, nodes

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
        uses: the strictest use of each variable, the empty name being any of them; of the words of each
            function, as ``name()``; of its output, as ``name|``; and files that run, as ``<name``.
    """

    def __init__(self, tree: Node, known: Mapping[str, Takes], most: Takes) -> None:
        self.found: dict[int, Spot] = {}
        self.uses: dict[str, Takes] = {}
        self._tree, self._known, self._function = tree, known, ""
        self._cap = (most, "")
        self._declared, self._own = declared(tree), own(tree, known)
        for comment in (each["Text"] for each in nodes(tree) if isinstance(each.get("Text"), str)):
            for number in TOKEN.findall(comment):
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
                for number in TOKEN.findall(part.get("Value", "")):
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
        if not (VARIABLE.fullmatch(name) or name.isdecimal() or name in ("@", "*")):
            return
        key = name if VARIABLE.fullmatch(name) else f"{self._function}()"
        takes = min(takes, self._cap[0])
        for each in (key, f"{self._function}()") if name == "OPTARG" else (key,):
            if takes < self.uses.get(each, TEXT):
                self.uses[each] = takes

    def _parameter(self, part: Node, takes: Takes, why: str, quoting: str) -> None:
        name = part.get("Param", {}).get("Value", "")
        if place := TOKEN_NAME.fullmatch(name):
            self._note(int(place[1]), takes, why, quoting)
            return
        more = part.get("Exp") or {}
        prompt = more.get("Op") == "@" and literal(more.get("Word")) in ("P", "E")
        self._used(name, NUMBER if part.get("Excl") or prompt else TEXT if part.get("Length") else takes)
        if part.get("Excl") and min(takes, self._cap[0]) is NUMBER:
            # It may be any variable that is evaluated.
            self.uses[""] = NUMBER
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
        for each in words_below(tree):
            self._word(each, NUMBER, _ARITHMETIC, DOUBLE)
            for name in VARIABLE.findall(literal(each) or ""):
                self._used(name, NUMBER)

    def _of(self, name: str) -> Takes:
        """What a variable takes, because of what it is and how it is used."""
        found = (each.get(key, TEXT) for each in (self._declared, self._known) for key in (name, ""))
        return min(of_variable(name), *found)

    def _assign(self, node: Node, own: Takes = TEXT) -> None:
        name = node.get("Name", {}).get("Value", "")
        takes = min(self._of(name), own)
        value = literal(node.get("Value")) or ""
        if takes is NUMBER and of_variable(name) is TEXT and " " not in value:
            # Names in arithmetic are evaluated in their turn.
            for each in VARIABLE.findall(value):
                self._used(each, NUMBER)
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
        redirects = children(statement, "Redirs")
        for redirect in redirects:
            self._redirect(redirect, command, statement)
        written = [file_of(each.get("Word")) for each in redirects if ">" in each["Op"]]
        if command:
            with self._at_most(self._run_later(written), "in a file that the script runs"):
                _HANDLERS[command["Type"]](self, command)

    def _run_later(self, files: list[str | None]) -> Takes:
        """What may be written to files."""
        return min((self._known.get(f"<{each}", TEXT) for each in files), default=TEXT)

    def _redirect(self, redirect: Node, command: Node, statement: Node) -> None:
        operator, word = redirect["Op"], redirect.get("Word")
        if operator.startswith("<<") or operator in ("<", "<>"):
            # What exec redirects is for all commands.
            exec_only = [literal(each) for each in children(command, "Args")] == ["exec"]
            takes, why = self._fed_to(self._tree if exec_only else command, WORD)
            written = [file_of(each.get("Word")) for each in children(statement, "Redirs") if ">" in each["Op"]]
            takes = min(takes, self._run_later(written), NUMBER if redirect.get("N") else TEXT)
            if operator in ("<", "<>"):
                takes = TEXT if takes > NUMBER else NUMBER
                self._runs(word, takes)
            self._word(redirect.get("Hdoc"), takes, why, DOUBLE)
            if takes is NUMBER and (code := literal(redirect.get("Hdoc"))) and not TOKEN.search(code):
                self._nested("", code)
        else:
            takes, why = (NUMBER if operator in (">&", "<&") else TEXT), "as the number of a file"
        self._word(word, NUMBER if redirect.get("Hdoc") else takes, why)

    def _runs(self, word: Node | None, takes: Takes) -> None:
        """Note a file that runs."""
        if takes is NUMBER and (name := file_of(word)):
            self.uses[f"<{name}"] = NUMBER

    def _fed_to(self, tree: Node, unknown: Takes = TEXT, seen: frozenset[str] = frozenset()) -> tuple[Takes, str]:
        """What standard input of commands takes."""
        if tree.get("Type") != "CallExpr":
            unknown = TEXT
        found = (TEXT, "")
        for call in (each for each in nodes(tree) if each.get("Type") == "CallExpr" and each.get("Args")):
            words = arguments(call)
            name, reading = words[0].name or "", Reading(words, self._own)
            takes = reading.stdin(unknown)
            if name in ("read", "mapfile", "readarray"):
                names = [each.text for each in words[1:] if each.text and VARIABLE.fullmatch(each.text)]
                takes = min([takes, self._of("REPLY"), self._of("MAPFILE"), *map(self._of, names)])
            elif name == "tee":
                takes = min(takes, self._run_later([file_of(each) for each in call["Args"][1:]]))
            trees = [] if name in seen else list(self._own.bodies.get(name, []))
            codes = [_code(text) for _, text in reading.code if text not in seen]
            trees += [each for each in codes if each is not None]
            deeper = seen | {name, *(text for _, text in reading.code)}
            takes = min([takes, *(self._fed_to(each, TEXT, deeper)[0] for each in trees)])
            found = min(found, (takes, f"as the input of {words[0].around or 'a program'}, which may run it"))
        return found

    def _call(self, call: Node) -> None:
        for each in children(call, "Assigns"):
            self._assign(each)
        words, given = arguments(call), children(call, "Args")
        reading, kept = Reading(words, self._own), self._kept_by(words)
        kept = min([kept, *(self._nested(scope, text) for scope, text in reading.code)], key=lambda each: each[0])
        for at, (word, (takes, why)) in enumerate(zip(given, reading.takes, strict=True)):
            if at == 0 and is_all_words(word):
                self._used("@", TEXT if self._function in self._own.bodies else NUMBER)
                continue
            self._word(word, *min((takes, why), kept, key=lambda each: each[0]))
            self._runs(word, NUMBER if at in reading.commands and "/" in words[at].around else takes)
        if words and words[0].name in self._own.bodies:
            self._printed_by(words[0].name or "")

    def _printed_by(self, function: str) -> None:
        """Note what becomes of a function's output."""
        key = f"{function}|"
        self.uses[key] = min(self._cap[0], self.uses.get(key, TEXT))

    def _nested(self, scope: str, text: str) -> tuple[Takes, str]:
        """Walk over code in a word; what the words after it take, which are its own."""
        tree, before = _code(text), self._function
        if tree is None:
            return NUMBER, "for code that cannot be read"
        self._function = scope or before
        self._own.add(own(tree, self._known))
        self._declared |= declared(tree)
        self._statements(tree)
        self._function = before
        return (self._known.get(f"{scope}()", TEXT) if scope else TEXT), "for code that runs it or calculates with it"

    def _kept_by(self, words: list[Argument]) -> tuple[Takes, str]:
        """What the words of a command take because of the variables that it sets."""
        texts = [each.text or "" for each in words]
        if texts[:1] == ["set"]:
            return self._known.get(f"{self._function}()", TEXT), "as one of the script's own words"
        if texts[:1] == ["printf"] and texts[1:2] and texts[1].startswith("-v"):
            name = texts[1][2:] or texts[2]
            return self._of(name), f"as the value of {name}, which is used for more than text"
        # The last word of the command before.
        return self._known.get("_", TEXT), "as the value of $_, which is used for more than text"

    def _binary(self, node: Node) -> None:
        takes = self._fed_to(node["Y"]) if node["Op"].startswith("|") and node["Op"] != "||" else (TEXT, "")
        with self._at_most(*takes):
            self._statement(node["X"])
        self._statement(node["Y"])

    def _declare(self, node: Node) -> None:
        given = set(flags(node).lower())
        evaluated = NUMBER if set("ain") & given and node["Variant"]["Value"] != "export" else TEXT
        for each in children(node, "Args"):
            value = each.get("Value")
            if each.get("Name"):
                array = f"{each['Name']['Value']}[]" in self._declared
                self._assign(each, TEXT if each.get("Array") else NUMBER if array else evaluated)
            elif value:
                known = shell_commands.SETS.fullmatch(argument(value).start)
                self._word(value, min(evaluated, self._of(known[1])) if known else NUMBER, "as the name of a variable")

    def _loop(self, node: Node) -> None:
        loop = node["Loop"]
        takes = self._of(loop.get("Name", {}).get("Value", ""))
        for each in children(loop, "Items"):
            self._word(each, takes, "for a variable that is used for more than text")
        self._arithmetic(children(loop, "Init", "Cond", "Post"))
        if "Name" in loop and not loop.get("Items"):
            self._used("@", takes)
        self._statements(node, "Do")

    def _case(self, node: Node) -> None:
        self._word(node["Word"], TEXT)
        for item in children(node, "Items"):
            for each in children(item, "Patterns"):
                self._word(each, TEXT)
            self._statements(item)

    def _define(self, node: Node) -> None:
        before, self._function = self._function, node["Name"]["Value"]
        with self._at_most(self._known.get(f"{self._function}|", TEXT), "in a function whose output runs"):
            self._statement(node["Body"])
        self._function = before

    def _test(self, node: Node) -> None:
        kind, operator = node.get("Type"), node.get("Op", "")
        if kind == "Word":
            self._word(node, self._known.get("BASH_REMATCH", TEXT), "as a text whose parts are used for more than text")
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


def _code(text: str) -> Node | None:
    """The syntax of code in a word."""
    try:
        return shell_syntax.parsed(text)
    except ConfigError:
        return None
