"""Which words of a command are only data to it, and which it would run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from airflow_distrib.systems.slurm.shell_names import Argument, Functions
from airflow_distrib.systems.slurm.shell_programs import (
    DATA,
    INTERPRETERS,
    NUMBER,
    OPERAND,
    TEXT,
    WORD,
    Program,
    Takes,
    is_shell,
    of_variable,
    program,
    words,
)

# An assignment in a word: env's, make's, that of ``docker run -e``, of ``srun --export``.
SETS = re.compile(r"(?:.*[^A-Za-z0-9_])?([A-Za-z_][A-Za-z0-9_]*)\+?=[^=]*", re.DOTALL)
# What may stand around a value in one word of a program that is not known.
_SIMPLE = re.compile(r"[A-Za-z0-9_./:=,@%+~-]*")
_COUNT = re.compile(r"[0-9][0-9A-Za-z_.:,-]*")
_CODE_OPTION = re.compile(r"-\w*[ce]|--command|--eval|--exec")
_TWO_VALUES = ("--arg", "--argjson", "--slurpfile", "--rawfile")
_STDIN = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
_BINARY = words("= == != < > -nt -ot -ef")
COMPARES = words("-eq -ne -lt -le -gt -ge -v -R")
_READS = {"read": "adinNptu", "mapfile": "CcdnOsu", "readarray": "CcdnOsu"}
_RUNS = {
    **dict.fromkeys(("awk", "gawk", "mawk", "nawk"), re.compile(r"system|getline|(?<!\|)\|(?!\|)")),
    **dict.fromkeys(("perl", "ruby"), re.compile(r"system|exec|eval|open|qx|spawn|`|\|")),
    "python": re.compile(r"system|exec|eval|open|subprocess|spawn|import_module|__import__|compile"),
    "sed": re.compile(r"(?:^|[;{\n0-9$/])\s*e(?:\s|$)|/[A-Za-z0-9]*e[A-Za-z0-9]*$"),
}
_ADVICE = "which runs it; pass it as an argument of its own, as in sh -c '... \"$1\"' _ {inputs.x}"


class Reading:
    """A command, read from left to right.

    Attributes:
        takes: for each word, what a value in it may be, and why no other.
        commands: words that are the names of commands.
        code: words that the shell runs as they stand; each with a name where it has words of its own.
    """

    def __init__(self, arguments: Sequence[Argument], own: Functions) -> None:
        self.takes: list[tuple[Takes, str]] = [(TEXT, "")] * len(arguments)
        self._words, self._own = arguments, own
        self._stdin: list[Takes] = []
        self.code: list[tuple[str, str]] = []
        self.commands: list[int] = []
        if arguments:
            self._command(0)

    def stdin(self, unknown: Takes) -> Takes:
        """What standard input takes.

        Args:
            unknown: for a program that is not known.
        """
        return min(self._stdin, default=unknown)

    def _limit(self, at: int, takes: Takes, why: str) -> None:
        if takes < self.takes[at][0]:
            self.takes[at] = (takes, why)

    def _command(self, at: int, *, surely: bool = True) -> None:
        """The command whose name is this word."""
        head = self._words[at]
        self.commands.append(at)
        name = head.name if head.place is False else None
        if name is None:
            if all(each.is_option for each in self._words[at + 1 :]):
                self._stdin.append(NUMBER)
            self._limit(at, NUMBER if surely else WORD, "as the name of a command")
            self._of_variable_command(at)
        elif name in self._own.takes:
            self._function(name, at)
        elif name in DATA:
            self._data(name, at)
        elif found := program(name):
            self._program(name, found, at)
        else:
            self._unknown(at)

    def _function(self, name: str, at: int) -> None:
        """One of the script's own."""
        for each in range(at + 1, len(self._words)):
            self._limit(each, self._own.takes[name], f"for {name}, which runs it or calculates with it")
        command = at + 1 + self._own.starters.get(name, len(self._words))
        if command < len(self._words):
            self._command(command)

    def _unknown(self, at: int) -> None:
        """A program of the user's own, behind which another may hide."""
        for each in range(at + 1, len(self._words)):
            word = self._words[each]
            self._assigned(each)
            if None in word.parts and len(word.parts) > 1 and not _SIMPLE.fullmatch(word.around):
                self._limit(each, WORD, f"inside a longer text for {self._words[at].around or 'a program'}")
            if (found := program(word.name)) and re.sub(r"[0-9.]+$", "", word.name or "") in INTERPRETERS:
                self._program(word.name or "", found, each)

    def _of_variable_command(self, at: int) -> None:
        """A command that only the job knows, and that may vanish, so that the next word is the command."""
        vanishes = not (self._words[at].place or self._words[at].one)
        for each in range(at + 1, len(self._words)):
            word, before = self._words[each], self._words[each - 1].text or ""
            code = vanishes or _CODE_OPTION.fullmatch(before)
            self._limit(each, NUMBER if code else WORD, "for a command that only the job knows; write it in quotes")
            vanishes = vanishes and not (word.place or word.one) and None in word.parts
        self._unknown(at)

    def _after_code_options(self, at: int) -> None:
        """Words that would be code, if a word is a shell that only the job knows."""
        for each in range(at + 2, len(self._words)):
            if _CODE_OPTION.fullmatch(self._words[each - 1].text or ""):
                self._limit(each, NUMBER, "for a command that only the job knows")

    def _assigned(self, at: int) -> None:
        if (found := SETS.fullmatch(self._words[at].start)) and None in self._words[at].parts:
            takes = min(of_variable(found[1]), self._own.variables.get(found[1], TEXT))
            self._limit(at, takes, f"in {found[1]}, which is used for more than text")

    # ------------------------------------------------------------------ programs that are known

    def _program(self, name: str, how: Program, at: int) -> None:
        """Options and operands, up to the one that says what runs."""
        if name in ("eval", "trap"):
            self.code += [("", each.text) for each in self._words[at + 1 :] if each.text]
        if how.any_stdin < TEXT:
            runs = any((other := program(each.name)) and other.first is NUMBER for each in self._words[at + 1 :])
            self._stdin.append(NUMBER if runs else how.any_stdin)
        scan = _Scan(how.before)
        for each in range(at + 1, len(self._words)):
            word = self._words[each]
            self._assigned(each)
            if word.text == "--" and not scan.body:
                scan.wants, scan.unsure = "", False
            elif scan.body and (how.stops or not (word.is_option or scan.wants == "code")):
                # Words after a script of the user's own are that script's.
                takes = TEXT if how.stops and not scan.runs else how.rest
                self._limit(each, NUMBER if scan.reads_stdin and is_shell(name) else takes, f"for {name}")
            elif word.is_option and how.before > 1 and not scan.before and not scan.wants:
                # Words of what the image itself runs.
                self._unknown(each - 2)
                return
            elif word.is_option and not (scan.wants == "code" and word.place):
                self._option(name, how, each, scan)
            elif scan.wants:
                self._value(name, how, each, scan)
            elif self._operand(name, how, each, scan):
                return
        self._end(name, how, scan, at)

    def _end(self, name: str, how: Program, scan: _Scan, at: int) -> None:
        """What follows from all of its words."""
        if scan.reads_stdin or not (how.command or scan.body):
            self._stdin.append(NUMBER if scan.reads_stdin else how.stdin)
        if how.rest is WORD and not how.stops:
            # conda run, and the like.
            self._unknown(at)
        if how.command:
            self._stdin += [] if self._stdin else [WORD]
            for each in scan.vague:
                self._limit(each, NUMBER, f"for {name}, which may take it for the name of a command")

    def _option(self, name: str, how: Program, at: int, scan: _Scan) -> None:
        word = self._words[at]
        option = word.start if None in word.parts else word.around
        whole = "=" in option
        if option in how.starts.split():
            if at + 1 < len(self._words):
                self._command(at + 1)
            scan.wants = ""
        elif how.has("code", option):
            scan.runs = how.is_body(option)
            scan.reads_stdin = scan.reads_stdin or option.partition("=")[2] in _STDIN
            self._limit(at, NUMBER, f"in {option.partition('=')[0]} of {name}, {_ADVICE}")
            scan.wants = "" if whole or None in word.parts else "code"
        elif how.has("data", option):
            exact = option in how.data.split() or len(option) == 2
            glued = whole or None in word.parts or not exact
            scan.wants, scan.values = ("" if glued else "data"), (2 if option in _TWO_VALUES else 1)
        elif how.has("flags", option):
            scan.wants, scan.reads_stdin = "", scan.reads_stdin or option == "-s"
        else:
            self._limit(at, _doubtful(how), f"in an option of {name}")
            scan.wants = "" if whole or None in word.parts else "?"

    def _value(self, name: str, how: Program, at: int, scan: _Scan) -> None:
        """The word after an option."""
        if scan.wants == "code":
            text = self._words[at].text
            self._limit(at, NUMBER, f"in the text of {name}, {_ADVICE}")
            scan.reads_stdin = scan.reads_stdin or text in _STDIN
            self._code(name, text, at, scan)
            scan.body = scan.runs and not how.command
        elif scan.wants == "?" and not _COUNT.fullmatch(self._words[at].text or ""):
            self._limit(at, _doubtful(how), f"after an option of {name}")
            # It may have been an option without a value.
            scan.unsure = True
            if how.command and self._words[at].text:
                self._command(at)
        scan.values -= 1
        if scan.wants != "data" or scan.values < 1:
            scan.wants = ""

    def _operand(self, name: str, how: Program, at: int, scan: _Scan) -> bool:
        """One of the words that are no option; true if it is a command, which has been read."""
        word = self._words[at]
        if None in word.parts and not word.place and "/" not in word.around and not (how.command and word.one):
            # Several words, or none.
            self._limit(at, WORD if how.command else how.first, f"for {name}")
            self._after_code_options(at)
            scan.unsure = True
            scan.vague.append(at)
        elif scan.before:
            self._limit(at, _doubtful(how), f"for {name}")
            scan.before -= 1
        elif how.command:
            if (word.text and _COUNT.fullmatch(word.text)) or SETS.fullmatch(word.start):
                return False
            self._command(at, surely=not scan.unsure)
            if scan.unsure:
                self._unsure(at)
            return True
        else:
            advice = f", {_ADVICE}" if how.first is NUMBER else ""
            self._limit(at, _doubtful(how) if scan.unsure else how.first, f"for {name}{advice}")
            scan.body = True
            scan.reads_stdin = scan.reads_stdin or word.text in _STDIN
            self._code(name, word.text, at, scan)
        return False

    def _code(self, name: str, text: str | None, at: int, scan: _Scan) -> None:
        """Code that the script holds; it may run its words, or its input."""
        if text is None:
            return
        if is_shell(name) and scan.wants == "code":
            self.code.append((text, text))
        elif (runs := _RUNS.get(name.rstrip("0123456789."))) and runs.search(text):
            self._stdin.append(NUMBER)
            for each in range(len(self._words)):
                if each != at:
                    self._limit(each, NUMBER, f"for {name}, whose code runs other programs")

    def _unsure(self, at: int) -> None:
        """A word that may be the command, or the value of an option before it."""
        for each in range(at + 1, len(self._words)):
            if self._words[each].text is not None and not self._words[each].is_option:
                self._command(each)
                return
            self._limit(each, WORD, "where it may be the name of a command")

    # ------------------------------------------------------------------ the shell's own

    def _data(self, name: str, at: int) -> None:
        self._stdin.append(TEXT)
        if name in ("[", "test"):
            self._test(at)
        elif name == "printf":
            self._printf(at)
        elif name in _READS:
            self._read(at, _READS[name])

    def _test(self, at: int) -> None:
        last = len(self._words) - (self._words[at].text == "[")
        given = [each.text for each in self._words[at + 1 : last]]
        if given[:1] == ["!"]:
            given = given[1:]
        size = len(given)
        if COMPARES & set(given):
            takes, why = NUMBER, "in a comparison of numbers"
        elif size < 2 or (size == 2 and given[0]) or (size == 3 and given[1] in _BINARY):
            return
        else:
            takes, why = WORD, "in a test that a value could change; use [[ ... ]]"
        for each in range(at + 1, len(self._words)):
            self._limit(each, takes, why)

    def _printf(self, at: int) -> None:
        for each in range(at + 1, len(self._words))[:2]:
            naming = each > at + 1 and (self._words[at + 1].text or "").startswith("-v")
            if each == at + 1 or naming:
                self._limit(each, NUMBER if naming else OPERAND, "for printf, which would take it for a variable")
            if (self._words[each].start).startswith("-v"):
                self._limit(each, NUMBER, "for printf, which takes it for a variable")

    def _read(self, at: int, valued: str) -> None:
        for each in range(at + 1, len(self._words)):
            before = self._words[each - 1].text or ""
            data = before.startswith("-") and before[-1:] in "pdi" and before[-1:] in valued
            if not data:
                self._limit(each, NUMBER, "as the name of a variable, which the shell evaluates")


def _doubtful(how: Program) -> Takes:
    """For a word that may be data, or what runs."""
    return NUMBER if how.rest is NUMBER else max(how.first, WORD)


@dataclass
class _Scan:
    """How far a program's words are read.

    Attributes:
        before: operands that come before what it runs.
        wants: what the next word is: the ``code`` or ``data`` of an option, or ``?``.
        values: how many of them.
        unsure: whether an operand may have been an option's value, or an option an operand.
        body: whether what runs was found.
        runs: whether the option's value is what runs.
        reads_stdin: whether it is standard input that runs.
        vague: operands that may be several words, or none.
    """

    before: int
    wants: str = ""
    values: int = 1
    unsure: bool = False
    body: bool = False
    runs: bool = False
    reads_stdin: bool = False
    vague: list[int] = field(default_factory=list)
