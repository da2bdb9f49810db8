"""PyTorchJobs that the contract suite renders."""

from __future__ import annotations

from typing import Any

SAMPLES: dict[str, dict[str, Any]] = {
    "master and workers": {"task_config": {"image": "me/x:1", "worker": {"replicas": 2}}},
    "local": {"task_config": {"worker": {"replicas": 1}}, "launcher": "local"},
}
