"""A kind of job on Kubernetes: what differs between custom resources, as values and pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_distrib.core.status import JobStatus
from airflow_distrib.runner.spec import Spec

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind.

    Attributes:
        key: name in job references, such as ``pytorchjob``.
        api: group and version, such as ``kubeflow.org/v1``; ``v1`` is the core group.
        kind, plural: as the API names them.
        name_limit: longest name whose pods and services still have valid names.
        container: name of the container that runs ranks.
        read: what the resource says of itself.
        expected_pods: how many pods the resource asks for.
        enough_pods: with how many of them the job can run.
        reports: whether a pod of that role (``worker-0``) reports outcomes.
        rank: the rank of a role, where the role tells.
    """

    key: str
    api: str
    kind: str
    plural: str
    name_limit: int
    container: str
    read: Callable[[Object], JobStatus]
    expected_pods: Callable[[Object], int]
    enough_pods: Callable[[Object], int] = field(default=lambda _: 1_000_000)
    reports: Callable[[str], bool] = field(default=lambda _: True)
    rank: Callable[[str], int | None] = field(default=lambda _: None)

    def path(self, namespace: str, name: str = "") -> str:
        """Path of the collection, or of one object, in the API."""
        root = f"/api/{self.api}" if "/" not in self.api else f"/apis/{self.api}"
        return f"{root}/namespaces/{namespace}/{self.plural}" + (f"/{name}" if name else "")


@dataclass(frozen=True)
class Rendered:
    """What is submitted.

    Attributes:
        manifest: the resource.
        specs: files for the runner beside the payload; empty where the image's own command runs.
        log_roles: beginnings of the roles whose pods' logs are shown; None is every pod.
    """

    kind: Kind
    manifest: dict[str, Any]
    specs: Mapping[str, Spec] = field(default_factory=dict)
    log_roles: tuple[str, ...] | None = None


def role_of(job: str, pod: Object) -> str:
    """``worker-0`` for the pod ``job-worker-0``; the pod's own name where it is the job."""
    name = str(pod["metadata"]["name"])
    return name.removeprefix(f"{job}-") if name != job else "pod"
