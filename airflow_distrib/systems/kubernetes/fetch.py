"""Jobs on Kubernetes, from a task's legs on a worker."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

from airflow_distrib.backends.kubernetes import reports
from airflow_distrib.backends.kubernetes.judge import View
from airflow_distrib.backends.kubernetes.kind import Rendered, role_of
from airflow_distrib.backends.kubernetes.kinds import kind_named
from airflow_distrib.backends.kubernetes.resource import SYSTEM, ResourceBackend
from airflow_distrib.clients.kubernetes import KubernetesClient, KubernetesSettings
from airflow_distrib.core.errors import ClusterError, ResultMissing
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState
from airflow_distrib.operators.remote import Jobs, Order, RemoteRun, value_or_error
from airflow_distrib.operators.store import RecordStore
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.watching.kubernetes.hub import WatchHub
from airflow_distrib.watching.kubernetes.job import JobWait
from airflow_distrib.watching.kubernetes.logs import JobLogs
from airflow_distrib.watching.waiting import Ending, Waiting

# Lines of a container that could not report, for the error.
TAIL_LINES = 30


class KubernetesRun(RemoteRun[Rendered]):
    """One leg of a task whose job is on Kubernetes."""

    system = SYSTEM

    def __init__(
        self, settings: KubernetesSettings, connection: str, store: RecordStore, say: Callable[[str], None]
    ) -> None:
        super().__init__(store, say)
        self._settings = settings
        self._connection = connection

    @contextlib.asynccontextmanager
    async def jobs(self) -> AsyncIterator[Jobs[Rendered]]:
        """Connect; the hub is this leg's own, because each has its own event loop."""
        hub = WatchHub()

        async def settings() -> KubernetesSettings:
            return self._settings

        try:
            async with hub.client(self._connection, settings) as client:
                yield KubernetesJobs(hub, client, self._say)
        finally:
            await hub.close()


class KubernetesJobs(Jobs[Rendered]):
    """Jobs of every kind through one client."""

    def __init__(self, hub: WatchHub, client: KubernetesClient, say: Callable[[str], None]) -> None:
        self._hub, self._client, self._say = hub, client, say

    def _backend(self, ref: JobRef) -> ResourceBackend:
        return ResourceBackend(self._client, kind_named(ref.address["kind"]))

    async def announce(self, order: Order[Rendered]) -> JobRef:
        rendered = order.render(order.identity)
        metadata = rendered.manifest["metadata"]
        return JobRef(SYSTEM, metadata["name"], "", {"kind": rendered.kind.key, "namespace": metadata["namespace"]})

    async def submit(self, order: Order[Rendered], announced: JobRef) -> tuple[JobRef, bool]:
        del announced  # the manifest says it all
        rendered = order.render(order.identity)
        return await ResourceBackend(self._client, rendered.kind).submit(rendered, order.identity, order.payload)

    async def find(self, announced: JobRef, identity: JobIdentity) -> JobRef | None:
        return await self._backend(announced).find(announced.address["namespace"], announced.name, identity)

    async def finished(self, ref: JobRef) -> bool | None:
        backend = self._backend(ref)
        resource = await backend.get(ref)
        if resource is None:
            return None
        going = resource["metadata"].get("deletionTimestamp")
        return None if going else backend.kind.read(resource).state.finished

    async def mend(self, ref: JobRef, order: Order[Rendered], identity: JobIdentity) -> None:
        """The worker may have died between the job and the Secret its pods wait for."""
        rendered = order.render(identity)
        if rendered.specs:
            await self._backend(ref).create_secret(ref, rendered, order.payload)

    async def cancel(self, ref: JobRef, *, confirm_for: float = 0.0, keep_files: bool = False) -> bool:
        del keep_files  # nothing outlives a resource
        return await self._backend(ref).cancel(ref, confirm_for=confirm_for)

    async def remove(self, ref: JobRef) -> None:
        await self.cancel(ref)

    async def reap(self, order: Order[Rendered], keep: JobRef | None) -> list[JobRef]:
        rendered = order.render(order.identity)
        namespace = rendered.manifest["metadata"]["namespace"]
        backend = ResourceBackend(self._client, rendered.kind)
        return await backend.reap(namespace, order.identity, keep.uid if keep else None)

    def describe(self, ref: JobRef) -> str:
        return f"{kind_named(ref.address['kind']).kind} {ref.address['namespace']}/{ref.name}"

    def waits(self, waiting: Waiting, say: Callable[[str], None]) -> JobWait:
        return JobWait(waiting, self._hub, self._client, say)

    # ------------------------------------------------------------------ the result

    async def conclude(
        self, order: Order[Rendered], waiting: Waiting, ending: Ending, read: Callable[[str], str]
    ) -> Any:
        """From what the trigger saw, and what is there now."""
        ref = waiting.ref
        backend = self._backend(ref)
        view = await backend.view(ref)
        succeeded = ending.succeeded
        if succeeded is None and view.resource is not None:
            status = backend.kind.read(view.resource)
            if status.state is JobState.SUCCEEDED or ending.problem is None:
                # Also where it looked stuck, and then was not.
                succeeded = status.state is JobState.SUCCEEDED
                ending = dataclasses.replace(ending, reason=status.reason, message=status.message)
        await self._show_rest(backend, waiting, ending, view)
        well = bool(succeeded)
        left = await self._outcomes(backend, order, ref, ending, view, succeeded=well)
        return value_or_error(ending, left, succeeded=well, returns=order.returns, read=read)

    async def _show_rest(self, backend: ResourceBackend, waiting: Waiting, ending: Ending, view: View) -> None:
        if waiting.logs and view.resource is not None:
            logs = JobLogs(
                self._client,
                backend.kind,
                waiting.ref,
                waiting.log_roles,
                self._say,
                asyncio.Semaphore(1),
                named=waiting.named,
                positions=ending.log,
            )
            await logs.rest(view.pods)

    async def _outcomes(
        self,
        backend: ResourceBackend,
        order: Order[Rendered],
        ref: JobRef,
        ending: Ending,
        view: View,
        *,
        succeeded: bool,
    ) -> list[Outcome]:
        """What the pods reported: through the trigger, in what is left of them, in their logs."""
        seen = {each.to_json() for each in ending.outcomes}
        now = [each for each in reports.of_pods(backend.kind, ref.name, view.pods) if each.to_json() not in seen]
        left = [*ending.outcomes, *now]
        if succeeded:
            left = [each for each in left if each.kind != outcomes.TERMINATED]
            if order.returns and not any(each.rank == 0 for each in left):
                left += await self._framed(backend, ref, view)
            return left
        silent = [each for each in left if each.kind == outcomes.FAILURE and not each.log_tail]
        return [each for each in left if each not in silent] + [
            await self._with_tail(backend, ref, each) for each in silent
        ]

    async def _framed(self, backend: ResourceBackend, ref: JobRef, view: View) -> list[Outcome]:
        """Rank 0's outcome from the log of its pod: too large for a termination message."""
        pods = [pod for pod in view.pods if backend.kind.reports(role_of(ref.name, pod))]
        if not pods:
            raise ResultMissing(
                "the job ended well, but rank 0's pod and its log were removed before its result was read: leave "
                "run_policy.clean_pod_policy alone, or return less than 4 KiB, or set result_path"
            )
        pods.sort(key=lambda pod: (backend.kind.rank(role_of(ref.name, pod)) or 0, pod["metadata"]["name"]))
        for pod in pods:
            told = reports.ending(backend.kind, pod)
            if told is not None and not told.get("message"):
                found = await backend.framed(ref, pod["metadata"]["name"])
                if found is not None and found.rank == 0:
                    return [found]
        return []

    async def _with_tail(self, backend: ResourceBackend, ref: JobRef, outcome: Outcome) -> Outcome:
        """The last lines of a container that could not report itself."""
        pod = outcome.host.removeprefix("pod ")
        if pod == outcome.host:
            return outcome
        query = {"container": backend.kind.container, "tailLines": str(TAIL_LINES)}
        with contextlib.suppress(ClusterError):
            return outcome._replace(log_tail=(await backend.log(ref, pod, query)).splitlines()[-TAIL_LINES:])
        return outcome
