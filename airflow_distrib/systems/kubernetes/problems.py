"""What is wrong with a job's pods, and what to do about it: pure, from what the API says of them.

Reasons are those of kubelet and scheduler in Kubernetes 1.34:
``pkg/kubelet/images/types.go``, ``pkg/kubelet/kuberuntime``, ``pkg/apis/core/types.go``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, ClassVar

from airflow_distrib.core import config
from airflow_distrib.core.config import Check, Config
from airflow_distrib.core.status import Problem, Retry

Pod = Mapping[str, Any]

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
NOT_SEEN, PODS_REFUSED = "NoController", "PodsRefused"


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
        """Seconds for a reason; those that no waiting mends get none."""
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
    INVALID_IMAGE: "mend the image's name",
    CONTAINER_CONFIG: "create the Secret or ConfigMap that it names, in the job's namespace",
    CONTAINER_CREATE: "see that the command exists in the image",
    UNSCHEDULABLE: "ask for less, for another kind of node, or raise patience.unschedulable if nodes are still to come",
    QUOTA: "ask for less, or wait until other jobs of the namespace have ended",
    NOT_READY: "see that the volume, Secret or ConfigMap exists in the job's namespace",
    NOT_SEEN: "see that the operator for this kind of job runs in the cluster",
}


def pending(pods: Iterable[Pod]) -> Iterator[tuple[str, Problem, float]]:
    """What keeps pods from running: name of the pod, the problem, since when (seconds since the epoch)."""
    for pod in pods:
        status = pod.get("status") or {}
        if status.get("phase") in ("Succeeded", "Failed") or pod.get("deleted"):
            continue
        name = str(pod["metadata"]["name"])
        for problem, since in _of_pod(pod, status):
            yield name, problem, since


def _of_pod(pod: Pod, status: Mapping[str, Any]) -> Iterator[tuple[Problem, float]]:
    created = seconds(pod["metadata"].get("creationTimestamp"))
    name = pod["metadata"]["name"]
    scheduled = next((each for each in status.get("conditions") or () if each["type"] == "PodScheduled"), None)
    if scheduled and scheduled["status"] == "False" and scheduled.get("reason") == "Unschedulable":
        yield (
            _problem(UNSCHEDULABLE, f"pod {name}: {scheduled.get('message', '')}"),
            seconds(scheduled.get("lastTransitionTime")) or created,
        )
    # When a pod was bound to a node its containers begin to be made.
    bound = seconds((scheduled or {}).get("lastTransitionTime")) or created
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        known = _WAITING.get(str(waiting.get("reason")))
        if known is None:
            continue
        reason, retry = known
        if reason == IMAGE_PULL and "invalid reference format" in str(waiting.get("message")):
            # containerd finds out what kubelet did not.
            reason, retry = INVALID_IMAGE, Retry.CANNOT_HELP
        said = _short(str(waiting.get("message") or waiting.get("reason")))
        image = f" (image {container.get('image')})" if reason in (IMAGE_PULL, INVALID_IMAGE) else ""
        yield _problem(reason, f"container {container['name']} of pod {name}{image}: {said}", retry), bound


def from_events(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Problem, float]]:
    """What events say of pods that could not be made, or not be given their volumes."""
    for event in events:
        message = str(event.get("message", ""))
        since = seconds(
            event.get("firstTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp")
        )
        if event.get("type") != "Warning":
            continue
        if "exceeded quota" in message:
            yield _problem(QUOTA, _short(message)), since
        elif event.get("reason") in ("FailedCreate", "FailedCreatePod", "FailedCreatePods"):
            yield _problem(PODS_REFUSED, _short(message)), since
        elif event.get("reason") in ("FailedMount", "FailedAttachVolume"):
            yield _problem(NOT_READY, _short(message)), since
        elif event.get("reason") == "ValidationError":
            yield _problem("SpecRejected", _short(message), Retry.CANNOT_HELP), since


def not_seen(kind: str, since: float) -> tuple[Problem, float]:
    """A resource that no controller has touched."""
    return _problem(NOT_SEEN, f"no controller has looked at this {kind} yet"), since


def ended(pods: Iterable[Pod]) -> Problem | None:
    """What ended pods from outside: eviction, preemption, a node that went away."""
    for pod in pods:
        for reason, message in _disruptions(pod.get("status") or {}):
            text = f"pod {pod['metadata']['name']}: {reason}: {message or 'no further word'}"
            if reason in PREEMPTED or "Preempt" in reason or reason == "EvictionByEvictionAPI":
                return Problem("Preempted", text, "retry it, or give it more priority")
            if reason in NODE_LOST:
                return Problem("NodeLost", text, "retry it")
    return None


def _disruptions(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Reasons and messages of a pod's status, and of its condition ``DisruptionTarget``."""
    told = [status]
    told += [
        each
        for each in status.get("conditions") or ()
        if each["type"] == "DisruptionTarget" and each["status"] == "True"
    ]
    for each in told:
        if each.get("reason"):
            yield str(each["reason"]), str(each.get("message") or "")


def _problem(reason: str, message: str, retry: Retry = Retry.MAY_HELP) -> Problem:
    return Problem(reason, message, _ADVICE.get(reason, ""), retry)


def _short(text: str) -> str:
    # Kubelet repeats itself: 'rpc error: code = NotFound desc = failed to pull ...: failed to ...'.
    return re.sub(r"\s+", " ", text)[:600]


def seconds(time: Any) -> float:
    """Seconds since the epoch for a time of the API; 0 for none."""
    return datetime.fromisoformat(str(time).replace("Z", "+00:00")).timestamp() if time else 0.0
