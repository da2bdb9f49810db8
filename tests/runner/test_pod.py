"""The runner in a pod is one rank, numbered by its launcher, and reports in a termination message."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from airflow_distrib.core import archive, packing
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import report
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.outcome import Outcome


def start(function: Callable[..., Any], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start the archive as a container's command."""
    (folder / "runner.pyz").write_bytes(archive.build())
    (folder / "payload").write_bytes(packing.pack(function, [], {}))
    spec = specs.Spec(specs.ENVIRONMENT, str(folder), termination_log=str(folder / "termination-log"))
    (folder / "spec.json").write_text(spec.to_json())
    command = [sys.executable, str(folder / "runner.pyz"), str(folder / "spec.json")]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str], folder: Path) -> tuple[int, str, Outcome | None]:
    """Exit status, log, and the document of the termination message if there is one."""
    log, _ = process.communicate(timeout=60)
    path = folder / "termination-log"
    return process.returncode, log, report.from_termination_message(path.read_text()) if path.exists() else None


def test_a_small_result_is_the_termination_message(tmp_path: Path) -> None:
    """The API server keeps it with the pod's state, so that reading it needs no log."""

    def numbers() -> list[str]:
        import os

        print("hello")
        return [os.environ["RANK"], os.environ["WORLD_SIZE"]]

    environment = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    code, log, document = ended(start(numbers, tmp_path, environment), tmp_path)
    beginning, _, rest = log.partition("\n")
    assert beginning.startswith(f"[rank 0] rank 0 of 4 on {socket.gethostname()}, process ")
    assert (code, rest) == (0, "[rank 0] hello\n")
    assert document is not None
    assert (document.rank, document.world_size, document.result) == (0, 4, '["0", "4"]')


def test_a_larger_result_is_at_the_end_of_the_log(tmp_path: Path) -> None:
    """Its lines tell whether they are complete, since a log can be cut."""

    def large() -> str:
        import os

        return os.urandom(20_000).hex()

    code, log, document = ended(start(large, tmp_path, {}), tmp_path)
    assert (code, document) == (0, None)
    found = report.from_frames(log.splitlines())
    assert found is not None
    assert len(found.result or "") == 40_002


def test_a_failure_is_the_termination_message_and_the_exit_status(tmp_path: Path) -> None:
    """The operator of the job sees the failure as well, and can end the other pods."""

    def fail() -> None:
        raise ValueError("no such column")

    code, _, document = ended(start(fail, tmp_path, {"OMPI_COMM_WORLD_RANK": "3"}), tmp_path)
    assert code == 1
    assert document is not None
    assert (document.rank, document.error_type, document.message) == (3, "ValueError", "no such column")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_the_termination_message_even_if_the_function_then_returns(number: int, tmp_path: Path) -> None:
    """An evicted pod has not succeeded, whatever its function returns on SIGTERM."""

    def obey() -> str:
        import signal
        import time

        stop: list[int] = []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
        print("ready", flush=True)
        while not stop:
            time.sleep(0.05)
        return "saved"

    process = start(obey, tmp_path, {})
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.stdout.readline() == "[rank 0] ready\n"
        process.send_signal(number)
        code, _, document = ended(process, tmp_path)
    finally:
        process.kill()
    assert code == 128 + number
    assert document is not None
    assert (document.kind, document.result) == (outcomes.TERMINATED, None)
    assert signal.Signals(number).name in document.message


def test_a_rank_that_ends_by_the_signal_before_its_supervisor_has_not_failed(tmp_path: Path) -> None:
    """Slurm sends the signal to every process of a job, and the rank may be the faster one."""

    def wait() -> None:
        import time

        time.sleep(60)

    process = start(wait, tmp_path, {})
    assert process.stdout is not None
    rank = int(process.stdout.readline().rpartition(" ")[2])
    os.kill(rank, signal.SIGTERM)
    time.sleep(0.05)
    process.terminate()
    code, _, document = ended(process, tmp_path)
    assert code == 128 + signal.SIGTERM
    assert document is not None
    assert document.kind == outcomes.TERMINATED
