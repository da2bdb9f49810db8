"""A PyTorchJob as a resource of the training-operator, and as processes of one machine."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.runner import spec as specs
from airflow_distrib.systems.kubernetes import kubeflow, manifest, pods, policies
from airflow_distrib.systems.kubernetes.kind import Manifest, Object
from airflow_distrib.systems.kubernetes.manifest import Job, KubernetesSubmission
from airflow_distrib.systems.kubernetes.options import ClusterConfig, cluster_only
from airflow_distrib.systems.kubernetes.resources import Replica
from airflow_distrib.systems.local.plan import LocalPlan
from airflow_distrib.systems.pytorchjob.config import PyTorchJob
from airflow_distrib.systems.pytorchjob.status import PYTORCHJOB, REPLICAS


def local(config: PyTorchJob, request: JobRequest) -> LocalPlan:
    """Render for the local launcher: master and workers become local ranks in that order."""
    del request
    return LocalPlan(specs.RANKS, config.world_size, env=config.env or {}, not_applied=tuple(cluster_only(config)))


def kubernetes(config: PyTorchJob, request: JobRequest) -> KubernetesSubmission:
    """Render for Kubernetes."""
    job = Job(PYTORCHJOB, request)
    worker = config.role("worker")
    roles = replica_type(config, job, "Master", 1, config.role("master"))
    if int(worker.replicas or 0):
        roles |= replica_type(config, job, "Worker", int(worker.replicas or 0), worker)
    policy = policies.run_policy(config, job, roles, policies.backoff_limit(config, roles))
    spec = {REPLICAS: roles, "runPolicy": policy}
    files = {manifest.SPEC: job.spec()} if job.runs_function else {}
    whole = manifest.submission(config, job, {"spec": spec}, files, _log_roles(request.log_ranks))
    policies.limit_restarts(config, whole.manifest["spec"], REPLICAS)
    if job.runs_function:
        # The operator would number several ranks for each pod; the number of pods it tells the ranks itself.
        manifest.check_kept(whole.manifest, {"spec": spec}, {"spec.nprocPerNode": "", "spec.elasticPolicy": ""})
    return whole


def _log_roles(ranks: list[int] | None) -> tuple[str, ...] | None:
    """Pods in which those ranks run."""
    return None if ranks is None else tuple("master-0" if rank == 0 else f"worker-{rank - 1}" for rank in ranks)


def replica_type(config: ClusterConfig, job: Job, name: str, replicas: int, replica: Replica) -> Manifest:
    """One role, with its pods."""
    command = job.command_of(replica, name.lower())
    role = pods.Role(PYTORCHJOB.container, command, job.secret)
    template = manifest.pod_template(config, job, replica, role, "a replica")
    return kubeflow.replica_type(name, replicas, template, policies.restart_policy(config, replica, job))


def config_of_manifest(own: Object) -> Mapping[str, object]:
    """The number of workers in a manifest that is given without a config."""
    return {"worker": {"replicas": kubeflow.replicas_of(own, REPLICAS, "Worker") or 0}}
