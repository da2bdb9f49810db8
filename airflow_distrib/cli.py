"""``airflow-distrib``: look at what a task would submit."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from airflow_distrib import __version__


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
    except (LookupError, OSError, ValueError) as error:
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
    found = [task for name, task in tasks.items() if name == task_id or name.partition(".")[2] == task_id]
    if len(found) != 1:
        problem = "names more than one task" if found else "is no task"
        raise LookupError(f"{task_id!r} {problem} of {dag_file}; it has {', '.join(sorted(tasks)) or 'none'}")
    if not isinstance(found[0], DistributedJobOperator):
        raise LookupError(  # noqa: TRY004 - the user named the wrong task
            f"{task_id!r} is a {type(found[0]).__name__}, which does not submit a job"
        )
    return found[0]


def _dags_of(dag_file: Path) -> list[Any]:
    """Run a DAG file and collect its DAGs as Airflow does; needs no database."""
    from airflow.sdk import DAG
    from airflow.sdk.definitions._internal.contextmanager import DagContext

    if not dag_file.is_file():
        raise FileNotFoundError(f"there is no file {dag_file}")
    name = f"airflow_distrib_rendered_{dag_file.stem}"
    spec = importlib.util.spec_from_file_location(name, dag_file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    DagContext.autoregistered_dags.clear()
    DagContext.current_autoregister_module_name = name
    try:
        spec.loader.exec_module(module)
    finally:
        DagContext.current_autoregister_module_name = None
    dags = [dag for dag, _ in DagContext.autoregistered_dags]
    return list({id(dag): dag for dag in [*dags, *(v for v in vars(module).values() if isinstance(v, DAG))]}.values())
