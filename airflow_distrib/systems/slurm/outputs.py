"""What a shell script leaves, and where it goes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar

from airflow_distrib.core import config
from airflow_distrib.core.config import Check
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.slurm.checks import absolute_path


def _place(name: str, value: object) -> str:
    if not isinstance(value, str | os.PathLike) and not hasattr(value, "protocol"):
        raise ConfigError(name, f"must be a path or a URL that the Airflow worker can write to; got {value!r}")
    text = config.text(name, str(value))
    if "://" not in text and not text.startswith(("/", "{")):
        raise ConfigError(name, f"must be an absolute path, or a URL; got {value!r}")
    return text


class SlurmOutput(config.Config):
    """A file or a folder that a script writes.

    Attributes:
        kind: "file" or "directory"; only for the message where it is missing.
        location: where on the cluster the script writes it; by default in the job's private
            folder, which is removed afterwards.
        to: where it is copied to, a path or URL that the Airflow worker can write to:
            ``s3://bucket/model.pt``. None leaves it at its location.
    """

    kind: str = "file"
    location: str | None = None
    to: str | os.PathLike[str] | None = None

    checks: ClassVar[Mapping[str, Check]] = {
        "kind": config.one_of("file", "directory"),
        "location": absolute_path,
        "to": _place,
    }

    def check_together(self) -> None:
        if self.location is None and self.to is None:
            raise ConfigError("to", "is required without a location, because the private folder is removed")

    def remote(self, folder: str, name: str) -> str:
        """Where the script writes it."""
        return self.location or f"{folder}/outputs/{name}"
