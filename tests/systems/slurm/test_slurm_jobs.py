"""Submitting, finding, cancelling and reaping, through a real SSH server and a real shell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from airflow_distrib.systems.slurm import jobs as module
from airflow_distrib.systems.slurm import plan as plans
from airflow_distrib.systems.slurm.config import Sbatch, Slurm
from airflow_distrib.systems.slurm.jobs import SlurmJobs
from airflow_distrib.systems.slurm.plan import Plan, Request
from airflow_distrib.systems.slurm.ssh import SshClient
from airflow_distrib.core.errors import ClusterError, JobNotStarted
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome
from fake_slurm import FakeSlurm, running

Test = Callable[[FakeSlurm, SlurmJobs], Coroutine[Any, Any, None]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Test], None]:
    """Runs a test with a login node of its own."""
    monkeypatch.setattr(module, "_PAUSE", 0.05)

    def start(test: Test) -> None:
        async def main() -> None:
            async with running(tmp_path) as fake, SshClient(fake.settings(), attempts=4) as client:
                await test(fake, SlurmJobs(client))

        asyncio.run(main())

    return start


def identity(try_number: int = 1, run_id: str = "run") -> JobIdentity:
    """Of a try."""
    return JobIdentity("dag", run_id, "task", -1, try_number, "scope")


def script(try_number: int = 1, **config: Any) -> Plan:
    """A shell script's plan."""
    return plans.of_text(Sbatch(**config), Request(identity(try_number)), "echo hello", lambda folder: [])


def mode(path: Path) -> int:
    """Who may do what with it."""
    return path.stat().st_mode & 0o777


async def submit(jobs: SlurmJobs, plan: Plan) -> tuple[JobRef, bool]:
    """Folder, files, sbatch."""
    return await jobs.submit(plan, await jobs.make_folder(plan), None)


def test_a_job_has_a_private_folder_and_says_whose_it_is(run: Any) -> None:
    """Name and comment find it again; only the user may look into the folder."""

    async def test(fake: FakeSlurm, jobs: SlurmJobs) -> None:
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

    run(test)


def test_the_second_submission_of_a_try_finds_the_first(run: Any) -> None:
    """By its folder; by its name where nobody wrote the answer down; in the accounting where the queue forgot it."""

    async def test(fake: FakeSlurm, jobs: SlurmJobs) -> None:
        ref, _ = await submit(jobs, script())
        for lose in (None, "submitted", "forget"):
            if lose:
                (Path(ref.address["directory"]) / "submitted").unlink(missing_ok=True)
            if lose == "forget":
                fake.change("1", known=False)
            again, existed = await submit(jobs, script())
            assert (again.uid, existed, len(fake.jobs)) == (ref.uid, True, 1)
            assert again.address["stdout"] == ref.address["stdout"]

    run(test)


def test_an_answer_that_comes_too_late_makes_no_second_job(run: Any) -> None:
    """sbatch fails, although the controller has done it."""

    async def test(fake: FakeSlurm, jobs: SlurmJobs) -> None:
        fake.set(late=True)
        ref, _ = await submit(jobs, script())
        assert (ref.uid, list(fake.jobs)) == ("1", ["1"])
        assert len(fake.calls("sbatch")) == 1

    run(test)


def test_a_controller_that_is_away_is_waited_for(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not for ever; and nothing is submitted while it cannot be asked whether it was already."""

    async def test(fake: FakeSlurm, jobs: SlurmJobs) -> None:
        fake.set(away=3)
        await submit(jobs, script())
        assert len(fake.jobs) == 1
        monkeypatch.setattr(module, "SUBMIT_SECONDS", 0.2)
        fake.set(away=1000)
        with pytest.raises(ClusterError, match="Slurm does not answer on me@127.0.0.1") as failed:
            await submit(jobs, script(2))
        assert not failed.value.permanent

    run(test)


@pytest.mark.parametrize(
    ("refusal", "permanent"),
    [("Invalid partition name specified", True), ("Job violates accounting/QOS policy (QOSMaxSubmitJobPerUser", False)],
)
def test_a_refusal_is_told_in_slurms_own_words(run: Any, refusal: str, permanent: bool) -> None:
    """Limits pass; everything else would be refused again."""

    async def test(fake: FakeSlurm, jobs: SlurmJobs) -> None:
        fake.set(refusal=refusal)
        with pytest.raises(JobNotStarted, match="SubmitRefused: sbatch on me@127.0.0.1") as failed:
            await submit(jobs, script())
        assert refusal in str(failed.value)
        assert failed.value.permanent is permanent

    run(test)


def test_a_script_on_the_cluster_has_to_be_there(run: Any) -> None:
    """Its arguments and variables reach sbatch as they are."""

    async def test(fake: FakeSlurm, jobs: SlurmJobs) -> None:
        nasty = "a $(id) 'b' \"c\" \n*"
        plan = plans.of_script(Sbatch(env={"X": nasty}), Request(identity()), "~/my script.sh", ["", nasty])
        with pytest.raises(JobNotStarted, match="there is no script ~/my script.sh"):
            await submit(jobs, plan)
        (fake.home / "my script.sh").write_text("#!/bin/sh\n")
        ref, _ = await submit(jobs, plan)
        job = fake.jobs[ref.uid]
        assert job["words"] == [f"{fake.home}/my script.sh", "", nasty]
        assert job["env"]["X"] == nasty
        assert job["options"]["export"] == "ALL"
        # Where Slurm says that it writes.
        assert (ref.address["stdout"], ref.address["stderr"]) == ("/x/out", "/x/err")

    run(test)


def test_a_federations_cluster_is_remembered(run: Any) -> None:
    """All further commands name it."""

    async def test(fake: FakeSlurm, jobs: SlurmJobs) -> None:
        fake.set(cluster="north")
        ref, _ = await submit(jobs, script(clusters=["north", "south"]))
        assert (ref.uid, ref.address["cluster"]) == ("1", "north")
        (Path(ref.address["directory"]) / "submitted").unlink(missing_ok=True)
        assert (await submit(jobs, script(clusters=["north", "south"])))[0].address["cluster"] == "north"
        await jobs.cancel(ref)
        assert "--clusters=north" in fake.calls("scancel")[0]
        assert fake.jobs["1"]["options"]["clusters"] == "north,south"

    run(test)


def test_a_cancelled_job_is_gone_with_its_folder(run: Any) -> None:
    """Also when it is cancelled again, was over, or is not known any more."""

    async def test(fake: FakeSlurm, jobs: SlurmJobs) -> None:
        ref, _ = await submit(jobs, script())
        fake.change("1", state="RUNNING")
        assert await jobs.cancel(ref, confirm_for=2)
        assert fake.jobs["1"]["state"] == "CANCELLED"
        assert fake.folders() == []
        assert await jobs.cancel(ref, confirm_for=2)
        fake.change("1", known=False)
        assert await jobs.cancel(ref, confirm_for=2)

    run(test)


def test_a_job_of_another_name_is_never_cancelled(run: Any) -> None:
    """Slurm counts its ids anew when it loses its state."""

    async def test(fake: FakeSlurm, jobs: SlurmJobs) -> None:
        await submit(jobs, script())
        await jobs.cancel(JobRef("slurm", "another", "1", {}))
        assert fake.jobs["1"]["state"] == "PENDING"

    run(test)


def test_a_folder_stays_while_nobody_knows_whether_the_job_is_gone(run: Any) -> None:
    """A controller that is away says nothing about jobs."""

    async def test(fake: FakeSlurm, jobs: SlurmJobs) -> None:
        ref, _ = await submit(jobs, script())
        fake.set(away=1000)
        with pytest.raises(ClusterError, match="Unable to contact slurm controller"):
            await jobs.cancel(ref)
        assert len(fake.folders()) == 1

    run(test)


def test_other_tries_are_reaped_and_other_tasks_are_not(run: Any) -> None:
    """Jobs, and folders of those that were never submitted."""

    async def test(fake: FakeSlurm, jobs: SlurmJobs) -> None:
        first, _ = await submit(jobs, script(1))
        await jobs.make_folder(script(2))
        request = Request(identity(run_id="another"))
        other, _ = await submit(jobs, plans.of_text(Sbatch(), request, "true", lambda folder: []))
        current, _ = await submit(jobs, script(3))
        assert [ref.uid for ref in await jobs.reap(script(3), current)] == [first.uid]
        states = {job: each["state"] for job, each in fake.jobs.items()}
        assert states == {first.uid: "CANCELLED", other.uid: "PENDING", current.uid: "PENDING"}
        left = {path.name for path in (fake.home / ".airflow-distrib" / identity().task_digest).iterdir()}
        assert left == {script(3).attempt}

    run(test)


def test_what_the_ranks_left_is_read_by_element(run: Any) -> None:
    """One line of JSON each."""

    async def test(fake: FakeSlurm, jobs: SlurmJobs) -> None:
        request = Request(identity(), payload=b"x")
        plan = plans.of_function(Slurm(array="3-4"), request)
        ref, _ = await submit(jobs, plan)
        folder = Path(ref.address["directory"])
        assert await jobs.outcomes(ref) == {}
        for element in ("3", "4"):
            private = folder / f"ranks.{element}" / "airflow-distrib-x"
            private.mkdir(parents=True)
            outcome = Outcome(outcomes.SUCCESS, 0, result=element)
            (private / "outcome-rank-0.json").write_text(outcome.to_json())
            (folder / f"exit.{element}").write_text("0\n")
        found = await jobs.outcomes(ref)
        assert {name: [each.result for each in left] for name, left in found.items()} == {"3": ["3"], "4": ["4"]}
        assert await jobs.exits(ref) == {"3": 0, "4": 0}

    run(test)


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(run: Any) -> None:
    """As is a file that cannot be written."""

    async def test(fake: FakeSlurm, jobs: SlurmJobs) -> None:
        with pytest.raises(ClusterError, match="workdir: /proc/x cannot be made or entered on me@"):
            await jobs.make_folder(script(workdir="/proc/x"))
        with pytest.raises(ClusterError, match="cannot be written on 127.0.0.1"):
            await jobs.client.write("/nowhere/file", b"x")

    run(test)
