"""One Slurm and one Airflow for all tests of this folder, started here and reached over SSH only."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "dev"))

import postgres
import slurm_cluster
from airflow_stack import AirflowStack, running
from slurm_cluster import SlurmCluster

REPOSITORY = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, and skip all of them where there can be no Slurm."""
    reason = slurm_cluster.missing()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("stack")
            item.add_marker(pytest.mark.timeout(600))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """With accounting."""
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm") / "lab") as started:
        yield started


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, slurm: SlurmCluster) -> Iterator[AirflowStack]:
    """A started Airflow on PostgreSQL whose connection leads to the login node."""
    folder = tmp_path_factory.mktemp("airflow")
    dags = folder / "dags"
    shutil.copytree(Path(__file__).parent / "dags", dags)
    shutil.copy(REPOSITORY / "tests/dying.py", dags)
    for example in REPOSITORY.glob("dags/slurm_*.py"):
        shutil.copy(example, dags)
    settings = {
        # A triggerer that hangs is replaced within seconds instead of half a minute.
        "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
        "AIRFLOW_DISTRIB__JOB_URL_TEMPLATE": "https://jobs.example/{cluster}/{job_uid}/{job_name}",
    }
    variables = {
        "AIRFLOW_CONN_SSH_DEFAULT": slurm.connection(),
        "AIRFLOW_CONN_SLURM": slurm.connection(),
        "SLURM_PYTHON": slurm.python(),
        # Libraries for ranks: those of this environment.
        "SLURM_LIBRARIES": sysconfig.get_path("purelib"),
        "SLURM_FOLDER": str(slurm.folder),
    }
    with (
        postgres.running(tmp_path_factory.mktemp("database") / "postgres") as database,
        running(folder / "home", dags, database=database, settings=settings, variables=variables) as started,
    ):
        yield started
