"""What Airflow asks of a provider, made from the catalogue."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from airflow_distrib import __version__
from airflow_distrib.catalogue import ENTRIES, HOOKS, LINKS, TRIGGERS, Hook

_NAME = "Distributed training and compute"


def get_provider_info() -> dict[str, Any]:
    """Entry point ``apache_airflow_provider``."""
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
        + [{"integration-name": name, "external-doc-url": url, "tags": ["service"]} for name, url in _PLACES.items()],
        "operators": [
            {"integration-name": entry.system, "python-modules": [entry.operator.rpartition(".")[0]]}
            for entry in ENTRIES
        ],
        "task-decorators": [
            {"name": entry.decorator_name, "class-name": entry.decorator} for entry in ENTRIES if entry.decorator
        ],
        "hooks": [{"integration-name": hook.name, "python-modules": [hook.path.rpartition(".")[0]]} for hook in HOOKS],
        "triggers": [{"integration-name": _NAME, "python-modules": list(TRIGGERS)}],
        "connection-types": [_connection_type(hook) for hook in HOOKS if not _is_installed(hook.provider)],
        "extra-links": list(LINKS),
        "config": {"airflow_distrib": {"description": "Settings of airflow_distrib.", "options": _options()}},
    }


# Integrations that are no system of their own, for hooks and triggers to belong to.
_PLACES = {
    "Kubernetes Cluster Connection": "https://kubernetes.io/docs/concepts/overview/kubernetes-api/",
    "SSH": "https://www.openssh.com/specs.html",
    _NAME: "https://kubernetes.io/docs/concepts/workloads/controllers/job/",
}


def _is_installed(package: str) -> bool:
    """Airflow warns when two providers declare one type of connection."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


_TEXT: dict[str, Any] = {"type": ["string", "null"], "default": None}
_SECRET: dict[str, Any] = {**_TEXT, "format": "password"}
_FLAG: dict[str, Any] = {"type": "boolean", "default": False}

# By type of connection: what its form hides of Airflow's own fields, and what it adds.
_FORMS: dict[str, tuple[list[str], dict[str, tuple[str, dict[str, Any]]]]] = {
    "kubernetes": (
        ["host", "schema", "login", "password", "port", "extra"],
        {
            "in_cluster": ("Use the pod's own service account", _FLAG),
            "kube_config_path": ("Path of a kubeconfig", _TEXT),
            "kube_config": ("Kubeconfig (JSON)", _SECRET),
            "cluster_context": ("Context of the kubeconfig", _TEXT),
            "namespace": ("Namespace", _TEXT),
            "disable_verify_ssl": ("Trust any certificate", _FLAG),
        },
    ),
    "ssh": (
        ["schema"],
        {
            "key_file": ("Path of a private key where Airflow runs", _TEXT),
            "private_key": ("Private key", _SECRET),
            "private_key_passphrase": ("Its passphrase", _SECRET),
            "certificate": ("Its certificate", _TEXT),
            "host_key": ("The host's public key", _TEXT),
            "known_hosts": ("Or known_hosts: a path, or its lines", _TEXT),
            "no_host_key_check": ("Trust whoever answers", _FLAG),
            "jump_conn_id": ("Connection to a jump host", _TEXT),
            "slurm_path": ("Folder of Slurm's commands", _TEXT),
            "workdir": ("Shared folder for jobs", _TEXT),
        },
    ),
}


def _connection_type(hook: Hook) -> dict[str, Any]:
    hidden, fields = _FORMS[hook.connection_type]
    return {
        "connection-type": hook.connection_type,
        "hook-class-name": hook.path,
        "hook-name": hook.name,
        "ui-field-behaviour": {"hidden-fields": hidden},
        "conn-fields": {name: {"label": label, "schema": schema} for name, (label, schema) in fields.items()},
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
