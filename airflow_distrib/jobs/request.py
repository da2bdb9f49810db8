"""From an operator and its final config to what is asked of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from airflow.sdk import Context

from airflow_distrib.core.config import Config
from airflow_distrib.core.errors import ClusterError, ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.record import Phase
from airflow_distrib.core.reference import JobRef
from airflow_distrib.operators.remote import Order, RemoteRun
from airflow_distrib.operators.store import RecordStore
from airflow_distrib.watching.waiting import Waiting

if TYPE_CHECKING:
    from airflow_distrib.operators.base import DistributedJobOperator

# The cluster itself ends a job so long after the task's own timeout: if Airflow is gone.
DEADLINE_MARGIN_SECONDS = 300
# Airflow's own limit of a deferral comes after the trigger's, so that the trigger can cancel.
DEFER_MARGIN = timedelta(seconds=60)

# SIGTERM to SIGKILL is 30 seconds in a pod, and on most Slurms; the runner needs a few to report.
GRACE_SECONDS = 20.0

R = TypeVar("R")


class Ordering(ABC, Generic[R]):
    """One operator with its final config, for one launcher."""

    system: ClassVar[str]

    def __init__(self, operator: DistributedJobOperator, config: Any) -> None:
        self._operator: Any = operator
        self._config = config

    # ------------------------------------------------------------------ for the launchers

    @abstractmethod
    def check(self) -> None:
        """Meet what only rendering finds, such as a missing image.

        Raises:
            ConfigError: it cannot be rendered.
        """

    @abstractmethod
    def shown(self, identity: JobIdentity) -> dict[str, Any]:
        """What would be submitted, for people."""

    @abstractmethod
    def leg(self, store: RecordStore, log: Any) -> RemoteRun[R]:
        """A leg on a worker."""

    @abstractmethod
    def waiting(self, ref: JobRef, context: Context) -> Waiting:
        """How to wait for a job."""

    @abstractmethod
    def order(
        self, context: Context, store: RecordStore, *, submits: bool = True
    ) -> contextlib.AbstractContextManager[Order[R]]:
        """What is asked of the cluster.

        Args:
            submits: whether anything may be submitted; otherwise no payload is made.
        """

    # ------------------------------------------------------------------ what is the same for all

    @property
    def deadline_seconds(self) -> int | None:
        """After how long the cluster itself is to end the job."""
        timeout = self._operator.execution_timeout
        return int(timeout.total_seconds()) + DEADLINE_MARGIN_SECONDS if timeout else None

    @property
    def runs_function(self) -> bool:
        """Whether rank 0 is to return a value."""
        return self._operator.python_callable is not None

    @property
    def remote_options(self) -> dict[str, Any]:
        """Fields of the runner's spec where the ranks are not the worker's own."""
        return {**result_options(self._operator), "grace_seconds": GRACE_SECONDS}

    def keeps(self, succeeded: bool) -> bool:
        """Whether the finished job stays."""
        return self._operator.keep_job in (("always",) if succeeded else ("always", "on_failure"))

    def deadline(self, context: Context) -> float | None:
        """Seconds since the epoch at which the try's time is over; its start outlives deferrals."""
        limit = self._operator.execution_timeout
        if limit is None:
            return None
        started = context["ti"].start_date
        assert started is not None
        return float(started.timestamp() + limit.total_seconds())

    def defer_timeout(self, context: Context) -> timedelta | None:
        """Airflow's own limit for the deferral; later than the trigger's."""
        deadline = self.deadline(context)
        if deadline is None:
            return None
        return max(timedelta(0), datetime.fromtimestamp(deadline, UTC) - datetime.now(UTC)) + DEFER_MARGIN

    def waited_for(self, store: RecordStore, waiting: Mapping[str, Any] | None, context: Context) -> Waiting:
        """What the trigger waited for.

        Raises:
            ConfigError: nobody knows any more.
        """
        if waiting is not None:
            return Waiting.from_json(waiting)
        # "airflow dags test" drops the arguments of a deferral.
        record = store.read()
        if record is None or record.ref is None:
            raise ConfigError(
                "durable", "must stay True where Airflow drops a deferral's arguments ('airflow dags test')"
            )
        return self.waiting(record.ref, context)

    def abandon(self, store: RecordStore, log: Any) -> None:
        """Cancel the recorded job: no later try will come to it."""
        record = store.read()
        if record is None or record.ref is None or record.phase is Phase.CONSUMED or not record.ref.uid:
            return
        if record.ref.system != self.system:
            return
        leg = self.leg(store, log)
        leg.ref = record.ref
        with contextlib.suppress(ClusterError):
            asyncio.run(leg.cancel())
        store.write(Phase.CONSUMED)

    def leave_or_cancel(
        self, leg: RemoteRun[R], store: RecordStore, context: Context, ref: JobRef, *, late: bool = False
    ) -> None:
        """Without a trigger: leave the job for the next try to adopt, or cancel it when none will come."""
        if comes_again(context) and not late and self._operator.durable:
            store.write(Phase.TRIGGER_LOST, ref)
            return
        leg.ref = ref
        asyncio.run(leg.cancel())
        store.write(Phase.CONSUMED)


def result_options(operator: DistributedJobOperator) -> dict[str, Any]:
    """Fields of the runner's spec that say what is shown and where a large result goes."""
    path = operator.result_path
    return {"log_ranks": operator.log_ranks, "result_path": None if path is None else str(path)}


def spec_hash(operator: DistributedJobOperator, config: Any) -> str:
    """Digest of what is wanted, the same for every try that wants the same.

    Of the function its source counts, not its pickle: that differs from process to process.
    """
    plain = config.serialize() if isinstance(config, Config) else config
    what = [operator.launcher, plain, *operator.what_runs(), operator.op_args, operator.op_kwargs]
    function = operator.python_callable
    if function is not None:
        try:
            what.append(inspect.getsource(inspect.unwrap(function)))
        except (OSError, TypeError):
            what.append(getattr(function, "__qualname__", type(function).__qualname__))
    return hashlib.sha256(json.dumps(_stable(what)).encode()).hexdigest()


def check_ranks(operator: DistributedJobOperator, config: Any) -> None:
    """Say which of ``log_ranks`` do not exist."""
    size = getattr(config, "world_size", None)
    beyond = [rank for rank in operator.log_ranks or () if size is not None and rank >= size]
    if beyond:
        operator.log.warning("log_ranks: there is no rank %s among the %s of this job", beyond, size)


def _stable(value: Any) -> Any:
    """Plain values that are the same in every process: without addresses, and in order."""
    if isinstance(value, Mapping):
        return sorted([str(_stable(key)), _stable(item)] for key, item in value.items())
    if isinstance(value, list | tuple):
        return [_stable(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(str(_stable(item)) for item in value)
    if value is None or isinstance(value, str | int | float | date | Path):
        return str(value)
    return type(value).__qualname__


def comes_again(context: Context) -> bool:
    """Whether Airflow will start another try when this one fails."""
    ti = context["ti"]
    return bool(ti.try_number <= (getattr(ti, "max_tries", None) or 0))


def identity_of(context: Context | None, operator: DistributedJobOperator, scope: str = "") -> JobIdentity:
    """The identity of one try; without a context, one to render with."""
    if context is None:
        return JobIdentity(operator.dag_id, "render", operator.task_id, -1, 1)
    ti = context["ti"]
    map_index = -1 if ti.map_index is None else ti.map_index
    return JobIdentity(ti.dag_id, ti.run_id, ti.task_id, map_index, ti.try_number, scope)
