"""Config of a PyTorchJob."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from airflow_distrib.core import config
from airflow_distrib.core.config import Check
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.kubernetes.options import ClusterConfig
from airflow_distrib.systems.kubernetes.resources import Replica


class PyTorchJob(ClusterConfig):
    """A function on one master, which is rank 0, and some workers.

    Attributes:
        master: the one master; what it does not set is as the workers have it.
        worker: the workers; ``replicas`` is required, 0 runs the master only.
        num_workers: deprecated, ``worker.replicas``.

    All other options are those of every job on Kubernetes:
    :class:`~airflow_distrib.systems.kubernetes.options.ClusterConfig`.
    """

    master: Replica | Mapping[str, object] | None = None
    worker: Replica | Mapping[str, object] | None = None
    num_workers: int | str | None = None

    elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("nprocs", "nproc_per_node", "nnodes"),
        "each replica is one rank; write worker=Replica(replicas=...), or use Elastic for several on each node",
    )
    checks: ClassVar[Mapping[str, Check]] = {
        **ClusterConfig.checks,
        "master": config.of(Replica),
        "worker": config.of(Replica),
        "num_workers": config.whole(0),
    }

    deprecated: ClassVar[Mapping[str, str]] = {**ClusterConfig.deprecated, "num_workers": "worker.replicas"}

    def check_roles(self) -> None:
        worker = self.worker
        if not isinstance(worker, Replica):
            if not config.is_template(worker):
                raise ConfigError("worker.replicas", "is required; write worker=Replica(replicas=...)")
        elif worker.replicas is None:
            raise ConfigError("worker.replicas", "is required; set 0 to run the master only")
        masters = self.master.replicas if isinstance(self.master, Replica) else None
        if masters not in (None, 1) and not config.is_template(masters):
            raise ConfigError("master.replicas", f"there is always one master; got {masters!r}")
        super().check_roles()

    def role(self, name: str) -> Replica:
        own = super().role(name)
        return own.over(super().role("worker")) if name == "master" else own

    @property
    def world_size(self) -> int:
        """Number of ranks, once all templates are rendered."""
        assert isinstance(self.worker, Replica)
        return 1 + int(self.worker.replicas or 0)
