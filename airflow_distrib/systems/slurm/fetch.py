"""What came of a job on Slurm that is over: its results, its failures, its outputs."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from airflow_distrib.core.errors import ClusterError, ResultMissing
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState
from airflow_distrib.jobs.launcher import Conclusion, Emit, Storage
from airflow_distrib.jobs.result import problem_error
from airflow_distrib.jobs.waiting import Ending, Waiting
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome, OutcomeUnreadable
from airflow_distrib.systems.slurm import status
from airflow_distrib.systems.slurm.logs import JobOutput, tail
from airflow_distrib.systems.slurm.outputs import SlurmOutput
from airflow_distrib.systems.slurm.session import SlurmSession
from airflow_distrib.systems.slurm.status import Part
from airflow_distrib.systems.slurm.submission import SlurmSubmission


class Fetch:
    """Collects what a job wrote."""

    def __init__(self, session: SlurmSession, submission: SlurmSubmission, waiting: Waiting, storage: Storage) -> None:
        self._session, self._submission, self._storage = session, submission, storage
        self._waiting, self._ref = waiting, waiting.ref
        self._client, self._scheduler = session.client, session.scheduler

    async def conclusion(self, ending: Ending, emit: Emit) -> Conclusion:
        """From what Slurm says of the job's end, and what its ranks wrote.

        Raises:
            ClusterError: it runs again, or cannot be read now.
            JobLost: nobody knows how it ended.
            ResultMissing: an output is not there.
        """
        submission, ref = self._submission, self._ref
        parts = await self._all_parts(ending)
        found = status.aggregated(parts.values())
        if ending.problem is None and not found.state.finished:
            raise ClusterError(f"Slurm job {ref.uid} is {found.state.value}, though it had ended: it was started again")
        if self._waiting.logs:
            await JobOutput(self._client, self._waiting, emit, ending.log).rest()
        usage = await self._usage(emit)
        if found.state is not JobState.SUCCEEDED:
            return await self._failure(ending, parts)
        if not submission.returns:
            return Conclusion(True, report={**_report(ref, parts), **usage, "outputs": await self._outputs()})
        elements = tuple(map(str, submission.array)) or None
        return Conclusion(True, None, await self._results(elements or ("",)), elements)

    async def _usage(self, emit: Emit) -> dict[str, object]:
        """What the accounting says, also in the log; nothing where it does not answer."""
        with contextlib.suppress(ClusterError):
            if found := await self._scheduler.usage(self._ref):
                emit(found.sentence())
                return {"usage": found.report()}
        return {}

    async def _all_parts(self, ending: Ending) -> dict[str, Part]:
        """How every element ended; where Slurm has forgotten it, as the trigger saw it or its script noted."""
        ref, array = self._ref, self._submission.array
        parts = await self._scheduler.parts(ref)
        known = {part.index for part in parts.values()}
        # An array may also be the script's own choice.
        wanted = [str(index) for index in array] or sorted(known) or [""]
        if any(not part.over for part in parts.values()) or known.issuperset(wanted) or ending.problem is not None:
            return parts
        noted = await self._scheduler.exits(ref) if ending.succeeded is None else {}
        for element in [each for each in wanted if each not in known]:
            if ending.succeeded is not None:
                state, code = "COMPLETED" if ending.succeeded else ending.reason or "FAILED", None
            elif element in noted:
                state, code = "FAILED" if noted[element] else "COMPLETED", noted[element]
            else:
                what = f"element {element} of job {ref.uid}" if array else f"job {ref.uid}"
                raise problem_error(status.forgotten(what))
            part = Part(ref.uid, element, state=state, exit_code=code, name=ref.name)
            parts[part.key] = part
        return parts

    async def _failure(self, ending: Ending, parts: Mapping[str, Part]) -> Conclusion:
        """Why there is no result: what a rank reported, or else what Slurm says."""
        if ending.problem is not None:
            return Conclusion(False, ending.problem)
        failed = [part for part in parts.values() if status.STATES.get(part.state) is JobState.FAILED]
        if self._submission.returns and failed and all(part.state == "FAILED" for part in failed):
            reported = await self._failures()
            if reported:
                return Conclusion(False, None, {"": reported})
        element = failed[0].index if failed else ""
        return Conclusion(False, status.problem_of(parts.values(), await tail(self._client, self._ref, element)))

    async def _failures(self) -> list[Outcome]:
        """What the ranks reported, if one of them failed."""
        for pause in (*self._session.timing.failed, 0.0):
            reported = [each for found in (await self._outcomes()).values() for each in found]
            if any(each.kind == outcomes.FAILURE for each in reported):
                return reported
            await asyncio.sleep(pause)
        return []

    async def _outcomes(self) -> dict[str, list[Outcome]]:
        """Nothing where they cannot be read yet: a file may be there before what is in it."""
        try:
            return await self._scheduler.outcomes(self._ref)
        except OutcomeUnreadable:
            return {}

    async def _results(self, elements: tuple[str, ...]) -> dict[str, list[Outcome]]:
        """What the ranks reported, once rank 0's outcome is there."""
        found: dict[str, list[Outcome]] = {}
        for pause in (*self._session.timing.settle, 0.0):
            found = await self._outcomes()
            if all(any(each.rank == 0 for each in found.get(element, [])) for element in elements):
                break
            await asyncio.sleep(pause)
        # One that was started again leaves an outcome of its first end.
        return {
            name: [each for each in reported if each.kind != outcomes.TERMINATED] for name, reported in found.items()
        }

    # ------------------------------------------------------------------ outputs of shell scripts

    async def _outputs(self) -> dict[str, str]:
        """Copy what is to be copied; returns where each output is now."""
        found = {}
        for name, output in self._submission.outputs.items():
            remote = output.remote(self._ref.address["directory"], name)
            # SFTP begins in the user's home, and knows no "~".
            path = remote.removeprefix("~/")
            for pause in (*self._session.timing.settle, None):
                if await self._client.size(path) is not None:
                    break
                if pause is None:
                    raise ResultMissing(f"outputs.{name}: the script ended well but wrote no {output.kind} to {remote}")
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
                await asyncio.to_thread(self._storage.upload, local, str(output.to))
            except Exception as error:
                # Whatever the object storage raises: the output is still there, for a later try.
                raise ClusterError(f"{remote} cannot be copied to {output.to}: {error!r}") from error


def _report(ref: JobRef, parts: Mapping[str, Part]) -> dict[str, object]:
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
