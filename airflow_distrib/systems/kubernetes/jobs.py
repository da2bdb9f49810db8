"""The jobs of one connection to Kubernetes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobStatus
from airflow_distrib.jobs.launcher import Conclusion, Emit, JobClient, Storage
from airflow_distrib.jobs.waiting import Ending, Waiting
from airflow_distrib.systems.kubernetes.fetch import conclusion
from airflow_distrib.systems.kubernetes.manifest import KubernetesSubmission
from airflow_distrib.systems.kubernetes.registry import kind_named
from airflow_distrib.systems.kubernetes.resource import NAME, ResourceApi
from airflow_distrib.systems.kubernetes.session import KubernetesSession
from airflow_distrib.systems.kubernetes.watch import KubernetesWatch


class KubernetesJobs(JobClient[KubernetesSubmission]):
    """Jobs of every kind, through one session."""

    def __init__(self, session: KubernetesSession) -> None:
        self._session = session

    def _api(self, ref: JobRef) -> ResourceApi:
        return ResourceApi(self._session.client, kind_named(ref.address["kind"]))

    def _namespace(self, submission: KubernetesSubmission) -> str:
        return submission.manifest["metadata"]["namespace"] or self._session.client.namespace

    async def reserve(self, submission: KubernetesSubmission) -> JobRef:
        address = {"kind": submission.kind.key, "namespace": self._namespace(submission)}
        return JobRef(NAME, submission.name, "", address)

    async def submit(self, submission: KubernetesSubmission, reserved: JobRef, storage: Storage) -> tuple[JobRef, bool]:
        del storage  # nothing is uploaded
        api = ResourceApi(self._session.client, submission.kind)
        return await api.submit(submission, reserved.address["namespace"])

    async def find(self, reserved: JobRef, identity: JobIdentity) -> JobRef | None:
        return await self._api(reserved).find(reserved.address["namespace"], reserved.name, identity)

    async def complete(self, ref: JobRef, submission: KubernetesSubmission) -> None:
        """Create the Secret, in case the worker died right after it had created the job."""
        if submission.specs:
            await self._api(ref).create_secret(ref, submission)

    async def status(self, ref: JobRef) -> JobStatus | None:
        api = self._api(ref)
        async with self._session.calls:
            resource = await api.get(ref)
        if resource is None or resource["metadata"].get("deletionTimestamp"):
            return None
        return api.kind.read(resource)

    @contextlib.asynccontextmanager
    async def watch(self, waiting: Waiting, emit: Emit) -> AsyncIterator[KubernetesWatch]:
        api = self._api(waiting.ref)
        async with self._session.feed(api.kind, waiting.ref, api.get) as feed:
            watch = KubernetesWatch(self._session, api, waiting, emit, feed)
            try:
                yield watch
            finally:
                await watch.close()

    async def fetch(
        self, submission: KubernetesSubmission, waiting: Waiting, ending: Ending, emit: Emit, storage: Storage
    ) -> Conclusion:
        del storage  # results come through the API
        api = self._api(waiting.ref)
        return await conclusion(self._session, api, waiting, ending, emit, returns=submission.returns)

    async def cancel(self, ref: JobRef, *, confirm_for: float = 0.0, keep_files: bool = False) -> bool:
        del keep_files  # there are none
        async with self._session.calls:
            return await self._api(ref).cancel(ref, confirm_for=confirm_for)

    async def reap(self, submission: KubernetesSubmission, keep: JobRef | None) -> list[JobRef]:
        api = ResourceApi(self._session.client, submission.kind)
        return await api.reap(self._namespace(submission), submission.identity, keep.uid if keep else None)

    def describe(self, ref: JobRef) -> str:
        return f"{kind_named(ref.address['kind']).kind} {ref.address['namespace']}/{ref.name}"
