"""The archive starts under every Python that remote machines may have."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_distrib.core import archive, packing
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import report
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.payload import python_version

OLDEST = (3, 8)


def interpreters() -> dict[str, str]:
    """Interpreters of this machine: those on PATH, and pyenv's; version to path."""
    paths = [shutil.which(f"python3.{minor}") for minor in range(OLDEST[1], 15)]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
        paths += [str(path) for path in Path(root).glob("versions/3.*/bin/python")]
    found: dict[str, str] = {}
    for path in [*paths, sys.executable]:
        if path is None:
            continue
        # pyenv's shims are on PATH also for versions that are not switched on.
        command = [path, "-c", "import sys; print(*sys.version_info[:2], sep='.')"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0 and tuple(map(int, answer.stdout.split("."))) >= OLDEST:
            found.setdefault(answer.stdout.strip(), path)
    return found


PYTHONS = interpreters()


def start(python: str, folder: Path, start_method: str) -> tuple[int, outcomes.Outcome]:
    """Run the archive on a payload of this Python; the exit status and the outcome of a local job."""
    (folder / "runner.pyz").write_bytes(archive.build())
    (folder / "payload").write_bytes(packing.pack(sum, [[1, 2]], {}))
    elastic = specs.ElasticSpec(start_method=start_method)
    spec = specs.Spec(specs.RANKS, str(folder), elastic=elastic, lifeline=True)
    (folder / "spec.json").write_text(spec.to_json())
    lifeline, ours = os.pipe()
    code = subprocess.run(
        [python, str(folder / "runner.pyz"), str(folder / "spec.json")],
        check=False,
        stdin=lifeline,
        stdout=subprocess.DEVNULL,
    ).returncode
    os.close(lifeline)
    os.close(ours)
    return code, report.collect(str(folder))[0]


@pytest.mark.parametrize("start_method", ["spawn", "fork"])
@pytest.mark.parametrize("version", sorted(PYTHONS))
def test_the_runner_works_or_names_the_python_that_is_wanted(version: str, start_method: str, tmp_path: Path) -> None:
    """A rank with another Python names both versions, and its task is not retried in vain."""
    code, outcome = start(PYTHONS[version], tmp_path, start_method)
    if version == python_version():
        assert (code, outcome.result) == (0, "3")
        return
    assert code == 1
    assert outcome.error_type == "PayloadError"
    assert f"Python {python_version()} on the Airflow worker but this rank runs Python {version}" in outcome.message
    assert outcome.recoverable is False


@pytest.mark.skipif("3.8" not in PYTHONS, reason="there is no Python 3.8 on this machine")
def test_every_module_of_the_runner_can_be_imported_by_the_oldest_python(tmp_path: Path) -> None:
    """Modules that one job does not need may be the ones that the next job needs."""
    (tmp_path / "runner.pyz").write_bytes(archive.build())
    names = [path.stem for path in Path(report.__file__).parent.glob("*.py") if path.stem != "__init__"]
    code = (
        "import sys, importlib; sys.path.insert(0, 'runner.pyz')\n"
        f"for name in {names!r}: importlib.import_module('airflow_distrib.runner.' + name)\n"
    )
    subprocess.run([PYTHONS["3.8"], "-c", code], cwd=tmp_path, check=True)
