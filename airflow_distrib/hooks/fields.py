"""Fields of connections: their types in a form, and values of their extra."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from airflow_distrib.core import config as configs

Schema: TypeAlias = dict[str, object]
Fields: TypeAlias = dict[str, tuple[str, Schema]]

TEXT: Schema = {"type": ["string", "null"], "default": None}
SECRET: Schema = {**TEXT, "format": "password"}
FLAG: Schema = {"type": "boolean", "default": False}


def flag(where: str, extra: Mapping[str, object], name: str, *, default: bool = False) -> bool:
    """A field that is true or false.

    Raises:
        ConfigError: it is neither.
    """
    value = extra.get(name)
    return default if value in (None, "") else configs.flag(f"{where} {name}", value)
