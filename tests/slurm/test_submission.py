"""Connecting, and submitting exactly once, on a real Slurm, without Airflow's scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import slurm_cluster
from airflow_distrib.systems.slurm import plan as plans
from airflow_distrib.systems.slurm.config import Sbatch
from airflow_distrib.systems.slurm.jobs import SlurmJobs
from airflow_distrib.systems.slurm.plan import Plan, Request
from airflow_distrib.systems.slurm.ssh import Finished, Refused, SshClient, SshSettings, Unreachable
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.hooks.ssh import SlurmSSHHook
from airflow_distrib.systems.slurm.watch import FORGOTTEN, SlurmHub, SlurmWait
from airflow_distrib.jobs.waiting import Waiting
from airflow_stack import wait_for
from slurm_cluster import USER, SlurmCluster


def settings(slurm: SlurmCluster, **other: Any) -> SshSettings:
    """To the login node, with the user's key and the host's."""
    whole: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": slurm.ssh_port,
        "username": USER,
        "use_agent": False,
        "private_keys": ((slurm.private_key, None),),
        "host_key": slurm.host_key,
    }
    return SshSettings(**{**whole, **other})


def made(run: str, text: str = "#!/bin/sh\nsleep 1\n", **config: Any) -> Plan:
    """A script's plan."""
    request = Request(JobIdentity("dag", run, "task", -1, 1, "scope"))
    return plans.of_text(Sbatch(**config), request, text, lambda folder: [])


def with_client(slurm: SlurmCluster, test: Callable[[SshClient], Coroutine[Any, Any, Any]], **other: Any) -> Any:
    """Run a test with a connection."""

    async def main() -> Any:
        async with SshClient(settings(slurm, **other), attempts=4) as client:
            return await test(client)

    return asyncio.run(main())


async def submit(client: SshClient, plan: Plan) -> tuple[JobRef, bool]:
    """Folder, files, sbatch."""
    jobs = SlurmJobs(client)
    return await jobs.submit(plan, await jobs.make_folder(plan), None)


def jobs_named(slurm: SlurmCluster, name: str) -> list[str]:
    """All jobs of that name, also those that are over."""
    return slurm.run("squeue", "-h", "--states=all", f"--name={name}", "-o", "%F").split()


async def clean_up(client: SshClient, ref: JobRef) -> None:
    """No job, no folder."""
    assert await SlurmJobs(client).cancel(ref, confirm_for=20)
    assert await client.size(ref.address["directory"]) is None


def other_key(slurm: SlurmCluster) -> str:
    """One that the user has not allowed, but that has a certificate."""
    return (slurm.folder / "ssh/other_key").read_text()


def test_the_connections_test_tells_slurms_version(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is wrong with the ways that do not lead there."""
    monkeypatch.setenv("AIRFLOW_CONN_GOOD", slurm.connection())
    well, text = SlurmSSHHook("good").test_connection()
    assert well
    assert "slurm" in text
    assert "Slurmctld(primary)" in text
    for name, extra, told in (
        ("WRONG_KEY", {"private_key": other_key(slurm)}, "does not accept the connection's key"),
        ("WRONG_HOST", {"host_key": (slurm.folder / "ssh/ca.pub").read_text()}, "is not the one that is trusted"),
        ("NO_HOST", {"host_key": None, "known_hosts": ""}, "or none is"),
        ("NO_SLURM", {"slurm_path": "/nowhere:"}, ""),
    ):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", slurm.connection(**extra))
        well, text = SlurmSSHHook(name.lower()).test_connection()
        assert well == (not told)
        assert told in text


@pytest.mark.parametrize("way", ["certificate", "jump", "known_hosts", "agent", "proxy_command"])
def test_there_are_several_ways_in(slurm: SlurmCluster, way: str, tmp_path: Path) -> None:
    """A certificate, a jump host, a known_hosts line, keys of an agent, a proxy command."""
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

        async def who(client: SshClient) -> str:
            return (await client.run("id -un")).out

        assert with_client(slurm, who, **other) == f"{USER}\n"


@contextlib.contextmanager
def _agent(key: Path) -> Iterator[None]:
    told = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    values = dict(part.split("=", 1) for part in told.replace("\n", "").split(";") if part.startswith("SSH_"))
    os.environ.update(values)
    try:
        key.chmod(0o600)
        subprocess.run(["ssh-add", "-q", str(key)], check=True)
        yield
    finally:
        os.kill(int(values["SSH_AGENT_PID"]), signal.SIGTERM)
        for name in values:
            del os.environ[name]


def test_a_key_that_is_refused_is_not_tried_again_and_again(slurm: SlurmCluster) -> None:
    """Nor is a host whose key is another one; what cannot be reached is."""

    async def go(client: SshClient) -> None:
        await client.run("true")

    begin = time.monotonic()
    for other in (
        {"private_keys": ((other_key(slurm), None),)},
        {"host_key": (slurm.folder / "ssh/ca.pub").read_text()},
        {"host_key": None, "known_hosts": ""},
    ):
        with pytest.raises(Refused):
            with_client(slurm, go, **other)
    assert time.monotonic() - begin < 20
    with pytest.raises(Unreachable, match="no SSH connection to"):
        with_client(slurm, go, port=slurm_cluster.free_port())


def test_many_calls_share_one_connection(slurm: SlurmCluster) -> None:
    """More of them than sshd allows sessions on it."""

    async def go(client: SshClient) -> int:
        done = await asyncio.gather(*(client.run(f"sleep 0.05; echo {number}") for number in range(60)))
        assert [each.out for each in done] == [f"{number}\n" for number in range(60)]
        return client.connections

    assert with_client(slurm, go) == 1


def test_submitting_twice_makes_one_job(slurm: SlurmCluster) -> None:
    """The second time finds the first."""
    plan = made("twice")

    async def go(client: SshClient) -> None:
        first, existed = await submit(client, plan)
        second, found = await submit(client, plan)
        assert (first, existed, found) == (second, False, True)
        assert jobs_named(slurm, plan.name) == [first.uid]
        await clean_up(client, first)

    with_client(slurm, go)


@pytest.mark.parametrize("array", [None, "0-2"])
def test_a_lost_reply_makes_no_second_job(slurm: SlurmCluster, array: str | None) -> None:
    """Neither when the connection breaks, nor when whoever asked dies before it is written down."""
    plan = made(f"reply-{array}", "#!/bin/sh\nsleep 30\n", array=array)

    class Losing(SshClient):
        lost = 0

        async def _run(self, script: str, seconds: float) -> Finished:
            done = await super()._run(script, seconds)
            if "sbatch --parsable" in script and self.lost < 2:
                Losing.lost += 1
                if Losing.lost == 2:
                    # As if the shell had been killed between sbatch and the note.
                    await super()._run(f"rm {folder}/submitted", seconds)
                raise Unreachable("cut")
            return done

    folder = ""

    async def main() -> None:
        nonlocal folder
        async with Losing(settings(slurm)) as client:
            jobs = SlurmJobs(client)
            folder = await jobs.make_folder(plan)
            ref, _ = await jobs.submit(plan, folder, None)
            assert Losing.lost == 2
            assert sorted(set(jobs_named(slurm, plan.name))) == [ref.uid]
            await clean_up(client, ref)

    asyncio.run(main())


def test_two_who_submit_the_same_at_once_make_one_job(slurm: SlurmCluster) -> None:
    """Such as a worker that was given up, and its successor."""
    plan = made("at-once", "#!/bin/sh\nsleep 30\n")

    async def go(client: SshClient) -> None:
        async with SshClient(settings(slurm)) as other:
            refs = await asyncio.gather(submit(client, plan), submit(other, plan), submit(client, plan))
        assert len({ref.uid for ref, _ in refs}) == 1
        assert jobs_named(slurm, plan.name) == [refs[0][0].uid]
        await clean_up(client, refs[0][0])

    with_client(slurm, go)


def test_a_controller_that_answers_too_late_makes_no_second_job(slurm: SlurmCluster) -> None:
    """sbatch gives up, but what it asked for may have been done."""
    plan = made("late", "#!/bin/sh\nsleep 30\n")

    async def go(client: SshClient) -> None:
        # Longer than sbatch waits for an answer.
        slurm.signal("slurmctld", signal.SIGSTOP)
        threading.Timer(25, slurm.signal, ("slurmctld", signal.SIGCONT)).start()
        ref, _ = await submit(client, plan)
        await asyncio.sleep(5)
        assert sorted(set(jobs_named(slurm, plan.name))) == [ref.uid]
        await clean_up(client, ref)

    with_client(slurm, go)


def test_cancelling_is_idempotent_and_never_hits_a_namesake(slurm: SlurmCluster) -> None:
    """A job is told by id and name."""
    plan = made("namesake", "#!/bin/sh\nsleep 60\n")

    async def go(client: SshClient) -> None:
        ref, _ = await submit(client, plan)
        jobs = SlurmJobs(client)
        await jobs.cancel(JobRef("slurm", "another-name", ref.uid, {}))
        assert jobs_named(slurm, plan.name) == [ref.uid]
        assert slurm.run("squeue", "-h", "-j", ref.uid, "-o", "%T").strip() in ("PENDING", "RUNNING", "CONFIGURING")
        await clean_up(client, ref)
        await clean_up(client, ref)
        assert await jobs.cancel(JobRef("slurm", "x", "999999", {}), confirm_for=2)

    with_client(slurm, go)


def test_one_look_serves_all_jobs_that_wait(slurm: SlurmCluster) -> None:
    """However many there are, and of however many tasks."""

    async def go() -> tuple[int, int]:
        hub = SlurmHub()

        async def get() -> SshSettings:
            return settings(slurm)

        async with hub.client("c", get) as client:
            plan = [made(f"look-{number}", "#!/bin/sh\nsleep 6\n", mem="10M") for number in range(10)]
            refs = [ref for ref, _ in await asyncio.gather(*(submit(client, each) for each in plan))]
            said: list[str] = []
            waits = [SlurmWait(Waiting(ref, "c", logs=False), hub, client, said.append) for ref in refs]
            endings = await asyncio.gather(*(each.until_over() for each in waits))
            assert [each.succeeded for each in endings] == [True] * 10
            commands = hub.queue("c", client, "").commands
            await asyncio.gather(*(SlurmJobs(client).remove(ref) for ref in refs))
            connections = client.connections
        await hub.close()
        return commands, connections

    commands, connections = asyncio.run(go())
    assert commands < 20
    assert connections == 1


def test_a_slurm_without_accounting_forgets_and_is_still_understood(tmp_path_factory: pytest.TempPathFactory) -> None:
    """How a job ended that nobody knows any more, its own script has noted."""
    folder = tmp_path_factory.mktemp("plain") / "lab"
    with slurm_cluster.running(folder, accounting=False, min_job_age=2) as plain:

        async def go(client: SshClient) -> None:
            jobs = SlurmJobs(client)
            plan = made("forgotten", "#!/bin/sh\nexit 4\n", array="0-1")
            ref, _ = await submit(client, plan)
            wait_for("the job to be forgotten", lambda: not jobs_named(plain, plan.name), 150, every=2)
            assert await jobs.parts(ref) == {}
            assert await jobs.exits(ref) == {"0": 4, "1": 4}
            hub = SlurmHub()
            ending = await SlurmWait(Waiting(ref, "c", logs=False), hub, client, print).until_over()
            assert (ending.succeeded, ending.reason) == (None, FORGOTTEN)
            await hub.close()
            # It was never there to be cancelled; its folder goes.
            await clean_up(client, ref)

        with_client(plain, go)
