"""Types of fields in connection forms."""

from __future__ import annotations

from typing import TypeAlias

Schema: TypeAlias = dict[str, object]
Fields: TypeAlias = dict[str, tuple[str, Schema]]

TEXT: Schema = {"type": ["string", "null"], "default": None}
SECRET: Schema = {**TEXT, "format": "password"}
FLAG: Schema = {"type": "boolean", "default": False}
