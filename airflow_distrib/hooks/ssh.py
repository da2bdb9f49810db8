"""The ``ssh`` connection of Airflow, as this package uses it: to a login node of a Slurm."""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_distrib.core import config as configs
from airflow_distrib.core.errors import ClusterError, ConfigError, DistribError
from airflow_distrib.hooks.fields import flag
from airflow_distrib.systems.slurm.ssh import SshClient, SshSettings

log = logging.getLogger(__name__)

DEFAULT = "ssh_default"
# Jump hosts behind jump hosts, at most.
_MOST_JUMPS = 5

# Fields of the extra that Airflow's own provider reads and that change what we would do.
_NOT_SUPPORTED = ("ciphers", "disabled_algorithms")
_OURS = (
    *("key_file", "private_key", "client_keys", "private_key_passphrase", "certificate", "agent", "host_key"),
    *("known_hosts", "no_host_key_check", "host_proxy_cmd", "jump_conn_id", "conn_timeout", "slurm_path", "workdir"),
)
# Those that have nothing to do here: the connection may serve Airflow's own operators too.
_AIRFLOWS = (
    *("allow_host_key_change", "auth_timeout", "banner_timeout", "cmd_timeout", "compress", "keepalive_interval"),
    *("look_for_keys", "timeout", *_NOT_SUPPORTED),
)


class SlurmSSHHook(BaseHook):
    """Makes clients from a connection of type ``ssh``.

    Host, port, login and password are the connection's own. Its extra is that of Airflow's
    own provider (``key_file``, ``private_key``, ``private_key_passphrase``, ``host_key``,
    ``no_host_key_check``, ``conn_timeout``, ``host_proxy_cmd``), and in addition
    ``client_keys`` (a path or several, as in Flyte's ``ssh_config``), ``certificate``,
    ``known_hosts`` (a path, or the lines themselves), ``jump_conn_id``,
    ``agent`` (false to leave a running ssh-agent alone), ``slurm_path`` and ``workdir``.
    Unlike there, the host key is checked unless ``no_host_key_check`` is true.

    Args:
        ssh_conn_id: id of the connection.
    """

    conn_name_attr = "ssh_conn_id"
    default_conn_name = DEFAULT
    conn_type = "ssh"
    hook_name = "SSH"

    def __init__(self, ssh_conn_id: str = DEFAULT) -> None:
        super().__init__()
        self.ssh_conn_id = ssh_conn_id

    def settings(self) -> SshSettings:
        """Read the connection, and those of its jump hosts.

        Raises:
            ConfigError: there is none, or it holds something that cannot work.
        """
        return _settings(self.ssh_conn_id, self._get, 0)

    def _get(self, connection: str) -> Connection:
        try:
            return self.get_connection(connection)
        except AirflowNotFoundException:
            raise _missing(connection) from None

    async def asettings(self) -> SshSettings:
        """Read the connection from within an event loop, as a trigger has to."""
        found: dict[str, Connection] = {}
        name: str | None = self.ssh_conn_id
        while name and name not in found and len(found) <= _MOST_JUMPS:
            try:
                found[name] = await self.aget_connection(name)
            except AirflowNotFoundException:
                raise _missing(name) from None
            name = found[name].extra_dejson.get("jump_conn_id")
        return _settings(self.ssh_conn_id, found.__getitem__, 0)

    def get_conn(self) -> SshClient:
        """A client; use it inside the event loop that calls this."""
        return SshClient(self.settings())

    def test_connection(self) -> tuple[bool, str]:
        """For the *Test* button: Slurm's version, or what is missing."""
        try:
            return True, asyncio.run(self._look())
        except DistribError as error:
            return False, str(error)

    async def _look(self) -> str:
        settings = self.settings()
        async with SshClient(settings, attempts=1) as client:
            found = await client.run("sbatch --version && scontrol ping")
            if found.code == 127:
                raise ClusterError(
                    f"{settings.place} answers, but its shell finds no sbatch: set slurm_path in the connection's extra"
                )
            if found.code:
                raise ClusterError(f"{settings.place} answers, but Slurm does not: {(found.err or found.out).strip()}")
            await client.read("/dev/null")
            version, _, controller = found.out.strip().partition("\n")
            return f"{version} at {settings.place}; {' '.join(controller.split())}"


def _missing(connection: str) -> ConfigError:
    return ConfigError("ssh_conn_id", f"there is no connection {connection!r}: make one of type ssh")


def _settings(connection_id: str, get: Callable[[str], Connection], jumps: int) -> SshSettings:
    if jumps > _MOST_JUMPS:
        raise ConfigError(f"connection {connection_id!r}", "jump_conn_id leads in a circle")
    connection = get(connection_id)
    settings = settings_of(connection)
    jump = connection.extra_dejson.get("jump_conn_id")
    if not jump:
        return settings
    return SshSettings(**{**vars(settings), "jump": _settings(str(jump), get, jumps + 1)})


def settings_of(connection: Connection) -> SshSettings:
    """Settings from a connection, without those of its jump host.

    Raises:
        ConfigError: a field holds something that cannot work.
    """
    where = f"connection {connection.conn_id!r}"
    extra = connection.extra_dejson
    if connection.conn_type != "ssh":
        raise ConfigError(where, f"must be of type ssh, not {connection.conn_type!r}")
    if not connection.host:
        raise ConfigError(where, "has no host")
    for name in extra:
        if name not in (*_OURS, *_AIRFLOWS):
            close = difflib.get_close_matches(str(name), _OURS, 1, 0.6)
            hint = f"did you mean {close[0]!r}?" if close else f"its fields are {', '.join(_OURS)}"
            log.warning("%s: %s in its extra has no effect; %s", where, name, hint)
    for name in _NOT_SUPPORTED:
        if extra.get(name):
            raise ConfigError(where, f"{name} in its extra is not supported here; put it into ~/.ssh/config")
    if extra.get("allow_host_key_change") and flag(where, extra, "allow_host_key_change"):
        raise ConfigError(
            where, "allow_host_key_change is not supported: set no_host_key_check, or correct known_hosts"
        )
    return SshSettings(
        host=connection.host,
        port=configs.whole(1, 65535)(f"{where} port", connection.port or 22),
        username=connection.login or None,
        password=connection.password or None,
        private_keys=_keys(where, extra),
        passphrase=extra.get("private_key_passphrase") or None,
        use_agent=flag(where, extra, "agent", default=True),
        known_hosts=_known_hosts(where, extra.get("known_hosts")),
        host_key=_host_key(extra.get("host_key")),
        any_host=flag(where, extra, "no_host_key_check"),
        proxy_command=extra.get("host_proxy_cmd") or None,
        connect_timeout=configs.seconds()(f"{where} conn_timeout", extra.get("conn_timeout") or 30),
        slurm_path=str(extra.get("slurm_path") or ""),
        workdir=str(extra.get("workdir") or ""),
    )


def _keys(where: str, extra: Mapping[str, object]) -> tuple[tuple[str, str | None], ...]:
    given = [name for name in ("private_key", "key_file", "client_keys") if extra.get(name)]
    if len(given) > 1:
        raise ConfigError(where, f"sets {given[0]} and {given[1]}; set only one of them")
    certificate = str(extra.get("certificate") or "") or None
    if not given:
        if certificate:
            raise ConfigError(where, "certificate needs the private_key or key_file that it is for")
        return ()
    value = extra[given[0]]
    several = value if isinstance(value, list) else [value]
    texts = [str(each) if given[0] == "private_key" else _text(where, given[0], str(each)) for each in several]
    # Keys pasted into one line of JSON or an environment variable.
    return tuple((text.replace("\\n", "\n").strip() + "\n", certificate) for text in texts)


def _known_hosts(where: str, value: object) -> str | None:
    if not value:
        return None
    text = str(value)
    return text if len(text.split()) > 1 else _text(where, "known_hosts", text)


def _text(where: str, name: str, path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(where, f"{name} {path!r} cannot be read where Airflow runs: {error}") from None


def _host_key(value: object) -> str | None:
    """Airflow's own provider also takes a key without its type, which then is RSA."""
    if not value:
        return None
    text = str(value).strip()
    return text if " " in text else f"ssh-rsa {text}"
