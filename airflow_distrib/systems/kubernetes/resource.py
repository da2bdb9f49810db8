"""Resources of one kind in the Kubernetes API: create, read, delete."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Mapping

from airflow_distrib.core import archive
from airflow_distrib.core.errors import ClusterError, ResultMissing
from airflow_distrib.core.identity import PREFIX, JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.runner import report
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.systems.kubernetes.client import ApiError, KubernetesClient
from airflow_distrib.systems.kubernetes.judge import View
from airflow_distrib.systems.kubernetes.kind import Kind, Object
from airflow_distrib.systems.kubernetes.manifest import JOB_LABEL, KubernetesSubmission

NAME = "kubernetes"
IDENTITY = f"{PREFIX}identity"

# A result in a log: 1 MiB of JSON is at most 190 lines.
_FRAME_LINES = 400


class ResourceApi:
    """One kind, through one client."""

    def __init__(self, client: KubernetesClient, kind: Kind) -> None:
        self.client = client
        self.kind = kind

    # ------------------------------------------------------------------ submitting

    async def submit(self, submission: KubernetesSubmission, namespace: str) -> tuple[JobRef, bool]:
        """Create the job, or adopt the one that an earlier attempt of the same try created.

        Returns:
            The job, and whether it was adopted.

        Raises:
            ClusterError: the API server refuses; permanent if the manifest is the reason.
        """
        metadata = {**submission.manifest["metadata"], "namespace": namespace}
        body = {**submission.manifest, "metadata": metadata}
        # Strict: the server refuses unknown fields instead of dropping them.
        query = {"fieldValidation": "Strict", "fieldManager": "airflow-distrib"}
        adopted = False
        for _ in range(60):
            try:
                created = await self.client.request("POST", self.kind.path(namespace), query=query, body=body)
            except ApiError as error:
                if error.status != 409 or error.reason != "AlreadyExists":
                    raise self._explained(error) from error
                existing = await self._existing(namespace, submission.name)
                if existing is None:
                    await asyncio.sleep(1)
                    continue
                self._check_identity(existing, submission.identity)
                created, adopted = existing, True
            ref = self._ref(created)
            if submission.specs and adopted:
                await self.create_secret(ref, submission)
            elif submission.specs:
                await self._create_secret_or_cancel(ref, submission)
            return ref, adopted
        raise ClusterError(f"the {self.kind.kind} {submission.name} of an earlier attempt is still being deleted")

    async def _existing(self, namespace: str, name: str) -> Object | None:
        """The object of that name, unless it is being deleted."""
        found = await self._get(namespace, name)
        return None if found is None or found["metadata"].get("deletionTimestamp") else found

    def _check_identity(self, found: Object, identity: JobIdentity) -> None:
        theirs = _identity_of(found)
        if theirs != identity.annotation()[IDENTITY]:
            name = found["metadata"]["name"]
            raise ClusterError(
                f"a {self.kind.kind} {name} already exists, and it is not this task's (identity {theirs})",
                permanent=True,
            )

    def _explained(self, error: ApiError) -> ClusterError:
        if error.status == 404:
            return ClusterError(
                f"the namespace does not exist, or the cluster has no {self.kind.kind} ({self.kind.api}): correct "
                f"namespace, or install the operator; the API server answered: {error.message}",
                permanent=True,
            )
        if error.status == 403 and "exceeded quota" not in error.message:
            return ClusterError(
                f"the connection's account may not do this: {error.message}; docs/rbac.yaml lists the rights it needs"
            )
        return error

    def _ref(self, resource: Object) -> JobRef:
        metadata = resource["metadata"]
        address = {"kind": self.kind.key, "namespace": metadata["namespace"]}
        return JobRef(NAME, metadata["name"], metadata["uid"], address)

    async def _create_secret_or_cancel(self, ref: JobRef, submission: KubernetesSubmission) -> None:
        """Without the Secret the pods would never start."""
        try:
            await self.create_secret(ref, submission)
        except ClusterError:
            with contextlib.suppress(ClusterError):
                await self.cancel(ref)
            raise

    async def create_secret(self, ref: JobRef, submission: KubernetesSubmission) -> None:
        """Create the Secret that the pods mount; it is deleted together with the job."""
        files = {name: spec.to_json().encode() for name, spec in submission.specs.items()}
        files["runner.pyz"] = archive.build()
        if submission.payload is not None:
            files["payload"] = submission.payload
        owner = {"apiVersion": self.kind.api, "kind": self.kind.kind, "name": ref.name, "uid": ref.uid}
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": ref.name,
                "labels": submission.manifest["metadata"]["labels"],
                "ownerReferences": [owner],
            },
            "immutable": True,
            "data": {name: base64.b64encode(content).decode() for name, content in files.items()},
        }
        path = f"/api/v1/namespaces/{ref.address['namespace']}/secrets"
        try:
            await self.client.request("POST", path, body=body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    # ------------------------------------------------------------------ reading

    async def _get(self, namespace: str, name: str) -> Object | None:
        try:
            return await self.client.request("GET", self.kind.path(namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def find(self, namespace: str, name: str, identity: JobIdentity) -> JobRef | None:
        """The job of that name, if it has this identity and is not being deleted."""
        found = await self._existing(namespace, name)
        is_ours = found is not None and _identity_of(found) == identity.annotation()[IDENTITY]
        return self._ref(found) if found is not None and is_ours else None

    async def get(self, ref: JobRef) -> Object | None:
        """The job itself; None if it is gone, even if another job has its name by now."""
        found = await self._get(ref.address["namespace"], ref.name)
        return found if found is not None and found["metadata"]["uid"] == ref.uid else None

    async def view(self, ref: JobRef) -> View:
        """The job and its pods, from new requests."""
        resource = await self.get(ref)
        pods = await self._list(ref, "pods", {"labelSelector": f"{JOB_LABEL}={ref.name}"})
        return View(resource, tuple(pods))

    async def _list(
        self, ref: JobRef, plural: str, query: Mapping[str, str], attempts: int | None = None
    ) -> list[Object]:
        path = f"/api/v1/namespaces/{ref.address['namespace']}/{plural}"
        return list((await self.client.request("GET", path, query=query, attempts=attempts))["items"])

    async def events(self, ref: JobRef) -> tuple[Object, ...]:
        """Warnings about the job and the objects that belong to it."""
        found = await self._list(ref, "events", {"fieldSelector": "type=Warning", "limit": "500"}, attempts=1)
        return tuple(each for each in found if str(each["involvedObject"].get("name", "")).startswith(ref.name))

    async def framed(self, ref: JobRef, pod: str) -> Outcome | None:
        """The outcome at the end of a pod's log.

        Raises:
            ResultMissing: it is incomplete.
        """
        text = await self.log(ref, pod, {"container": self.kind.container, "tailLines": str(_FRAME_LINES)})
        try:
            return report.from_frames(text.splitlines())
        except report.FramesDamaged as error:
            raise ResultMissing(f"pod {pod}: {error}") from error

    async def log(self, ref: JobRef, pod: str, query: Mapping[str, str]) -> str:
        """Text of a pod's log; empty if there is none."""
        path = f"/api/v1/namespaces/{ref.address['namespace']}/pods/{pod}/log"
        for pause in (1.0, 4.0, 0.0):
            try:
                async with self.client.stream(path, query, quiet_for=30) as stream:
                    return b"".join([piece async for piece in stream]).decode("utf-8", "replace")
            except ClusterError as error:
                if isinstance(error, ApiError) and error.status in (400, 404):
                    return ""
                if not pause:
                    raise
                await asyncio.sleep(pause)
        return ""

    # ------------------------------------------------------------------ deleting

    async def cancel(self, ref: JobRef, *, confirm_for: float = 0.0) -> bool:
        """Delete the job with everything that belongs to it; not an error if it is gone already.

        Args:
            confirm_for: seconds to wait until it is gone with all its pods.

        Returns:
            Whether it is known to be gone.
        """
        path = self.kind.path(ref.address["namespace"], ref.name)
        # By uid, so as never to delete a later try's job of the same name.
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": ref.uid},
        }
        try:
            await self.client.request("DELETE", path, body=body)
        except ApiError as error:
            if error.status in (404, 409):
                return True
            raise
        end = time.monotonic() + confirm_for
        while time.monotonic() < end:
            if await self.get(ref) is None:
                return True
            await asyncio.sleep(0.3)
        return False

    async def reap(self, namespace: str, identity: JobIdentity, keep: str | None) -> list[JobRef]:
        """Cancel jobs of the task instance's other tries, except for the one with the uid ``keep``."""
        query = {"labelSelector": f"{PREFIX}task-instance={identity.task_digest}"}
        found = await self.client.request("GET", self.kind.path(namespace), query=query)
        old = []
        for item in found["items"]:
            theirs = json.loads(_identity_of(item) or "{}")
            is_job = item["metadata"]["labels"].get(JOB_LABEL) == item["metadata"]["name"]
            if is_job and item["metadata"]["uid"] != keep and theirs.get("scope") == identity.scope:
                old.append(self._ref(item))
        for ref in old:
            with contextlib.suppress(ApiError):
                await self.cancel(ref)
        return old


def _identity_of(found: Object) -> str | None:
    identity: str | None = (found["metadata"].get("annotations") or {}).get(IDENTITY)
    return identity
