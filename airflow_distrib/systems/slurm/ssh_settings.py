"""How a login node is reached, in the words of asyncssh."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_distrib.core.errors import ConfigError, MissingExtra

log = logging.getLogger(__name__)

# A connection that is silent for so long is dead: three keep-alives.
KEEPALIVE_SECONDS, KEEPALIVES = 15, 3


@dataclass(frozen=True)
class SshSettings:
    """How to reach a login node.

    Attributes:
        private_keys: texts of keys, with their certificates if they have one.
        known_hosts: lines of a known_hosts file; None takes the user's own file.
        host_key: the server's one public key, instead of ``known_hosts``.
        any_host: trust whoever answers.
        jump: a host to go through.
        slurm_path: folder of Slurm's commands, where the login shell does not find them.
        workdir: where jobs' private folders are made, unless a job says otherwise.
    """

    host: str
    port: int = 22
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    private_keys: tuple[tuple[str, str | None], ...] = field(default=(), repr=False)
    passphrase: str | None = field(default=None, repr=False)
    use_agent: bool = True
    known_hosts: str | None = None
    host_key: str | None = None
    any_host: bool = False
    proxy_command: str | None = None
    jump: SshSettings | None = None
    connect_timeout: float = 30.0
    slurm_path: str = ""
    workdir: str = ""

    @property
    def place(self) -> str:
        """For messages: ``user@host:port``."""
        return f"{self.username or '(the worker)'}@{self.host}:{self.port}"


def library() -> Any:
    """asyncssh, or what to install."""
    try:
        import asyncssh
    except ImportError as error:
        raise MissingExtra("slurm", "asyncssh") from error
    # Every connection and channel is logged at INFO, into the log of whichever task came first.
    asyncssh.set_log_level(logging.WARNING)
    return asyncssh


def options(settings: SshSettings) -> dict[str, Any]:
    """Arguments of ``asyncssh.connect``, besides host and port.

    Raises:
        ConfigError: a key that cannot be read.
    """
    found: dict[str, Any] = {
        "known_hosts": _trusted(settings),
        "keepalive_interval": KEEPALIVE_SECONDS,
        "keepalive_count_max": KEEPALIVES,
        "passphrase": settings.passphrase,
        "encoding": "utf-8",
        # Names and comments of other jobs may be anything.
        "errors": "replace",
    }
    if settings.username:
        found["username"] = settings.username
    if settings.password:
        found["password"] = settings.password
    if settings.private_keys:
        found["client_keys"] = [_key(settings, *each) for each in settings.private_keys]
    if not settings.use_agent:
        found["agent_path"] = None
    if settings.proxy_command:
        found["proxy_command"] = settings.proxy_command
    return found


def _key(settings: SshSettings, key: str, certificate: str | None) -> Any:
    """Keys are only ever in memory."""
    try:
        loaded = library().import_private_key(key, settings.passphrase)
    except (library().KeyImportError, ValueError) as error:
        raise ConfigError("private_key", f"of the connection to {settings.host} cannot be read: {error}") from None
    if certificate is None:
        return loaded
    try:
        return loaded, library().import_certificate(certificate)
    except (library().KeyImportError, ValueError) as error:
        raise ConfigError("certificate", f"of the connection to {settings.host} cannot be read: {error}") from None


def _trusted(settings: SshSettings) -> Any:
    if settings.any_host:
        log.warning("the host key of %s is not checked: no_host_key_check is set", settings.host)
        return None
    try:
        if settings.host_key is not None:
            return [library().import_public_key(settings.host_key)], [], []
        text = settings.known_hosts
        if text is None:
            own = Path("~/.ssh/known_hosts").expanduser()
            text = own.read_text(encoding="utf-8") if own.exists() else ""
        return library().import_known_hosts(text)
    except (library().KeyImportError, ValueError) as error:
        name = "host_key" if settings.host_key is not None else "known_hosts"
        raise ConfigError(name, f"of the connection to {settings.host} cannot be read: {error}") from None
