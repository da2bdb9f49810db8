"""The runner beside mpirun starts ranks elsewhere, and knows how each of them ended."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_distrib.core import archive, packing
from airflow_distrib.runner import collector, launcher, report
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.outcome import Outcome

# Starts ranks as mpirun does: a number in the environment, output passed on, the first
# failure ends the others.
MPIRUN = """#!{python}
import os, subprocess, sys
ranks = int(sys.argv[1])
running = [
    subprocess.Popen(
        sys.argv[2:],
        env={{
            **os.environ,
            "OMPI_COMM_WORLD_RANK": str(n),
            "OMPI_COMM_WORLD_SIZE": str(ranks),
            "OMPI_COMM_WORLD_LOCAL_RANK": str(n),
            "OMPI_COMM_WORLD_LOCAL_SIZE": str(ranks),
        }},
    )
    for n in range(ranks)
]
codes = [each.wait() for each in running]
sys.exit(max(abs(code) for code in codes))
"""


def run(function: Callable[..., Any], folder: Path, **fields: Any) -> tuple[int, str, Outcome | None]:
    """Exit status, log and document of a launcher's pod."""
    mpirun = folder / "mpirun"
    mpirun.write_text(MPIRUN.format(python=sys.executable))
    mpirun.chmod(mpirun.stat().st_mode | stat.S_IXUSR)
    (folder / "runner.pyz").write_bytes(archive.build())
    (folder / "payload").write_bytes(packing.pack(function, [], {}))
    rank = specs.Spec(
        specs.ENVIRONMENT, "", scratch=str(folder), payload_file=str(folder / "payload"), reports=True, token="secret"
    )
    (folder / "spec.json").write_text(rank.to_json())
    program = [sys.executable, str(folder / "runner.pyz"), str(folder / "spec.json")]
    whole = specs.Spec(
        specs.LAUNCHER,
        "",
        scratch=str(folder),
        termination_log=str(folder / "log"),
        command=[str(mpirun), "3"],
        program=program,
        token="secret",
        **fields,
    )
    (folder / "launcher.json").write_text(whole.to_json())
    command = [sys.executable, str(folder / "runner.pyz"), str(folder / "launcher.json")]
    environment = {**os.environ, collector.POD_IP: "127.0.0.1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    log = folder / "log"
    return done.returncode, done.stdout, report.from_termination_message(log.read_text()) if log.exists() else None


def test_rank_zeros_value_reaches_the_launchers_pod(tmp_path: Path) -> None:
    """Only the launcher's pod can report to Airflow, and its log holds the lines of every rank."""

    def add() -> int:
        import os

        print("hello")
        return int(os.environ["RANK"]) + int(os.environ["WORLD_SIZE"])

    code, log, document = run(add, tmp_path)
    assert code == 0
    assert sorted(line for line in log.splitlines() if "process" not in line) == [f"[rank {n}] hello" for n in range(3)]
    assert document is not None
    assert (document.rank, document.result) == (0, "3")


def test_ranks_of_a_launcher_meet_where_rank_zero_is(tmp_path: Path) -> None:
    """The command mpirun does not say where its ranks are, and torch.distributed needs to know."""

    def meet() -> str:
        import os
        import socket
        import time

        address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        if os.environ["RANK"] != "0":
            for _ in range(200):
                try:
                    socket.create_connection(address).close()
                    return ""
                except ConnectionRefusedError:
                    time.sleep(0.05)
            raise TimeoutError
        with socket.create_server(address) as server:
            for _ in range(2):
                server.accept()[0].close()
        return "met"

    code, log, document = run(meet, tmp_path)
    assert code == 0, log
    assert document is not None
    assert document.result == '"met"'


def test_a_large_value_reaches_the_end_of_the_launchers_log(tmp_path: Path) -> None:
    """A termination message is too small for it."""

    def large() -> str:
        import os

        return os.urandom(20_000).hex()

    code, log, document = run(large, tmp_path)
    assert (code, document) == (0, None)
    found = report.from_frames(log.splitlines())
    assert found is not None
    assert len(found.result or "") == 40_002


def test_the_failing_rank_is_named_and_not_mpirun(tmp_path: Path) -> None:
    """The command mpirun itself knows only an exit status."""

    def fail() -> None:
        import os

        if os.environ["RANK"] == "2":
            raise ValueError("no such column")

    code, _, document = run(fail, tmp_path)
    assert code == 1
    assert document is not None
    assert (document.rank, document.error_type, document.world_size) == (2, "ValueError", 3)


def test_a_launcher_that_fails_by_itself_is_named(tmp_path: Path) -> None:
    """If a host cannot be reached, no rank exists that could report it."""
    whole = specs.Spec(specs.LAUNCHER, "", termination_log=str(tmp_path / "log"), command=["false"], token="s")
    (tmp_path / "launcher.json").write_text(whole.to_json())
    (tmp_path / "runner.pyz").write_bytes(archive.build())
    command = [sys.executable, str(tmp_path / "runner.pyz"), str(tmp_path / "launcher.json")]
    assert subprocess.run(command, timeout=60, check=False).returncode == 1
    document = report.from_termination_message((tmp_path / "log").read_text())
    assert document is not None
    assert "false ended with exit status 1" in document.message


@pytest.mark.parametrize("message", [b"{}\n", b"nonsense\n", b'{"token": "wrong", "outcome": "{}"}\n', b""])
def test_the_collector_takes_nothing_without_the_token(message: bytes, tmp_path: Path) -> None:
    """Anybody in the cluster can connect to its port."""
    listening = collector.Collector(str(tmp_path), "right")
    try:
        address = listening.start().rpartition(":")
        with socket.create_connection(("127.0.0.1", int(address[2])), timeout=5) as connection:
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(10) == b""
        assert report.collect(str(tmp_path)) == []
    finally:
        listening.shutdown()
        listening.server_close()


def test_a_report_that_nobody_takes_is_known_to_the_rank(tmp_path: Path) -> None:
    """The rank can then write its outcome into its log instead."""
    ended = Outcome(outcomes.SUCCESS, 0, result="1")
    assert not collector.send(ended, "t", {})
    assert not collector.send(ended, "t", {collector.ADDRESS: "127.0.0.1:1"})


def test_variables_that_are_not_set_are_not_exported() -> None:
    """The command mpirun would complain about each of them."""
    assert launcher.exports(["HERE", "MISSING", "THERE"], {"HERE": "1", "THERE": ""}) == ["-x", "HERE", "-x", "THERE"]


@pytest.mark.parametrize("text", ["a slots=2\nb slots=2\n", "a:2\nb:2\n", "# workers\na\n\nb\n"])
def test_hosts_are_read_from_every_implementations_file(text: str, tmp_path: Path) -> None:
    """Open MPI and the others write their hostfiles in different forms."""
    (tmp_path / "hostfile").write_text(text)
    assert launcher.hosts(str(tmp_path / "hostfile")) == ["a", "b"]


def test_hosts_are_waited_for_until_they_accept_connections(tmp_path: Path) -> None:
    """Pods of workers start at different times, and mpirun would give up on the slow ones."""
    (tmp_path / "hostfile").write_text("127.0.0.1 slots=1\n")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    opened: list[socket.socket] = []
    timer = threading.Timer(0.5, lambda: opened.append(socket.create_server(("127.0.0.1", port))))
    timer.start()
    launcher.wait_for_hosts(str(tmp_path / "hostfile"), port, print, lambda: True)
    assert opened
    opened[0].close()
    launcher.wait_for_hosts(str(tmp_path / "hostfile"), port, print, lambda: False)


def test_a_payload_from_elsewhere_must_be_the_one_that_was_submitted(tmp_path: Path) -> None:
    """Whoever can write to a bucket must not get code of his own run."""
    (tmp_path / "payload").write_bytes(packing.pack(int, [], {}))
    spec = specs.Spec(
        specs.ENVIRONMENT,
        "",
        scratch=str(tmp_path),
        payload_file=f"file://{tmp_path}/payload",
        payload_sha256="0" * 64,
        termination_log=str(tmp_path / "log"),
    )
    (tmp_path / "spec.json").write_text(spec.to_json())
    (tmp_path / "runner.pyz").write_bytes(archive.build())
    command = [sys.executable, str(tmp_path / "runner.pyz"), str(tmp_path / "spec.json")]
    assert subprocess.run(command, timeout=60, check=False, capture_output=True).returncode == 1
    document = report.from_termination_message((tmp_path / "log").read_text())
    assert document is not None
    assert "its digest differs" in document.message
    assert document.recoverable is False
    assert json.loads(spec.to_json())["payload_sha256"] == "0" * 64
