"""Clients connect to a real Slurm and submit exactly once, without Airflow's scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import slurm_cluster
from airflow_distrib.core.errors import JobNotStarted
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.hooks.ssh import SlurmSSHHook
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.jobs.wait import until_over
from airflow_distrib.jobs.waiting import Waiting
from airflow_distrib.systems.slurm import shell
from airflow_distrib.systems.slurm.commands import ENVIRONMENT
from airflow_distrib.systems.slurm.config import Sbatch
from airflow_distrib.systems.slurm.jobs import SlurmJobs
from airflow_distrib.systems.slurm.session import SlurmSession
from airflow_distrib.systems.slurm.ssh import Finished, Refused, SshClient, SshSettings, Unreachable
from airflow_distrib.systems.slurm.status import FORGOTTEN
from airflow_distrib.systems.slurm.submission import SlurmSubmission
from airflow_stack import free_port, wait_for
from fake_slurm import LocalStorage
from slurm_cluster import USER, SlurmCluster


def settings(slurm: SlurmCluster, **other: Any) -> SshSettings:
    """Return settings that lead to the login node, with the user's key and the host's."""
    whole: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": slurm.ssh_port,
        "username": USER,
        "use_agent": False,
        "private_keys": ((slurm.private_key, None),),
        "host_key": slurm.host_key,
    }
    return SshSettings(**{**whole, **other})


def connected(slurm: SlurmCluster, **other: Any) -> SshClient:
    """Return a client of the login node."""
    return SshClient(settings(slurm, **other), attempts=4, prelude=ENVIRONMENT)


@pytest.fixture
async def session(slurm: SlurmCluster) -> AsyncIterator[SlurmSession]:
    """A session on the login node."""
    opened = SlurmSession(connected(slurm))
    yield opened
    await opened.close()


def job(run: str, text: str = "#!/bin/sh\nsleep 1\n", **config: Any) -> SlurmSubmission:
    """Return the submission of a script."""
    identity = JobIdentity("dag", run, "task", -1, 1, "scope")
    return shell.of_shell(
        Sbatch(**config), JobRequest(identity=identity, runs_function=False, arguments={"script": text})
    )


async def submit(session: SlurmSession, submission: SlurmSubmission) -> tuple[JobRef, bool]:
    """Reserve and submit, as a run does."""
    jobs = SlurmJobs(session)
    return await jobs.submit(submission, await jobs.reserve(submission), LocalStorage())


def jobs_named(slurm: SlurmCluster, name: str) -> list[str]:
    """Return all jobs of that name, also those that are over."""
    return slurm.run("squeue", "-h", "--states=all", f"--name={name}", "-o", "%F").split()


async def clean_up(session: SlurmSession, ref: JobRef) -> None:
    """Cancel a job, and see that neither it nor its folder remains."""
    assert await SlurmJobs(session).cancel(ref, confirm_for=20)
    assert await session.client.size(ref.address["directory"]) is None


def other_key(slurm: SlurmCluster) -> str:
    """Return a key that the user has not allowed, but that has a certificate."""
    return (slurm.folder / "ssh/other_key").read_text()


def test_the_connections_test_shows_slurms_version(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Test button in Airflow shows Slurm's version, or what is wrong with the connection."""
    monkeypatch.setenv("AIRFLOW_CONN_GOOD", slurm.connection())
    well, text = SlurmSSHHook("good").test_connection()
    assert well
    assert "slurm" in text
    assert "Slurmctld(primary)" in text
    for name, extra, trouble in (
        ("WRONG_KEY", {"private_key": other_key(slurm)}, "does not accept the connection's key"),
        ("WRONG_HOST", {"host_key": (slurm.folder / "ssh/ca.pub").read_text()}, "is not the one that is trusted"),
        ("NO_HOST", {"host_key": None, "known_hosts": ""}, "or none is"),
        ("NO_SLURM", {"slurm_path": "/nowhere:"}, ""),
    ):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", slurm.connection(**extra))
        well, text = SlurmSSHHook(name.lower()).test_connection()
        assert well == (not trouble)
        assert trouble in text


@pytest.mark.parametrize("way", ["certificate", "jump", "known_hosts", "agent", "proxy_command"])
async def test_there_are_several_ways_in(slurm: SlurmCluster, way: str, tmp_path: Path) -> None:
    """Users of sites with their own rules for SSH reach the login node too."""
    other: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        if way == "certificate":
            certificate = (slurm.folder / "ssh/other_key-cert.pub").read_text()
            other["private_keys"] = ((other_key(slurm), certificate),)
        elif way == "jump":
            other["jump"] = settings(slurm)
        elif way == "known_hosts":
            other |= {"host_key": None, "known_hosts": f"[127.0.0.1]:{slurm.ssh_port} {slurm.host_key}"}
        elif way == "proxy_command":
            other["proxy_command"] = f"nc 127.0.0.1 {slurm.ssh_port}"
            if not any(Path(folder, "nc").exists() for folder in ("/bin", "/usr/bin")):
                code = "import socket,sys,threading,os\n"
                code += f"s=socket.create_connection(('127.0.0.1',{slurm.ssh_port}))\n"
                code += "threading.Thread(target=lambda:[os.write(1,d) for d in iter(lambda:s.recv(9999),b'')],"
                code += "daemon=True).start()\n[s.sendall(d) for d in iter(lambda:os.read(0,9999),b'')]\n"
                (tmp_path / "proxy.py").write_text(code)
                other["proxy_command"] = f"python3 {tmp_path}/proxy.py"
        else:
            stack.enter_context(_agent(slurm.folder / "ssh/user_key"))
            other |= {"private_keys": (), "use_agent": True}
        async with connected(slurm, **other) as client:
            assert (await client.run("id -un")).out == f"{USER}\n"


@contextlib.contextmanager
def _agent(key: Path) -> Iterator[None]:
    printed = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    values = dict(part.split("=", 1) for part in printed.replace("\n", "").split(";") if part.startswith("SSH_"))
    os.environ.update(values)
    try:
        key.chmod(0o600)
        subprocess.run(["ssh-add", "-q", str(key)], check=True)
        yield
    finally:
        os.kill(int(values["SSH_AGENT_PID"]), signal.SIGTERM)
        for name in values:
            del os.environ[name]


async def test_a_key_that_is_refused_is_not_tried_again_and_again(slurm: SlurmCluster) -> None:
    """A wrong key, or a host that is not trusted, is reported after one attempt; other troubles may pass."""
    log = slurm.folder / "sshd.out"
    before = log.read_text(errors="replace").count("Connection from ")
    for other in (
        {"private_keys": ((other_key(slurm), None),)},
        {"host_key": (slurm.folder / "ssh/ca.pub").read_text()},
        {"host_key": None, "known_hosts": ""},
    ):
        with pytest.raises(Refused):
            async with connected(slurm, **other) as client:
                await client.run("true")
    assert log.read_text(errors="replace").count("Connection from ") - before == 3
    async with connected(slurm, port=free_port()) as client:
        with pytest.raises(Unreachable, match="no SSH connection to"):
            await client.run("true")


async def test_many_calls_share_one_connection(session: SlurmSession) -> None:
    """A busy triggerer needs one connection, although it has more calls than sshd allows sessions on it."""
    done = await asyncio.gather(*(session.client.run(f"sleep 0.05; echo {number}") for number in range(60)))
    assert [each.out for each in done] == [f"{number}\n" for number in range(60)]
    assert session.client.connections == 1


async def test_submitting_twice_makes_one_job(slurm: SlurmCluster, session: SlurmSession) -> None:
    """A worker that does not know whether it has submitted can submit again."""
    submission = job("twice")
    first, existed = await submit(session, submission)
    second, found = await submit(session, submission)
    assert (first, existed, found) == (second, False, True)
    assert jobs_named(slurm, submission.name) == [first.uid]
    await clean_up(session, first)


class Losing(SshClient):
    """Loses the first two answers to a submission; before the second one is lost, a command runs.

    Attributes:
        command: that command.
        lost: how many answers were lost.
    """

    command = ""
    lost = 0

    async def _run(self, script: str, seconds: float) -> Finished:
        done = await super()._run(script, seconds)
        if "sbatch --parsable" in script and self.lost < 2:
            self.lost += 1
            if self.lost == 2:
                await super()._run(self.command, seconds)
            raise Unreachable("cut")
        return done


@pytest.mark.parametrize("array", [None, "0-2"])
async def test_a_lost_reply_makes_no_second_job(slurm: SlurmCluster, array: str | None) -> None:
    """A try has one job although the connection broke, or the shell died before it could note the job's id."""
    submission = job(f"reply-{array}", "#!/bin/sh\nsleep 30\n", array=array)
    client = Losing(settings(slurm), prelude=ENVIRONMENT)
    session = SlurmSession(client)
    jobs = SlurmJobs(session)
    reserved = await jobs.reserve(submission)
    # As if the shell had been killed between sbatch and the note.
    client.command = f"rm {reserved.address['directory']}/submitted"
    ref, _ = await jobs.submit(submission, reserved, LocalStorage())
    assert client.lost == 2
    assert sorted(set(jobs_named(slurm, submission.name))) == [ref.uid]
    await clean_up(session, ref)
    await session.close()


async def test_two_who_submit_the_same_at_once_make_one_job(slurm: SlurmCluster, session: SlurmSession) -> None:
    """A worker that Airflow has given up, but that still runs, cannot give its successor a second job."""
    submission = job("at-once", "#!/bin/sh\nsleep 30\n")
    other = SlurmSession(connected(slurm))
    refs = await asyncio.gather(submit(session, submission), submit(other, submission), submit(session, submission))
    await other.close()
    assert len({ref.uid for ref, _ in refs}) == 1
    assert jobs_named(slurm, submission.name) == [refs[0][0].uid]
    await clean_up(session, refs[0][0])


async def test_a_controller_that_answers_too_late_makes_no_second_job(
    slurm: SlurmCluster, session: SlurmSession
) -> None:
    """A try has one job although sbatch gave up on a request that the controller carried out later."""
    submission = job("late", "#!/bin/sh\nsleep 30\n")
    # Longer than sbatch waits for an answer.
    slurm.signal("slurmctld", signal.SIGSTOP)
    threading.Timer(25, slurm.signal, ("slurmctld", signal.SIGCONT)).start()
    ref, _ = await submit(session, submission)
    await asyncio.sleep(5)
    assert sorted(set(jobs_named(slurm, submission.name))) == [ref.uid]
    await clean_up(session, ref)


async def test_cancelling_is_idempotent_and_never_hits_a_namesake(slurm: SlurmCluster, session: SlurmSession) -> None:
    """A cancel can be repeated, and spares a stranger's job that has got the same id."""
    submission = job("namesake", "#!/bin/sh\nsleep 60\n")
    ref, _ = await submit(session, submission)
    jobs = SlurmJobs(session)
    await jobs.cancel(JobRef("slurm", "another-name", ref.uid, {}))
    assert jobs_named(slurm, submission.name) == [ref.uid]
    assert slurm.run("squeue", "-h", "-j", ref.uid, "-o", "%T").strip() in ("PENDING", "RUNNING", "CONFIGURING")
    await clean_up(session, ref)
    await clean_up(session, ref)
    assert await jobs.cancel(JobRef("slurm", "x", "999999", {}), confirm_for=2)


async def test_one_look_serves_all_jobs_that_wait(session: SlurmSession) -> None:
    """The load on the controller and the login node does not grow with the number of waiting tasks."""
    jobs = SlurmJobs(session)
    submissions = [job(f"look-{number}", "#!/bin/sh\nsleep 6\n", mem="10M") for number in range(10)]
    refs = [ref for ref, _ in await asyncio.gather(*(submit(session, each) for each in submissions))]
    shown: list[str] = []
    waits = (until_over(jobs, Waiting(ref, "c", logs=False), shown.append) for ref in refs)
    endings = await asyncio.gather(*waits)
    assert [each.succeeded for each in endings] == [True] * 10
    assert session.queue("").commands < 20
    await asyncio.gather(*(jobs.clean_up(ref) for ref in refs))
    assert session.client.connections == 1


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[SlurmCluster]:
    """A Slurm that keeps no accounting and forgets jobs soon."""
    with slurm_cluster.running(tmp_path / "lab", accounting=False, min_job_age=2) as started:
        yield started


async def test_a_slurm_without_accounting_forgets_and_is_still_understood(plain: SlurmCluster) -> None:
    """A job's own script notes how it ended, for a Slurm where nobody else remembers."""
    session = SlurmSession(connected(plain))
    jobs = SlurmJobs(session)
    submission = job("forgotten", "#!/bin/sh\nexit 4\n", array="0-1")
    ref, _ = await submit(session, submission)
    await asyncio.to_thread(
        wait_for, "the job to be forgotten", lambda: not jobs_named(plain, submission.name), 150, every=2
    )
    assert await session.scheduler.parts(ref) == {}
    assert await session.scheduler.exits(ref) == {"0": 4, "1": 4}
    ending = await until_over(jobs, Waiting(ref, "c", logs=False), print)
    assert (ending.succeeded, ending.reason) == (None, FORGOTTEN)
    # There is nothing to cancel any more, but the folder goes.
    await clean_up(session, ref)
    await session.close()


async def test_an_unknown_cluster_is_refused_at_once(session: SlurmSession, slurm: SlurmCluster) -> None:
    """A cluster that the federation has not is a mistake to correct, not an outage to wait for."""
    submission = job("nowhere", clusters="nowhere")
    with pytest.raises(JobNotStarted, match="clusters: Slurm on .* knows no cluster 'nowhere'") as refused:
        await submit(session, submission)
    assert refused.value.permanent


async def test_what_a_job_used_is_known_from_the_accounting(session: SlurmSession, slurm: SlurmCluster) -> None:
    """Users see what a job cost, as soon as the accounting has all of it."""
    ref, _ = await submit(session, job("used", "#!/bin/sh\nhead -c 20000000 /dev/urandom | sha512sum; sleep 2\n"))
    found = None
    while found is None:
        await asyncio.sleep(0.5)
        found = await session.scheduler.usage(ref)
    assert 0 < found.node_hours == found.cpu_hours < 0.1
    assert found.cpu_efficiency is not None
    assert 0 < found.cpu_efficiency <= 1
    assert found.max_rss is not None
    await clean_up(session, ref)
