"""A Slurm through a login node: submit, find, look, cancel, reap."""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from airflow_distrib.core.errors import ClusterError, JobNotStarted, JobTerminated
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import Category, Problem, Retry
from airflow_distrib.jobs.launcher import Storage
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.systems.slurm import commands, options, status
from airflow_distrib.systems.slurm import usage as usages
from airflow_distrib.systems.slurm.ssh import Finished, SshClient
from airflow_distrib.systems.slurm.status import Part
from airflow_distrib.systems.slurm.submission import ELEMENT, PAYLOAD, SbatchCall, SlurmSubmission
from airflow_distrib.systems.slurm.usage import Usage

log = logging.getLogger(__name__)

NAME = "slurm"

# How long a controller that does not answer is waited for at submit, in seconds.
SUBMIT_SECONDS, SUBMIT_PAUSE = 300.0, 15.0
# What sbatch says of a controller that is away or busy; the job may exist all the same.
_AWAY = re.compile(
    r"timed out|Unable to contact|Connection refused|Zero Bytes|Unexpected message|temporarily unavailable|"
    r"Transport endpoint|Unable to establish|Communication connection failure|Slurm controller|"
    r"Resource temporarily|still in the process|Slurmctld|Protocol authentication error|Munge|standby mode|"
    r"Message (?:receive|send) failure|Unable to create job record|try again",
    re.IGNORECASE,
)
_NOT_FOUND = 127
# What it says of limits that pass.
_LIMITS = re.compile(r"QOSMaxSubmit|AssocMaxSubmit|job submit limit|AssocGrpSubmit|MaxJobCount|too many", re.IGNORECASE)
_UNKNOWN_CLUSTER = re.compile(r"No cluster '([^']*)' known by database")
# %a of an array that has not started yet, as scontrol prints it.
_NO_ELEMENT = "4294967294"


class Scheduler:
    """Slurm's commands through one client."""

    def __init__(self, client: SshClient) -> None:
        self.client = client

    # ------------------------------------------------------------------ submitting

    def base(self, submission: SlurmSubmission) -> str:
        """Where private folders are."""
        return submission.config.workdir or self.client.settings.workdir or commands.BASE

    async def make_folder(self, submission: SlurmSubmission) -> str:
        """Make the job's private folder; making it twice is no error.

        Raises:
            ClusterError: it cannot be made.
        """
        owner = submission.identity.to_json()
        done = await self.client.run(
            commands.make_folder(self.base(submission), submission.task, submission.attempt, owner)
        )
        folder = done.out.strip().rpartition("\n")[2]
        if done.code or not folder.startswith("/"):
            where = f"{self.base(submission)} cannot be made or entered on {self.client.settings.place}"
            raise ClusterError(f"workdir: {where}: {_said(done)}")
        return folder

    def reference(self, submission: SlurmSubmission, folder: str) -> JobRef:
        """The job before it is submitted."""
        config = submission.config
        address = {"directory": folder, "clusters": str(config.clusters or ""), "array": config.array or ""}
        return JobRef(NAME, submission.name, "", {name: value for name, value in address.items() if value})

    async def submit(self, submission: SlurmSubmission, reserved: JobRef, storage: Storage) -> tuple[JobRef, bool]:
        """Submit the job, or find what an earlier attempt of the same try submitted.

        Raises:
            JobNotStarted: sbatch refuses.
            ClusterError: the controller did not answer for :data:`SUBMIT_SECONDS`.
        """
        existing = await self.find(reserved)
        if existing is not None:
            return existing, True
        folder = reserved.address["directory"]
        call = submission.call(folder)
        await self._send(submission, folder, call, storage)
        script = commands.submit(
            folder,
            submission.name,
            call.shell_words(),
            str(submission.config.clusters or ""),
            script=call.script,
            exports=[f"export {name}={shlex.quote(value)}" for name, value in call.exports.items()],
        )
        job, cluster = status.submitted(await self._answered(script, call))
        return await self._placed(reserved, job, cluster, call), False

    async def _send(self, submission: SlurmSubmission, folder: str, call: SbatchCall, storage: Storage) -> None:
        payload = submission.payload
        files = dict(call.files) | ({PAYLOAD: payload} if payload is not None else {})
        for name, content in files.items():
            await self.client.write(f"{folder}/{name}", content)
        for name, place in submission.uploads.items():
            with tempfile.TemporaryDirectory(prefix="airflow-distrib-") as here:
                local = Path(here) / "input"
                await asyncio.to_thread(storage.download, place, local)
                await self.client.run(f"mkdir -p -- {shlex.quote(f'{folder}/{name}'.rpartition('/')[0])}")
                await self.client.send(local, f"{folder}/{name}")

    async def _answered(self, script: str, call: SbatchCall) -> str:
        end = time.monotonic() + SUBMIT_SECONDS
        while True:
            done = await self.client.run(script)
            if done.code == 0:
                return done.out
            said = _said(done)
            ours = done.code in (commands.NO_SCRIPT, commands.NO_FOLDER, commands.GIVEN_UP, _NOT_FOUND)
            if unknown := _UNKNOWN_CLUSTER.search(said):
                text = f"clusters: Slurm on {self.client.settings.place} knows no cluster {unknown[1]!r}"
                raise _not_started("UnknownCluster", text, "`sacctmgr list clusters` shows all")
            # Only sbatch's own word counts as a refusal; one that was killed has said nothing.
            if ours or (done.code != commands.TRY_AGAIN and "sbatch:" in said and not _AWAY.search(said)):
                raise self._refused(done, said, call)
            if time.monotonic() > end:
                raise ClusterError(f"Slurm does not answer on {self.client.settings.place}: {said}")
            log.info("Slurm does not answer: %s; trying again", said)
            await asyncio.sleep(SUBMIT_PAUSE)

    def _refused(self, done: Finished, said: str, call: SbatchCall) -> Exception:
        place = self.client.settings.place
        if done.code == commands.NO_SCRIPT:
            text = f"script_path: there is no script {call.script} on {place} that the user may read"
            return _not_started("ScriptMissing", text, "correct script_path")
        if done.code == commands.GIVEN_UP:
            return JobTerminated("the job was given up while it was submitted, and is cancelled")
        if done.code == commands.NO_FOLDER:
            return ClusterError(f"the job's private folder on {place} cannot be used: {said}")
        if done.code == _NOT_FOUND:
            text = f"there is no sbatch in the search path on {place}"
            return _not_started("NoSlurm", text, "set slurm_path in the connection's extra")
        retry = Retry.MAY_HELP if _LIMITS.search(said) else Retry.CANNOT_HELP
        return _not_started("SubmitRefused", f"sbatch on {place} refused the job: {said}", "", retry)

    async def _placed(self, reserved: JobRef, job: str, cluster: str, call: SbatchCall | None) -> JobRef:
        """The reference of a job that exists, with the files of its output."""
        address = dict(reserved.address)
        if cluster:
            address["cluster"] = cluster
        out, err = (call.stdout, call.stderr) if call else ("", "")
        folder = address["directory"]
        if call is None:
            # Found again: what this package chose is there by that name.
            end = f".{ELEMENT}" if address.get("array") else ""
            out, err = f"{folder}/stdout{end}", f"{folder}/stderr{end}"
        if not out or not err or call is None:
            files = await self._files_of(job, cluster)
            out, err = (files[0] or out, files[1] or err) if call is None else (out or files[0], err or files[1])
        address |= {"stdout": out, "stderr": err}
        return JobRef(NAME, reserved.name, job, {name: value for name, value in address.items() if value})

    async def _files_of(self, job: str, cluster: str) -> tuple[str, str]:
        """Where Slurm writes a job's output; empty where it has forgotten the job."""
        for record in status.records(await self._detailed([job], cluster)):
            fields = status.fields_of(record)
            if job in (fields["JobId"], fields.get("ArrayJobId")):
                return _pattern(fields, status.last_of("StdOut", record)), _pattern(
                    fields, status.last_of("StdErr", record)
                )
        return "", ""

    # ------------------------------------------------------------------ looking

    async def find(self, reserved: JobRef) -> JobRef | None:
        """The job that was submitted from a folder, if any was."""
        address = reserved.address
        done = await self.client.run(commands.find(address["directory"], reserved.name, address.get("clusters", "")))
        if done.code:
            raise ClusterError(f"Slurm does not answer on {self.client.settings.place}: {_said(done)}")
        jobs = [line for line in done.out.splitlines() if re.fullmatch(r"\d+(;[^ ;]+)?", line.strip())]
        return await self._placed(reserved, *status.submitted(jobs[0]), None) if jobs else None

    async def queue(self, cluster: str) -> dict[str, dict[str, Part]]:
        """All jobs of the user that the controller has not forgotten.

        Raises:
            ClusterError: the controller, or the login node, does not answer.
        """
        done = await self.client.run(commands.queue(cluster), attempts=1)
        if done.code:
            raise ClusterError(f"squeue: {_said(done)}")
        return status.from_squeue(done.out)

    async def forgotten(self, jobs: Iterable[str], cluster: str) -> dict[str, dict[str, Part]]:
        """What the accounting, and then the controller, says of jobs that squeue does not show.

        Raises:
            ClusterError: one of them does not answer, and the other does not know.
        """
        ids = sorted(jobs)
        if not ids:
            return {}
        past, trouble = await self._accounted(ids, cluster, 1)
        # What the accounting believes to run, and the queue does not show, it may have missed the end of.
        found = {job: parts for job, parts in past.items() if all(part.over for part in parts.values())}
        missing = [job for job in ids if job not in found]
        if missing:
            now = status.from_scontrol(await self._detailed(missing, cluster, 1))
            found |= now
            if trouble and set(missing) - set(now):
                raise ClusterError(f"sacct: {trouble}")
        return found

    async def _accounted(
        self, ids: list[str], cluster: str, attempts: int | None = None
    ) -> tuple[dict[str, dict[str, Part]], str]:
        """What the accounting says, and why it does not answer; that there is none is no trouble."""
        done = await self.client.run(commands.accounting(ids, cluster), attempts=attempts)
        if done.code == 0:
            return status.from_sacct(done.out), ""
        said = _said(done)
        return {}, "" if "disabled" in said or "not found" in said else said

    async def _detailed(self, ids: list[str], cluster: str, attempts: int | None = None) -> str:
        done = await self.client.run(commands.details(ids, cluster), attempts=attempts)
        if done.code:
            raise ClusterError(f"scontrol: {_said(done)}")
        return done.out

    async def parts(self, ref: JobRef) -> dict[str, Part]:
        """All that Slurm knows of one job: what it is now, or how it ended.

        Raises:
            ClusterError: nobody answers who could know.
        """
        cluster = ref.address.get("cluster", "")
        now = status.of_job(status.from_scontrol(await self._detailed([ref.uid], cluster)), ref.uid, ref.name)
        accounted, trouble = await self._accounted([ref.uid], cluster)
        past = status.of_job(accounted, ref.uid, ref.name)
        if not now and trouble:
            raise ClusterError(f"sacct: {trouble}")
        # The accounting is late, and alone knows who cancelled a job and what the controller has forgotten.
        merged = {key: part for key, part in past.items() if part.over}
        for key, part in now.items():
            later = merged.get(key)
            merged[key] = later if later is not None and part.over else part
        return merged

    async def usage(self, ref: JobRef) -> Usage | None:
        """What a job that is over used; None where the accounting does not know, or there is none."""
        done = await self.client.run(commands.used(ref.uid, ref.address.get("cluster", "")), attempts=1)
        return usages.from_sacct(done.out) if done.code == 0 else None

    async def outcomes(self, ref: JobRef) -> dict[str, list[Outcome]]:
        """What the ranks left, by element of the array; ``""`` for a single job.

        Raises:
            OutcomeUnreadable: a file is not whole, perhaps not yet.
        """
        done = await self.client.run(commands.outcomes(ref.address["directory"]))
        found: dict[str, list[Outcome]] = {}
        for line in done.out.splitlines():
            name, tab, text = line.partition("\t")
            if not tab:
                continue
            found.setdefault(name.partition(".")[2], []).append(outcomes.from_json(text))
        return found

    async def exits(self, ref: JobRef) -> dict[str, int]:
        """How the batch scripts ended, by element, as they noted it themselves."""
        done = await self.client.run(commands.exits(ref.address["directory"]))
        pairs = [line.split() for line in done.out.splitlines()]
        return {pair[0].partition(".")[2]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}

    # ------------------------------------------------------------------ ending

    async def cancel(self, ref: JobRef, *, confirm_for: float = 0.0, keep_files: bool = False) -> bool:
        """Cancel the whole job and remove its folder; cancelling twice is no error.

        Args:
            keep_files: leave the folder: somebody is about to read what is in it.

        Returns:
            Whether it is known to be gone.

        Raises:
            ClusterError: the controller does not answer.
        """
        address = ref.address
        folder = "" if keep_files else address.get("directory", "")
        script = commands.cancel(ref.uid, ref.name, address.get("cluster", ""), folder, confirm_for)
        done = await self.client.run(script, seconds=confirm_for + 60)
        if done.code:
            raise ClusterError(f"scancel: {_said(done)}")
        return done.out.strip().endswith("gone")

    async def give_up(self, reserved: JobRef) -> None:
        """Submit no more: a submission that still runs somewhere cancels its own job when it is done."""
        await self.client.run(commands.give_up(reserved.address["directory"]))

    async def remove(self, ref: JobRef) -> None:
        """Remove a finished job's folder."""
        if directory := ref.address.get("directory"):
            await self.client.run(commands.remove_folder(directory))

    async def disown(self, ref: JobRef) -> None:
        """Leave a folder to the user."""
        if directory := ref.address.get("directory"):
            await self.client.run(commands.disown(directory))

    async def sweep(self, submission: SlurmSubmission, ended: Callable[[JobIdentity], bool]) -> list[str]:
        """Remove folders of jobs that are over and whose tasks have ended without removing them.

        That happens where Airflow ends a task between its job's end and the worker that was to read
        the result: a run that is failed or deleted meanwhile, an event that the scheduler mistakes.
        """
        done = await self.client.run(commands.leftovers(self.base(submission)), attempts=1)
        removed = []
        for line in done.out.splitlines():
            folder, tab, owner = line.partition("\t")
            if not tab or not ended(JobIdentity.from_json(owner)):
                continue
            # A submission may still be going on there.
            await self.client.run(f"{commands.remove_submitted(folder)}\n{commands.give_up(folder)}")
            removed.append(folder)
        return removed

    async def reap(self, submission: SlurmSubmission, keep: JobRef | None) -> list[JobRef]:
        """Cancel jobs of the task instance's other tries, and remove what they left."""
        clusters = str(submission.config.clusters or "")
        done = await self.client.run(commands.of_task(self.base(submission), submission.task, clusters))
        if done.code:
            raise ClusterError(f"Slurm does not answer on {self.client.settings.place}: {_said(done)}")
        jobs, _, folders = done.out.partition("----\n")
        cluster, old, kept = "", {}, keep.uid if keep else None
        for line in jobs.splitlines():
            if line.startswith("CLUSTER:"):
                cluster = line.partition(":")[2].strip()
                continue
            job, _, rest = line.partition("|")
            name, _, comment = rest.partition("|")
            if options.task_of(comment) == submission.task and job != kept and job.isdecimal():
                old[job] = JobRef(NAME, name, job, {"cluster": cluster} if cluster else {})
        for ref in old.values():
            await self.cancel(ref, confirm_for=5.0)
        mine = {submission.attempt, (keep.address.get("directory", "") if keep else "").rpartition("/")[2]}
        for folder in folders.splitlines():
            if folder.startswith("/") and folder.rpartition("/")[2] not in mine:
                await self.client.run(commands.give_up(folder))
                await self.client.run(commands.remove_submitted(folder))
        return list(old.values())


def _not_started(reason: str, message: str, advice: str, retry: Retry = Retry.CANNOT_HELP) -> JobNotStarted:
    return JobNotStarted(Problem(reason, message, advice, retry, Category.NOT_STARTED))


def _said(done: Finished) -> str:
    """What a command said about its failure, without the prefixes."""
    lines = [line.strip() for line in (done.err or done.out).splitlines() if line.strip()]
    return "; ".join(lines)[:1500] or f"exit status {done.code}"


def _pattern(fields: Mapping[str, str], text: str) -> str:
    """A file's name from scontrol, with :data:`ELEMENT` where an array's index belongs."""
    known = {
        "%j": fields.get("JobId", ""),
        "%A": fields.get("ArrayJobId") or fields.get("JobId", ""),
        "%x": fields.get("JobName", ""),
        "%u": str(fields.get("UserId", "")).partition("(")[0],
    }
    for place, value in known.items():
        text = text.replace(place, value)
    if array := fields.get("ArrayJobId"):
        text = text.replace(_NO_ELEMENT, ELEMENT)
        # Of one that has started already, if its name is as Slurm makes it by default.
        text = text.replace(f"{array}_{fields.get('ArrayTaskId')}", f"{array}_{ELEMENT}")
    return "" if text in ("(null)", "/dev/null") else text
