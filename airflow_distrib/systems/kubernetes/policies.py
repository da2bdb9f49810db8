"""When a job on Kubernetes ends, restarts and is removed, and warnings about policies that contradict each other."""

from __future__ import annotations

from collections.abc import Iterable

from airflow_distrib.core import callers
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.jobs.request import DEADLINE_MARGIN_SECONDS
from airflow_distrib.systems.kubernetes.kind import Manifest, Object
from airflow_distrib.systems.kubernetes.manifest import Job
from airflow_distrib.systems.kubernetes.options import ClusterConfig, SchedulingPolicy
from airflow_distrib.systems.kubernetes.quantities import amount
from airflow_distrib.systems.kubernetes.resources import RESTARTS, Replica, RestartPolicy, RunPolicy

# Airflow deletes a job after fetching its result. If Airflow is gone, the job stays for a day.
TTL_SECONDS = 86400

NEVER = RestartPolicy.NEVER.value


def run_policy(config: ClusterConfig, job: Job, roles: Object, limit: int | None) -> Manifest:
    """``runPolicy`` of Kubeflow's kinds; the operator has its own defaults for what is missing.

    Deadline and TTL are always set, so that the cluster ends and removes the job even if Airflow is gone.

    Args:
        roles: the entries of ``...ReplicaSpecs``.
        limit: ``backoffLimit``.

    Raises:
        ConfigError: an option contradicts another one.
    """
    policy = _policy(config)
    ttl = policy.ttl_seconds_after_finished
    values = {
        "cleanPodPolicy": policy.clean_pod_policy.value if policy.clean_pod_policy else None,  # type: ignore[union-attr] # checked: a member
        "ttlSecondsAfterFinished": TTL_SECONDS if ttl is None else int(ttl),
        "activeDeadlineSeconds": deadline(config, job),
        "backoffLimit": limit,
        "suspend": config.suspend,
        "schedulingPolicy": _gang(config, sum(int(each["replicas"]) for each in roles.values())),
    }
    return {name: value for name, value in values.items() if value is not None}


def _policy(config: ClusterConfig) -> RunPolicy:
    return config.run_policy if isinstance(config.run_policy, RunPolicy) else RunPolicy()


def deadline(config: ClusterConfig, job: Job) -> int | None:
    """After how many seconds the cluster ends the job."""
    given, limit = _policy(config).active_deadline_seconds, job.request.deadline_seconds
    if given is None:
        return limit
    if limit is not None and int(given) < (timeout := limit - DEADLINE_MARGIN_SECONDS):
        warn("run_policy.active_deadline_seconds", f"is {given}, less than execution_timeout with {timeout} seconds")
    return int(given)


def backoff_limit(config: ClusterConfig, roles: Object, *, restarted: bool = False) -> int | None:
    """How often the pods of a job may restart in all; None if they never do.

    Args:
        roles: their ``replicas`` and ``restartPolicy``.
        restarted: whether the operator itself starts new pods in place of those that never restart.

    Raises:
        ConfigError: there is a limit for pods that never restart.
    """
    given = _policy(config).backoff_limit
    restarting = sum(int(each["replicas"]) for each in roles.values() if each["restartPolicy"] != NEVER)
    if given is None:
        return RESTARTS * restarting or None
    if int(given) and not restarting and not restarted:
        raise ConfigError(
            "run_policy.backoff_limit",
            "has no effect with the restart policy 'Never': no pod restarts; set restart_policy='OnFailure', or "
            "remove it and set retries of the task",
        )
    return int(given)


def limit_restarts(config: ClusterConfig, spec: Manifest, field: str) -> None:
    """Limit restarts that only the user's own manifest asks for.

    Args:
        spec: of the whole resource.
        field: such as ``pytorchReplicaSpecs``.
    """
    roles = {
        name: {"replicas": each.get("replicas") or 1, "restartPolicy": each.get("restartPolicy") or NEVER}
        for name, each in spec[field].items()
    }
    policy = spec.setdefault("runPolicy", {})
    if policy.get("backoffLimit") is None and (limit := backoff_limit(config, roles)) is not None:
        policy["backoffLimit"] = limit


def restart_policy(config: ClusterConfig, replica: Replica | None, job: Job) -> str:
    """The policy of the replica or of a pod template; otherwise Never, because Airflow's retries do the same.

    Raises:
        ConfigError: "Always" with a function, which would run again after it has returned.
    """
    templates = ((replica.pod_template if replica else None) or {}, config.pod_template or {})
    given = [replica.restart_policy if replica else None]
    given += [(template.get("spec") or {}).get("restartPolicy") for template in templates]
    first = next((each for each in given if each), RestartPolicy.NEVER)
    policy = first.value if isinstance(first, RestartPolicy) else str(first)
    if policy == RestartPolicy.ALWAYS.value and job.runs_function:
        raise ConfigError(
            "restart_policy", "'Always' would run the function again after it has returned; use 'OnFailure' or 'Never'"
        )
    return policy


def _gang(config: ClusterConfig, pods: int) -> Manifest | None:
    policy = config.scheduling_policy
    if not isinstance(policy, SchedulingPolicy):
        return None
    if policy.min_available is not None and int(policy.min_available) > pods:
        raise ConfigError(
            "scheduling_policy.min_available", f"is {policy.min_available}, but the job has only {pods} pods"
        )
    values = {
        "minAvailable": policy.min_available,
        "queue": policy.queue,
        "priorityClass": policy.priority_class,
        "minResources": policy.min_resources,
        "scheduleTimeoutSeconds": policy.schedule_timeout_seconds,
    }
    return {name: value for name, value in values.items() if value is not None}


def check_gpus(template: Object, ranks: int | str, field: str) -> None:
    """Warn about ranks for which their pod asks for no GPU, or for too few.

    Args:
        ranks: on each pod: a number, or "gpu" for one on each GPU.
        field: the field of the config that says so.
    """
    spec = template["spec"]
    resources: Object = spec["containers"][0].get("resources") or {}
    gpus = sum(_gpus((resources.get("limits") or {}).items()))
    # Claims of dynamic resource allocation may be GPUs too.
    claims = resources.get("claims") or spec.get("resourceClaims")
    if ranks == "gpu" and not gpus and not claims:
        warn(field, "is 'gpu', but no GPU is asked for: set requests=Resources(gpu=...)")
    elif isinstance(ranks, int) and 0 < gpus < ranks:
        some = "only one GPU" if gpus == 1 else f"only {gpus} GPUs"
        warn(field, f"asks for {ranks} ranks on each node, but for {some}; NCCL needs one for each rank")


def _gpus(limits: Iterable[tuple[str, object]]) -> Iterable[int]:
    return (int(amount(most)) for name, most in limits if is_gpu(name))


def is_gpu(resource: str) -> bool:
    """Whether a resource is a GPU, or a part of one."""
    return "gpu" in resource or "/mig-" in resource


def warn(field: str, problem: str) -> None:
    """Warn about what works, but hardly as it is meant."""
    callers.warn(f"{field}: {problem}")
