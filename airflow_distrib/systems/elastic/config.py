"""Config of an Elastic task, the arguments of ``torchrun``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Self

from airflow_distrib.core import config, names
from airflow_distrib.core.config import Check
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.runner import spec as specs
from airflow_distrib.systems.kubernetes.options import ClusterConfig
from airflow_distrib.systems.kubernetes.resources import RestartPolicy

_SECONDS = config.seconds()

# Keys that torch reads, by the backends in torch/distributed/elastic/rendezvous (2.4 to
# 2.15): RendezvousParameters itself accepts any key and ignores unknown ones.
RENDEZVOUS_KEYS: Mapping[str, Check] = {
    "timeout": _SECONDS,
    "join_timeout": _SECONDS,
    "read_timeout": _SECONDS,
    "last_call_timeout": _SECONDS,
    "close_timeout": _SECONDS,
    "heartbeat_timeout": _SECONDS,
    "keep_alive_interval": _SECONDS,
    "keep_alive_max_attempt": config.whole(1),
    "cas_backoff_max_seconds": config.seconds(-1e-9),
    "is_host": config.flag,
    "store_type": config.one_of("tcp", "file"),
    "use_libuv": config.flag,
    "rank": config.whole(0),
}

# Ranks start at different times: images are pulled, nodes are added. Seconds.
RENDEZVOUS_DEFAULTS: Mapping[str, object] = {"timeout": 900, "join_timeout": 900, "read_timeout": 900}

_NNODES = re.compile(r"(\d+)(?::(\d+))?")


def _nodes(name: str, value: object) -> int | str:
    match = None if isinstance(value, bool) else _NNODES.fullmatch(str(value).strip())
    if not match:
        raise ConfigError(name, f"must be a number such as 2, or a range 'min:max' such as '1:4'; got {value!r}")
    least, most = int(match[1]), int(match[2] or match[1])
    if least < 1:
        raise ConfigError(name, f"needs at least one node; got {value!r}")
    if least > most:
        raise ConfigError(name, f"the minimum exceeds the maximum; did you mean '{most}:{least}'? got {value!r}")
    return least if least == most else f"{least}:{most}"


def _processes(name: str, value: object) -> int | str:
    if value in ("auto", "gpu", "cpu"):
        return str(value)
    try:
        return config.whole(1)(name, value)
    except ConfigError:
        hint = names.did_you_mean(value, ("auto", "gpu", "cpu"))
        raise ConfigError(
            name, f"must be a whole number, at least 1, or 'auto', 'gpu' or 'cpu'; got {value!r}{hint}"
        ) from None


def _rendezvous(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(name, f"must be a mapping; got {value!r}")
    for key in value:
        if key not in RENDEZVOUS_KEYS:
            raise ConfigError(f"{name}[{key!r}]", f"torch has no such key; it knows {', '.join(RENDEZVOUS_KEYS)}")
    return {
        key: item if config.is_template(item) else RENDEZVOUS_KEYS[key](f"{name}[{key!r}]", item)
        for key, item in value.items()
    }


def _endpoint(name: str, value: object) -> str:
    host, colon, port = str(value).rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(name, f"must be 'host:port'; got {value!r}")
    return str(value)


class Elastic(ClusterConfig):
    """A function on every rank that torch's elastic agent starts, and restarts when one fails.

    Attributes:
        nnodes: nodes (machines): 2, "2", or a range "1:4" within which the job may grow
            and shrink.
        nproc_per_node: ranks on each node: a number, "gpu" (one per GPU), "cpu" (one per
            core) or "auto" (GPUs if there are any, otherwise cores).
        start_method: "spawn" starts each rank in a fresh interpreter; "fork" copies a process
            that has imported torch and loaded the function, with what its module imports. That
            is faster, but these imports must not use a GPU or start threads.
        monitor_interval: seconds between the agent's checks of the ranks.
        max_restarts: how often all ranks are restarted after one has failed; 0 as in torchrun.
        rdzv_backend: "c10d" needs no server; "static" is a fixed list of nodes.
        rdzv_endpoint: "host:port" of the rendezvous; None picks a free port, and on
            Kubernetes the first worker.
        rdzv_configs: further settings of the rendezvous, merged over the defaults of 900
            seconds for ``timeout``, ``join_timeout`` and ``read_timeout``.
        nccl_heartbeat_timeout_sec: TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC; None takes torch's default.
        nccl_async_error_handling: TORCH_NCCL_ASYNC_ERROR_HANDLING: True ends a rank when a
            collective fails; None takes torch's default.
        nccl_collective_timeout_sec: timeout of collectives: the default of
            ``init_process_group(timeout=...)``, for every backend.
        nccl_enable_monitoring: TORCH_NCCL_ENABLE_MONITORING; None takes torch's default.
        restart_policy: what happens when a container has ended, "Never" by default.

    The options of :class:`~airflow_distrib.systems.kubernetes.options.ClusterConfig` are for
    Kubernetes.
    """

    nnodes: int | str = 1
    nproc_per_node: int | str = 1
    start_method: str = "spawn"
    monitor_interval: float | str = 0.1
    max_restarts: int | str = 0
    rdzv_backend: str = "c10d"
    rdzv_endpoint: str | None = None
    rdzv_configs: Mapping[str, object] | None = None
    nccl_heartbeat_timeout_sec: int | str | None = 300
    nccl_async_error_handling: bool | str | None = None
    nccl_collective_timeout_sec: int | str | None = None
    nccl_enable_monitoring: bool | str | None = True
    restart_policy: RestartPolicy | str | None = None

    elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("replicas", "num_workers", "worker", "workers"), "the number of nodes is nnodes=..."),
        "master": "rank 0 is on the first node, which is like the others; remove it",
    }
    checks: ClassVar[Mapping[str, Check]] = {
        **ClusterConfig.checks,
        "nnodes": _nodes,
        "nproc_per_node": _processes,
        "start_method": config.one_of("spawn", "fork"),
        "monitor_interval": _SECONDS,
        "max_restarts": config.whole(0),
        "rdzv_backend": config.one_of("c10d", "static"),
        "rdzv_endpoint": _endpoint,
        "rdzv_configs": _rendezvous,
        "nccl_heartbeat_timeout_sec": config.whole(1),
        "nccl_async_error_handling": config.flag,
        "nccl_collective_timeout_sec": config.whole(1),
        "nccl_enable_monitoring": config.flag,
        "restart_policy": config.member(RestartPolicy),
    }

    def check_together(self) -> None:
        if self.rdzv_backend == "static" and self.min_nodes != self.max_nodes:
            raise ConfigError("rdzv_backend", f"'static' needs a fixed number of nodes, not nnodes={self.nnodes!r}")

    @property
    def min_nodes(self) -> int:
        """Minimum number of nodes."""
        return int(str(self.nnodes).partition(":")[0])

    @property
    def max_nodes(self) -> int:
        """Maximum number of nodes."""
        return int(str(self.nnodes).rpartition(":")[2])

    @property
    def world_size(self) -> int | None:
        """Number of ranks, with the maximum number of nodes; None where the machine decides."""
        each = str(self.nproc_per_node)
        return self.max_nodes * int(each) if each.isdigit() else None

    @property
    def mode(self) -> str:
        """Who starts the ranks.

        Torch's agent costs seconds, so it is for those who need it: several nodes, restarts,
        or several ranks for which a rendezvous is asked for.
        """
        asked = bool(self.rdzv_endpoint or self.rdzv_configs or self.rdzv_backend != "c10d")
        several = self.max_nodes > 1 or int(self.max_restarts) > 0
        return specs.ELASTIC if several or (asked and self.nproc_per_node != 1) else specs.RANKS

    def with_environment(self, defaults: Mapping[str, str]) -> Self:
        """A copy with these variables in ``env``, unless it sets them itself."""
        return self.merged({"env": {**defaults, **(self.env or {})}})

    def rendezvous(self) -> dict[str, object]:
        """``rdzv_configs`` over the defaults."""
        return {**RENDEZVOUS_DEFAULTS, **(self.rdzv_configs or {})}
