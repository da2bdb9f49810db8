"""The hook reads Airflow's ``ssh`` connection, and refuses what cannot work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from airflow.sdk import Connection

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.hooks.ssh import SlurmSSHHook, settings_of
from airflow_distrib.systems.slurm.ssh import SshClient
from fake_slurm import running

KEY = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()


def connection(*, host: str = "login", conn_type: str = "ssh", **extra: Any) -> Connection:
    """A connection with these fields in its extra."""
    return Connection(conn_id="c", conn_type=conn_type, host=host, login="me", port=2222, extra=json.dumps(extra))


def test_a_connection_of_airflows_own_provider_is_understood(tmp_path: Path) -> None:
    """Keys may be files, texts, or texts in one line, as they are in connections that exist already."""
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


def test_keys_are_found_where_flyte_has_them(tmp_path: Path) -> None:
    """Users who come from Flyte keep the client_keys of their ssh_config: one path, or several to try."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"{name}\n{KEY}")
    one, both = str(tmp_path / "a"), [str(tmp_path / "a"), str(tmp_path / "b")]
    assert settings_of(connection(client_keys=one)).private_keys == ((f"a\n{KEY.strip()}\n", None),)
    keys = settings_of(connection(client_keys=both)).private_keys
    assert [text[0] for text, certificate in keys] == ["a", "b"]


def test_an_unknown_field_of_the_extra_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt field has no effect, which is hard to see; fields of Airflow's own provider are no mistake."""
    settings_of(connection(compress=True, keepalive_interval=30, slurm_path="/opt/slurm/bin"))
    assert caplog.messages == []
    settings_of(connection(slurmpath="/opt/slurm/bin", colour="red"))
    first, second = caplog.messages
    assert first == "connection 'c': slurmpath in its extra has no effect; did you mean 'slurm_path'?"
    assert second.startswith("connection 'c': colour in its extra has no effect; its fields are key_file, ")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"private_key": "x", "key_file": "y"}, "sets private_key and key_file"),
        ({"key_file": "x", "client_keys": "y"}, "sets key_file and client_keys"),
        ({"client_keys": ["/nowhere/key"]}, "client_keys '/nowhere/key' cannot be read where Airflow runs"),
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
def test_a_field_that_cannot_work_is_refused(given: dict[str, Any], text: str) -> None:
    """The error names the connection and the field before anything is sent to the cluster."""
    with pytest.raises(ConfigError) as refused:
        settings_of(connection(**given))
    assert str(refused.value).startswith("connection 'c'")
    assert text in str(refused.value)


def test_jump_hosts_are_connections_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Login nodes behind several gateways can be reached, and a circle of jump hosts is found."""

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


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"private_keys": (("no key", None),)}, "private_key: of the connection to 127.0.0.1 cannot be read"),
        ({"host_key": "ssh-ed25519 nonsense"}, "host_key: of the connection to 127.0.0.1 cannot be read"),
    ],
)
async def test_a_key_that_cannot_be_read_is_named(given: dict[str, Any], text: str, tmp_path: Path) -> None:
    """A damaged key looks like a refused login otherwise, which is hard to tell from a wrong account."""
    async with running(tmp_path) as fake:
        client = SshClient(fake.settings(**given), attempts=1)
        with pytest.raises(ConfigError) as refused:
            await client.run("true")
    assert text in str(refused.value)
