"""Values of inputs reach shell scripts unchanged; a real bash runs every script here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.slurm.interpolation import assignments, interpolated, text_of

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
    whole = "\n".join([*assignments(values), interpolated(script, values)])
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
    script = "xs=(1 2); echo ${#xs[@]} {1..3} {a,b} ${x:-{}} $(f) '{inputs}' {inputs.} {input.a} {{inputs.b}\n"
    with pytest.raises(ConfigError, match=r"line 1 says \{inputs.b\}, but inputs has a"):
        interpolated(script, {"inputs": {"a": "1"}})
    rest = script.replace("{{inputs.b}", "")
    assert interpolated(rest, {"inputs": {"a": "1"}}) == rest


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo $(( {inputs.a} ))", "in arithmetic"),
        ("(( {inputs.a} > 1 ))", "in arithmetic"),
        ("if(( {inputs.a} > 1 )); then :; fi", "in arithmetic"),
        ("for((i={inputs.a};i<3;i++)); do :; done", "in arithmetic"),
        ("echo $[ {inputs.a} ]", "in arithmetic"),
        ("x[{inputs.a}]=1", "as an index"),
        ("x[${y[0]}+{inputs.a}]=1", "as an index"),
        ("x=([{inputs.a}]=1)", "as an index"),
        ("echo ${x[{inputs.a}]}", "in ${...}"),
        ("echo ${x:{inputs.a}}", "in ${...}"),
        ('echo ${x:"{inputs.a}"}', "in ${...}"),
        ("[[ {inputs.a} -eq 1 ]]", "in a comparison of numbers"),
        ("[[ 1 -lt {inputs.a} ]]", "in a comparison of numbers"),
        ("[[ {inputs.a} \\\n -gt 3 ]]", "in a comparison of numbers"),
        ("[[ -v {inputs.a} ]]", "in a comparison of numbers"),
        ("let y={inputs.a}", "for let"),
        ("let \\\n y={inputs.a}", "for let"),
        ("eval {inputs.a}", "for eval"),
        ('X=1 eval "a; {inputs.a}"', "for eval"),
        ("if eval 'a\n{inputs.a}'; then :; fi", "for eval"),
        ('trap "echo {inputs.a}" EXIT', "for trap"),
        ("declare -i n={inputs.a}", "for declare"),
        ("read {inputs.a}", "for read"),
        ("unset {inputs.a}", "for unset"),
        ("printf -v {inputs.a} x", "for printf"),
        ("test -v {inputs.a}", "for test"),
        ("ssh host {inputs.a}", "for ssh"),
        ('bash -c "echo {inputs.a}"', "in the text of another program"),
        ('bash -c "cd /d && python t.py {inputs.a}"', "in the text of another program"),
        ('srun bash -c "\ncmd {inputs.a}\n"', "in the text of another program"),
        ('bash --login -c "x {inputs.a}"', "in the text of another program"),
        ("env bash -o pipefail -c 'a && {inputs.a}'", "in the text of another program"),
        ("python3 -c \"print('{inputs.a}')\"", "in the text of another program"),
        ("awk '{ print \"{inputs.a}\" }' f", "in the text of another program"),
        ('sbatch --wrap="x {inputs.a}"', "in the text of another program"),
        ("cat <<'E'\n{inputs.a}\nE", "a quoted delimiter"),
        ("cat <<E\n$(echo {inputs.a})\nE", "inside a substitution"),
        ("cat <<E\n$(echo\n{inputs.a})\nE", "inside a substitution"),
        ("bash <<E\necho {inputs.a}\nE", "for bash, which may evaluate it"),
        ("srun python3 - <<E\nprint({inputs.a})\nE", "for srun, which may evaluate it"),
    ],
)
def test_where_the_shell_evaluates_a_text_it_is_refused(script: str, why: str) -> None:
    """A value never runs as code, while a number, which is harmless there, is accepted in most of these positions."""
    with pytest.raises(ConfigError) as refused:
        interpolated(script, {"inputs": {"a": "x[$(id)]"}})
    assert why in str(refused.value)
    if "cat" not in script and "-v" not in script:
        interpolated(script, {"inputs": {"a": "-12"}})


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
