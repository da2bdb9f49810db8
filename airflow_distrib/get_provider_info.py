"""What Airflow asks of a provider, made from the catalogue."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from airflow_distrib import __version__
from airflow_distrib.catalogue import ENTRIES, LAUNCHERS, LINKS, TRIGGERS, Launcher

_NAME = "Distributed training and compute"


def get_provider_info() -> dict[str, Any]:
    """Entry point ``apache_airflow_provider``."""
    connected = [each for each in LAUNCHERS if each.hook]
    return {
        "package-name": "airflow-distrib",
        "name": _NAME,
        "description": "Runs distributed PyTorch, MPI and Slurm jobs from a DAG, with more systems to come.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": entry.system,
                "external-doc-url": entry.documentation,
                "tags": ["machine-learning"],
            }
            for entry in ENTRIES
        ]
        + [
            {"integration-name": name, "external-doc-url": url, "tags": ["service"]}
            for name, url in [(each.title, each.documentation) for each in connected] + [(_NAME, _DOCUMENTATION)]
        ],
        "operators": [
            {"integration-name": entry.system, "python-modules": [entry.operator.rpartition(".")[0]]}
            for entry in ENTRIES
        ],
        "task-decorators": [
            {"name": entry.decorator, "class-name": entry.decorator_path} for entry in ENTRIES if entry.decorator
        ],
        "hooks": [
            {"integration-name": each.title, "python-modules": [each.hook.rpartition(".")[0]]} for each in connected
        ],
        "triggers": [{"integration-name": _NAME, "python-modules": list(TRIGGERS)}],
        "connection-types": [_connection_type(each) for each in connected if not _is_installed(each.provider)],
        "extra-links": list(LINKS),
        "config": {"airflow_distrib": {"description": "Settings of airflow_distrib.", "options": _options()}},
    }


# Of the trigger, which belongs to no system.
_DOCUMENTATION = "https://kubernetes.io/docs/concepts/workloads/controllers/job/"


def _is_installed(package: str) -> bool:
    """Airflow warns when two providers declare one type of connection."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _connection_type(launcher: Launcher) -> dict[str, Any]:
    form = importlib.import_module(f"airflow_distrib.hooks.{launcher.hook.split('.')[-2]}_form")
    return {
        "connection-type": launcher.connection_type,
        "hook-class-name": launcher.hook,
        "hook-name": launcher.title,
        "ui-field-behaviour": {"hidden-fields": form.HIDDEN},
        "conn-fields": {name: {"label": label, "schema": schema} for name, (label, schema) in form.FIELDS.items()},
    }


def _options() -> dict[str, Any]:
    return {
        "launcher": {
            "description": "``local`` runs every job as processes of the Airflow worker, for development without "
            "a cluster. Empty leaves it to each operator.",
            "version_added": "0.1.0",
            "type": "string",
            "example": "local",
            "default": "",
        },
        "job_url_template": {
            "description": "Address of a job in a dashboard of yours, shown as a button on the task. It may hold "
            "``{dag_id}``, ``{run_id}``, ``{task_id}``, ``{map_index}``, ``{try_number}``, ``{job_name}``, "
            "``{job_uid}`` (on Slurm the job's id), ``{namespace}``, ``{kind}`` and ``{cluster}``.",
            "version_added": "0.1.0",
            "type": "string",
            "example": "https://grafana.example/d/jobs?var-job={job_name}",
            "default": "",
        },
        "logs_url_template": {
            "description": "Address of a job's logs where you collect them, with the same places.",
            "version_added": "0.1.0",
            "type": "string",
            "example": "https://grafana.example/explore?namespace={namespace}&job={job_name}",
            "default": "",
        },
    }
