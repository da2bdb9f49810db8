"""``#SBATCH`` lines of scripts that the DAG holds.

Options on the command line of ``sbatch`` win over these lines, and this package sets some for each
job. What a script says of those is taken over into the config, so that it counts; all other lines
are left to ``sbatch``. Fields of the config win over lines, as ``sbatch`` itself has it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import TypeVar

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.slurm.config import OURS, Sbatch

ConfigT = TypeVar("ConfigT", bound=Sbatch)

_LINE = re.compile(r"#SBATCH(?:[ \t]+(.*))?")
_SHORT = {
    "A": "account",
    "B": "extra-node-info",
    "C": "constraint",
    "D": "chdir",
    "F": "nodefile",
    "G": "gpus",
    "H": "hold",
    "I": "immediate",
    "J": "job-name",
    "L": "licenses",
    "M": "clusters",
    "N": "nodes",
    "O": "overcommit",
    "Q": "quiet",
    "S": "core-spec",
    "V": "version",
    "W": "wait",
    "a": "array",
    "b": "begin",
    "c": "cpus-per-task",
    "d": "dependency",
    "e": "error",
    "h": "help",
    "i": "input",
    "k": "no-kill",
    "n": "ntasks",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "s": "oversubscribe",
    "t": "time",
    "v": "verbose",
    "w": "nodelist",
    "x": "exclude",
}
_FLAGS = frozenset("HIOQVWhksv")
# What is set for each job, or what ranks, elements and logs are counted by.
_FIELDS = frozenset(
    ["job_name", "comment", "output", "error", "time", "array", "nodes", "ntasks", "ntasks_per_node", "gpus_per_task"]
)
_OPTIONS = re.compile(r"open-mode|export|ntasks-per-.+")
_HETEROGENEOUS = ("hetjob", "packjob")


def applied(config: ConfigT, script: str) -> ConfigT:
    """A config with what the ``#SBATCH`` lines of a script say.

    Raises:
        ConfigError: a line that cannot count, by its number.
    """
    fields: dict[str, object] = {}
    options: dict[str, object] = {}
    for line, option, value in _options(script):
        if option in OURS:
            raise ConfigError("script", f"line {line} sets --{option}, which cannot be set: {OURS[option]}")
        name = option.replace("-", "_")
        if name in _FIELDS:
            if value is None:
                raise ConfigError("script", f"line {line} sets --{option} without a value")
            _check(config, line, option, name, value)
            fields[name] = value
        elif _OPTIONS.fullmatch(option) and value is not None:
            options[option] = value
    new = {name: value for name, value in fields.items() if getattr(config, name) is None}
    if options:
        new["sbatch_options"] = {**options, **(config.sbatch_options or {})}
    return type(config)(**{**config.values(), **new}) if new else config


def _check(config: Sbatch, line: int, option: str, name: str, value: str) -> None:
    try:
        config.checks[name](name, value)
    except ConfigError as error:
        raise ConfigError("script", f"line {line} sets --{option}, which {error.problem}") from None


def _options(script: str) -> Iterator[tuple[int, str, str | None]]:
    """The options, with their lines and long names."""
    for number, text in enumerate(script.split("\n"), 1):
        if text.strip(" \t") and not text.startswith("#"):
            return
        if found := _LINE.fullmatch(text.rstrip("\r")):
            try:
                words = shlex.split(found[1] or "", comments=True)
            except ValueError as error:
                raise ConfigError("script", f"line {number} cannot be taken apart into options: {error}") from None
            yield from _of_line(number, words)


def _of_line(number: int, words: list[str]) -> Iterator[tuple[int, str, str | None]]:
    if words and words[0] in _HETEROGENEOUS:
        raise ConfigError("script", f"line {number} begins a component; use task_config=Sbatch(components=[...])")
    while words:
        word = words.pop(0)
        value: str | None
        if word.startswith("--"):
            option, equals, value = word[2:].partition("=")
        elif word.startswith("-") and word[1:2] in _SHORT:
            option, value = _SHORT[word[1]], word[2:]
            equals = "=" if value or word[1] in _FLAGS else ""
        else:
            raise ConfigError("script", f"line {number} says {word!r}, which is no option of sbatch")
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("-") else None
        yield number, option, value or None
