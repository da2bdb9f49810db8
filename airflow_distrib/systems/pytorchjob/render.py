"""A PyTorchJob as a resource of the training-operator, and as processes of one machine."""

from __future__ import annotations

from typing import Any

from airflow_distrib.backends.kubernetes import manifest, pods
from airflow_distrib.backends.kubernetes.kind import Rendered
from airflow_distrib.backends.kubernetes.manifest import Task
from airflow_distrib.backends.kubernetes.options import ClusterConfig, cluster_only
from airflow_distrib.backends.local.plan import LocalPlan
from airflow_distrib.backends.pytorchjob.config import PyTorchJob
from airflow_distrib.backends.pytorchjob.status import PYTORCHJOB
from airflow_distrib.core.resources import Replica
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.spec import Spec


def local_plan(config: PyTorchJob, rendezvous_id: str) -> LocalPlan:
    """Render for the local launcher: master and workers become local ranks in that order."""
    del rendezvous_id  # a PyTorchJob's ranks meet at MASTER_ADDR
    return LocalPlan(specs.RANKS, config.world_size, env=config.env or {}, not_applied=tuple(cluster_only(config)))


def cluster(config: PyTorchJob, task: Task) -> Rendered:
    """Render for Kubernetes."""
    worker = config.worker
    assert isinstance(worker, Replica)
    # A master like the workers, unless it is described itself.
    master = config.master if isinstance(config.master, Replica) else worker
    roles = manifest.replica_type(
        "Master", 1, template(config, task, master), manifest.restart_policy(config, master, task)
    )
    if int(worker.replicas or 0):
        roles |= manifest.replica_type(
            "Worker",
            int(worker.replicas or 0),
            template(config, task, worker),
            manifest.restart_policy(config, worker, task),
        )
    wanted = {"pytorchReplicaSpecs": roles, "runPolicy": manifest.run_policy(config, task)}
    spec = task.spec() if task.runs_function else None
    return finished(config, task, wanted, spec, _log_roles(task.options.get("log_ranks")))


def _log_roles(ranks: list[int] | None) -> tuple[str, ...] | None:
    """Pods in which those ranks run."""
    return None if ranks is None else tuple("master-0" if rank == 0 else f"worker-{rank - 1}" for rank in ranks)


def template(config: ClusterConfig, task: Task, replica: Replica | None) -> dict[str, Any]:
    """Pod template of one role."""
    role = pods.Role(PYTORCHJOB.container, task.runner_command(), task.secret(PYTORCHJOB))
    rendered = pods.pod_template(config, replica, role, manifest.pod_metadata(task, PYTORCHJOB))
    if not task.manifest:
        manifest.needs_image(rendered, "a replica")
    return rendered


def finished(
    config: ClusterConfig, task: Task, wanted: dict[str, Any], spec: Spec | None, log_roles: tuple[str, ...] | None
) -> Rendered:
    """The whole resource around its spec."""
    resource = {
        "apiVersion": PYTORCHJOB.api,
        "kind": PYTORCHJOB.kind,
        "metadata": manifest.metadata(config, task, PYTORCHJOB),
        "spec": wanted,
    }
    files = {manifest.SPEC: spec} if spec else {}
    return Rendered(PYTORCHJOB, manifest.finished(resource, task), files, log_roles)
