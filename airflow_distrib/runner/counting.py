"""How many ranks a machine is to have, where the config leaves it to the machine.

Only torch knows which GPUs it can use. It is asked in a process of its own: so neither the
supervisor nor a process that forks ranks has touched a GPU, and OMP_NUM_THREADS is set
before anybody who needs it imports torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from typing import List, Mapping, Union

from airflow_distrib.runner import outcome, report
from airflow_distrib.runner.spec import Spec


class TorchNotInstalled(Exception):
    """Elastic needs torch where the ranks run."""

    @classmethod
    def instead_of(cls, error: ModuleNotFoundError) -> Exception:
        """The error to raise where an import of torch has failed."""
        if (error.name or "").partition(".")[0] != "torch":
            return error
        return cls(
            "Elastic needs PyTorch in {}: pip install 'airflow-distrib[torch]' there, or name "
            "another interpreter with the operator's python=".format(sys.executable)
        )


def ranks_per_node(wanted: Union[int, str], command: List[str], environment: Mapping[str, str]) -> int:
    """Turn "auto", "gpu" and "cpu" into a number.

    Args:
        command: starts :func:`main` in a process of its own.

    Returns:
        0 if there is no such number; then :func:`main` has left an outcome with the reason.
    """
    if isinstance(wanted, int):
        return wanted
    if wanted == "cpu":
        return os.cpu_count() or 1
    asked = subprocess.run(
        command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
    )
    # What torch itself may have printed comes before.
    words = asked.stdout.split()
    return int(words[-1]) if asked.returncode == 0 and words else 0


def main(spec: Spec) -> int:
    """Print the number of GPUs, or of cores for "auto" without a GPU; returns the exit status."""
    assert spec.elastic is not None
    try:
        sys.stdout.write("{}\n".format(_with_torch(str(spec.elastic.nproc_per_node))))
    except Exception as error:  # noqa: BLE001 - the last place where the cause is still known
        traceback.print_exception(type(error), error, error.__traceback__)
        failed = outcome.now(outcome.FAILURE, None, **outcome.failure_fields(error))
        report.leave(spec.directory, failed, "count")
        return 1
    return 0


def _with_torch(wanted: str) -> int:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise TorchNotInstalled.instead_of(error) from None
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "gpu" and not gpus:
        raise ValueError('nproc_per_node is "gpu" but torch sees no GPU on {}'.format(os.uname().nodename))
    return gpus or os.cpu_count() or 1
