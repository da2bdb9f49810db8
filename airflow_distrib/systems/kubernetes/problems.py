"""Recognises what is wrong with a job's pods, and what to do about it: pure, from what the API returns.

Reasons are those of kubelet and scheduler in Kubernetes 1.34:
``pkg/kubelet/images/types.go``, ``pkg/kubelet/kuberuntime``, ``pkg/apis/core/types.go``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import ClassVar

from airflow_distrib.core import config
from airflow_distrib.core.config import Check, Config
from airflow_distrib.core.status import Category, JobStatus, Problem, Retry
from airflow_distrib.systems.kubernetes.kind import Object

PREEMPTED = frozenset(
    {"Preempted", "Evicted", "Shutdown", "Terminated", "NodeShutdown", "NodeAffinity", "TerminationByKubelet"}
)
NODE_LOST = frozenset({"NodeLost", "UnexpectedAdmissionError", "DeletionByTaintManager"})

UNSCHEDULABLE, QUOTA, NOT_MOUNTED = "Unschedulable", "QuotaExceeded", "VolumeNotMounted"
IMAGE_PULL, INVALID_IMAGE = "ImagePullFailed", "InvalidImageName"
CONTAINER_CONFIG, CONTAINER_CREATE = "CreateContainerConfigError", "CreateContainerError"
NO_CONTROLLER, PODS_REFUSED, DELETED = "NoController", "PodsRefused", "Deleted"
CRASH_LOOP = "CrashLoop"

# The field of Patience for each reason.
_PATIENCE = {
    UNSCHEDULABLE: "unschedulable",
    QUOTA: "quota",
    IMAGE_PULL: "image_pull",
    CONTAINER_CREATE: "create_container",
    CONTAINER_CONFIG: "container_config",
    NOT_MOUNTED: "mount",
    NO_CONTROLLER: "no_controller",
    # For example by a webhook that is down; the controller tries again.
    PODS_REFUSED: "create_container",
}


class Patience(Config):
    """How long a job may be stuck before it counts as failed, in seconds; None waits without limit.

    Attributes:
        unschedulable: no node has enough free resources, or none matches.
        quota: the namespace's quota is exceeded.
        image_pull: the image cannot be pulled; registries may be down for minutes.
        create_container: the container runtime cannot create the container.
        container_config: a Secret or ConfigMap that the container needs does not exist.
        mount: a volume cannot be mounted.
        no_controller: no controller handles the resource: the operator is not running.
    """

    unschedulable: float | str | None = 1800
    quota: float | str | None = 1800
    image_pull: float | str | None = 180
    create_container: float | str | None = 180
    container_config: float | str | None = 30
    mount: float | str | None = 600
    no_controller: float | str | None = 120

    checks: ClassVar[Mapping[str, Check]] = dict.fromkeys(_PATIENCE.values(), config.seconds(-1e-9))

    def of(self, reason: str) -> float | None:
        """Seconds for a reason; 0 if waiting cannot help."""
        field = _PATIENCE.get(reason)
        value = getattr(self, field) if field else 0.0
        return None if value is None else float(value)


# Reasons for which a container waits: the problem, and whether a retry may help.
_WAITING = {
    "ErrImagePull": (IMAGE_PULL, Retry.MAY_HELP),
    "ImagePullBackOff": (IMAGE_PULL, Retry.MAY_HELP),
    "RegistryUnavailable": (IMAGE_PULL, Retry.MAY_HELP),
    "ErrImageNeverPull": (IMAGE_PULL, Retry.CANNOT_HELP),
    "InvalidImageName": (INVALID_IMAGE, Retry.CANNOT_HELP),
    "CreateContainerConfigError": (CONTAINER_CONFIG, Retry.CANNOT_HELP),
    "CreateContainerError": (CONTAINER_CREATE, Retry.MAY_HELP),
    "RunContainerError": (CONTAINER_CREATE, Retry.MAY_HELP),
}

_ADVICE = {
    IMAGE_PULL: "check that the image exists, that the nodes can reach its registry, and that image_pull_secrets "
    "holds credentials for it",
    INVALID_IMAGE: "fix the image name",
    CONTAINER_CONFIG: "create the missing Secret or ConfigMap in the job's namespace",
    CONTAINER_CREATE: "check that the command exists in the image",
    UNSCHEDULABLE: "request less, select other nodes, or raise patience.unschedulable if nodes will be added",
    QUOTA: "request less, or wait until other jobs in the namespace have ended",
    NOT_MOUNTED: "check that the volume, Secret or ConfigMap exists in the job's namespace",
    NO_CONTROLLER: "check that the operator for this kind of job is running in the cluster",
}


def pending(pods: Iterable[Object]) -> Iterator[tuple[str, Problem]]:
    """Problems that keep pods from running, each with the name of the pod."""
    for pod in pods:
        status = pod.get("status") or {}
        if status.get("phase") in ("Succeeded", "Failed") or pod.get("deleted"):
            continue
        name = str(pod["metadata"]["name"])
        for problem in _of_pod(name, status):
            yield name, problem


def _of_pod(name: str, status: Object) -> Iterator[Problem]:
    scheduled = next((each for each in status.get("conditions") or () if each["type"] == "PodScheduled"), None)
    if scheduled and scheduled["status"] == "False" and scheduled.get("reason") == "Unschedulable":
        yield _problem(UNSCHEDULABLE, f"pod {name}: {scheduled.get('message', '')}")
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        known = _WAITING.get(str(waiting.get("reason")))
        if known is None:
            continue
        reason, retry = known
        if reason == IMAGE_PULL and "invalid reference format" in str(waiting.get("message")):
            # Found by containerd although kubelet did not notice.
            reason, retry = INVALID_IMAGE, Retry.CANNOT_HELP
        text = _short(str(waiting.get("message") or waiting.get("reason")))
        image = f" (image {container.get('image')})" if reason in (IMAGE_PULL, INVALID_IMAGE) else ""
        yield _problem(reason, f"container {container['name']} of pod {name}{image}: {text}", retry)


def from_event(event: Object) -> Problem | None:
    """The problem behind a warning about pods that could not be created, or volumes that could not be mounted."""
    message, reason = str(event.get("message", "")), event.get("reason")
    if event.get("type") != "Warning":
        return None
    if "exceeded quota" in message:
        return _problem(QUOTA, _short(message))
    if reason in ("FailedCreate", "FailedCreatePod", "FailedCreatePods"):
        return _problem(PODS_REFUSED, _short(message))
    if reason in ("FailedMount", "FailedAttachVolume"):
        return _problem(NOT_MOUNTED, _short(message))
    if reason == "ValidationError":
        return _problem("SpecRejected", _short(message), Retry.CANNOT_HELP)
    return None


def no_controller_yet(kind: str) -> Problem:
    """A resource without a status."""
    return _problem(NO_CONTROLLER, f"no controller has processed this {kind} yet")


def deleted(kind: str, name: str, pods: Collection[Object]) -> Problem:
    """A job that was deleted, by a user or, if it is a Pod itself, by the cluster."""
    cause = ended(pods)
    if cause is not None and any(pod["metadata"]["name"] == name for pod in pods):
        return cause
    text = f"the {kind} {name} was deleted before its result was read, and not by this task"
    message = f"{text}; {cause.message}" if cause else text
    return Problem(DELETED, message, "find out who deletes it, then retry", category=Category.LOST)


def crash_loop(name: str, crashes: int, limit: int) -> Problem:
    """A pod, or a job, that was restarted more often than it may be."""
    text = f"{name} has ended {crashes} times to be started again, and may {limit} times"
    advice = "see why in its log; or raise run_policy.backoff_limit"
    return Problem(CRASH_LOOP, text, advice)


def cannot_recover() -> Problem:
    """A rank that would be started again, and says that this cannot help."""
    text = "a rank failed with an error that no restart can help, and was restarted"
    return Problem(CRASH_LOOP, text, retry=Retry.CANNOT_HELP)


def failed(status: JobStatus) -> Problem:
    """A job that failed according to its controller alone."""
    message = status.message or "its controller gives no reason"
    if "deadline" in message.lower() or status.reason == "DeadlineExceeded":
        advice = "raise run_policy.active_deadline_seconds or execution_timeout"
        return Problem("TimedOut", message, advice, category=Category.TIMED_OUT)
    return Problem(status.reason or "JobFailed", message)


def ended(pods: Iterable[Object]) -> Problem | None:
    """The eviction, preemption or loss of a node that ended a pod."""
    for pod in pods:
        for reason, message in _disruptions(pod.get("status") or {}):
            text = f"pod {pod['metadata']['name']}: {reason}: {message or 'without a message'}"
            if reason in PREEMPTED or "Preempt" in reason or reason == "EvictionByEvictionAPI":
                return Problem("Preempted", text, "retry, or raise its priority", category=Category.PREEMPTED)
            if reason in NODE_LOST:
                return Problem("NodeLost", text, "retry", category=Category.LOST)
    return None


def _disruptions(status: Object) -> Iterator[tuple[str, str]]:
    """Reasons and messages of a pod's status, and of its condition ``DisruptionTarget``."""
    conditions = status.get("conditions") or ()
    targets = (each for each in conditions if each["type"] == "DisruptionTarget" and each["status"] == "True")
    for each in (status, *targets):
        if each.get("reason"):
            yield str(each["reason"]), str(each.get("message") or "")


def _problem(reason: str, message: str, retry: Retry = Retry.MAY_HELP) -> Problem:
    return Problem(reason, message, _ADVICE.get(reason, ""), retry, Category.NOT_STARTED)


def _short(text: str) -> str:
    # Kubelet repeats itself: 'rpc error: code = NotFound desc = failed to pull ...: failed to ...'.
    return re.sub(r"\s+", " ", text)[:600]
