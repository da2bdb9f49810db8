"""A task's legs on a worker, for jobs on Kubernetes: submit or adopt, then fetch the result."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_distrib.backends.kubernetes import reports
from airflow_distrib.backends.kubernetes.judge import View
from airflow_distrib.backends.kubernetes.kind import Rendered, role_of
from airflow_distrib.backends.kubernetes.kinds import kind_named
from airflow_distrib.backends.kubernetes.resource import SYSTEM, ResourceBackend
from airflow_distrib.clients.kubernetes import KubernetesClient, KubernetesSettings
from airflow_distrib.core.errors import ClusterError, JobTerminated, ResultMissing
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.record import Action, JobRecord, Phase, next_action
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState
from airflow_distrib.operators.result import problem_error, value_of
from airflow_distrib.operators.store import RecordStore
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.watching.hub import WatchHub
from airflow_distrib.watching.job import Ending, JobWait, Waiting
from airflow_distrib.watching.logs import JobLogs

log = logging.getLogger(__name__)

# A signal handler of Airflow has five seconds before SIGKILL.
KILL_SECONDS = 4.0
# How long a replaced job may take to go, pods and all, before its successor is submitted.
REPLACE_SECONDS = 120.0
# Lines of a container that could not report, for the error.
TAIL_LINES = 30


@dataclass(frozen=True)
class Order:
    """What one task wants of the cluster.

    Attributes:
        render: the manifest for a try; adopting an older try's job needs that try's.
        payload: the pickled call, where it travels in the job's Secret.
        waiting: how to wait for a job, from its reference.
        keeps: whether the finished job stays, from whether it succeeded.
        returns: whether a value of rank 0 is promised.
        comes_again: whether Airflow will try again after a failure.
    """

    identity: JobIdentity
    namespace: str
    render: Callable[[JobIdentity], Rendered]
    payload: bytes | None
    waiting: Callable[[JobRef], Waiting]
    keeps: Callable[[bool], bool]
    returns: bool
    comes_again: bool


class KubernetesRun:
    """One leg of a task; ``say`` writes to the task log."""

    def __init__(
        self, settings: KubernetesSettings, connection: str, store: RecordStore, say: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._store = store
        self._say = say
        self._pending: tuple[str, str, str, JobIdentity] | None = None
        self.ref: JobRef | None = None
        self.killed = False

    # ------------------------------------------------------------------ the two legs

    async def start(self, order: Order, *, deferrable: bool, read: Callable[[str], str]) -> tuple[Waiting | None, Any]:
        """Submit or adopt; returns what to wait for in a trigger, or None and the result."""
        hub = WatchHub.current()
        try:
            async with hub.client(self._connection, self._get_settings) as client:
                ref, adopted = await self._submitted(client, order)
                await self._check_killed(client)
                waiting = order.waiting(ref)
                if deferrable and not (adopted and await _is_over(client, ref)):
                    self._store.write(Phase.DEFERRED, ref)
                    return waiting, None
                ending = await JobWait(waiting, hub, client, self._say).until_over()
                await self._check_killed(client)
                return None, await self._conclude(client, order, waiting, ending, read)
        except Exception:
            await self._leave_nothing(order)
            raise
        finally:
            await hub.close()

    async def _leave_nothing(self, order: Order) -> None:
        """After an error that no later try will come back from, there must be no job."""
        there = self.ref is not None or self._pending is not None
        if there and not order.comes_again and not self._store.consumed:
            with contextlib.suppress(ClusterError):
                await self.cancel()

    async def resume(self, order: Order, waiting: Waiting, ending: Ending, read: Callable[[str], str]) -> Any:
        """Fetch the result of a job that a trigger has waited for."""
        self.ref = waiting.ref
        self._store.write(Phase.RESUMED, waiting.ref)
        async with KubernetesClient(self._settings) as client:
            return await self._conclude(client, order, waiting, ending, read)

    async def _get_settings(self) -> KubernetesSettings:
        return self._settings

    async def _check_killed(self, client: KubernetesClient) -> None:
        if self.killed:
            if self.ref is not None:
                # It may have been created after the handler looked for it.
                await ResourceBackend(client, kind_named(self.ref.address["kind"])).cancel(self.ref)
            # So that the next try, which may be a user's fresh run, does not look for it.
            self._store.write(Phase.CONSUMED)
            raise JobTerminated("the task was stopped by SIGTERM, and its job cancelled")

    # ------------------------------------------------------------------ submitting

    async def _submitted(self, client: KubernetesClient, order: Order) -> tuple[JobRef, bool]:
        record = self._store.read()
        rendered = order.render(order.identity)
        backend = ResourceBackend(client, rendered.kind)
        adopted = await self._adopted(backend, order, record)
        if record is not None or order.identity.try_number > 1:
            for old in await backend.reap(order.namespace, order.identity, adopted.uid if adopted else None):
                self._say(f"Cancelled {old.name}, which another try had left behind")
        if adopted is not None:
            self.ref = adopted
            self._store.write(Phase.SUBMITTED, adopted)
            self._say(
                f"Adopted {rendered.kind.kind} {order.namespace}/{adopted.name}, which goes on from an earlier try"
            )
            return adopted, True
        name = rendered.manifest["metadata"]["name"]
        address = {"kind": rendered.kind.key, "namespace": order.namespace}
        self._store.write(Phase.SUBMITTING, JobRef(SYSTEM, name, "", address))
        self._pending = (rendered.kind.key, order.namespace, name, order.identity)
        await self._check_killed(client)
        begin = time.monotonic()
        self.ref, existed = await backend.submit(rendered, order.identity, order.payload)
        self._store.write(Phase.SUBMITTED, self.ref)
        verb = "Found" if existed else "Created"
        self._say(f"{verb} {rendered.kind.kind} {order.namespace}/{name} in {time.monotonic() - begin:.2f} s")
        return self.ref, existed

    async def _adopted(self, backend: ResourceBackend, order: Order, record: JobRecord | None) -> JobRef | None:
        """The recorded job, if it is to be taken over; one that is not is cancelled."""
        store = self._store
        action = next_action(record, order.identity.try_number, store.max_tries, store.spec_hash, outlives_worker=True)
        if record is None or record.ref is None or record.ref.system != SYSTEM or action is Action.SUBMIT:
            return None
        if record.ref.address.get("kind") not in (backend.kind.key, None):
            backend = ResourceBackend(backend.client, kind_named(record.ref.address["kind"]))
            action = Action.REPLACE
        theirs = dataclasses.replace(order.identity, try_number=record.try_number)
        found = record.ref if record.ref.uid else None
        if found is None:
            found = await backend.find(record.ref.address["namespace"], record.ref.name, theirs)
        resource = await backend.get(found) if found is not None else None
        if found is None or resource is None or resource["metadata"].get("deletionTimestamp"):
            return None
        over = backend.kind.read(resource).state.finished
        self.ref = found
        if action is Action.ADOPT:
            rendered = order.render(theirs)
            if rendered.specs and not over:
                # The worker may have died between the job and the Secret its pods wait for.
                await backend.create_secret(found, rendered, order.payload)
            return found
        self._say(f"Cancelling {found.name} of try {record.try_number}: a fresh run is wanted")
        await backend.cancel(found, confirm_for=REPLACE_SECONDS)
        self.ref = None
        return None

    async def is_over(self, ref: JobRef) -> bool:
        """Whether a job has ended by itself, as far as the cluster tells."""
        with contextlib.suppress(ClusterError):
            async with KubernetesClient(self._settings) as client:
                return await _is_over(client, ref)
        return False

    # ------------------------------------------------------------------ the result

    async def _conclude(
        self, client: KubernetesClient, order: Order, waiting: Waiting, ending: Ending, read: Callable[[str], str]
    ) -> Any:
        """Turn an ending into the task's value or error, and remove what is left of the job."""
        ref = waiting.ref
        backend = ResourceBackend(client, kind_named(ref.address["kind"]))
        view = await backend.view(ref)
        succeeded = ending.succeeded
        if succeeded is None and view.resource is not None:
            status = backend.kind.read(view.resource)
            if status.state is JobState.SUCCEEDED or ending.problem is None:
                # Also where it looked stuck, and then was not.
                succeeded = status.state is JobState.SUCCEEDED
                ending = dataclasses.replace(ending, reason=status.reason, message=status.message)
        await self._show_rest(client, backend, waiting, ending, view)
        well = bool(succeeded)
        try:
            left = await self._outcomes(backend, order, ref, ending, view, succeeded=well)
            value = self._value(order, ending, left, succeeded=well, read=read)
        except ClusterError:
            # The result is there, but cannot be read now: a later try may.
            raise
        except BaseException:
            await self._remove(backend, order, ref, succeeded=False)
            raise
        await self._remove(backend, order, ref, succeeded=well)
        return value

    async def _remove(self, backend: ResourceBackend, order: Order, ref: JobRef, *, succeeded: bool) -> None:
        """Nothing of the job is needed any more; that it cannot be deleted does not change what came of it."""
        if not order.keeps(succeeded):
            try:
                await backend.cancel(ref)
            except ClusterError as error:
                self._say(f"{ref.name} could not be deleted: {error}")
        self._store.write(Phase.CONSUMED)

    async def _show_rest(
        self, client: KubernetesClient, backend: ResourceBackend, waiting: Waiting, ending: Ending, view: View
    ) -> None:
        if waiting.logs and view.resource is not None:
            logs = JobLogs(
                client,
                backend.kind,
                waiting.ref,
                waiting.log_roles,
                self._say,
                asyncio.Semaphore(1),
                named=waiting.named,
                positions=ending.log,
            )
            await logs.rest(view.pods)

    def _value(
        self, order: Order, ending: Ending, left: Sequence[Outcome], *, succeeded: bool, read: Callable[[str], str]
    ) -> Any:
        failed = [each for each in left if each.kind == outcomes.FAILURE]
        if ending.problem is not None and not succeeded and (ending.problem.reason != "Deleted" or not failed):
            raise problem_error(ending.problem)
        if not succeeded and not failed:
            raise problem_error(ending.as_problem())
        if succeeded and not order.returns and not failed:
            return None
        value, warnings = value_of(left, 0 if succeeded else 1, read)
        for warning in warnings:
            log.warning("%s", warning)
        return value

    async def _outcomes(
        self, backend: ResourceBackend, order: Order, ref: JobRef, ending: Ending, view: View, *, succeeded: bool
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

    # ------------------------------------------------------------------ ending early

    def kill(self) -> None:
        """Cancel the job from a signal handler: no Airflow calls, a loop and a client of its own."""
        self.killed = True
        if self.ref is None and self._pending is None:
            return
        thread = threading.Thread(target=self._cancel_in_thread, daemon=True)
        thread.start()
        thread.join(KILL_SECONDS)

    def _cancel_in_thread(self) -> None:
        try:
            asyncio.run(self.cancel())
        except Exception:
            log.exception("the job could not be cancelled")

    async def cancel(self) -> None:
        """Delete the job of this leg, also one that is just being created."""
        async with KubernetesClient(self._settings) as client:
            if self.ref is not None:
                await ResourceBackend(client, kind_named(self.ref.address["kind"])).cancel(self.ref)
                return
            assert self._pending is not None
            key, namespace, name, identity = self._pending
            backend = ResourceBackend(client, kind_named(key))
            for _ in range(6):
                if (found := await backend.find(namespace, name, identity)) is not None:
                    await backend.cancel(found)
                    return
                await asyncio.sleep(0.5)


async def _is_over(client: KubernetesClient, ref: JobRef) -> bool:
    kind = kind_named(ref.address["kind"])
    resource = await ResourceBackend(client, kind).get(ref)
    return resource is not None and kind.read(resource).state.finished
