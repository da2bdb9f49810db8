"""One try of a task: who it is, when its time is over, and whether another follows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.jobs.waiting import Waiting
from airflow_distrib.operators.record_store import RecordStore

# Airflow's own limit of a deferral comes after the trigger's, so that the trigger can cancel.
DEFER_MARGIN = timedelta(seconds=60)


def awaited(store: RecordStore, waiting: Mapping[str, Any] | None) -> JobRef:
    """The job that the trigger waited for."""
    if waiting is not None:
        return Waiting.from_json(waiting).ref
    # "airflow dags test" drops the arguments of a deferral.
    record = store.read()
    if record is None or record.ref is None:
        raise ConfigError("durable", "must stay True where Airflow drops a deferral's arguments ('airflow dags test')")
    return record.ref


def comes_again(context: Context) -> bool:
    """Whether Airflow will start another try when this one fails."""
    ti = context["ti"]
    return bool(ti.try_number <= (getattr(ti, "max_tries", None) or 0))


def deadline(context: Context, limit: timedelta | None, *, on_worker: bool) -> float | None:
    """Seconds since the epoch at which the try's time is over.

    Args:
        on_worker: the job ends with this worker, where Airflow's own timeout counts from here and
            comes first; otherwise the start of the try counts, which outlives deferrals.
    """
    if limit is None:
        return None
    if on_worker:
        return datetime.now(UTC).timestamp() + limit.total_seconds() + 1.0
    started = getattr(context["ti"], "start_date", None) or datetime.now(UTC)
    return float(started.timestamp() + limit.total_seconds())


def identity(context: Context | None, operator: BaseOperator, scope: str = "") -> JobIdentity:
    """The identity of one try; without a context, one to render with."""
    if context is None:
        return JobIdentity(operator.dag_id, "render", operator.task_id, -1, 1)
    ti = context["ti"]
    map_index = -1 if ti.map_index is None else ti.map_index
    return JobIdentity(ti.dag_id, ti.run_id, ti.task_id, map_index, ti.try_number, scope)


def defer_timeout(until: float | None) -> timedelta | None:
    """Airflow's own limit for a deferral that ends at ``until``."""
    if until is None:
        return None
    return max(timedelta(0), datetime.fromtimestamp(until, UTC) - datetime.now(UTC)) + DEFER_MARGIN
