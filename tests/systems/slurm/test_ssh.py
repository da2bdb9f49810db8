"""The SSH client works against a real SSH server in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from airflow_distrib.core.errors import ClusterError
from airflow_distrib.systems.slurm import ssh
from airflow_distrib.systems.slurm.ssh import Refused, SshClient, SshSettings, Unreachable
from fake_slurm import FakeSlurm, running

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeSlurm]:
    """A login node; clients hardly pause before they try again."""
    monkeypatch.setattr(ssh, "FIRST_PAUSE", 0.02)
    async with running(tmp_path) as started:
        yield started


async def test_a_script_is_read_whole_before_it_runs(fake: FakeSlurm) -> None:
    """No command can read the rest of its script as input, and text in any language arrives unchanged."""
    async with SshClient(fake.settings()) as client:
        done = await client.run("cat\necho 'it''s \N{SNOWMAN} \"$HOME\"'\necho oh >&2\nexit 3")
        assert done == (3, 'its \N{SNOWMAN} "$HOME"\n', "oh\n")


async def test_slurms_folder_comes_first_in_the_search_path(fake: FakeSlurm) -> None:
    """Users can name the folder of Slurm's commands where a login shell does not find them."""
    async with SshClient(fake.settings(slurm_path="/opt/slurm bin")) as client:
        assert (await client.run('echo "${PATH%%:*}"')).out == "/opt/slurm bin\n"


async def test_a_broken_connection_is_made_again(fake: FakeSlurm) -> None:
    """A call succeeds although the connection breaks, during the call or before it."""
    async with SshClient(fake.settings()) as client:
        slow = asyncio.create_task(client.run("touch begun; sleep 0.3; echo done"))
        while not (fake.home / "begun").exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)
        fake.cut()
        assert (await slow).out == "done\n"
        fake.cut()
        assert await client.read("nothing there") is None
        assert client.connections == 3


async def test_a_login_node_that_stays_away_is_given_up(fake: FakeSlurm) -> None:
    """Callers get an error that names the login node after a limited number of attempts."""
    client = SshClient(fake.settings(), attempts=3)
    await fake.stop()
    failed = await asyncio.gather(*(client.run("true") for _ in range(5)), return_exceptions=True)
    assert {type(error) for error in failed} == {Unreachable}
    assert "no SSH connection to me@127.0.0.1" in str(failed[0])


async def test_settings_are_read_again_before_each_further_connection(fake: FakeSlurm) -> None:
    """A key that is corrected in Airflow helps tasks that are already waiting."""

    async def renew() -> SshSettings:
        return fake.settings()

    client = SshClient(fake.settings(private_keys=((_stranger(), None),)), renew, attempts=1)
    with pytest.raises(Refused, match="does not accept the connection's key"):
        await client.run("true")
    await asyncio.sleep(0.05)
    assert (await client.run("echo yes")).out == "yes\n"
    await client.close()


def _stranger() -> str:
    return asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()


async def test_hosts_are_trusted_only_by_their_keys(fake: FakeSlurm, caplog: pytest.LogCaptureFixture) -> None:
    """An unknown login node is refused, unless the user switches the check off, which the log warns about."""
    for trusted in ({"host_key": None, "known_hosts": ""}, {"host_key": None, "known_hosts": "other ssh-rsa AAAA"}):
        with pytest.raises(Refused, match="is not the one that is trusted, or none is"):
            await SshClient(fake.settings(**trusted), attempts=1).run("true")
    async with SshClient(fake.settings(host_key=None, any_host=True)) as client:
        await client.run("true")
    assert "the host key of 127.0.0.1 is not checked" in caplog.text


async def test_files_are_private_and_read_in_pieces(fake: FakeSlurm) -> None:
    """Logs can be read from where the last read ended, nobody else can read a job's files, and errors name the file."""
    async with SshClient(fake.settings()) as client:
        path = fake.home / "a file"
        await client.write(str(path), b"0123456789")
        assert _mode(path) == 0o600
        assert await client.read(str(path), 3, 4) == b"3456"
        assert await client.read(str(path), 10) == b""
        assert (await client.size(str(path)), await client.size("nowhere")) == (10, None)
        with pytest.raises(ClusterError, match="/nowhere/file cannot be written on 127.0.0.1"):
            await client.write("/nowhere/file", b"")
        with pytest.raises(ClusterError, match="nowhere cannot be fetched from 127.0.0.1") as failed:
            await client.fetch("nowhere", fake.folder / "copy")
        assert failed.value.permanent


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_a_jump_host_is_gone_through(fake: FakeSlurm) -> None:
    """Login nodes that only a jump host can reach are usable."""
    async with SshClient(fake.settings(jump=fake.settings())) as client:
        assert (await client.run("echo through")).out == "through\n"
        assert len(fake.connections) == 2
