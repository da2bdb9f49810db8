"""Airflow's ``ssh`` connection: what is read of it, and what is refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from airflow.sdk import Connection

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.hooks.ssh import SlurmSSHHook, settings_of
from fake_slurm import FakeSlurm, running

KEY = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()


def connection(*, host: str = "login", conn_type: str = "ssh", **extra: Any) -> Connection:
    """A connection with these fields in its extra."""
    return Connection(conn_id="c", conn_type=conn_type, host=host, login="me", port=2222, extra=json.dumps(extra))


def test_a_connection_of_airflows_own_is_understood(tmp_path: Path) -> None:
    """Keys may be files, texts, or texts in one line."""
    (tmp_path / "key").write_text(KEY)
    for extra in ({"key_file": str(tmp_path / "key")}, {"private_key": KEY}, {"private_key": KEY.replace("\n", "\\n")}):
        settings = settings_of(connection(**extra, private_key_passphrase="p", conn_timeout=5))
        assert (settings.host, settings.port, settings.username) == ("login", 2222, "me")
        assert settings.private_keys == ((KEY.strip() + "\n", None),)
        assert (settings.passphrase, settings.connect_timeout) == ("p", 5)
        assert "PRIVATE" not in repr(settings)
    assert not settings_of(connection()).any_host
    assert settings_of(connection(no_host_key_check="true")).any_host
    assert settings_of(connection(host_key="AAAAB3")).host_key == "ssh-rsa AAAAB3"
    assert settings_of(connection(known_hosts="login ssh-ed25519 AAAA")).known_hosts == "login ssh-ed25519 AAAA"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"private_key": "x", "key_file": "y"}, "says both private_key and key_file"),
        ({"key_file": "/nowhere/key"}, "key_file '/nowhere/key' cannot be read where Airflow runs"),
        ({"known_hosts": "/nowhere/hosts"}, "known_hosts '/nowhere/hosts' cannot be read"),
        ({"certificate": "x"}, "certificate needs the private_key or key_file that it is for"),
        ({"no_host_key_check": "maybe"}, "no_host_key_check: must be True or False"),
        ({"conn_timeout": "soon"}, "conn_timeout: must be a number of seconds"),
        ({"allow_host_key_change": True}, "allow_host_key_change is not supported"),
        ({"ciphers": ["x"]}, "ciphers in its extra is not supported here"),
        ({"host": ""}, "has no host"),
        ({"conn_type": "http"}, "must be of type ssh, not 'http'"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, Any], text: str) -> None:
    """With the connection and the field."""
    with pytest.raises(ConfigError) as refused:
        settings_of(connection(**given))
    assert str(refused.value).startswith("connection 'c'")
    assert text in str(refused.value)


def test_jump_hosts_are_connections_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One behind the other, but not in a circle."""

    def define(name: str, host: str, jump: str | None) -> None:
        extra = {"jump_conn_id": jump} if jump else {}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps({"conn_type": "ssh", "host": host, "extra": extra}))

    define("INNER", "inner", "middle")
    define("MIDDLE", "middle", "outer")
    define("OUTER", "outer", None)
    settings = SlurmSSHHook("inner").settings()
    assert settings.jump is not None
    assert settings.jump.jump is not None
    assert (settings.jump.host, settings.jump.jump.host) == ("middle", "outer")
    define("OUTER", "outer", "inner")
    with pytest.raises(ConfigError, match="jump_conn_id leads in a circle"):
        SlurmSSHHook("inner").settings()
    define("OUTER", "outer", "nowhere")
    with pytest.raises(ConfigError, match="there is no connection 'nowhere'"):
        SlurmSSHHook("inner").settings()


def test_a_key_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """As is a host key."""
    folder = tmp_path / "fake"
    folder.mkdir()

    async def test() -> None:
        async with running(folder) as fake:
            for bad, text in (
                ({"private_keys": (("no key", None),)}, "private_key: of the connection to 127.0.0.1 cannot be read"),
                ({"host_key": "ssh-ed25519 nonsense"}, "host_key: of the connection to 127.0.0.1 cannot be read"),
            ):
                client = _client(fake, **bad)
                with pytest.raises(ConfigError) as refused:
                    await client.run("true")
                assert text in str(refused.value)

    asyncio.run(test())


def _client(fake: FakeSlurm, **other: Any) -> Any:
    from airflow_distrib.systems.slurm.ssh import SshClient

    return SshClient(fake.settings(**other), attempts=1)
