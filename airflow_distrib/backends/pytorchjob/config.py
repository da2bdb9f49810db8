"""Config of a PyTorchJob."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from airflow_distrib.core import config, resources
from airflow_distrib.core.config import Check, Config
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.resources import Replica, RunPolicy


def _shared_memory(name: str, value: Any) -> bool | str:
    rendered = isinstance(value, str) and value.lower() in ("true", "false")
    return config.flag(name, value) if rendered or isinstance(value, bool) else resources.quantity(name, value)


class PyTorchJob(Config):
    """A function on one master and some workers: rank 0 is the master, then the workers.

    Attributes:
        image: image of all replicas that name none themselves.
        master: the one master; None is a master like the workers.
        worker: the workers; ``replicas`` is required, 0 leaves the master alone.
        run_policy: how the job ends.
        shared_memory: size of /dev/shm such as "2Gi"; True for as much as memory allows.
        pod_template: a PodTemplateSpec for every replica to start from.
        env: environment variables for the ranks.
        num_workers: deprecated, ``worker.replicas``.
        increase_shared_mem: deprecated, ``shared_memory=True``.
    """

    image: str | None = None
    master: Replica | Mapping[str, Any] | None = None
    worker: Replica | Mapping[str, Any] | None = None
    run_policy: RunPolicy | Mapping[str, Any] | None = None
    shared_memory: bool | str | None = None
    pod_template: Mapping[str, Any] | None = None
    env: Mapping[str, str] | None = None
    num_workers: int | str | None = None
    increase_shared_mem: bool | None = None

    checks: ClassVar[Mapping[str, Check]] = {
        "image": config.text,
        "master": config.of(Replica),
        "worker": config.of(Replica),
        "run_policy": config.of(RunPolicy),
        "shared_memory": _shared_memory,
        "pod_template": resources.check_pod_template,
        "env": config.environment,
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
            raise ConfigError("worker.replicas", "is required; 0 leaves the master alone")
        if isinstance(self.master, Replica) and self.master.replicas not in (None, 1):
            raise ConfigError("master.replicas", f"there is always one master; got {self.master.replicas!r}")

    def _accept_deprecated(self) -> None:
        if self.num_workers is not None:
            self._warn("num_workers", "worker=Replica(replicas=...)")
            worker = self.worker if isinstance(self.worker, Replica) else Replica()
            if worker.replicas is not None:
                raise ConfigError("num_workers", "is the deprecated name of worker.replicas; give one of them")
            object.__setattr__(self, "worker", worker.merged({"replicas": self.num_workers}))
            object.__setattr__(self, "num_workers", None)
        if self.increase_shared_mem is not None:
            self._warn("increase_shared_mem", "shared_memory=True")
            if self.shared_memory is not None:
                raise ConfigError("increase_shared_mem", "is the deprecated name of shared_memory; give one of them")
            object.__setattr__(self, "shared_memory", self.increase_shared_mem)
            object.__setattr__(self, "increase_shared_mem", None)

    @staticmethod
    def _warn(name: str, instead: str) -> None:
        # The level of the caller's own line: this, _accept_deprecated, __post_init__, __init__.
        warnings.warn(f"PyTorchJob.{name} is deprecated; use {instead}", DeprecationWarning, stacklevel=5)

    @property
    def world_size(self) -> int:
        """Ranks of the job, once nothing is a template any more."""
        assert isinstance(self.worker, Replica)
        return 1 + int(self.worker.replicas or 0)
