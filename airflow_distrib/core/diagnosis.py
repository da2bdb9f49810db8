"""What to do about a failure, where its text gives it away."""

from __future__ import annotations

import re

from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome

_MEMORY = (
    "the kernel's OOM killer most likely ended it. Use a smaller batch, fewer ranks on this machine "
    "or more memory (requests and limits on a cluster)"
)

_BY_TYPE = {
    outcomes.OUT_OF_MEMORY: "use a smaller batch, fewer ranks on this machine, or give it more memory",
    outcomes.EXITED_EARLY: "return a value instead of calling sys.exit(), exit() or os._exit()",
    outcomes.NEEDS_AIRFLOW: "ranks are no tasks of Airflow: pass values of variables, connections and the context to "
    "the function, as templates or in op_kwargs; raise airflow_distrib.NonRecoverableError or RecoverableError instead "
    "of Airflow's exceptions; import airflow only where the ranks have it",
    "RendezvousConnectionError": "see that every node reaches rdzv_endpoint",
    "RendezvousTimeoutError": "fewer nodes than nnodes arrived in time: raise rdzv_configs['join_timeout'], "
    "or ask for fewer nodes",
}

_BY_TEXT = (
    (
        re.compile(r"EADDRINUSE|[Aa]ddress already in use"),
        "another process holds the port: leave MASTER_PORT and rdzv_endpoint out and a free one is chosen on each try",
    ),
    (
        re.compile(r"CUDA out of memory"),
        "the GPU's memory is full: use a smaller batch or shard the model over more ranks",
    ),
    (
        re.compile(r"No module named '([\w.]+)'"),
        r"install \1 where the ranks run: the image on a cluster, the Airflow worker (or python=) for local ranks",
    ),
)


def hint_for(outcome: Outcome) -> str:
    """Advice for the reader of the error; empty when there is nothing to add."""
    if outcome.error_type == outcomes.PROCESS_KILLED and outcomes.NOT_FOR_MEMORY in outcome.message:
        return "somebody sent it SIGKILL: a person, or a program that cleans up on this machine"
    if outcome.error_type == outcomes.PROCESS_KILLED and (outcome.exit_code == -9 or "SIGKILL" in outcome.message):
        return f"nobody asked it to stop: {_MEMORY}"
    if outcome.error_type == outcomes.PROCESS_KILLED and "SIGABRT" in outcome.message:
        return "a library aborted, often NCCL after a collective timed out because another rank fell behind"
    if outcome.error_type in _BY_TYPE:
        return _BY_TYPE[outcome.error_type]
    for pattern, advice in _BY_TEXT:
        if match := pattern.search(outcome.message):
            return match.expand(advice)
    return ""
