"""Scripts in the style of computing centres' documentation take values, exactly; a real bash runs them all."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from airflow_distrib.systems.slurm.interpolation import assignments, read

# A script on each line, and what it prints; ⏎ is the end of a line, and X the value.
_TEXT = (Path(__file__).parent / "scripts/ordinary.txt").read_text()
CASES = [line.replace("⏎", "\n").split(" ==> ") for line in _TEXT.splitlines()]
NASTY = "a  b $(id) `id` \"q\" 's' \\ {x} ${HOME} * ;&|<>! # /etc -"
VALUES = {"x": NASTY, "w": "word", "n": "41", "one": "1", "zero": "0", "file": "file", "dir": "sub"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with programs that play those of a cluster."""
    skip = 'while [ "${1#-}" != "$1" ]; do shift; done\n'
    options = 'while :; do case "$1" in -[nNJ]|--cpu-bind|-np|--bind-to) shift 2;; -*) shift;; *) break;; esac; done\n'
    programs = {
        "bin/srun": f'{options}exec "$@"',
        "bin/mpirun": f'{options}exec "$@"',
        "bin/numactl": f'{skip}exec "$@"',
        "bin/docker": 'shift 4; exec "$@"',
        "bin/apptainer": 'shift 5; exec "$@"',
        "bin/torchrun": f'{skip}exec python3 "$@"',
        "bin/module": ":",
        "bin/conda": ":",
        "show": 'echo "$*"',
        "hook": "echo true",
        "wrapper.sh": 'echo "$*"',
        "setup.sh": ":",
    }
    for name in ("bin", "sub"):
        (tmp_path / name).mkdir()
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "file").write_text("line\n")
    (tmp_path / "show.pl").write_text('print "@ARGV\\n"')
    (tmp_path / "show.py").write_text("import sys\nprint(*sys.argv[1:])\n")
    return tmp_path


@pytest.mark.parametrize(("script", "expected"), CASES)
def test_an_ordinary_script_gets_exactly_the_value(script: str, expected: str, folder: Path) -> None:
    """Users can paste scripts from a computing centre's pages, and values arrive whatever they hold."""
    values = {"inputs": VALUES}
    made = read(script)
    made.check(values)
    whole = "\n".join([*assignments(values), made.text])
    environment = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder), "N": "1"}
    done = subprocess.run(
        ["bash", "-c", whole], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (expected.replace("X", NASTY) + "\n", "")
