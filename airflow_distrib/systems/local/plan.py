"""What the local launcher is asked to run: pure, made by each system from its config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_distrib.core import config
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.spec import ElasticSpec, Spec

HOST = "127.0.0.1"
_NO_DATABASE = "airflow-db-not-allowed:///"


@dataclass(frozen=True)
class LocalPlan:
    """Processes of one job on this machine.

    Attributes:
        mode: :data:`airflow_distrib.runner.spec.RANKS` or ``ELASTIC``.
        processes: ranks, or nodes if there is ``elastic``.
        env: environment variables the user asked for; they win over everything.
        env_defaults: variables set only where neither the user nor the worker sets them.
        elastic: what torchrun would be told.
        not_applied: fields of the config that only a cluster can honour.
    """

    mode: str
    processes: int
    env: Mapping[str, str] = field(default_factory=dict)
    env_defaults: Mapping[str, str] = field(default_factory=dict)
    elastic: ElasticSpec | None = None
    not_applied: tuple[str, ...] = ()

    @property
    def port(self) -> tuple[str, int | None]:
        """Name of the setting that holds the job's port, and the port if the user chose one."""
        if self.mode == specs.RANKS:
            chosen = self.env.get("MASTER_PORT", "")
            return "MASTER_PORT", int(config.whole(1, 65535)("MASTER_PORT", chosen)) if chosen else None
        endpoint = self.elastic.rdzv_endpoint if self.elastic else ""
        host, _, chosen = endpoint.rpartition(":")
        ours = host in ("localhost", HOST)
        return "rdzv_endpoint", int(chosen) if chosen and ours else None

    @property
    def size(self) -> str:
        """How large the job is, for the log."""
        if self.elastic is None:
            return f"{self.processes} rank(s)"
        return f"{self.processes} node(s) of {self.elastic.nproc_per_node} rank(s)"

    @property
    def needs_port(self) -> bool:
        """False where torch finds a port by itself: one agent that is its own rendezvous."""
        if self.mode == specs.RANKS or self.elastic is None:
            return True
        return not self.elastic.rdzv_endpoint and (self.processes > 1 or self.elastic.rdzv_backend == "static")

    def environment(self, inherited: Mapping[str, str], port: int | None) -> dict[str, str]:
        """The supervisor's environment."""
        master = {}
        if self.mode == specs.RANKS and port is not None:
            master = {"MASTER_ADDR": HOST, "MASTER_PORT": str(port)}
        # Tasks have an address there that Airflow cannot even be imported with, to keep them from
        # its database; one in memory keeps ranks from it as well.
        blocked = {name: "sqlite://" for name, value in inherited.items() if value == _NO_DATABASE}
        return {**self.env_defaults, **inherited, **blocked, **master, **self.env}

    def spec(self, directory: str, port: int | None, options: Mapping[str, Any]) -> Spec:
        """The file that the supervisor reads."""
        elastic = self.elastic
        if self.mode == specs.ELASTIC and elastic is not None and not elastic.rdzv_endpoint:
            elastic = elastic._replace(rdzv_endpoint=f"{HOST}:{port}" if port else "localhost:0")
        return Spec(self.mode, directory, self.processes, elastic=elastic, lifeline=True, **options)
