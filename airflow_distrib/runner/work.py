"""What every rank does, however its process was started."""

from __future__ import annotations

import datetime
import os
from typing import Optional

from airflow_distrib.runner import call, payload, rank
from airflow_distrib.runner.spec import Spec


def run(spec: Spec, loaded: Optional[payload.Call] = None) -> int:
    """Complete the environment, call the function; returns the exit status for this process.

    Args:
        loaded: the function, if it was loaded before a fork.
    """
    place = rank.from_env(os.environ)
    rank.export(place, os.environ)
    if spec.elastic is not None and spec.elastic.collective_timeout:
        _set_collective_timeout(spec.elastic.collective_timeout)
    return call.run(spec, place, loaded)


def _set_collective_timeout(seconds: int) -> None:
    """Change the default of init_process_group; torch has no variable for it.

    The module keeps names of its own for the two constants, so those are set.
    """
    try:
        import torch.distributed.distributed_c10d as c10d
    except ImportError:
        # Then there are no collectives; a function that expects some says so itself.
        return
    c10d.default_pg_timeout = datetime.timedelta(seconds=seconds)
    c10d.default_pg_nccl_timeout = datetime.timedelta(seconds=seconds)
