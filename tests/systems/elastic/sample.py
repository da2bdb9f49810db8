"""Elastic tasks that the contract suite renders."""

from __future__ import annotations

from typing import Any

SAMPLES: dict[str, dict[str, Any]] = {
    "one node": {"task_config": {"nproc_per_node": 2}},
    "one Pod": {"task_config": {"image": "me/x:1"}},
    "several nodes": {"task_config": {"nnodes": "1:2", "image": "me/x:1"}},
    "on Slurm": {"task_config": {"nnodes": 2}, "slurm": {"partition": "gpu"}},
}
