"""Jobs on Slurm, from a task's legs on a worker."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import ObjectStoragePath

from airflow_distrib.backends.slurm import status
from airflow_distrib.backends.slurm.jobs import SYSTEM, SlurmJobs
from airflow_distrib.backends.slurm.outputs import SlurmOutput
from airflow_distrib.backends.slurm.plan import Plan
from airflow_distrib.backends.slurm.status import Part
from airflow_distrib.clients.ssh import SshClient, SshSettings
from airflow_distrib.core.errors import ClusterError, ResultMissing
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState, Problem
from airflow_distrib.operators.remote import Jobs, Order, RemoteRun, value_or_error
from airflow_distrib.operators.result import problem_error
from airflow_distrib.operators.store import RecordStore
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome, OutcomeUnreadable
from airflow_distrib.watching.slurm.job import SlurmHub, SlurmWait, output_of
from airflow_distrib.watching.slurm.output import tail
from airflow_distrib.watching.waiting import Ending, Waiting

# A shared file system may show a file a few seconds after another machine has written it.
# NFS by default up to a minute for folders.
SETTLE_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
# Of a job that failed its own output tells as much, so what a rank may have said is waited for less.
FAILED_PAUSES = SETTLE_PAUSES[:3]


class SlurmRun(RemoteRun[Plan]):
    """One leg of a task whose job is on a Slurm."""

    system = SYSTEM

    def __init__(self, settings: SshSettings, connection: str, store: RecordStore, say: Callable[[str], None]) -> None:
        super().__init__(store, say)
        self._settings = settings
        self._connection = connection

    @contextlib.asynccontextmanager
    async def jobs(self) -> AsyncIterator[Jobs[Plan]]:
        """Connect; the hub is this leg's own, because each has its own event loop."""
        hub = SlurmHub()

        async def settings() -> SshSettings:
            return self._settings

        try:
            async with hub.client(self._connection, settings) as client:
                yield JobsOnSlurm(hub, client, self._say)
        finally:
            await hub.close()


class JobsOnSlurm(Jobs[Plan]):
    """Jobs through one client."""

    def __init__(self, hub: SlurmHub, client: SshClient, say: Callable[[str], None]) -> None:
        self._hub, self._client, self._say = hub, client, say
        self._jobs = SlurmJobs(client)

    async def announce(self, order: Order[Plan]) -> JobRef:
        plan = order.render(order.identity)
        return self._jobs.reference(plan, await self._jobs.make_folder(plan))

    async def submit(self, order: Order[Plan], announced: JobRef) -> tuple[JobRef, bool]:
        return await self._jobs.submit(order.render(order.identity), announced.address["directory"], order.payload)

    async def find(self, announced: JobRef, identity: JobIdentity) -> JobRef | None:
        del identity  # the name in the reference says it all
        return await self._jobs.find(announced)

    async def finished(self, ref: JobRef) -> bool | None:
        parts = await self._jobs.parts(ref)
        if any(part.state == "CANCELLED" for part in parts.values()):
            return None
        if not parts:
            return True if await self._jobs.exits(ref) else None
        return all(part.over for part in parts.values())

    async def cancel(self, ref: JobRef, *, confirm_for: float = 0.0, keep_files: bool = False) -> bool:
        return await self._jobs.cancel(ref, confirm_for=confirm_for, keep_files=keep_files)

    async def remove(self, ref: JobRef) -> None:
        await self._jobs.remove(ref)

    async def forget(self, announced: JobRef) -> None:
        await self._jobs.give_up(announced)

    async def reap(self, order: Order[Plan], keep: JobRef | None) -> list[JobRef]:
        return await self._jobs.reap(order.render(order.identity), keep)

    def describe(self, ref: JobRef) -> str:
        cluster = f" on cluster {ref.address['cluster']}" if "cluster" in ref.address else ""
        return f"Slurm job {ref.uid} ({ref.name}){cluster}"

    def waits(self, waiting: Waiting, say: Callable[[str], None]) -> SlurmWait:
        return SlurmWait(waiting, self._hub, self._client, say)

    # ------------------------------------------------------------------ the result

    async def conclude(self, order: Order[Plan], waiting: Waiting, ending: Ending, read: Callable[[str], str]) -> Any:
        """From what Slurm says of the job's end, and what its ranks left."""
        plan, ref = order.render(order.identity), waiting.ref
        parts = await self._all_parts(plan, ref, ending)
        found = status.aggregated(parts.values())
        if ending.problem is None and not found.state.finished:
            raise ClusterError(f"Slurm job {ref.uid} is {found.state.value}, though it had ended: it was started again")
        if waiting.logs:
            await output_of(self._client, waiting, self._say, ending.log).rest()
        if found.state is not JobState.SUCCEEDED:
            raise await self._error(order, ref, ending, parts)
        if not order.returns:
            return {**_report(ref, parts), "outputs": await self._outputs(plan, ref)}
        left = await self._left(plan, ref)
        done = Ending(True)

        def value(element: str) -> Any:
            return value_or_error(done, left.get(element, []), succeeded=True, returns=True, read=read)

        return [value(str(index)) for index in plan.array] if plan.array else value("")

    async def _all_parts(self, plan: Plan, ref: JobRef, ending: Ending) -> dict[str, Part]:
        """How every element ended; where Slurm has forgotten it, as the trigger saw it or its script noted."""
        parts = await self._jobs.parts(ref)
        known = {part.index for part in parts.values()}
        # An array may also be the script's own choice.
        wanted = [str(index) for index in plan.array] or sorted(known) or [""]
        if any(not part.over for part in parts.values()) or known.issuperset(wanted) or ending.problem is not None:
            return parts
        noted = await self._jobs.exits(ref) if ending.succeeded is None else {}
        for element in [each for each in wanted if each not in known]:
            if ending.succeeded is not None:
                state, code = "COMPLETED" if ending.succeeded else ending.reason or "FAILED", None
            elif element in noted:
                state, code = "FAILED" if noted[element] else "COMPLETED", noted[element]
            else:
                what = f"element {element} of job {ref.uid}" if plan.array else f"job {ref.uid}"
                advice = "switch accounting on, or raise MinJobAge, so that Slurm remembers jobs for longer"
                raise problem_error(Problem("Forgotten", f"Slurm does not know any more how {what} ended", advice))
            part = Part(ref.uid, element, state=state, exit_code=code, name=ref.name)
            parts[part.key] = part
        return parts

    async def _error(self, order: Order[Plan], ref: JobRef, ending: Ending, parts: Mapping[str, Part]) -> BaseException:
        """Why there is no result: what a rank said, or else what Slurm says."""
        if ending.problem is not None:
            return problem_error(ending.problem)
        failed = [part for part in parts.values() if status.STATES.get(part.state) is JobState.FAILED]
        if order.returns and failed and all(part.state == "FAILED" for part in failed):
            left = await self._failures(ref)
            if left:
                try:
                    value_or_error(Ending(False), left, succeeded=False, returns=True, read=str)
                except Exception as error:  # noqa: BLE001 - it is the answer
                    return error
        element = failed[0].index if failed else ""
        return problem_error(status.problem_of(parts.values(), await tail(self._client, ref, element)))

    async def _failures(self, ref: JobRef) -> list[Outcome]:
        """What the ranks left, if one of them says that it failed."""
        for pause in (*FAILED_PAUSES, 0.0):
            left = [each for found in (await self._outcomes(ref)).values() for each in found]
            if any(each.kind == outcomes.FAILURE for each in left):
                return left
            await asyncio.sleep(pause)
        return []

    async def _outcomes(self, ref: JobRef) -> dict[str, list[Outcome]]:
        """Nothing where they cannot be read yet: a file may be there before what is in it."""
        try:
            return await self._jobs.outcomes(ref)
        except OutcomeUnreadable:
            return {}

    async def _left(self, plan: Plan, ref: JobRef) -> dict[str, list[Outcome]]:
        """What the ranks left, once rank 0's outcome is there."""
        wanted = [str(index) for index in plan.array] or [""]
        left: dict[str, list[Outcome]] = {}
        for pause in (*SETTLE_PAUSES, 0.0):
            left = await self._outcomes(ref)
            if all(any(each.rank == 0 for each in left.get(element, [])) for element in wanted):
                break
            await asyncio.sleep(pause)
        # One that was started again leaves a word of its first end.
        return {name: [each for each in found if each.kind != outcomes.TERMINATED] for name, found in left.items()}

    # ------------------------------------------------------------------ outputs of shell scripts

    async def _outputs(self, plan: Plan, ref: JobRef) -> dict[str, str]:
        """Copy what is to be copied; returns where each output is now."""
        found = {}
        for name, output in plan.outputs.items():
            remote = output.remote(ref.address["directory"], name)
            # SFTP begins in the user's home, and knows no "~".
            path = remote.removeprefix("~/")
            for pause in (*SETTLE_PAUSES, None):
                if await self._client.size(path) is not None:
                    break
                if pause is None:
                    raise ResultMissing(f"outputs.{name}: the script ended well but left no {output.kind} at {remote}")
                await asyncio.sleep(pause)
            if output.to is not None:
                await self._copy(output, path)
            found[name] = remote if output.to is None else str(output.to)
        return found

    async def _copy(self, output: SlurmOutput, remote: str) -> None:
        with tempfile.TemporaryDirectory(prefix="airflow-distrib-") as folder:
            local = Path(folder) / "output"
            await self._client.fetch(remote, local)
            try:
                await asyncio.to_thread(_move, local, ObjectStoragePath(str(output.to)))
            except Exception as error:
                # Whatever the object storage raises: the output is still there, for a later try.
                raise ClusterError(f"{remote} cannot be copied to {output.to}: {error!r}") from error


def _report(ref: JobRef, parts: Mapping[str, Part]) -> dict[str, Any]:
    """What a job without a function returns."""
    codes = [part.exit_code or 0 for part in parts.values()]
    nodes = sorted({part.nodes for part in parts.values() if part.nodes})
    return {
        "job_id": ref.uid,
        "cluster": ref.address.get("cluster"),
        "state": "COMPLETED",
        "exit_code": max(codes, default=0),
        "nodes": ",".join(nodes),
    }


def _move(local: Path, target: ObjectStoragePath) -> None:
    """Copy a file or a folder to wherever it shall be."""
    if local.is_dir():
        for path in sorted(local.rglob("*")):
            if path.is_file():
                _move(path, target / str(path.relative_to(local)))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with local.open("rb") as source, target.open("wb") as sink:  # type: ignore[no-untyped-call] # Airflow's
        shutil.copyfileobj(source, sink)
