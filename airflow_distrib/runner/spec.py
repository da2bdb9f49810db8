"""What one supervisor runs: a small JSON file beside the payload."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any, Dict, List, NamedTuple, Optional, Union

FORMAT = 1

# The rank processes are numbered by the supervisor itself: all ranks of the job are on one machine.
RANKS = "ranks"
# One rank process, its number comes from the launcher's environment: pods, srun, mpirun.
ENVIRONMENT = "environment"
# torch's elastic agent numbers the ranks, restarts them, and meets the agents of other nodes.
ELASTIC = "elastic"
# A command such as mpirun starts the ranks elsewhere; they report to this supervisor.
LAUNCHER = "launcher"


class ElasticSpec(NamedTuple):
    """Arguments of torchrun; see :class:`airflow_distrib.Elastic`."""

    nproc_per_node: Union[int, str] = 1
    min_nodes: int = 1
    max_nodes: int = 1
    start_method: str = "spawn"
    monitor_interval: float = 0.1
    max_restarts: int = 0
    rdzv_backend: str = "c10d"
    rdzv_endpoint: str = ""
    rdzv_configs: Dict[str, Any] = {}
    rdzv_id: str = ""
    collective_timeout: Optional[int] = None


class Spec(NamedTuple):
    """One job on one machine.

    Attributes:
        mode: :data:`RANKS`, :data:`ENVIRONMENT`, :data:`ELASTIC` or :data:`LAUNCHER`.
        directory: holds the payload, the outcomes and the streams; private to the user. Empty
            lets the supervisor make one, below ``scratch`` if that is a folder; it may name
            environment variables.
        processes: agents to start (ELASTIC), or ranks to start (RANKS) unless ``elastic`` says how many.
        log_ranks: ranks whose lines are passed on; None is all of them.
        result_path: where rank 0 writes a result that is too large to travel along.
        grace_seconds: time between SIGTERM and SIGKILL.
        termination_log: a pod's termination message file; the outcome goes there, or to the end
            of the log when it is too large.
        lifeline: stop when standard input ends, that is when the starter died, and leave no process behind.
        elastic: what torchrun would be told, also where the ranks need no agent (RANKS).
        payload_file: where the payload is, if not in ``directory``: a path, or a URL.
        payload_sha256: digest that a payload from elsewhere must have before it is loaded.
        reports: the outcome goes to the launcher's supervisor, whose address is in the
            environment variable :data:`airflow_distrib.runner.collector.ADDRESS`.
        token: what a report must carry.
        command: the launcher and its arguments (LAUNCHER).
        exports: variables that it hands on to the ranks with ``-x``, those that are set.
        program: what it starts on every rank.
        hostfile: hosts that must answer on ``ssh_port`` before ``command`` is started.
    """

    mode: str
    directory: str
    processes: int = 1
    log_ranks: Optional[List[int]] = None
    result_path: Optional[str] = None
    grace_seconds: float = 3.0
    termination_log: Optional[str] = None
    lifeline: bool = False
    elastic: Optional[ElasticSpec] = None
    scratch: Optional[str] = None
    payload_file: Optional[str] = None
    payload_sha256: Optional[str] = None
    reports: bool = False
    token: str = ""
    command: List[str] = []
    exports: List[str] = []
    program: List[str] = []
    hostfile: Optional[str] = None
    ssh_port: int = 22

    @property
    def payload(self) -> str:
        """Path or URL of the packed function."""
        return self.payload_file or os.path.join(self.directory, "payload")

    def to_json(self) -> str:
        """Render for :func:`read`."""
        fields = self._asdict()
        fields["elastic"] = self.elastic._asdict() if self.elastic else None
        return json.dumps({"format": FORMAT, **fields})


def read(path: str) -> Spec:
    """Read the file at ``path``."""
    with open(path, encoding="utf-8") as file:
        fields = json.load(file)
    if fields.pop("format") != FORMAT:
        raise ValueError("{} was written by another version of airflow_distrib".format(path))
    if fields["elastic"] is not None:
        fields["elastic"] = ElasticSpec(**fields["elastic"])
    return Spec(**fields)


def settle(spec: Spec) -> Spec:
    """Give a spec that came without a folder a private one of its own, with itself in it."""
    if spec.directory:
        return spec
    scratch = os.path.expandvars(spec.scratch or "")
    below = scratch if scratch and os.access(scratch, os.W_OK) else None
    settled = spec._replace(directory=tempfile.mkdtemp(prefix="airflow-distrib-", dir=below))
    with open(os.path.join(settled.directory, "spec.json"), "w", encoding="utf-8") as file:
        file.write(settled.to_json())
    return settled
