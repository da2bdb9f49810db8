"""``airflow-distrib``: look at what a task would submit."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_distrib import __version__
from airflow_distrib.core.errors import ConfigError

if TYPE_CHECKING:
    from airflow.sdk import DAG


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="airflow-distrib", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    render = commands.add_parser("render", help="print what a task would submit, without submitting it")
    render.add_argument("dag_file", type=Path, help="Python file that defines the DAG")
    render.add_argument("task_id", help="id of the task; with more than one DAG in the file, dag_id.task_id")
    given = parser.parse_args(arguments)
    try:
        print(json.dumps(_find(given.dag_file, given.task_id).render(), indent=2, default=str))
    except (LookupError, OSError, ConfigError) as error:
        print(f"airflow-distrib: {error}", file=sys.stderr)
        return 2
    return 0


def _find(dag_file: Path, task_id: str) -> Any:
    """The operator that ``task_id`` names.

    Raises:
        LookupError: there is no such task, or it is not one of this package's.
    """
    from airflow_distrib.operators.base import DistributedJobOperator

    tasks = {}
    for dag in _dags_of(dag_file):
        for task in dag.tasks:
            tasks[f"{dag.dag_id}.{task.task_id}"] = task
    found = [task for name, task in tasks.items() if task_id in (name, task.task_id)]
    if len(found) != 1:
        problem = "names more than one task" if found else "is no task"
        raise LookupError(f"{task_id!r} {problem} of {dag_file}; it has {', '.join(sorted(tasks)) or 'none'}")
    if found[0].is_mapped:
        raise LookupError(f"{task_id!r} is mapped: how many jobs it submits, and which, is known at run time")
    if not isinstance(found[0], DistributedJobOperator):
        raise LookupError(  # noqa: TRY004 - the user named the wrong task
            f"{task_id!r} is a {type(found[0]).__name__}, which does not submit a job"
        )
    return found[0]


def _dags_of(dag_file: Path) -> list[DAG]:
    """Run a DAG file and collect its DAGs as Airflow does; needs no database."""
    from airflow.sdk import DAG
    from airflow.sdk.definitions._internal.contextmanager import DagContext

    if not dag_file.is_file():
        raise FileNotFoundError(f"there is no file {dag_file}")
    name = f"airflow_distrib_rendered_{dag_file.stem}"
    spec = importlib.util.spec_from_file_location(name, dag_file.resolve())
    if spec is None or spec.loader is None:
        raise LookupError(f"{dag_file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    DagContext.autoregistered_dags.clear()
    DagContext.current_autoregister_module_name = name
    try:
        with _import_path(dag_file):
            spec.loader.exec_module(module)
    except Exception as error:
        raise LookupError(f"{_place_of(error, dag_file)}: {type(error).__name__}: {error}") from error
    finally:
        DagContext.current_autoregister_module_name = None
    dags = [dag for dag, _ in DagContext.autoregistered_dags]
    return list({id(dag): dag for dag in [*dags, *(v for v in vars(module).values() if isinstance(v, DAG))]}.values())


@contextlib.contextmanager
def _import_path(dag_file: Path) -> Iterator[None]:
    """Let a DAG file import its neighbours, and what lies in Airflow's DAG folder."""
    from airflow.sdk import conf

    before = list(sys.path)
    sys.path[:0] = [str(dag_file.resolve().parent), conf.get("core", "dags_folder", fallback="")]
    try:
        yield
    finally:
        sys.path[:] = before


def _place_of(error: Exception, dag_file: Path) -> str:
    """File and line of the DAG file's own last frame in an error's traceback."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename) == dag_file.resolve()
    ]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return f"{dag_file}:{line}" if line else str(dag_file)
