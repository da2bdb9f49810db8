"""MPIJobs that the contract suite renders."""

from __future__ import annotations

from typing import Any

SAMPLES: dict[str, dict[str, Any]] = {
    "launcher and workers": {"task_config": {"image": "me/x:1", "worker": {"replicas": 2}, "slots": 2}},
    "of the training-operator": {
        "task_config": {"image": "me/x:1", "worker": {"replicas": 1}, "api_version": "kubeflow.org/v1"}
    },
    "local": {"task_config": {"worker": {"replicas": 1}}, "launcher": "local"},
}
