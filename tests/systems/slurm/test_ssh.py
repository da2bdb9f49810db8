"""The SSH client against a real SSH server in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from airflow_distrib.clients import ssh
from airflow_distrib.systems.slurm.ssh import Refused, SshClient, SshSettings, Unreachable
from airflow_distrib.core.errors import ClusterError
from fake_slurm import FakeSlurm, running

Test = Callable[[FakeSlurm], Coroutine[Any, Any, None]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Test], None]:
    """Runs a test with a server of its own."""
    monkeypatch.setattr(ssh, "FIRST_PAUSE", 0.02)

    def start(test: Test) -> None:
        async def main() -> None:
            async with running(tmp_path) as fake, asyncio.timeout(30):
                await test(fake)

        asyncio.run(main())

    return start


def test_a_script_is_read_whole_before_it_runs(run: Any) -> None:
    """No command of it reads the rest as its input; text of any kind arrives."""

    async def test(fake: FakeSlurm) -> None:
        async with SshClient(fake.settings()) as client:
            done = await client.run("cat\necho 'it''s \N{SNOWMAN} \"$HOME\"'\necho oh >&2\nexit 3")
            assert done == (3, 'its \N{SNOWMAN} "$HOME"\n', "oh\n")

    run(test)


def test_slurms_folder_comes_first_in_the_search_path(run: Any) -> None:
    """Where a login shell does not find it."""

    async def test(fake: FakeSlurm) -> None:
        async with SshClient(fake.settings(slurm_path="/opt/slurm bin")) as client:
            assert (await client.run('echo "${PATH%%:*}"')).out == "/opt/slurm bin\n"

    run(test)


def test_a_broken_connection_is_made_again(run: Any) -> None:
    """While a call runs, and between two."""

    async def test(fake: FakeSlurm) -> None:
        async with SshClient(fake.settings()) as client:
            slow = asyncio.create_task(client.run("sleep 0.3; echo done"))
            await asyncio.sleep(0.15)
            fake.cut()
            assert (await slow).out == "done\n"
            fake.cut()
            assert await client.read("nothing there") is None
            assert client.connections == 3

    run(test)


def test_what_stays_away_is_given_up(run: Any) -> None:
    """After some attempts; those who come meanwhile do not try by themselves."""

    async def test(fake: FakeSlurm) -> None:
        client = SshClient(fake.settings(), attempts=3)
        await fake.stop()
        failed = await asyncio.gather(*(client.run("true") for _ in range(5)), return_exceptions=True)
        assert {type(error) for error in failed} == {Unreachable}
        assert "no SSH connection to me@127.0.0.1" in str(failed[0])

    run(test)


def test_settings_are_read_again_before_each_further_connection(run: Any) -> None:
    """A key may have been changed in Airflow meanwhile."""

    async def test(fake: FakeSlurm) -> None:
        async def renew() -> SshSettings:
            return fake.settings()

        client = SshClient(fake.settings(private_keys=((_stranger(), None),)), renew, attempts=1)
        with pytest.raises(Refused, match="does not accept the connection's key"):
            await client.run("true")
        await asyncio.sleep(0.05)
        assert (await client.run("echo yes")).out == "yes\n"
        await client.close()

    run(test)


def _stranger() -> str:
    import asyncssh

    return asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()


def test_hosts_are_trusted_only_by_their_keys(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Or when somebody says that they need not be, which is warned of."""

    async def test(fake: FakeSlurm) -> None:
        for none in ({"host_key": None, "known_hosts": ""}, {"host_key": None, "known_hosts": "other ssh-rsa AAAA"}):
            with pytest.raises(Refused, match="is not the one that is trusted, or none is"):
                await SshClient(fake.settings(**none), attempts=1).run("true")
        async with SshClient(fake.settings(host_key=None, any_host=True)) as client:
            await client.run("true")
        assert "the host key of 127.0.0.1 is not checked" in caplog.text

    run(test)


def test_files_are_private_and_read_in_pieces(run: Any) -> None:
    """A missing one is None, the end of one is nothing."""

    async def test(fake: FakeSlurm) -> None:
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

    run(test)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_jump_host_is_gone_through(run: Any) -> None:
    """With a connection of its own."""

    async def test(fake: FakeSlurm) -> None:
        async with SshClient(fake.settings(jump=fake.settings())) as client:
            assert (await client.run("echo through")).out == "through\n"
            assert len(fake.connections) == 2

    run(test)
