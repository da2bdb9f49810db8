"""Exceptions a user's function may raise to steer Airflow's retries.

They live in the runner because the function raises them where this package is not
installed: the archive carries this module under its full name.
"""

from __future__ import annotations


class RecoverableError(Exception):
    """The task may be retried: raise it for causes that pass by themselves."""


class NonRecoverableError(Exception):
    """A retry cannot help: the task fails at once, whatever its ``retries``."""
