"""A PostgreSQL of its own in a folder, for Airflow's database in tests."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from airflow_stack import free_port, wait_for


def programs() -> Path | None:
    """Where PostgreSQL's server programs lie; Debian keeps them off PATH."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve())
    return found[0].parent if found else None


@contextlib.contextmanager
def running(folder: Path) -> Iterator[str]:
    """Start a server; yields the address of an empty database."""
    tools = programs()
    assert tools is not None, "there is no PostgreSQL server on this machine: apt-get install postgresql"
    folder.mkdir(parents=True)
    # The server refuses to run as root; the packages bring a user for it.
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
        for parent in folder.parents:
            if parent.owner() == pwd.getpwuid(os.geteuid()).pw_name and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
    data, port = folder / "data", free_port()

    def run(*command: str) -> None:
        subprocess.run([str(tools / command[0]), *command[1:]], check=True, user=user, capture_output=True, cwd=folder)

    run("initdb", "-D", str(data), "-U", "airflow", "--auth=trust", "-E", "UTF8")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
    run("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-w", "-o", options, "start")
    try:
        yield f"postgresql+psycopg2://airflow@127.0.0.1:{port}/postgres"
    finally:
        process = int((data / "postmaster.pid").read_text().split()[0])
        os.kill(process, signal.SIGQUIT)  # at once: nothing in it is needed any more
        wait_for("PostgreSQL to end", lambda: not (data / "postmaster.pid").exists(), 30)
