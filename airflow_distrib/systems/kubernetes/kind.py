"""A kind of job on Kubernetes: every difference between custom resources, as values and pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from airflow_distrib.core.status import JobStatus

# An object of the API, or a part of one, to read; and one that is being rendered.
Object: TypeAlias = Mapping[str, Any]
Manifest: TypeAlias = dict[str, Any]

VERBS = ("get", "list", "watch", "create", "delete")


def pod_name(job: str, pod: Object) -> str:
    """A pod's name without its job's: ``worker-0``; the whole name if the pod is the job itself."""
    return str(pod["metadata"]["name"]).removeprefix(f"{job}-")


def times_of_conditions(resource: Object) -> float | None:
    """When a resource ended, by its ``completionTime`` or the conditions Succeeded, Failed and Complete."""
    status = resource.get("status") or {}
    times = [seconds(status.get("completionTime"))]
    times += [
        seconds(each.get("lastTransitionTime"))
        for each in status.get("conditions") or ()
        if each["type"] in ("Succeeded", "Failed", "Complete") and each.get("status") == "True"
    ]
    return max(times) or None


def seconds(time: object) -> float:
    """Convert a time of the API to seconds since the epoch; 0 if there is none."""
    return datetime.fromisoformat(str(time).replace("Z", "+00:00")).timestamp() if time else 0.0


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind.

    Attributes:
        key: name in job references, such as ``pytorchjob``.
        api: group and version, such as ``kubeflow.org/v1``; ``v1`` is the core group.
        kind, plural: names in the API.
        name_limit: longest name of a job whose pods and services still have valid names.
        container: name of the container that runs ranks.
        read: reads the status of a resource.
        keep: the part of ``spec`` that the watch keeps in memory; the next two functions may
            read nothing else.
        expected_pods: how many pods the resource requests.
        enough_pods: how many of them the job needs to run.
        role: role of a pod, such as ``worker-0``, from its labels; the arguments are the job's name and the pod.
        reports: whether pods of a role report outcomes.
        rank: the rank of a role, if the role determines it.
        ended_at: seconds since the epoch at which the resource ended; None if unknown.
        templates: the pod templates of a manifest, each with its path; a user's manifest may lack any part.
        merge_keys: further lists that are merged by a key of their items, by field name.
        unsupported: common options that this kind cannot honour, by dotted name.
        moot: common options that mean nothing for it, and are met all the same, by dotted name.
        backoff_limit: how often the pods that report may restart in all; None if that is not limited.
        verbs: what the package does with the resource, for RBAC.
    """

    key: str
    api: str
    kind: str
    plural: str
    name_limit: int
    container: str
    read: Callable[[Object], JobStatus]
    keep: Callable[[Object], Manifest]
    expected_pods: Callable[[Object], int]
    enough_pods: Callable[[Object], int] = field(default=lambda _: 1_000_000)
    role: Callable[[str, Object], str] = pod_name
    reports: Callable[[str], bool] = field(default=lambda _: True)
    rank: Callable[[str], int | None] = field(default=lambda _: None)
    ended_at: Callable[[Object], float | None] = times_of_conditions
    templates: Callable[[Manifest], Iterator[tuple[str, Manifest]]]
    merge_keys: Mapping[str, str] = field(default_factory=dict)
    unsupported: frozenset[str] = frozenset()
    moot: frozenset[str] = frozenset()
    backoff_limit: Callable[[Object], int | None] = field(default=lambda _: None)
    verbs: tuple[str, ...] = VERBS

    @property
    def group(self) -> str:
        """API group; empty for the core group."""
        return self.api.rpartition("/")[0]

    def path(self, namespace: str, name: str = "") -> str:
        """Path of the collection, or of one object, in the API."""
        root = f"/api/{self.api}" if "/" not in self.api else f"/apis/{self.api}"
        return f"{root}/namespaces/{namespace}/{self.plural}" + (f"/{name}" if name else "")

    def slim(self, found: Object) -> Manifest:
        """The part of an object that watching needs: a thousand jobs are kept in memory."""
        metadata = found["metadata"]
        kept = ("name", "namespace", "uid", "labels", "creationTimestamp", "deletionTimestamp")
        return {
            "metadata": {name: metadata[name] for name in kept if name in metadata},
            "spec": self.keep(found.get("spec") or {}),
            "status": found.get("status") or {},
        }
