"""Slurm jobs that the contract suite renders, by the operator that takes them."""

from __future__ import annotations

from typing import Any

SAMPLES: dict[str, dict[str, Any]] = {
    "function": {"task_config": {"ntasks": 2}},
    "job array": {"task_config": {"array": "0-3"}, "log_elements": "all"},
    "local": {"task_config": {"ntasks": 2}, "launcher": "local"},
}

SCRIPTS: dict[str, dict[str, dict[str, Any]]] = {
    "SlurmScriptOperator": {"script": {"script_path": "/x.sh", "arguments": ["a b"]}},
    "SlurmShellOperator": {"shell script": {"script": "echo {inputs.x}", "inputs": {"x": 1}}},
}
