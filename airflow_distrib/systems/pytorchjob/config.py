"""Config of a PyTorchJob."""

from __future__ import annotations

import warnings
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
        master: the one master; None makes it like the workers.
        worker: the workers; ``replicas`` is required, 0 runs the master only.
        num_workers: deprecated, ``worker.replicas``.
        increase_shared_mem: deprecated, ``shared_memory=True``.

    All other options are those of every job on Kubernetes:
    :class:`~airflow_distrib.systems.kubernetes.options.ClusterConfig`.
    """

    master: Replica | Mapping[str, object] | None = None
    worker: Replica | Mapping[str, object] | None = None
    num_workers: int | str | None = None
    increase_shared_mem: bool | None = None

    checks: ClassVar[Mapping[str, Check]] = {
        **ClusterConfig.checks,
        "master": config.of(Replica),
        "worker": config.of(Replica),
        "num_workers": config.whole(0),
        "increase_shared_mem": config.flag,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self._accept_deprecated()
        worker = self.worker
        if not isinstance(worker, Replica):
            if not config.is_template(worker):
                raise ConfigError("worker.replicas", "is required; write worker=Replica(replicas=...)")
        elif worker.replicas is None:
            raise ConfigError("worker.replicas", "is required; set 0 to run the master only")
        masters = self.master.replicas if isinstance(self.master, Replica) else None
        if masters not in (None, 1) and not config.is_template(masters):
            raise ConfigError("master.replicas", f"there is always one master; got {masters!r}")

    def _accept_deprecated(self) -> None:
        if self.num_workers is not None:
            self._warn("num_workers", "worker=Replica(replicas=...)")
            worker = self.worker if isinstance(self.worker, Replica) else Replica()
            if worker.replicas is not None:
                raise ConfigError("num_workers", "is the deprecated name of worker.replicas; set only one of them")
            object.__setattr__(self, "worker", worker.merged({"replicas": self.num_workers}))
            object.__setattr__(self, "num_workers", None)
        if self.increase_shared_mem is not None:
            self._warn("increase_shared_mem", "shared_memory=True")
            if self.shared_memory is not None:
                raise ConfigError(
                    "increase_shared_mem", "is the deprecated name of shared_memory; set only one of them"
                )
            object.__setattr__(self, "shared_memory", self.increase_shared_mem)
            object.__setattr__(self, "increase_shared_mem", None)

    @staticmethod
    def _warn(name: str, instead: str) -> None:
        # The user's line is above this one, _accept_deprecated, __post_init__ and __init__.
        warnings.warn(f"PyTorchJob.{name} is deprecated; use {instead}", DeprecationWarning, stacklevel=5)

    @property
    def world_size(self) -> int:
        """Number of ranks, once all templates are rendered."""
        assert isinstance(self.worker, Replica)
        return 1 + int(self.worker.replicas or 0)
