"""What is wrong with a job's pods, and what to do about it: pure, from what the API returns.

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

UNSCHEDULABLE, QUOTA, IMAGE_PULL, INVALID_IMAGE = (
    "Unschedulable",
    "QuotaExceeded",
    "ImagePullFailed",
    "InvalidImageName",
)
CONTAINER_CONFIG, CONTAINER_CREATE, NOT_READY = "CreateContainerConfigError", "CreateContainerError", "VolumeNotMounted"
NOT_SEEN, PODS_REFUSED, DELETED = "NoController", "PodsRefused", "Deleted"


class Patience(Config):
    """How long a job may be stuck before it counts as failed, in seconds; None waits for ever.

    Attributes:
        unschedulable: no node has room, or none fits.
        quota: the namespace's quota refuses the pods.
        image_pull: the image cannot be pulled; registries have bad minutes.
        create_container: the container runtime refuses the container.
        container_config: a Secret or ConfigMap that the container needs is not there.
        mount: a volume cannot be mounted.
        no_controller: nobody looks at the resource: the operator is not running.
    """

    unschedulable: float | str | None = 1800
    quota: float | str | None = 1800
    image_pull: float | str | None = 180
    create_container: float | str | None = 180
    container_config: float | str | None = 30
    mount: float | str | None = 600
    no_controller: float | str | None = 120

    checks: ClassVar[Mapping[str, Check]] = dict.fromkeys(
        ("unschedulable", "quota", "image_pull", "create_container", "container_config", "mount", "no_controller"),
        config.seconds(-1e-9),
    )

    def of(self, reason: str) -> float | None:
        """Seconds for a reason; those that waiting cannot help get none."""
        field = _PATIENCE.get(reason)
        value = getattr(self, field) if field else 0.0
        return None if value is None else float(value)


_PATIENCE = {
    UNSCHEDULABLE: "unschedulable",
    QUOTA: "quota",
    IMAGE_PULL: "image_pull",
    CONTAINER_CREATE: "create_container",
    CONTAINER_CONFIG: "container_config",
    NOT_READY: "mount",
    NOT_SEEN: "no_controller",
    # A webhook that does not answer, for one; the controller tries again.
    PODS_REFUSED: "create_container",
}

# A container's waiting reason: ours, whether a retry may help, and what to do.
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
    IMAGE_PULL: "see that the image exists, that its registry is reachable from the nodes, and that image_pull_secrets "
    "name a login for it",
    INVALID_IMAGE: "fix the image name",
    CONTAINER_CONFIG: "create the Secret or ConfigMap that it names, in the job's namespace",
    CONTAINER_CREATE: "see that the command exists in the image",
    UNSCHEDULABLE: "ask for less, for another kind of node, or raise patience.unschedulable if nodes are still to come",
    QUOTA: "ask for less, or wait until other jobs of the namespace have ended",
    NOT_READY: "see that the volume, Secret or ConfigMap exists in the job's namespace",
    NOT_SEEN: "see that the operator for this kind of job runs in the cluster",
}


def pending(pods: Iterable[Object]) -> Iterator[tuple[str, Problem]]:
    """What keeps pods from running: name of the pod, and the problem."""
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
            # containerd finds out what kubelet did not.
            reason, retry = INVALID_IMAGE, Retry.CANNOT_HELP
        text = _short(str(waiting.get("message") or waiting.get("reason")))
        image = f" (image {container.get('image')})" if reason in (IMAGE_PULL, INVALID_IMAGE) else ""
        yield _problem(reason, f"container {container['name']} of pod {name}{image}: {text}", retry)


def from_event(event: Object) -> Problem | None:
    """What a warning means for pods that could not be created, or not be given their volumes."""
    message, reason = str(event.get("message", "")), event.get("reason")
    if event.get("type") != "Warning":
        return None
    if "exceeded quota" in message:
        return _problem(QUOTA, _short(message))
    if reason in ("FailedCreate", "FailedCreatePod", "FailedCreatePods"):
        return _problem(PODS_REFUSED, _short(message))
    if reason in ("FailedMount", "FailedAttachVolume"):
        return _problem(NOT_READY, _short(message))
    if reason == "ValidationError":
        return _problem("SpecRejected", _short(message), Retry.CANNOT_HELP)
    return None


def not_seen(kind: str) -> Problem:
    """A resource that no controller has touched."""
    return _problem(NOT_SEEN, f"no controller has looked at this {kind} yet")


def deleted(kind: str, name: str, pods: Collection[Object]) -> Problem:
    """A job that somebody else deleted, or a Pod that is the job itself and that was taken away."""
    cause = ended(pods)
    if cause is not None and any(pod["metadata"]["name"] == name for pod in pods):
        return cause
    text = f"the {kind} {name} was deleted before its result was read, and not by this task"
    message = f"{text}; {cause.message}" if cause else text
    return Problem(DELETED, message, "find out who deletes it, then retry", category=Category.LOST)


def failed(status: JobStatus) -> Problem:
    """A job that failed, of which nobody else knows why."""
    message = status.message or "its controller gives no reason"
    if "deadline" in message.lower() or status.reason == "DeadlineExceeded":
        advice = "raise run_policy.active_deadline_seconds or execution_timeout"
        return Problem("TimedOut", message, advice, category=Category.TIMED_OUT)
    return Problem(status.reason or "JobFailed", message)


def ended(pods: Iterable[Object]) -> Problem | None:
    """What ended pods from outside: eviction, preemption, a node that went away."""
    for pod in pods:
        for reason, message in _disruptions(pod.get("status") or {}):
            text = f"pod {pod['metadata']['name']}: {reason}: {message or 'without a message'}"
            if reason in PREEMPTED or "Preempt" in reason or reason == "EvictionByEvictionAPI":
                return Problem("Preempted", text, "retry it, or give it more priority", category=Category.PREEMPTED)
            if reason in NODE_LOST:
                return Problem("NodeLost", text, "retry it", category=Category.LOST)
    return None


def _disruptions(status: Object) -> Iterator[tuple[str, str]]:
    """Reasons and messages of a pod's status, and of its condition ``DisruptionTarget``."""
    found = [status]
    found += [
        each
        for each in status.get("conditions") or ()
        if each["type"] == "DisruptionTarget" and each["status"] == "True"
    ]
    for each in found:
        if each.get("reason"):
            yield str(each["reason"]), str(each.get("message") or "")


def _problem(reason: str, message: str, retry: Retry = Retry.MAY_HELP) -> Problem:
    return Problem(reason, message, _ADVICE.get(reason, ""), retry, Category.NOT_STARTED)


def _short(text: str) -> str:
    # Kubelet repeats itself: 'rpc error: code = NotFound desc = failed to pull ...: failed to ...'.
    return re.sub(r"\s+", " ", text)[:600]
