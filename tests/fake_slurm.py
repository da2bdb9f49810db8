"""A login node in this process, which is a real SSH server over real files, with commands that play Slurm.

Scripts that reach it run in a real ``sh`` of this machine. ``sbatch``, ``squeue``, ``sacct``,
``scontrol`` and ``scancel`` are one small program that keeps its jobs in a JSON file, which
tests read and write.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncssh

from airflow_distrib.systems.slurm.ssh import SshSettings

_COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel")

_PROGRAM = """\
#!{python} -IS
import fcntl, json, os, sys

folder = {folder!r}
name = os.path.basename(sys.argv[0])
lock = open(folder + "/lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
with open(folder + "/slurm.json") as file:
    slurm = json.load(file)
slurm["calls"].append([name, *sys.argv[1:]])


def leave(code=0, out="", err=""):
    with open(folder + "/slurm.json.new", "w") as file:
        json.dump(slurm, file)
    os.replace(folder + "/slurm.json.new", folder + "/slurm.json")
    sys.stdout.write(out)
    sys.stderr.write(err)
    sys.exit(code)


options = dict(word[2:].partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
words = [word for word in sys.argv[1:] if not word.startswith("--")]
if slurm["away"] > 0:
    slurm["away"] -= 1
    leave(1, err=name + ": error: Unable to contact slurm controller (connect failure)\\n")
ACTIVE = ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING")

if name == "sbatch":
    if slurm["refusal"]:
        leave(1, err="sbatch: error: " + slurm["refusal"] + "\\n")
    job = str(len(slurm["jobs"]) + 1)
    slurm["jobs"][job] = dict(
        name=options["job-name"], comment=options.get("comment", ""), state="PENDING", reason="Resources",
        exit="0:0", words=words, options=options, env=dict(os.environ), known=True, out=options.get("output", ""),
        err=options.get("error", ""), by="", cluster=slurm["cluster"],
    )
    answer = job + (";" + slurm["cluster"] if slurm["cluster"] else "")
    if slurm["late"]:
        # The job exists, but the caller sees an error.
        slurm["late"] = False
        leave(1, err="sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\\n")
    leave(0, out=answer + "\\n")


def shown(job, each, element=""):
    number = job + ("_" + element if element else "")
    values = {{"%i": number, "%F": job}}
    values.update({{"%T": each["state"], "%r": each["reason"], "%j": each["name"], "%k": each["comment"]}})
    text = options["format"]
    for code, value in values.items():
        text = text.replace(code, value)
    return text + "\\n"


jobs = slurm["jobs"]
if name == "squeue":
    if options.get("jobs") and options["jobs"] not in [job for job in jobs if jobs[job]["known"]]:
        leave(1, err="slurm_load_jobs error: Invalid job id specified\\n")
    out = "CLUSTER: " + slurm["cluster"] + "\\n" if "clusters" in options else ""
    for job, each in jobs.items():
        if not each["known"] or options.get("jobs", job) != job or options.get("name", each["name"]) != each["name"]:
            continue
        for element, state in (each.get("elements") or {{"": each["state"]}}).items():
            if options.get("states") == "all" or state in ACTIVE:
                out += shown(job, dict(each, state=state), element)
    leave(0, out=out)
if name == "sacct":
    if not slurm["accounting"]:
        leave(1, err="Slurm accounting storage is disabled\\n")
    out = ""
    for job, each in jobs.items():
        if "name" in options and options["name"] == each["name"]:
            out += job + "|" + (slurm["cluster"] or "lab") + "\\n"
        if job in options.get("jobs", "").split(","):
            for element, state in (each.get("elements") or {{"": each["state"]}}).items():
                state += (" by " + each["by"]) if each["by"] and state == "CANCELLED" else ""
                number = job + ("_" + element if element else "")
                out += "|".join([number, state, each["exit"], each["reason"], "n1", each["name"]]) + "\\n"
    leave(0, out=out)
if name == "scontrol":
    if words[:1] == ["ping"]:
        leave(0, out="Slurmctld(primary) at here is UP\\n")
    job = words[-1]
    if job not in jobs or not jobs[job]["known"]:
        leave(1, err="slurm_load_jobs error: Invalid job id specified\\n")
    each = jobs[job]
    out = ""
    for element, state in (each.get("elements") or {{"": each["state"]}}).items():
        array = "ArrayJobId=" + job + " ArrayTaskId=" + element + " " if element else ""
        out += "JobId=%s %sJobName=%s UserId=me(1) JobState=%s Reason=%s Dependency=(null) ExitCode=%s NodeList=n1 " % (
            job, array, each["name"], state, each["reason"], each["exit"])
        out += "StdErr=%s StdIn=/dev/null StdOut=%s Power=\\n" % (each["err"] or "/x/err", each["out"] or "/x/out")
    leave(0, out=out)
if name == "scancel":
    job = words[-1]
    if job not in jobs or not jobs[job]["known"]:
        leave(1, err="scancel: error: Kill job error on job id " + job + ": Invalid job id specified\\n")
    if options["name"] == jobs[job]["name"] and jobs[job]["state"] in ACTIVE:
        jobs[job].update(state="CANCELLED", by="1000", elements=None)
    leave()
"""


class FakeSlurm:
    """The server with its files, and the jobs that its commands know."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.connections: list[asyncssh.SSHServerConnection] = []
        self._running: set[asyncio.subprocess.Process] = set()
        self._state = folder / "slurm.json"
        self._key = asyncssh.generate_private_key("ssh-ed25519")
        self._user = asyncssh.generate_private_key("ssh-ed25519")
        self._server: asyncssh.SSHAcceptor | None = None
        self.port = 0
        (folder / "bin").mkdir()
        self.home.mkdir()
        for name in _COMMANDS:
            program = folder / "bin" / name
            program.write_text(_PROGRAM.format(python=os.path.realpath(sys.executable), folder=str(folder)))
            program.chmod(0o755)
        known = {"jobs": {}, "calls": [], "away": 0, "refusal": "", "late": False, "accounting": True, "cluster": ""}
        self._state.write_text(json.dumps(known))

    # ------------------------------------------------------------------ state

    def read(self) -> dict[str, Any]:
        """Return everything that the commands know."""
        found: dict[str, Any] = json.loads(self._state.read_text())
        return found

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """Everything that the commands know, to be changed while none of them runs."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.read()
            yield state
            new = self._state.with_suffix(".changed")
            new.write_text(json.dumps(state))
            new.replace(self._state)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """While every command waits."""
        with self._changing():
            yield

    def set(self, **values: Any) -> None:
        """Change what concerns all jobs."""
        with self._changing() as state:
            state.update(values)

    def change(self, *jobs: str, **values: Any) -> None:
        """Change some jobs."""
        with self._changing() as state:
            for job in jobs:
                state["jobs"][job].update(values)

    @property
    def jobs(self) -> dict[str, dict[str, Any]]:
        """The jobs by id."""
        found: dict[str, dict[str, Any]] = self.read()["jobs"]
        return found

    def calls(self, command: str) -> list[list[str]]:
        """Return the arguments of every call of a command."""
        return [call[1:] for call in self.read()["calls"] if call[0] == command]

    def folders(self) -> list[Path]:
        """Return the private folders of jobs."""
        return sorted(path.parent for path in self.home.rglob("lock"))

    async def submitted(self) -> None:
        """Wait until a job is submitted, and its id is noted in its folder."""
        while not any((folder / "submitted").exists() for folder in self.folders()):  # noqa: ASYNC110 - a program's file
            await asyncio.sleep(0.02)

    # ------------------------------------------------------------------ the server

    async def start(self, port: int = 0) -> None:
        """Begin to listen."""
        keys = asyncssh.import_authorized_keys(self._user.export_public_key().decode())
        home = str(self.home)

        class Files(asyncssh.SFTPServer):
            def map_path(self, path: bytes) -> bytes:
                return path if path.startswith(b"/") else os.path.join(home.encode(), path)

        class Server(asyncssh.SSHServer):
            def connection_made(inner, connection: asyncssh.SSHServerConnection) -> None:  # noqa: N805
                self.connections.append(connection)

            def connection_requested(inner, *_: object) -> bool:  # noqa: N805
                return True

            def begin_auth(inner, username: str) -> bool:  # noqa: N805
                del username
                return True

        self._server = await asyncssh.listen(
            "127.0.0.1",
            port,
            server_factory=Server,
            server_host_keys=[self._key],
            authorized_client_keys=keys,
            process_factory=self._process,
            sftp_factory=Files,
            encoding=None,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _process(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        environment = {"PATH": f"{self.folder}/bin:/usr/bin:/bin", "HOME": str(self.home), "LANG": "C"}
        local = await asyncio.create_subprocess_shell(
            process.command or "",
            env=environment,
            cwd=self.home,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._running.add(local)
        try:
            out, err = await local.communicate(await process.stdin.read())
        finally:
            self._running.discard(local)
            if local.returncode is None:
                local.kill()
                await local.wait()
        process.stdout.write(out)
        process.stderr.write(err)
        process.exit(local.returncode or 0)

    def cut(self) -> None:
        """Break every connection."""
        for connection in self.connections:
            connection.abort()
        self.connections.clear()

    async def stop(self) -> None:
        """Break every connection and stop listening."""
        self.cut()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        for process in list(self._running):
            process.kill()
        while self._running:  # noqa: ASYNC110 - each is removed by the coroutine that started it
            await asyncio.sleep(0.01)

    def settings(self, **other: Any) -> SshSettings:
        """Return the settings that lead to this server."""
        whole: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "username": "me",
            "use_agent": False,
            "private_keys": ((self._user.export_private_key().decode(), None),),
            "host_key": self._key.export_public_key().decode(),
        }
        return SshSettings(**{**whole, **other})

    def connection(self) -> str:
        """Return the same as one of Airflow's connections."""
        settings = self.settings()
        extra = {"private_key": settings.private_keys[0][0], "host_key": settings.host_key}
        fields = {"conn_type": "ssh", "host": settings.host, "port": self.port, "login": "me", "extra": extra}
        return json.dumps(fields)


class LocalStorage:
    """Storage whose paths are those of this machine."""

    def read_text(self, place: str) -> str:
        """Read a file."""
        return Path(place).read_text()

    def download(self, place: object, local: Path) -> None:
        """Copy a file or a folder."""
        self.upload(Path(str(place)), str(local))

    def upload(self, local: Path, place: str) -> None:
        """Copy a file or a folder."""
        if local.is_dir():
            shutil.copytree(local, place)
        else:
            shutil.copyfile(local, place)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[FakeSlurm]:
    """Start a login node, and stop it afterwards."""
    fake = FakeSlurm(folder)
    await fake.start()
    try:
        yield fake
    finally:
        await fake.stop()
