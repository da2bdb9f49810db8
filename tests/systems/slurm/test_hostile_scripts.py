"""Values that try to run as code, in every way that a script offers; a real bash runs them all."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.systems.slurm.interpolation import assignments, read

# One on each line; ⏎ is the end of a line in it.
_TEXT = (Path(__file__).parent / "scripts/hostile.txt").read_text()
SCRIPTS = [line.replace("⏎", "\n") for line in _TEXT.splitlines()]

TOUCH = "touch canary"
VALUES = [
    *(f"a[$({TOUCH})]", f"$({TOUCH})", f"`{TOUCH}`", TOUCH, f"; {TOUCH} ;", f"'; {TOUCH}; '", f'"; {TOUCH}; "'),
    *(f"\n{TOUCH}\n", f"{TOUCH}|", f"-e {TOUCH}", f"exec={TOUCH}", f"-exec {TOUCH} ;", f"sh -c '{TOUCH}'"),
    *(f'BEGIN{{system("{TOUCH}")}}', f'"; system("{TOUCH}"); "', f"$(shell {TOUCH})", f'system("{TOUCH}")'),
    *(f'__import__("os").system("{TOUCH}")', f"'+__import__('os').system('{TOUCH}')+'", f"a[$({TOUCH})]=1"),
    *(f"--checkpoint-action=exec={TOUCH}", f"!sh -c '{TOUCH}'", f"alias.x=!{TOUCH}", f"--to-command={TOUCH}"),
    *(f"1e{TOUCH}", f"b/;e{TOUCH}\n#", f"!{TOUCH}", f"([$({TOUCH})]=1)", f"($({TOUCH}))", f"-c{TOUCH}", f"p;e{TOUCH}"),
    *(f"--expression=e{TOUCH}", "./code", "code", "run-canary", "-c", "-v", "PATH", "$0"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with programs that play those of a cluster, and code that a value could name."""
    path = tmp_path_factory.mktemp("node")
    skip = 'while [ "${1#-}" != "$1" ]; do shift; done\n'
    programs = {
        "srun": f'{skip}case "$1" in [0-9]*|pmix) shift;; esac; exec "$@"',
        "mpirun": f'{skip}shift; exec "$@"',
        "mylauncher": f'{skip}[ "$1" = val ] && shift; exec "$@"',
        "ssh": f'{skip}[ "$1" = 22 ] && shift; shift; if [ $# = 0 ]; then exec sh; else exec sh -c "$*"; fi',
        "sudo": f'{skip}[ "$1" = root ] && shift; exec "$@"',
        "parallel": 'if [ $# = 0 ]; then exec sh; fi; eval "${@/:::/}"; shift 2; eval "$@"',
        "docker": 'shift; while [ "${1#-}" != "$1" ]; do [ "$1" = --entrypoint ] && exec "$2"; shift; done; '
        'shift; exec "$@"',
        "apptainer": f'shift; {skip}shift; exec "$@"',
        "run-canary": TOUCH,
        "rsync": '[ "$1" = -e ] && exec sh -c "$2"',
    }
    (path / "bin").mkdir()
    for name, text in programs.items():
        (path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (path / "bin" / name).chmod(0o755)
    (path / "code").write_text(f"#!/bin/bash\n{TOUCH}\n")
    (path / "code").chmod(0o755)
    (path / "f").write_text("text\n")
    (path / "makefile").write_text("all:\n\t@echo $(X)\n")
    return path


def survives(script: str, value: str, folder: Path) -> bool:
    """Whether a value is refused, or does nothing."""
    values = {"inputs": {"x": value, "y": value, "f": value}}
    if value == "-v":
        values["inputs"]["x"] = VALUES[0]
    try:
        made = read(script)
        made.check(values)
    except ConfigError:
        return True
    whole = "\n".join([*assignments(values), made.text])
    environment = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder), "SHELL": "/bin/bash"}
    subprocess.run(
        ["bash"], input=whole.encode(), cwd=folder, env=environment, capture_output=True, check=False, timeout=20
    )
    canary = folder / "canary"
    if canary.exists():
        canary.unlink()
        return False
    return True


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_value_runs_as_code(script: str, folder: Path) -> None:
    """Whatever a script does with a value, the value is refused or does nothing."""
    assert [value for value in VALUES if not survives(script, value, folder)] == []
