"""Many jobs on a Slurm: SSH commands, connections, CPU and delay of this package's trigger and of others; submitting.

    python benchmarks/slurm.py 1,50,500 [SECONDS]

Needs root, Debian's packages of dev/slurm_cluster.py, and apache-airflow-providers-ssh and submitit
beside this package. It starts a real Slurm and a real sshd. Ours waits for Slurm jobs that pend;
SSHRemoteJobTrigger for as many remote jobs as its operator would have started. Each way waits in a
process of its own with one event loop, as in Airflow's triggerer; then all jobs end at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "dev"))

MARK = "RESULT "
ENDED = "ended"
WORKDIR = "~/bench-jobs"
# Not the tests', which may run beside it.
USER = "airflow-slurm-bench"


async def submitted(count: int) -> list[Any]:
    """References of so many jobs that wait for an hour."""
    from airflow_distrib.core.identity import JobIdentity
    from airflow_distrib.hooks.ssh import SlurmSSHHook
    from airflow_distrib.jobs.request import JobRequest
    from airflow_distrib.operators.storage import AirflowStorage
    from airflow_distrib.systems.slurm import shell
    from airflow_distrib.systems.slurm.config import Sbatch
    from airflow_distrib.systems.slurm.jobs import SlurmJobs
    from airflow_distrib.systems.slurm.session import SlurmSession

    config = Sbatch(begin="now+1hour", mem="1M", workdir=WORKDIR)
    async with SlurmSSHHook("bench").get_conn() as client:
        jobs = SlurmJobs(SlurmSession(client))
        refs = []
        for number in range(count):
            identity = JobIdentity("bench", str(count), f"t{number}", -1, 1, "s")
            request = JobRequest(identity=identity, runs_function=False, arguments={"script": "true"})
            submission = shell.of_shell(config, request)
            refs.append((await jobs.submit(submission, await jobs.reserve(submission), AirflowStorage()))[0])
        return refs


def ours(folder: Path, count: int) -> list[Any]:
    """This package's triggers."""
    from airflow_distrib.core.reference import JobRef
    from airflow_distrib.jobs.waiting import Waiting
    from airflow_distrib.triggers import job, pulse

    pulse.EXIT_SECONDS = pulse.UNKNOWN_SECONDS = 0.0
    refs = [JobRef.from_json(each) for each in json.loads((folder / f"refs-{count}").read_text())]
    return [job.JobTrigger(Waiting(ref, "bench", logs=False).to_json()) for ref in refs]


def remote(folder: Path, count: int) -> list[Any]:
    """SSHRemoteJobOperator's."""
    from airflow.providers.ssh.triggers.ssh_remote_job import SSHRemoteJobTrigger

    made = []
    for number in range(count):
        place = f"/home/airflow-slurm-bench/bench/{count}-{number}"
        made.append(
            SSHRemoteJobTrigger(
                ssh_conn_id="bench_remote",
                remote_host=None,
                job_id=str(number),
                job_dir=place,
                log_file=f"{place}/stdout.log",
                exit_code_file=f"{place}/exit_code",
                remote_os="posix",
            )
        )
    return made


async def wait(way: str, folder: Path, count: int, seconds: float) -> dict[str, Any]:
    """Let all triggers wait, count, end all jobs, see when each trigger has told."""
    triggers = {"ours": ours, "remote": remote}[way](folder, count)
    told: list[float] = []

    async def one(trigger: Any) -> None:
        async for event in trigger.run():
            told.append(time.time())
            del event
            return

    tasks = [asyncio.create_task(one(each)) for each in triggers]
    # Connections are made, and the first looks are over.
    await asyncio.sleep(30)
    (folder / "waiting").touch()
    begin = resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.sleep(seconds)
    end = resource.getrusage(resource.RUSAGE_SELF)
    (folder / "counted").touch()
    while not (folder / ENDED).exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.05)
    ended = float((folder / ENDED).read_text())
    await asyncio.wait(tasks, timeout=120)
    delays = sorted(each - ended for each in told)
    return {
        "cpu": (end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime) / seconds,
        "memory": end.ru_maxrss / 1024,
        "told": len(delays),
        "p50": statistics.median(delays) if delays else -1,
        "p99": delays[int(len(delays) * 0.99)] if delays else -1,
    }


def measured(cluster: Any, way: str, folder: Path, count: int, seconds: float) -> dict[str, Any]:
    """One way with so many jobs."""
    for name in ("waiting", "counted", ENDED):
        (folder / name).unlink(missing_ok=True)
    home = cluster.home / "bench"
    if way == "ours":
        refs = asyncio.run(submitted(count))
        (folder / f"refs-{count}").write_text(json.dumps([ref.to_json() for ref in refs]))
    else:
        home.mkdir(exist_ok=True)
        for number in range(count):
            (home / f"{count}-{number}").mkdir()
            (home / f"{count}-{number}/stdout.log").write_text("hello\n")
    # A file, because nobody reads a pipe meanwhile, and the SSH library tells of every command.
    with (folder / "output").open("w") as output:
        command = [sys.executable, __file__, "--way", way, str(folder), str(count), str(seconds)]
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    wait_for_file(folder / "waiting")
    connections = held(cluster)
    before = cluster.sessions()
    wait_for_file(folder / "counted")
    after = cluster.sessions()
    if way == "ours":
        # Together: the controller needs a moment for hundreds.
        cluster.run("scancel", f"--user={USER}", timeout=120)
    else:
        for number in range(count):
            (home / f"{count}-{number}/exit_code").write_text("0")
    (folder / "ended.new").write_text(str(time.time()))
    (folder / "ended.new").rename(folder / ENDED)
    child.wait()
    out = (folder / "output").read_text(errors="replace")
    result: dict[str, Any] = json.loads(next(line for line in out.splitlines() if MARK in line).partition(MARK)[2])
    subprocess.run(["rm", "-rf", home, cluster.home / WORKDIR[2:]], check=True)
    return {**result, "connections": connections, "commands": (after[1] - before[1]) / count / seconds * 60,
            "all": (after[1] - before[1]) / seconds * 60, "new": after[0] - before[0]}  # fmt: skip


def held(cluster: Any) -> int:
    """SSH connections that are open now."""
    import psutil

    return sum(1 for each in psutil.net_connections("tcp")
               if each.status == "ESTABLISHED" and each.laddr.port == cluster.ssh_port)  # fmt: skip


def wait_for_file(path: Path) -> None:
    """Until it is there."""
    while not path.exists():
        time.sleep(0.05)


def submitting(cluster: Any, count: int) -> dict[str, float]:
    """Seconds for each submission, with a connection of its own as each task on a worker has."""
    from airflow.providers.ssh.hooks.ssh import SSHHook

    times: dict[str, float] = {}
    begin = time.monotonic()
    for _ in range(count):
        asyncio.run(submitted(1))
        cluster.run("scancel", f"--user={USER}")
        subprocess.run(["rm", "-rf", cluster.home / WORKDIR[2:]], check=True)
    times["ours: folder, files, sbatch"] = (time.monotonic() - begin) / count
    begin = time.monotonic()
    for _ in range(count):
        hook = SSHHook("bench_remote")
        with hook.get_conn() as client:
            hook.exec_ssh_client_command(client, "sbatch --parsable --begin=now+1hour --wrap true", False, None)
        cluster.run("scancel", f"--user={USER}")
        subprocess.run(["true"], check=True)
    times["SSHOperator: sbatch only"] = (time.monotonic() - begin) / count
    script = (
        "import submitit, sys, time; e = submitit.SlurmExecutor(folder=sys.argv[1]); "
        "e.update_parameters(time=5, additional_parameters={'begin': 'now+1hour'}); begin = time.monotonic(); "
        f"[e.submit(print, 1) for _ in range({count})]; print((time.monotonic() - begin) / {count})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "/tmp/submitit-bench"], env={**os.environ, **cluster.environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    times["submitit, on the login node itself"] = float(done.stdout.split()[-1])
    cluster.run("scancel", "--user=root", check=False)
    return times


def main() -> None:
    """Start Slurm, measure, print tables."""
    import slurm_cluster

    counts, seconds = [int(each) for each in sys.argv[1].split(",")], float((sys.argv[2:] or ["30"])[0])
    folder = Path(tempfile.mkdtemp(prefix="slurm-bench-"))
    with slurm_cluster.running(folder / "lab", user=USER) as cluster:
        os.environ["AIRFLOW_CONN_BENCH"] = cluster.connection()
        key = folder / "key"
        key.write_text(cluster.private_key)
        key.chmod(0o600)
        extra = {"key_file": str(key), "no_host_key_check": "true"}
        os.environ["AIRFLOW_CONN_BENCH_REMOTE"] = json.dumps({**json.loads(cluster.connection()), "extra": extra})
        for count in counts:
            print(f"\n| {count} job(s) | commands per job-minute | a minute in all | connections | CPU | memory | "
                  "told | end to event p50 | p99 |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
            for way, name in (("ours", "`JobTrigger`"), ("remote", "`SSHRemoteJobTrigger` (5 s)")):
                found = measured(cluster, way, folder, count, seconds)
                print(f"| {name} | {found['commands']:.2f} | {found['all']:.0f} | {found['connections']} | "
                      f"{found['cpu'] * 100:.1f} % | {found['memory']:.0f} MiB | {found['told']} | "
                      f"{found['p50']:.1f} s | {found['p99']:.1f} s |", flush=True)  # fmt: skip
        print("\n| submitting | seconds |\n|---|---|")
        for name, each in submitting(cluster, 10).items():
            print(f"| {name} | {each:.2f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--way":
        place, number, length = Path(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
        print(MARK + json.dumps(asyncio.run(wait(sys.argv[2], place, number, length))), flush=True)
        os._exit(0)
    main()
