"""One Airflow for all tests of this folder; set STACK_DATABASE to run it on PostgreSQL."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from airflow_stack import AirflowStack, running

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    """A started Airflow that knows the example DAGs and the faulty ones."""
    folder = tmp_path_factory.mktemp("airflow")
    dags = folder / "dags"
    shutil.copytree(REPOSITORY / "dags", dags)
    shutil.copytree(Path(__file__).parent / "dags", dags, dirs_exist_ok=True)
    os.environ["DIGITS_OUTPUT"] = str(folder)
    with running(folder / "home", dags, database=os.environ.get("STACK_DATABASE")) as started:
        yield started
