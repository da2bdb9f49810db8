"""What Airflow asks of a provider, made from the catalogue."""

from __future__ import annotations

from typing import Any

from airflow_distrib import __version__
from airflow_distrib.catalogue import ENTRIES, LINKS

_NAME = "Distributed training and compute"


def get_provider_info() -> dict[str, Any]:
    """Entry point ``apache_airflow_provider``."""
    return {
        "package-name": "airflow-distrib",
        "name": _NAME,
        "description": "Runs distributed PyTorch jobs from a DAG, with more systems to come.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": entry.system,
                "external-doc-url": entry.documentation,
                "tags": ["machine-learning"],
            }
            for entry in ENTRIES
        ],
        "operators": [
            {"integration-name": entry.system, "python-modules": [entry.operator.rpartition(".")[0]]}
            for entry in ENTRIES
        ],
        "task-decorators": [
            {"name": entry.decorator_name, "class-name": entry.decorator} for entry in ENTRIES if entry.decorator
        ],
        "extra-links": list(LINKS),
        "config": {"airflow_distrib": {"description": "Settings of airflow_distrib.", "options": _options()}},
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
            "``{dag_id}``, ``{run_id}``, ``{task_id}``, ``{map_index}``, ``{try_number}`` and ``{job_name}``.",
            "version_added": "0.1.0",
            "type": "string",
            "example": "https://grafana.example/d/jobs?var-job={job_name}",
            "default": "",
        },
    }
