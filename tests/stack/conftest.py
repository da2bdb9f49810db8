"""One Airflow for all tests of this folder; STACK_DATABASE=postgresql starts one for it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "dev"))

import postgres
from airflow_stack import AirflowStack, running

REPOSITORY = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("stack")
            # Its own waits end first, each with a message that says what for.
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """Address of the database; None is SQLite."""
    if os.environ.get("STACK_DATABASE", "sqlite") == "sqlite":
        yield None
        return
    with postgres.running(tmp_path_factory.mktemp("database") / "postgres") as address:
        yield address


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, database: str | None) -> Iterator[AirflowStack]:
    """A started Airflow that knows the example DAGs and the faulty ones."""
    folder = tmp_path_factory.mktemp("airflow")
    dags = folder / "dags"
    shutil.copytree(REPOSITORY / "dags", dags)
    shutil.copytree(Path(__file__).parent / "dags", dags, dirs_exist_ok=True)
    os.environ["DIGITS_OUTPUT"] = str(folder)
    with running(folder / "home", dags, database=database) as started:
        yield started
