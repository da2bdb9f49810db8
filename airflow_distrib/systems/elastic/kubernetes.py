"""An Elastic config on Kubernetes: a PyTorchJob of workers, or one plain Pod for one node."""

from __future__ import annotations

from typing import Any

from airflow_distrib.backends.elastic.config import Elastic
from airflow_distrib.backends.elastic.render import elastic_spec, nccl_environment
from airflow_distrib.backends.kubernetes import manifest, pods
from airflow_distrib.backends.kubernetes.kind import Kind, Rendered
from airflow_distrib.backends.kubernetes.manifest import Task
from airflow_distrib.backends.pod.status import POD
from airflow_distrib.backends.pytorchjob import render as pytorchjob
from airflow_distrib.backends.pytorchjob.status import PYTORCHJOB
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.resources import Replica, RunPolicy
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.spec import Spec

# torchrun's own port for the rendezvous.
PORT = 29400


def cluster(config: Elastic, task: Task) -> Rendered:
    """Render for Kubernetes.

    Raises:
        ConfigError: an option that this way of running cannot honour.
    """
    if config.rdzv_backend == "static":
        raise ConfigError("rdzv_backend", "'static' is for launcher='local'; pods find each other by c10d")
    config = config.with_environment({**nccl_environment(config), **_torchruns(config, task)})
    return _pod(config, task) if config.max_nodes == 1 else _pytorchjob(config, task)


def _torchruns(config: Elastic, task: Task) -> dict[str, str]:
    """What ``torchrun`` in a command reads, besides what the training-operator sets for several nodes."""
    if task.runs_function:
        return {}
    values = {"PET_MONITOR_INTERVAL": text_of(config.monitor_interval), "PET_START_METHOD": config.start_method}
    if config.max_nodes == 1:
        values["PET_NPROC_PER_NODE"] = str(config.nproc_per_node)
        values["PET_MAX_RESTARTS"] = str(config.max_restarts)
    if config.nccl_collective_timeout_sec:
        raise ConfigError("nccl_collective_timeout_sec", "is for functions; a program sets it in init_process_group")
    return values


def text_of(value: Any) -> str:
    """Torchrun reads most of its numbers as whole ones."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _replica(config: Elastic) -> Replica:
    return Replica(requests=config.requests, limits=config.limits, restart_policy=config.restart_policy)


def _spec(config: Elastic, task: Task, kind: Kind) -> Spec:
    name = task.name(kind)
    endpoint = config.rdzv_endpoint or (f"{name}-worker-0:{PORT}" if config.max_nodes > 1 else "localhost:0")
    if config.calls_directly:
        return task.spec()
    return task.spec(specs.ELASTIC, elastic=elastic_spec(config, name)._replace(rdzv_endpoint=endpoint))


def _pytorchjob(config: Elastic, task: Task) -> Rendered:
    replica = _replica(config)
    workers = manifest.replica_type(
        "Worker",
        config.max_nodes,
        pytorchjob.template(config, task, replica),
        manifest.restart_policy(config, replica, task),
    )
    policy: dict[str, Any] = {
        "minReplicas": config.min_nodes,
        "maxReplicas": config.max_nodes,
        "rdzvBackend": "c10d",
        "rdzvId": task.name(PYTORCHJOB),
        "rdzvPort": PORT,
        "maxRestarts": int(config.max_restarts),
        "rdzvConf": [{"key": key, "value": text_of(value)} for key, value in config.rendezvous().items()],
    }
    if config.rdzv_endpoint:
        host, _, port = config.rdzv_endpoint.rpartition(":")
        policy |= {"rdzvHost": host, "rdzvPort": int(port)}
    wanted = {
        "pytorchReplicaSpecs": workers,
        "elasticPolicy": policy,
        # For commands that call torchrun, which reads PET_NPROC_PER_NODE.
        "nprocPerNode": str(config.nproc_per_node),
        "runPolicy": manifest.run_policy(config, task),
    }
    spec = _spec(config, task, PYTORCHJOB) if task.runs_function else None
    # Which node has which rank is settled at the rendezvous; the runner passes on the chosen ranks' lines.
    roles = None
    if not task.runs_function and task.options.get("log_ranks") is not None:
        roles = tuple(f"worker-{node}" for node in task.options["log_ranks"])
    return pytorchjob.finished(config, task, wanted, spec, roles)


def _pod(config: Elastic, task: Task) -> Rendered:
    policy = config.run_policy if isinstance(config.run_policy, RunPolicy) else RunPolicy()
    for name in ("clean_pod_policy", "ttl_seconds_after_finished", "backoff_limit"):
        if getattr(policy, name) is not None:
            raise ConfigError(f"run_policy.{name}", "a single node is a plain Pod, which has no such setting")
    for name in ("suspend", "scheduling_policy"):
        if getattr(config, name) is not None:
            raise ConfigError(name, "a single node is a plain Pod, which has no such setting")
    replica = _replica(config)
    role = pods.Role(
        POD.container,
        task.runner_command(),
        task.secret(POD),
        restart_policy=manifest.restart_policy(config, replica, task),
    )
    template = pods.pod_template(config, replica, role, manifest.pod_metadata(task, POD))
    if not task.manifest:
        manifest.needs_image(template, "the Pod")
    deadline = policy.active_deadline_seconds
    seconds = task.deadline_seconds if deadline is None else int(deadline)
    pod = template["spec"] | ({"activeDeadlineSeconds": seconds} if seconds is not None else {})
    whole = manifest.metadata(config, task, POD)
    own = template["metadata"]
    whole = {
        **whole,
        "labels": {**own.get("labels", {}), **whole["labels"]},
        "annotations": {**own.get("annotations", {}), **whole["annotations"]},
    }
    resource = {"apiVersion": "v1", "kind": "Pod", "metadata": whole, "spec": pod}
    files = {manifest.SPEC: _spec(config, task, POD)} if task.runs_function else {}
    return Rendered(POD, manifest.finished(resource, task), files, None)
