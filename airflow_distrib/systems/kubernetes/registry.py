"""All kinds of jobs on Kubernetes, by the key in their references."""

from __future__ import annotations

from airflow_distrib.backends.kubernetes.kind import Kind
from airflow_distrib.backends.mpijob.status import MPIJOB, MPIJOB_V1
from airflow_distrib.backends.pod.status import POD
from airflow_distrib.backends.pytorchjob.status import PYTORCHJOB

KINDS = {kind.key: kind for kind in (PYTORCHJOB, MPIJOB, MPIJOB_V1, POD)}


def kind_named(key: str) -> Kind:
    """The kind of a job reference."""
    return KINDS[key]
