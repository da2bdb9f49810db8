"""An Elastic config as processes on one machine, and as arguments of torchrun."""

from __future__ import annotations

from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.spec import ElasticSpec
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.kubernetes.options import cluster_only
from airflow_distrib.systems.local.plan import LocalPlan

# Settings of torch's agent and its rendezvous, without effect on ranks that run without an agent.
_AGENT_ONLY = frozenset({"monitor_interval", "rdzv_backend", "rdzv_configs", "rdzv_endpoint"})


def local(config: Elastic, request: JobRequest) -> LocalPlan:
    """Render for the local launcher; several nodes become several agents on this machine."""
    not_applied = cluster_fields(config)
    if config.mode == specs.RANKS:
        not_applied += [name for name in config.serialize() if name in _AGENT_ONLY]
    return LocalPlan(
        config.mode,
        config.max_nodes,
        env=config.env or {},
        env_defaults=nccl_environment(config),
        elastic=elastic_spec(config, request.identity.name()),
        not_applied=tuple(not_applied),
    )


def cluster_fields(config: Elastic) -> list[str]:
    """Fields that are set and that only Kubernetes can honour."""
    return cluster_only(config) + ["restart_policy"] * (config.restart_policy is not None)


def elastic_spec(config: Elastic, rendezvous_id: str) -> ElasticSpec:
    """Arguments of torchrun.

    Args:
        rendezvous_id: must differ between tries, or a new try would join the old one's nodes.
    """
    return ElasticSpec(
        nproc_per_node=config.nproc_per_node,
        min_nodes=config.min_nodes,
        max_nodes=config.max_nodes,
        start_method=config.start_method,
        monitor_interval=float(config.monitor_interval),
        max_restarts=int(config.max_restarts),
        rdzv_backend=config.rdzv_backend,
        rdzv_endpoint=config.rdzv_endpoint or "",
        rdzv_configs=config.rendezvous(),
        rdzv_id=rendezvous_id,
        collective_timeout=int(config.nccl_collective_timeout_sec) if config.nccl_collective_timeout_sec else None,
    )


def nccl_environment(config: Elastic) -> dict[str, str]:
    """NCCL settings as torch reads them, in ProcessGroupNCCL.hpp."""
    settings = {
        "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": config.nccl_heartbeat_timeout_sec,
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": config.nccl_async_error_handling,
        "TORCH_NCCL_ENABLE_MONITORING": config.nccl_enable_monitoring,
    }
    return {name: str(int(value)) for name, value in settings.items() if value is not None}
