"""An Elastic config on Kubernetes: a PyTorchJob of workers, or one plain Pod for one node."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.runner.spec import Spec
from airflow_distrib.systems.elastic.config import Elastic
from airflow_distrib.systems.elastic.local import cluster_fields, elastic_spec, nccl_environment
from airflow_distrib.systems.kubernetes import kubeflow, manifest, pods, policies
from airflow_distrib.systems.kubernetes.kind import Manifest, Object
from airflow_distrib.systems.kubernetes.manifest import Job, KubernetesSubmission
from airflow_distrib.systems.kubernetes.pod import BACKOFF_LABEL, POD
from airflow_distrib.systems.kubernetes.resources import Replica
from airflow_distrib.systems.pytorchjob import render as pytorchjob
from airflow_distrib.systems.pytorchjob.status import PYTORCHJOB, REPLICAS

# torchrun's own port for the rendezvous.
PORT = 29400

# What the agents are told in a file of their own, and the fields that say so.
_TOLD = {
    f"spec.{REPLICAS}.Worker.replicas": "nnodes",
    f"spec.{REPLICAS}.Master": "",
    "spec.nprocPerNode": "nproc_per_node",
    "spec.elasticPolicy.minReplicas": "nnodes",
    "spec.elasticPolicy.maxReplicas": "nnodes",
    "spec.elasticPolicy.nProcPerNode": "nproc_per_node",
    "spec.elasticPolicy.maxRestarts": "max_restarts",
    "spec.elasticPolicy.rdzvBackend": "",
    "spec.elasticPolicy.rdzvId": "",
    "spec.elasticPolicy.rdzvHost": "rdzv_endpoint",
    "spec.elasticPolicy.rdzvPort": "rdzv_endpoint",
    "spec.elasticPolicy.rdzvConf": "rdzv_configs",
}


def kubernetes(config: Elastic, request: JobRequest) -> KubernetesSubmission:
    """Render for Kubernetes.

    Raises:
        ConfigError: Kubernetes cannot honour an option.
    """
    if config.rdzv_backend == "static":
        raise ConfigError("rdzv_backend", "'static' is for launcher='local'; pods need 'c10d' to find each other")
    config = config.with_environment({**nccl_environment(config), **_torchrun_environment(config, request)})
    if config.max_nodes == 1:
        return _pod(config, Job(POD, request))
    try:
        return _pytorchjob(config, Job(PYTORCHJOB, request))
    except ConfigError as error:
        if error.field != "image":
            raise
        raise ConfigError(
            "image",
            f"is required because nnodes={config.nnodes!r} is several nodes, which run on Kubernetes; for nodes of a "
            "Slurm set slurm=Slurm(...), and to run all of them on the Airflow worker launcher='local'",
        ) from None


def config_of_manifest(own: Object) -> Mapping[str, object]:
    """A PyTorchJob has as many nodes as workers; anything else is one Pod."""
    workers = kubeflow.replicas_of(own, REPLICAS, "Worker")
    return {} if workers is None else {"nnodes": workers}


def _torchrun_environment(config: Elastic, request: JobRequest) -> dict[str, str]:
    """Variables that ``torchrun`` in a command reads; for several nodes the training-operator sets the others."""
    if request.runs_function:
        return {}
    values = {"PET_MONITOR_INTERVAL": _text(config.monitor_interval), "PET_START_METHOD": config.start_method}
    if config.max_nodes == 1:
        values["PET_NPROC_PER_NODE"] = str(config.nproc_per_node)
        values["PET_MAX_RESTARTS"] = str(config.max_restarts)
    if config.nccl_collective_timeout_sec:
        raise ConfigError(
            "nccl_collective_timeout_sec", "is for functions; a program must pass it to init_process_group"
        )
    return values


def _text(value: object) -> str:
    """Torchrun parses most of its numbers as integers."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _replica(config: Elastic) -> Replica:
    return Replica(restart_policy=config.restart_policy)


def _files(config: Elastic, job: Job) -> dict[str, Spec]:
    if not job.runs_function:
        return {}
    endpoint = config.rdzv_endpoint or (f"{job.name}-worker-0:{PORT}" if config.max_nodes > 1 else "localhost:0")
    agent = elastic_spec(config, job.name)._replace(rdzv_endpoint=endpoint)
    return {manifest.SPEC: job.spec(config.mode)._replace(elastic=agent)}


def _pytorchjob(config: Elastic, job: Job) -> KubernetesSubmission:
    policy: Manifest = {
        "minReplicas": config.min_nodes,
        "maxReplicas": config.max_nodes,
        "rdzvBackend": "c10d",
        "rdzvId": job.name,
        "rdzvPort": PORT,
        "maxRestarts": int(config.max_restarts),
        "rdzvConf": [{"key": key, "value": _text(value)} for key, value in config.rendezvous().items()],
    }
    if config.rdzv_endpoint:
        host, _, port = config.rdzv_endpoint.rpartition(":")
        policy |= {"rdzvHost": host, "rdzvPort": int(port)}
    roles = pytorchjob.replica_type(config, job, "Worker", config.max_nodes, _replica(config))
    policies.check_gpus(roles["Worker"]["template"], config.nproc_per_node, "nproc_per_node")
    spec = {
        REPLICAS: roles,
        "elasticPolicy": policy,
        # For commands that call torchrun, which reads PET_NPROC_PER_NODE.
        "nprocPerNode": str(config.nproc_per_node),
        "runPolicy": policies.run_policy(config, job, roles, policies.backoff_limit(config, roles)),
    }
    # The rendezvous assigns ranks to nodes, so the runner, which knows them, selects the chosen ranks' lines.
    parts = None
    if not job.runs_function and job.request.log_ranks is not None:
        parts = tuple(f"worker-{node}" for node in job.request.log_ranks)
    whole = manifest.submission(config, job, {"spec": spec}, _files(config, job), parts)
    policies.limit_restarts(config, whole.manifest["spec"], REPLICAS)
    _check_kept(whole.manifest, {"spec": spec}, job)
    return whole


def _check_kept(whole: Object, rendered: Object, job: Job) -> None:
    """Agents are told the number of nodes, while torchrun in a command takes it from the elastic policy."""
    if job.runs_function:
        manifest.check_kept(whole, rendered, _TOLD)
    spec = whole["spec"]
    workers, most = spec[REPLICAS]["Worker"].get("replicas", 1), (spec.get("elasticPolicy") or {}).get("maxReplicas")
    if most is not None and int(workers) > int(most):
        raise ConfigError(
            f"manifest.spec.{REPLICAS}.Worker.replicas", f"is {workers}, but nnodes is {most}; set nnodes instead"
        )


def _pod(config: Elastic, job: Job) -> KubernetesSubmission:
    replica = _replica(config)
    restarts = policies.restart_policy(config, replica, job)
    role = pods.Role(POD.container, job.runner_command(), job.secret, restart_policy=restarts)
    options = ", ".join(name for name in cluster_fields(config) if name != "image")
    who = f"the Pod (for {options})" if options else "the Pod"
    template = manifest.pod_template(config, job, replica, role, who)
    policies.check_gpus(template, config.nproc_per_node, "nproc_per_node")
    if (seconds := policies.deadline(config, job)) is not None:
        template["spec"]["activeDeadlineSeconds"] = seconds
    whole = manifest.submission(config, job, template, _files(config, job))
    # With the restart policy of the user's own manifest.
    role_of_pod = {"replicas": 1, "restartPolicy": whole.manifest["spec"].get("restartPolicy") or restarts}
    if (limit := policies.backoff_limit(config, {"Pod": role_of_pod})) is not None:
        whole.manifest["metadata"]["labels"][BACKOFF_LABEL] = str(limit)
    return whole
