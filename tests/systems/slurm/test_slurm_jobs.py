"""Jobs are submitted, found, cancelled and reaped through a real SSH server and a real shell."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from airflow_distrib.core.errors import ClusterError, JobNotStarted, JobTerminated
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.systems.slurm import scheduler, shell, submission
from airflow_distrib.systems.slurm.commands import ENVIRONMENT
from airflow_distrib.systems.slurm.config import Sbatch, Slurm
from airflow_distrib.systems.slurm.jobs import SlurmJobs
from airflow_distrib.systems.slurm.session import SlurmSession
from airflow_distrib.systems.slurm.ssh import SshClient
from airflow_distrib.systems.slurm.submission import SlurmSubmission
from fake_slurm import FakeSlurm, LocalStorage, running


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeSlurm]:
    """A login node."""
    async with running(tmp_path) as started:
        yield started


@pytest.fixture
async def session(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlurmSession]:
    """A session on it, which hardly pauses before it submits again."""
    monkeypatch.setattr(scheduler, "SUBMIT_PAUSE", 0.05)
    opened = SlurmSession(SshClient(fake.settings(), attempts=4, prelude=ENVIRONMENT))
    yield opened
    await opened.close()


@pytest.fixture
def jobs(session: SlurmSession) -> SlurmJobs:
    """The jobs of that session."""
    return SlurmJobs(session)


def identity(try_number: int = 1, run_id: str = "run") -> JobIdentity:
    """The identity of a try."""
    return JobIdentity("dag", run_id, "task", -1, try_number, "scope")


def script(try_number: int = 1, run_id: str = "run", **config: Any) -> SlurmSubmission:
    """The submission of a shell script."""
    request = JobRequest(identity=identity(try_number, run_id), runs_function=False, arguments={"script": "echo hello"})
    return shell.of_shell(Sbatch(**config), request)


def mode(path: Path) -> int:
    """Return who may do what with a file."""
    return path.stat().st_mode & 0o777


async def submit(jobs: SlurmJobs, job: SlurmSubmission) -> tuple[JobRef, bool]:
    """Reserve and submit, as a run does."""
    return await jobs.submit(job, await jobs.reserve(job), LocalStorage())


async def test_a_job_has_a_private_folder_and_names_its_task(fake: FakeSlurm, jobs: SlurmJobs) -> None:
    """A job can be found again by name and comment, and only the user may look into its folder."""
    ref, existed = await submit(jobs, script(comment="for me", job_name="nice"))
    assert not existed
    folder = Path(ref.address["directory"])
    assert [mode(folder), mode(folder / "job.sh")] == [0o700, 0o600]
    job = fake.jobs["1"]
    assert job["name"] == ref.name == f"nice-{identity().digest}"
    assert job["comment"] == f"for me dag.task run try 1 airflow-distrib={identity().task_digest}"
    assert job["words"] == [str(folder / "job.sh")]
    assert (job["options"]["output"], job["options"]["open-mode"]) == (f"{folder}/stdout", "append")
    assert ref.address["stdout"] == f"{folder}/stdout"
    assert jobs.describe(ref) == f"Slurm job 1 ({ref.name})"


async def test_the_second_submission_of_a_try_finds_the_first(fake: FakeSlurm, jobs: SlurmJobs) -> None:
    """A try never has two jobs, even if the first one's id was lost or the queue has forgotten it."""
    ref, _ = await submit(jobs, script())
    for lose in (None, "submitted", "forget"):
        if lose:
            (Path(ref.address["directory"]) / "submitted").unlink(missing_ok=True)
        if lose == "forget":
            fake.change("1", known=False)
        again, existed = await submit(jobs, script())
        assert (again.uid, existed, len(fake.jobs)) == (ref.uid, True, 1)
        assert again.address["stdout"] == ref.address["stdout"]


async def test_an_answer_that_comes_too_late_makes_no_second_job(fake: FakeSlurm, jobs: SlurmJobs) -> None:
    """A try has one job although sbatch reported an error after the controller had made it."""
    fake.set(late=True)
    ref, _ = await submit(jobs, script())
    assert (ref.uid, list(fake.jobs)) == ("1", ["1"])
    assert len(fake.calls("sbatch")) == 1


@pytest.mark.parametrize("refusal", ["", "Invalid partition"])
async def test_a_submission_that_is_given_up_while_it_runs_leaves_nothing(
    fake: FakeSlurm, jobs: SlurmJobs, refusal: str
) -> None:
    """A worker that Airflow gave up leaves neither a job nor a folder, whatever Slurm answers it in the end."""
    job = script()
    reserved = await jobs.reserve(job)
    folder = Path(reserved.address["directory"])
    fake.set(refusal=refusal)
    with fake.holding():
        submitting = asyncio.create_task(jobs.submit(job, reserved, LocalStorage()))
        while not (folder / "trying").exists():  # noqa: ASYNC110 - a program's file
            await asyncio.sleep(0.02)
        await jobs.release(reserved)
        assert folder.exists()
    with pytest.raises(JobTerminated):
        await submitting
    assert not folder.parent.exists()
    assert [job["state"] for job in fake.jobs.values()] == ([] if refusal else ["CANCELLED"])


async def test_a_submission_that_waits_for_another_submits_nothing_once_it_is_given_up(
    fake: FakeSlurm, jobs: SlurmJobs
) -> None:
    """Nothing is submitted for a task that has ended while its submission waited for its turn."""
    job = script()
    reserved = await jobs.reserve(job)
    folder = Path(reserved.address["directory"])
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        submitting = asyncio.create_task(jobs.submit(job, reserved, LocalStorage()))
        while not (folder / "job.sh").exists():  # noqa: ASYNC110 - a program's file
            await asyncio.sleep(0.02)
        await jobs.release(reserved)
    with pytest.raises(JobTerminated):
        await submitting
    assert not folder.parent.exists()
    assert fake.calls("sbatch") == []


async def test_a_folder_in_which_a_process_still_writes_goes_when_it_stops(fake: FakeSlurm, jobs: SlurmJobs) -> None:
    """A job that is slow to end does not leave its folder, because removing it is tried again."""
    ref, _ = await submit(jobs, script())
    folder = Path(ref.address["directory"])
    bin_folder = fake.folder / "bin"
    # The first rm finds that something has been written meanwhile.
    (bin_folder / "rm").write_text(f'#!/bin/sh\n/bin/rm -f "{bin_folder}/rm"; exit 1\n')
    (bin_folder / "rm").chmod(0o755)
    await jobs.clean_up(ref)
    assert not folder.parent.exists()


async def test_a_controller_that_is_away_is_waited_for(
    fake: FakeSlurm, jobs: SlurmJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart of the controller costs no task its try, while a long outage becomes an error that a retry may cure."""
    fake.set(away=3)
    await submit(jobs, script())
    assert len(fake.jobs) == 1
    monkeypatch.setattr(scheduler, "SUBMIT_SECONDS", 0.2)
    fake.set(away=1000)
    with pytest.raises(ClusterError, match="Slurm does not answer on me@127.0.0.1") as failed:
        await submit(jobs, script(2))
    assert not failed.value.permanent


@pytest.mark.parametrize(
    ("refusal", "permanent"),
    [("Invalid partition name specified", True), ("Job violates accounting/QOS policy (QOSMaxSubmitJobPerUser", False)],
)
async def test_a_refusal_is_reported_in_slurms_own_words(
    fake: FakeSlurm, jobs: SlurmJobs, refusal: str, permanent: bool
) -> None:
    """Users learn why Slurm refused the job, and it is only retried where the cause may pass."""
    fake.set(refusal=refusal)
    with pytest.raises(JobNotStarted, match="SubmitRefused: sbatch on me@127.0.0.1") as failed:
        await submit(jobs, script())
    assert refusal in str(failed.value)
    assert failed.value.permanent is permanent


async def test_a_script_on_the_cluster_has_to_be_there(fake: FakeSlurm, jobs: SlurmJobs) -> None:
    """A missing script is named, and arguments and variables of one that exists reach sbatch unchanged."""
    nasty = "a $(id) 'b' \"c\" \n*"
    arguments = {"script_path": "~/my script.sh", "arguments": ["", nasty]}
    request = JobRequest(identity=identity(), runs_function=False, arguments=arguments)
    job = submission.of_script(Sbatch(env={"X": nasty}), request)
    with pytest.raises(JobNotStarted, match="there is no script ~/my script.sh"):
        await submit(jobs, job)
    (fake.home / "my script.sh").write_text("#!/bin/sh\n")
    ref, _ = await submit(jobs, job)
    known = fake.jobs[ref.uid]
    assert known["words"] == [f"{fake.home}/my script.sh", "", nasty]
    assert known["env"]["X"] == nasty
    assert known["options"]["export"] == "ALL"
    # The files that Slurm reports.
    assert (ref.address["stdout"], ref.address["stderr"]) == ("/x/out", "/x/err")


async def test_a_federations_cluster_is_remembered(fake: FakeSlurm, jobs: SlurmJobs) -> None:
    """In a federation every further command asks the cluster that took the job."""
    fake.set(cluster="north")
    ref, _ = await submit(jobs, script(clusters=["north", "south"]))
    assert (ref.uid, ref.address["cluster"]) == ("1", "north")
    assert jobs.describe(ref).endswith(" on cluster north")
    (Path(ref.address["directory"]) / "submitted").unlink(missing_ok=True)
    assert (await submit(jobs, script(clusters=["north", "south"])))[0].address["cluster"] == "north"
    await jobs.cancel(ref)
    assert "--clusters=north" in fake.calls("scancel")[0]
    assert fake.jobs["1"]["options"]["clusters"] == "north,south"


async def test_a_cancelled_job_is_gone_with_its_folder(fake: FakeSlurm, jobs: SlurmJobs) -> None:
    """A job can be cancelled twice, and also after Slurm has forgotten it, and nothing of it remains."""
    ref, _ = await submit(jobs, script())
    fake.change("1", state="RUNNING")
    assert await jobs.cancel(ref, confirm_for=2)
    assert fake.jobs["1"]["state"] == "CANCELLED"
    assert fake.folders() == []
    assert await jobs.cancel(ref, confirm_for=2)
    fake.change("1", known=False)
    assert await jobs.cancel(ref, confirm_for=2)


async def test_a_job_of_another_name_is_never_cancelled(fake: FakeSlurm, jobs: SlurmJobs) -> None:
    """A stranger's job survives where a Slurm that lost its state has given it the id of one of ours."""
    await submit(jobs, script())
    await jobs.cancel(JobRef("slurm", "another", "1", {}))
    assert fake.jobs["1"]["state"] == "PENDING"


async def test_a_folder_stays_while_nobody_knows_whether_the_job_is_gone(fake: FakeSlurm, jobs: SlurmJobs) -> None:
    """A job that may still run keeps its files while the controller is away."""
    ref, _ = await submit(jobs, script())
    fake.set(away=1000)
    with pytest.raises(ClusterError, match="Unable to contact slurm controller"):
        await jobs.cancel(ref)
    assert len(fake.folders()) == 1


async def test_other_tries_are_reaped_and_other_tasks_are_not(fake: FakeSlurm, jobs: SlurmJobs) -> None:
    """A task instance has one job and one folder at most, and never touches those of its neighbours."""
    first, _ = await submit(jobs, script(1))
    await jobs.reserve(script(2))
    other, _ = await submit(jobs, script(run_id="another"))
    current, _ = await submit(jobs, script(3))
    assert [ref.uid for ref in await jobs.reap(script(3), current)] == [first.uid]
    states = {job: each["state"] for job, each in fake.jobs.items()}
    assert states == {first.uid: "CANCELLED", other.uid: "PENDING", current.uid: "PENDING"}
    folders = {path.name for path in (fake.home / ".airflow-distrib" / identity().task_digest).iterdir()}
    assert folders == {script(3).attempt}


def age(ref: JobRef, base: Path) -> None:
    """Let a folder, and the last look for forgotten ones, be an hour old."""
    for path in (Path(ref.address["directory"]) / "owner", base / ".swept"):
        if path.exists():
            os.utime(path, (time.time() - 3600,) * 2)


async def test_what_ended_tasks_forgot_is_removed_by_a_later_submission(fake: FakeSlurm, jobs: SlurmJobs) -> None:
    """Folders of tasks that Airflow ended before they could read their results do not stay for ever."""
    over, waits, runs, others, young = [
        (await submit(jobs, script(run_id=name)))[0] for name in ("over", "waits", "runs", "others", "young")
    ]
    for ref in (over, waits, others, young):
        fake.change(ref.uid, state="COMPLETED")
    never = await jobs.reserve(script(run_id="never"))
    base = Path(over.address["directory"]).parents[1]
    for ref in (over, waits, runs, others, never):
        age(ref, base)
    ended = {"over", "runs", "young", "never"}
    removed = await jobs.sweep(script(2), lambda identity: identity.run_id in ended)
    assert sorted(removed) == sorted([over.address["directory"], never.address["directory"]])
    left = {ref.uid: Path(ref.address["directory"]).exists() for ref in (over, waits, runs, others, young, never)}
    assert left == {over.uid: False, waits.uid: True, runs.uid: True, others.uid: True, young.uid: True, "": False}


async def test_folders_are_looked_for_once_a_minute(fake: FakeSlurm, jobs: SlurmJobs) -> None:
    """A thousand submissions at once do not search the same folders a thousand times."""
    ref, _ = await submit(jobs, script(run_id="over"))
    fake.change(ref.uid, state="COMPLETED")
    age(ref, Path(ref.address["directory"]).parents[1])
    assert await jobs.sweep(script(2), lambda _: False) == []
    assert await jobs.sweep(script(2), lambda _: True) == []
    age(ref, Path(ref.address["directory"]).parents[1])
    assert await jobs.sweep(script(2), lambda _: True) == [ref.address["directory"]]


async def test_a_job_that_the_user_keeps_is_no_leftover(fake: FakeSlurm, jobs: SlurmJobs) -> None:
    """keep_job means what it says, however long ago the task has ended."""
    ref, _ = await submit(jobs, script(run_id="over"))
    fake.change(ref.uid, state="COMPLETED")
    age(ref, Path(ref.address["directory"]).parents[1])
    await jobs.keep(ref)
    assert await jobs.sweep(script(2), lambda _: True) == []


async def test_what_the_ranks_wrote_is_read_by_element(fake: FakeSlurm, jobs: SlurmJobs, session: SlurmSession) -> None:
    """Every element of an array has outcomes and an exit status of its own."""
    job = submission.of_function(Slurm(array="3-4"), JobRequest(identity=identity(), payload=b"x"))
    ref, _ = await submit(jobs, job)
    folder = Path(ref.address["directory"])
    assert await session.scheduler.outcomes(ref) == {}
    for element in ("3", "4"):
        private = folder / f"ranks.{element}" / "airflow-distrib-x"
        private.mkdir(parents=True)
        outcome = Outcome(outcomes.SUCCESS, 0, result=element)
        (private / "outcome-rank-0.json").write_text(outcome.to_json())
        (folder / f"exit.{element}").write_text("0\n")
    found = await session.scheduler.outcomes(ref)
    assert {name: [each.result for each in reported] for name, reported in found.items()} == {"3": ["3"], "4": ["4"]}
    assert await session.scheduler.exits(ref) == {"3": 0, "4": 0}


@pytest.mark.parametrize(
    ("exits", "state"),
    [({}, None), ({"exit": "0"}, JobState.SUCCEEDED), ({"exit.0": "0", "exit.1": "3"}, JobState.FAILED)],
)
async def test_a_job_that_slurm_has_forgotten_is_known_by_what_its_script_noted(
    fake: FakeSlurm, jobs: SlurmJobs, exits: dict[str, str], state: JobState | None
) -> None:
    """A later try does not run a job again that has ended, although nobody but its own script knows of that."""
    ref, _ = await submit(jobs, script())
    known = await jobs.status(ref)
    assert known is not None
    assert known.state is JobState.QUEUED
    fake.set(accounting=False)
    fake.change(ref.uid, known=False)
    for name, code in exits.items():
        (Path(ref.address["directory"]) / name).write_text(f"{code}\n")
    later = await jobs.status(ref)
    assert (later.state if later else None) is state


async def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(jobs: SlurmJobs, session: SlurmSession) -> None:
    """Users learn which folder or file cannot be written, and on which machine."""
    with pytest.raises(ClusterError, match="workdir: /proc/x cannot be made or entered on me@"):
        await jobs.reserve(script(workdir="/proc/x"))
    with pytest.raises(ClusterError, match="cannot be written on 127.0.0.1"):
        await session.client.write("/nowhere/file", b"x")
