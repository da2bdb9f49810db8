"""One Airflow and one namespace for all tests of this folder; any cluster that KUBECONFIG leads to."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "dev"))

import kubernetes_cluster
import postgres
from airflow_stack import AirflowStack, running
from kubernetes_cluster import Cluster

REPOSITORY = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, and skip all of them where there is no cluster."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("stack")
            item.add_marker(pytest.mark.timeout(900))
            if not os.environ.get("KUBECONFIG"):
                item.add_marker(pytest.mark.skip(reason="KUBECONFIG is not set: no cluster to test on"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A namespace with the rights of docs/rbac.yaml."""
    with kubernetes_cluster.running() as started:
        yield started


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[AirflowStack]:
    """A started Airflow on PostgreSQL whose connection leads to the cluster."""
    folder = tmp_path_factory.mktemp("airflow")
    dags = folder / "dags"
    shutil.copytree(Path(__file__).parent / "dags", dags)
    shutil.copy(REPOSITORY / "tests/dying.py", dags)
    for example in ("mpi_job_kubernetes.py", "pytorch_job_kubernetes.py"):
        shutil.copy(REPOSITORY / "dags" / example, dags)
    settings = {
        # A triggerer that hangs is replaced within seconds instead of half a minute.
        "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
        "AIRFLOW_DISTRIB__JOB_URL_TEMPLATE": "https://jobs.example/{namespace}/{kind}/{job_name}",
        "AIRFLOW_DISTRIB__LOGS_URL_TEMPLATE": "https://logs.example/{job_uid}",
    }
    variables = {"AIRFLOW_CONN_KUBERNETES_DEFAULT": cluster.connection(), "CLUSTER_NAMESPACE": cluster.namespace}
    with (
        postgres.running(tmp_path_factory.mktemp("database") / "postgres") as database,
        running(folder / "home", dags, database=database, settings=settings, variables=variables) as started,
    ):
        yield started
