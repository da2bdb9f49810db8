"""Operator arguments of a script that is on the cluster already."""

from __future__ import annotations

from airflow_distrib.core import config as configs
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.launcher import Argument


def _path(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.startswith(("/", "~/")):
        raise ConfigError(name, f"must be an absolute path, or begin with ~/; got {value!r}")
    return value


def _words(name: str, value: object) -> object:
    return configs.words(name, value) if value else value


ARGUMENTS = (
    Argument("script_path", _path, runs=True, part_of_job=True),
    Argument("arguments", _words, part_of_job=True),
)
