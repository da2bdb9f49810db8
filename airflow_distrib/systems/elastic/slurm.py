"""An Elastic config on Slurm: srun starts torch's agent on each node, or the runner on the only one."""

from __future__ import annotations

from airflow_distrib.core import config as configs
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.launcher import Argument
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.elastic.local import cluster_fields, elastic_spec, nccl_environment
from airflow_distrib.systems.slurm import submission
from airflow_distrib.systems.slurm.config import Slurm
from airflow_distrib.systems.slurm.submission import SlurmSubmission

ARGUMENTS = (Argument("slurm", configs.of(Slurm), renderer="json", part_of_job=True),)


def slurm(config: Elastic, request: JobRequest) -> SlurmSubmission:
    """Render for Slurm.

    Raises:
        ConfigError: an option is for Kubernetes, or is derived from the Elastic config.
    """
    for name in cluster_fields(config):
        raise ConfigError(name, "is for Kubernetes; use slurm=Slurm(...) for options of Slurm")
    given = request.arguments.get("slurm")
    options = _of_agents(given if isinstance(given, Slurm) else Slurm(), config)
    # The default endpoint is the first node, which only the job itself knows.
    elastic = elastic_spec(config, request.identity.name())
    return submission.of_function(
        options, request, mode=config.mode, elastic=elastic, defaults=nccl_environment(config)
    )


def _of_agents(options: Slurm, config: Elastic) -> Slurm:
    """One task on each node: torch's agent, which starts the ranks itself."""
    for name in ("nodes", "ntasks", "ntasks_per_node", "array", "components"):
        if getattr(options, name) is not None:
            raise ConfigError(f"slurm.{name}", "follows from nnodes of the Elastic config; remove it")
    if config.rdzv_backend == "static":
        raise ConfigError("rdzv_backend", "'static' is for launcher='local'; nodes need 'c10d' to find each other")
    nodes = config.min_nodes if config.min_nodes == config.max_nodes else f"{config.min_nodes}-{config.max_nodes}"
    env = {**(options.env or {}), **(config.env or {})}
    return options.merged({"nodes": nodes, "ntasks_per_node": 1, "env": env or None})
