"""Values of inputs reach shell scripts unchanged; a real bash runs every script here."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_distrib.core.errors import ConfigError, MissingExtra
from airflow_distrib.systems.slurm import shell_syntax
from airflow_distrib.systems.slurm.interpolation import assignments, read, text_of
from airflow_distrib.systems.slurm.shell_programs import WORD

NASTY = "a b $(touch was-here) `touch was-here` \"q\" 's' \\ \n{x} ${HOME} * ;&|<>! #"

# Scripts that print the value once, one for each way to quote.
QUOTINGS = [
    "printf %s {inputs.a}",
    'printf %s "{inputs.a}"',
    "printf %s '{inputs.a}'",
    "printf %s $'{inputs.a}'",
    'printf %s "$(printf %s {inputs.a})"',
    "printf %s \"$(printf %s '{inputs.a}')\"",
    'x=`printf %s {inputs.a}`; printf %s "$x"',
    "printf %s ${nothing:-{inputs.a}}",
    'printf %s "${nothing:-{inputs.a}}"',
    'x={inputs.a}; printf %s "$x"',
    "f() { printf %s {inputs.a}; }; f",
    'for each in {inputs.a}; do printf %s "$each"; done',
    "case {inputs.a} in *) printf %s {inputs.a};; esac",
    "if [[ {inputs.a} == {inputs.a} ]]; then printf %s {inputs.a}; fi",
    'xs=({inputs.a} b); printf %s "${xs[0]}"',
    "bash -c 'printf %s \"$1\"' _ {inputs.a}",
    "# {inputs.nothing} it's\nprintf %s {inputs.a}",
    "echo x#y >/dev/null; printf %s {inputs.a}",
    'awk \'BEGIN { printf "%s", ENVIRON["V"] }\' </dev/null >/dev/null; printf %s {inputs.a}',
    "(printf %s {inputs.a})",
    "cat <<'E' >/dev/null\n$(x) 'it\nE\nprintf %s {inputs.a}",
    'cat <<-E >/dev/null\n\t"it\n\tE\nprintf %s {inputs.a}',
]


def bash(script: str, value: str, folder: Path) -> str:
    """Return what a script prints with a value."""
    values = {"inputs": {"a": value}}
    made = read(script)
    made.check(values)
    whole = "\n".join([*assignments(values), made.text])
    done = subprocess.run(["bash"], input=whole.encode(), cwd=folder, capture_output=True, check=False)
    assert done.stderr == b"", (script, done.stderr)
    return done.stdout.decode()


@pytest.mark.parametrize("script", QUOTINGS)
def test_a_value_arrives_as_it_is(script: str, tmp_path: Path) -> None:
    """However a script quotes a placeholder, its value is neither split nor expanded nor run."""
    assert bash(script, NASTY, tmp_path) == NASTY
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=40, deadline=None)
@given(value=st.text(st.characters(blacklist_characters="\0\r", blacklist_categories=["Cs"]), max_size=40))
def test_any_text_arrives_as_it_is(value: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No text that a user or an upstream task passes can break out of its quotes."""
    script = "\n".join(f"{quoting}\nprintf '\\001'" for quoting in QUOTINGS[:6])
    # Command substitution, in the last two, drops line ends at the end.
    expected = "".join(f"{value if number < 4 else value.rstrip(chr(10))}\1" for number in range(6))
    assert bash(script, value, tmp_path_factory.getbasetemp()) == expected


def test_a_here_document_takes_values_too(tmp_path: Path) -> None:
    """A here-document can mix placeholders with the shell's own expansions."""
    assert bash('cat <<E\n"{inputs.a}" it\'s $((1+1))\nE', NASTY, tmp_path) == f'"{NASTY}" it\'s 2\n'


def test_everything_else_stays_as_it_is() -> None:
    """Users can write any shell, because all braces except our placeholders belong to it."""
    script = "xs=(1 2); echo ${#xs[@]} {1..3} {a,b} ${x:-{}} $(f) '{inputs} {input}' \f {in,out}puts {inputs.a}\n"
    script += "echo 'a\r\n\n\n\u2028b'"
    assert read(script).text == script.replace("{inputs.a}", '"${AIRFLOW_INPUTS_a}"')
    assert read("echo '{{inputs.a}}'").text == "echo '{inputs.a}'"


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (
            "true\necho { inputs.x }",
            "script: line 2 says { inputs.x }; write {inputs.name}, or {{ inputs.x }} for that text",
        ),
        ("echo {inputs[x]}", "line 1 says {inputs[x]}; write {inputs.name}"),
        ("echo {input.x}", "line 1 says {input.x}; write {inputs.name}"),
        ("echo ${inputs.x}", "line 1 says ${inputs.x}; write {inputs.name}"),
        ("echo {outputs.x.y}", "line 1 says {outputs.x.y}; write {outputs.name}"),
        ("echo \\{inputs.x}", "line 1 says {inputs.x} behind a backslash"),
        ("echo $'\\{inputs.x}'", "line 1 says {inputs.x} behind a backslash"),
        (
            "true\ncat <<'E'\n{inputs.x}\nE",
            "line 3 says {inputs.x} behind a backslash, or where the shell expands nothing",
        ),
        ("echo @(a|{inputs.x})", "line 1 says {inputs.x} behind a backslash, or where"),
        ("if {inputs.x}; the\n", "script: line 1 cannot be read"),
        ("true\ntrue\necho ({inputs.x})", "script: line 3 cannot be read: "),
        ("for {inputs.x} in a; do :; done", "script: line 1 cannot be read"),
    ],
)
def test_a_place_where_no_value_can_stand_is_refused(script: str, text: str) -> None:
    """Mistakes in a script appear with their line when the DAG file is parsed, instead of as text in a job's log."""
    with pytest.raises(ConfigError) as refused:
        read(script)
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo $(( {inputs.a} ))", "in arithmetic, which the shell evaluates; there it must be a number"),
        ("[ 1 -eq {inputs.a} ]", "in a comparison of numbers; there it must be a number"),
        ("true\neval {inputs.a}", "line 2 says {inputs.a} for eval, which runs it"),
        ("bash -c 'x {inputs.a}'", "in the text of bash, which runs it; pass it as an argument of its own"),
        ("{inputs.a} b", "as the name of a command"),
        ("PATH={inputs.a}", "as the value of PATH, which is used for more than text"),
        ("v={inputs.a}; (( v ))", "as the value of v, which is used for more than text"),
        ("echo {inputs.a} | bash", "as the input of bash, which may run it"),
        (
            "$CMD a {inputs.a}",
            "for a command that only the job knows; write it in quotes; there it must be a number, or only",
        ),
        ("mine 'f({inputs.a})'", "inside a longer text for mine; there it must be a number, or only letters"),
        ("find {inputs.a}", "for find; there it must be text that does not begin with a -"),
    ],
)
def test_the_error_says_why_a_value_is_refused_and_what_may_stand_there(script: str, why: str) -> None:
    """Users learn the line, the reason, and which values the place does take; numbers are taken nearly everywhere."""
    made = read(script)
    with pytest.raises(ConfigError) as refused:
        made.check({"inputs": {"a": "-x[$(id)]"}})
    assert why in str(refused.value)
    made.check({"inputs": {"a": "-1.5e-3"}})


def test_values_that_still_have_to_come_are_checked_later() -> None:
    """The names in a script are checked when the DAG file is parsed, even if an upstream task supplies the values."""
    made = read("eval {inputs.a}")
    made.check({"inputs": {"a": None}})
    with pytest.raises(ConfigError, match=r"line 1 says \{inputs.a\}, but inputs has b"):
        made.check({"inputs": {"b": None}})
    with pytest.raises(ConfigError, match="there it must be a number"):
        made.check({"inputs": {"a": "{{ template }}"}})


def test_other_shells_take_only_words() -> None:
    """ksh and zsh calculate with text in more places than bash, so no free text reaches them."""
    assert read("echo {inputs.a}", sure=False).places[0].takes is WORD


def test_a_missing_parser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install where Airflow runs."""
    shell_syntax._program.cache_clear()
    monkeypatch.setattr(importlib.metadata, "files", lambda name: None)
    try:
        with pytest.raises(MissingExtra, match=r"shfmt-py is not installed: pip install 'airflow-distrib\[slurm\]'"):
            read("echo not read before: {inputs.a}")
    finally:
        shell_syntax._program.cache_clear()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (1.5, "1.5"),
        ("x", "x"),
        ([1, "b"], '[1, "b"]'),
        ({"a": None}, '{"a": null}'),
        (Path("/x"), "/x"),
    ],
)
def test_values_have_one_text(value: object, text: str) -> None:
    """A script can parse lists and mappings, because they arrive as JSON."""
    assert text_of("inputs.x", value) == text


@pytest.mark.parametrize("value", [None, object(), "a\0b", {1, 2}])
def test_what_a_shell_cannot_hold_is_refused(value: object) -> None:
    """The error names the input whose value no shell variable can hold."""
    with pytest.raises(ConfigError, match=r"^inputs\.x: "):
        text_of("inputs.x", value)
