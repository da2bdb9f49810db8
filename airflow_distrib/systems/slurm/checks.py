"""Checks of values that Slurm, or a shell, will read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from airflow_distrib.core import config, names
from airflow_distrib.core.config import Check
from airflow_distrib.core.errors import ConfigError


def matching(pattern: re.Pattern[str], example: str) -> Check:
    """Check for text, or a number, of a certain form."""

    def check(name: str, value: object) -> str:
        text = str(value).strip()
        if isinstance(value, bool) or not pattern.fullmatch(text):
            raise ConfigError(name, f"must be such as {example}; got {value!r}")
        return text

    return check


def word(name: str, value: object) -> str:
    """Check for text of one line: what Slurm stores and shows."""
    text = config.text(name, str(value) if isinstance(value, int) and not isinstance(value, bool) else value)
    if any(ord(character) < 32 for character in text):
        raise ConfigError(name, f"must be one line; got {value!r}")
    return text


def words(name: str, value: object) -> str:
    """Check for a list, which Slurm wants with commas."""
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return ",".join(word(name, each) for each in value)
    return word(name, value)


def lines(name: str, value: object) -> tuple[str, ...]:
    """Check for some texts; one alone counts as a list of one."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, Sequence) or not all(isinstance(each, str) or config.is_template(each) for each in given):
        raise ConfigError(name, f"must be a list of texts; got {value!r}")
    return tuple(given)


def words_of_shell(name: str, value: object) -> tuple[str, ...]:
    """Check for words of a command line; one text is taken apart as a shell would."""
    try:
        return lines(name, shlex.split(value) if isinstance(value, str) else value)
    except ValueError as error:
        raise ConfigError(name, f"cannot be taken apart into words: {error}; give a list") from None


def exclusive_of(name: str, value: object) -> bool | str:
    """Check for what ``--exclusive`` takes."""
    if value in ("user", "mcs", "topo"):
        return str(value)
    try:
        return config.flag(name, value)
    except ConfigError:
        hint = names.did_you_mean(value, ("user", "mcs", "topo"))
        raise ConfigError(name, f"must be True, 'user', 'mcs' or 'topo'; got {value!r}{hint}") from None


def absolute_path(name: str, value: object) -> str:
    """Check for an absolute path, or one below the user's home."""
    text = word(name, value)
    if "$" in text:
        raise ConfigError(name, f"is taken as it stands, so $ would be part of it; write it out, or ~/; got {value!r}")
    if not text.startswith(("/", "~/")):
        raise ConfigError(name, f"must be an absolute path on the cluster, or begin with ~/; got {value!r}")
    return text
