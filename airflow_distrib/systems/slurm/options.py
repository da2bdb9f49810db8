"""From a config to the words of ``sbatch``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.systems.slurm.config import Sbatch

# squeue and sacct show it; jobs of the same task instance are found by it.
MARK = "airflow-distrib"
# As much of a comment as people read in squeue.
_MAX_COMMENT = 240
MAX_NAME = 63


def words(config: Sbatch, fixed: Mapping[str, object]) -> list[str]:
    """All options, those of ``fixed`` instead of the config's own.

    Args:
        fixed: name, comment, output and the like, which this package decides.
    """
    typed = {name: getattr(config, name) for name in Sbatch.option_fields()}
    found = _options({**typed, **(config.sbatch_options or {})})
    for each in config.components or ():
        found += [":", *_options(each)]
    # Before any component's, so that they are the job's.
    return [*_options(fixed), *[word for word in found if not _is_of(word, fixed)]]


def _is_of(word: str, fixed: Mapping[str, object]) -> bool:
    return word.partition("=")[0].removeprefix("--").replace("-", "_") in fixed


def _options(values: Mapping[str, object]) -> list[str]:
    found = []
    for name, value in values.items():
        option = f"--{name.replace('_', '-')}"
        if name == "requeue" and value is False:
            found.append("--no-requeue")
        elif value is True:
            found.append(option)
        elif value is not None and value is not False:
            found.append(f"{option}={value}")
    return found


def job_name(config: Sbatch, identity: JobIdentity) -> str:
    """The name by which a job is found again: it differs between any two tries."""
    if config.job_name is None:
        return identity.name(MAX_NAME)
    # Slurm takes lists of names with commas, and drops blanks.
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", config.job_name)
    return f"{readable[: MAX_NAME - 11]}-{identity.digest}"


def comment(config: Sbatch, identity: JobIdentity) -> str:
    """Says whose job it is, to people and to :func:`task_of`."""
    map_index = "" if identity.map_index < 0 else f"[{identity.map_index}]"
    who = f"{identity.dag_id}.{identity.task_id}{map_index} {identity.run_id} try {identity.try_number}"
    readable = " ".join([*([config.comment] if config.comment else []), who])
    return f"{_plain(readable)[:_MAX_COMMENT]} {MARK}={identity.task_digest}"


def _plain(text: str) -> str:
    """Without what separates fields in Slurm's own output."""
    return "".join(" " if ord(each) < 32 or each == "|" else each for each in text)


def task_of(comment_seen: str) -> str:
    """The task instance of a job, from its comment; empty for a job of anybody else."""
    _, mark, digest = comment_seen.rpartition(f"{MARK}=")
    return digest.split()[0] if mark and digest.split() else ""
