"""A real Slurm with accounting, and an SSH server in front of it, on this machine: for tests.

Needs root and Debian's packages ``slurm-wlm slurmdbd munge mariadb-server openssh-server``.
Everything lives in one folder and on loopback; jobs run as an unprivileged user that is made
for them.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow_stack import free_port, wait_for

USER = "airflow-slurm"
NODES = ("n1", "n2", "n3")
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "sshd", "ssh-keygen", "sbatch")
# Which of them may be missing elsewhere, and why the tests are skipped then.
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

_SLURM = """
ClusterName=lab
SlurmctldHost=localhost
SlurmctldPort={slurmctld}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
StateSaveLocation={folder}/ctld
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=20
MessageTimeout=10
InactiveLimit=0
KillWait=5
MinJobAge={min_job_age}
MaxArraySize=100
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,batch_sched_delay=1,sched_interval=2,bf_continue
JobRequeue=1
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,NoShared
MpiDefault=none
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{accounting}
NodeName=n[1-3] NodeAddr=127.0.0.1 NodeHostname=localhost Port=[{slurmd}] CPUs=4 RealMemory=3000 Gres=gpu:2
PartitionName=main Nodes=n[1-3] Default=YES MaxTime=60 State=UP PriorityTier=1 DefMemPerCPU=100
PartitionName=urgent Nodes=n[1-3] MaxTime=60 State=UP PriorityTier=10 DefMemPerCPU=100
PartitionName=scrap Nodes=n[1-3] MaxTime=60 State=UP PriorityTier=1 PreemptMode=CANCEL DefMemPerCPU=100
"""

_ACCOUNTING = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={slurmdbd}
AccountingStoragePass={folder}/munge/socket
AccountingStoreFlags=job_comment
"""

_SLURMDBD = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdPort={slurmdbd}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadb}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""

_SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/ssh/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/ssh/authorized_keys
TrustedUserCAKeys {folder}/ssh/ca.pub
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin no
LogLevel VERBOSE
SetEnv SLURM_CONF={folder}/slurm.conf
Subsystem sftp internal-sftp
"""


def missing() -> str:
    """Why there can be no Slurm here; empty when there can."""
    if os.geteuid() != 0:
        return "a Slurm for tests needs root"
    absent = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    return f"not installed: {', '.join(absent)} (apt-get install {PACKAGES})" if absent else ""


PACKAGES = "slurm-wlm slurmdbd munge mariadb-server openssh-server"


class SlurmCluster:
    """The daemons of one Slurm; ``accounting=False`` leaves slurmdbd out."""

    def __init__(self, folder: Path, *, accounting: bool = True, min_job_age: int = 300, user: str = USER) -> None:
        self.user = user
        self.folder = folder
        self.accounting = accounting
        self.ssh_port = free_port()
        self._ports = {"slurmctld": free_port(), "slurmdbd": free_port(), "mariadb": free_port()}
        self._min_job_age = min_job_age
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {"PATH": _PATH, "SLURM_CONF": str(folder / "slurm.conf"), "LANG": "C.UTF-8"}

    @property
    def home(self) -> Path:
        """Home of the user that jobs run as."""
        return Path(pwd.getpwnam(self.user).pw_dir)

    @property
    def private_key(self) -> str:
        """Of the user."""
        return (self.folder / "ssh/user_key").read_text()

    @property
    def host_key(self) -> str:
        """The SSH server's public key, as known_hosts has it."""
        return " ".join((self.folder / "ssh/host_key.pub").read_text().split()[:2])

    # ------------------------------------------------------------------ starting

    def start(self) -> None:
        """Start everything and wait until the nodes are idle."""
        self._make_user()
        self.folder.mkdir(parents=True, exist_ok=True)
        for parent in (self.folder, *self.folder.parents):
            # Of pytest's, or tempfile's, own; the user of the jobs has to get through.
            if parent.parts[1:2] == ("tmp",) and len(parent.parts) > 2:
                parent.chmod(0o755)
        self._write_configuration()
        self._start_munge()
        if self.accounting:
            self._start_accounting()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self._make_keys()
        self.start_ssh()
        wait_for("the nodes to be idle", lambda: self.run("sinfo", "-h", "-o", "%t %D").split() == ["idle", "3"], 60)

    def _make_user(self) -> None:
        with contextlib.suppress(KeyError):
            pwd.getpwnam(self.user)
            # The home outlives this cluster: what a killed run of the tests left is not for the next to find.
            shutil.rmtree(self.home / ".airflow-distrib", ignore_errors=True)
            return
        subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", "-p", "*", self.user], check=True)

    def _write_configuration(self) -> None:
        for name in ("ctld", "munge", "ssh", "mariadb", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(exist_ok=True, mode=0o755)
        nodes = _port_range(len(NODES))
        accounting = _ACCOUNTING.format(folder=self.folder, **self._ports) if self.accounting else ""
        text = _SLURM.format(
            folder=self.folder,
            accounting=accounting or "AccountingStorageType=accounting_storage/none",
            slurmd=nodes,
            min_job_age=self._min_job_age,
            **self._ports,
        )
        (self.folder / "slurm.conf").write_text(text)
        for node in NODES:
            for gpu in range(2):
                (self.folder / f"gpu-{node}-{gpu}").touch()
        (self.folder / "gres.conf").write_text(
            "".join(f"NodeName={node} Name=gpu File={self.folder}/gpu-{node}-[0-1]\n" for node in NODES)
        )
        (self.folder / "slurmdbd.conf").write_text(_SLURMDBD.format(folder=self.folder, **self._ports))
        (self.folder / "slurmdbd.conf").chmod(0o600)

    def _spawn(self, name: str, *command: str, **environment: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                [shutil.which(command[0], path=_PATH) or command[0], *command[1:]],
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=self.folder,
            )

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        key = folder / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        options = {"key-file": key, "socket": folder / "socket", "pid-file": folder / "pid"}
        options |= {"log-file": folder / "log", "seed-file": folder / "seed"}
        self._spawn(
            "munged", "munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in options.items())
        )
        wait_for("munged", lambda: (folder / "socket").exists(), 20)

    def _start_accounting(self) -> None:
        data = self.folder / "mariadb"
        shutil.chown(data, "mysql")
        subprocess.run(
            ["mariadb-install-db", f"--datadir={data}", "--user=mysql", "--auth-root-authentication-method=normal"],
            check=True,
            capture_output=True,
        )
        socket = data / "socket"
        self._spawn(
            "mariadbd", "mariadbd", "--no-defaults", f"--datadir={data}", "--user=mysql", f"--socket={socket}",
            f"--port={self._ports['mariadb']}", "--bind-address=127.0.0.1", f"--pid-file={data}/pid",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900", "--innodb-buffer-pool-size=64M",
        )  # fmt: skip
        sql = (
            "CREATE DATABASE slurm_acct; CREATE USER slurm@'127.0.0.1' IDENTIFIED BY 'slurm';"
            "CREATE USER slurm@localhost IDENTIFIED BY 'slurm'; GRANT ALL ON slurm_acct.* TO slurm@'127.0.0.1';"
            "GRANT ALL ON slurm_acct.* TO slurm@localhost;"
        )

        def ready() -> bool:
            command = ["mariadb", "--no-defaults", f"--socket={socket}", "-uroot", "-e", sql]
            return subprocess.run(command, capture_output=True, check=False).returncode == 0

        wait_for("mariadbd", ready, 60)
        self._spawn("slurmdbd", "slurmdbd", "-D")
        wait_for("slurmdbd", lambda: "lab" in self.run("sacctmgr", "-n", "-i", "add", "cluster", "lab", check=False)
                 or "lab" in self.run("sacctmgr", "-n", "show", "cluster", check=False), 60)  # fmt: skip

    def start_controller(self) -> None:
        """Start slurmctld."""
        self._spawn("slurmctld", "slurmctld", "-D")
        wait_for("slurmctld", lambda: "UP" in self.run("scontrol", "ping", check=False), 60)

    def start_node(self, node: str) -> None:
        """Start one slurmd."""
        self._spawn(f"slurmd-{node}", "slurmd", "-D", "-N", node)

    def _make_keys(self) -> None:
        folder = self.folder / "ssh"
        for name in ("host_key", "user_key", "other_key", "ca"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        sign: list[str | Path] = [
            "ssh-keygen",
            "-q",
            "-s",
            folder / "ca",
            "-I",
            "test",
            "-n",
            self.user,
            folder / "other_key.pub",
        ]
        subprocess.run(sign, check=True)
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        (folder / "authorized_keys").chmod(0o644)
        (self.folder / "sshd_config").write_text(_SSHD.format(port=self.ssh_port, folder=self.folder))

    def start_ssh(self) -> None:
        """Start the SSH server."""
        Path("/run/sshd").mkdir(exist_ok=True)
        self._spawn("sshd", "/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config"))

        def listens() -> bool:
            return subprocess.run(
                ["ssh-keyscan", "-p", str(self.ssh_port), "127.0.0.1"], capture_output=True, check=False
            ).stdout != b""  # fmt: skip

        wait_for("sshd", listens, 30)

    # ------------------------------------------------------------------ using

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """Run one of Slurm's commands as root."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=timeout
        )
        if check and done.returncode:
            raise RuntimeError(f"{command}: {done.stderr}")
        return done.stdout

    def connection(self, **extra: Any) -> str:
        """A connection of Airflow's to the SSH server, as JSON."""
        whole = {"private_key": self.private_key, "host_key": self.host_key, **extra}
        kept = {name: value for name, value in whole.items() if value is not None}
        fields = {"conn_type": "ssh", "host": "127.0.0.1", "port": self.ssh_port, "login": self.user, "extra": kept}
        return json.dumps(fields)

    def jobs_of(self, run: str, *, over: bool = False) -> dict[str, str]:
        """Jobs of a DAG run by id, with their comments."""
        states = ["--states=all"] if over else []
        lines = self.run("squeue", "-h", "-o", "%F|%k", *states).splitlines()
        return dict(line.split("|", 1) for line in lines if f" {run} " in line)

    def job(self, run: str) -> str:
        """The one job of a DAG run, once it was submitted."""
        found = wait_for(f"a job of {run}", lambda: self.jobs_of(run, over=True) or None, 90)
        assert len(found) == 1, found
        return next(iter(found))

    def wait_for_nothing_left(self, run: str) -> None:
        """No job goes on, and none of the run's folders is there."""
        tasks = {comment.rpartition("=")[2] for comment in self.jobs_of(run, over=True).values()}
        wait_for(f"jobs of {run} to end", lambda: not self.jobs_of(run), 60)
        wait_for(f"folders of {run} to go", lambda: not tasks & set(self.folders()), 60)

    def nodes_of(self, job: str) -> list[str]:
        """Nodes that a job runs on."""
        names = self.run("squeue", "-h", "-j", job, "-o", "%N").strip()
        return self.run("scontrol", "show", "hostnames", names).split()

    def folders(self) -> list[str]:
        """Digests of the tasks that have a folder."""
        return [path.name for path in (self.home / ".airflow-distrib").glob("*") if path.is_dir()]

    def files_left(self) -> list[str]:
        """All that is below the private folders, for a test that expects nothing: the names tell whose it is."""
        base = self.home / ".airflow-distrib"
        return [str(path.relative_to(base)) for path in sorted(base.rglob("*")) if path.name != ".swept"]

    def python(self) -> str:
        """An interpreter of this one's version that the user may run."""
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        if found := shutil.which(name, path="/usr/local/bin:/usr/bin"):
            return found
        # It may lie in root's home.
        copy = self.folder / "python"
        if not copy.exists():
            leave = shutil.ignore_patterns("test", "tests", "site-packages", "__pycache__")
            shutil.copytree(sys.base_prefix, copy, ignore=leave, symlinks=True)
            subprocess.run(["chmod", "-R", "a+rX", copy], check=True)
        return str(copy / "bin" / name)

    def readable(self, path: Path) -> bool:
        """Whether the user may read a file."""
        return subprocess.run(["test", "-r", path], user=self.user, check=False).returncode == 0

    def sessions(self) -> tuple[int, int]:
        """Connections that the SSH server has taken, and commands and subsystems that it has started."""
        text = (self.folder / "sshd.out").read_text(errors="replace")
        return text.count("Accepted publickey"), text.count("Starting session:")

    def processes(self) -> list[int]:
        """Processes of the user, without those of SSH."""
        found = []
        uid = pwd.getpwnam(self.user).pw_uid
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                # Those that are only waited for by a parent that is gone have no command line.
                command = (entry / "cmdline").read_bytes()
                if entry.stat().st_uid == uid and command and b"sshd" not in command:
                    found.append(int(entry.name))
        return found

    def kill_connections(self) -> int:
        """Kill sshd's children, which cuts every connection; returns how many."""
        # Those of the user, and the privileged monitors above them.
        listener = self._processes["sshd"].pid
        children = _pids_of_parent(listener)
        for pid in children:
            for each in (*_pids_of_parent(pid), pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
        return len(children)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """End one daemon: slurmctld, slurmd-n1, sshd, slurmdbd."""
        process = self._processes[name]
        process.send_signal(number)
        process.wait(30)

    def signal(self, name: str, number: int) -> None:
        """Send a daemon a signal, such as SIGSTOP."""
        self._processes[name].send_signal(number)

    def stop(self) -> None:
        """End all of it."""
        with contextlib.suppress(Exception):
            self.run("scancel", "--state=PENDING,RUNNING,SUSPENDED", "--user", self.user, check=False, timeout=10)
            time.sleep(0.5)
        self.kill_connections() if "sshd" in self._processes else 0
        order = ("sshd", *(f"slurmd-{node}" for node in NODES), "slurmctld", "slurmdbd", "mariadbd", "munged")
        for name in order:
            if name in self._processes and self._processes[name].poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    self._processes[name].send_signal(signal.SIGCONT)
                self._processes[name].terminate()
                try:
                    self._processes[name].wait(10)
                except subprocess.TimeoutExpired:
                    self._processes[name].kill()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _port_range(count: int) -> str:
    """Free ports in a row."""
    for _ in range(100):
        first = free_port()
        if first + count < 65535 and all(_is_free(first + each) for each in range(1, count)):
            return f"{first}-{first + count - 1}"
    raise RuntimeError("no free ports in a row")


def _is_free(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _pids_of_parent(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return found


@contextlib.contextmanager
def running(folder: Path, **options: Any) -> Iterator[SlurmCluster]:
    """Start a Slurm and stop it afterwards."""
    cluster = SlurmCluster(folder, **options)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
