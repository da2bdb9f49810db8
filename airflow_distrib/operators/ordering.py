"""From an operator and its final config to what is asked of a launcher."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context, ObjectStoragePath

from airflow_distrib.backends.kubernetes.manifest import Task
from airflow_distrib.backends.kubernetes.resource import MAX_PAYLOAD_BYTES, SYSTEM
from airflow_distrib.clients.kubernetes import KubernetesSettings
from airflow_distrib.core.config import Config
from airflow_distrib.core.errors import ClusterError, ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.record import Phase
from airflow_distrib.core.reference import JobRef
from airflow_distrib.hooks.kubernetes import KubernetesHook
from airflow_distrib.operators.kubernetes import KubernetesRun, Order
from airflow_distrib.operators.store import RecordStore
from airflow_distrib.watching.job import Waiting

if TYPE_CHECKING:
    from airflow_distrib.operators.base import DistributedJobOperator

# The cluster itself ends a job so long after the task's own timeout: if Airflow is gone.
DEADLINE_MARGIN_SECONDS = 300
# Airflow's own limit of a deferral comes after the trigger's, so that the trigger can cancel.
DEFER_MARGIN = timedelta(seconds=60)


class Ordering:
    """One operator with its final config."""

    def __init__(self, operator: DistributedJobOperator, config: Any) -> None:
        self._operator = operator
        self._config = config

    # ------------------------------------------------------------------ pure parts

    def local_options(self) -> dict[str, Any]:
        """Fields of the runner's spec on this machine."""
        return {**self._options(), "grace_seconds": self._operator.termination_grace_seconds}

    def _options(self) -> dict[str, Any]:
        path = self._operator.result_path
        return {"log_ranks": self._operator.log_ranks, "result_path": None if path is None else str(path)}

    def task(self, identity: JobIdentity, namespace: str, payload: Mapping[str, Any] | None = None) -> Task:
        """What the cluster is asked besides the config."""
        operator = self._operator
        timeout = operator.execution_timeout
        return Task(
            identity,
            namespace,
            command=operator.command,
            manifest=operator.manifest,
            runs_function=operator.python_callable is not None,
            # SIGTERM to SIGKILL is 30 seconds in a pod; the runner needs a few to report.
            options={**self._options(), "grace_seconds": 20.0, **(payload or {})},
            python=operator.python or "python3",
            deadline_seconds=int(timeout.total_seconds()) + DEADLINE_MARGIN_SECONDS if timeout else None,
            token=secrets.token_hex(16),
        )

    def spec_hash(self) -> str:
        """Digest of what is wanted, the same for every try that wants the same.

        Of the function its source counts, not its pickle: that differs from process to process.
        """
        operator = self._operator
        config = self._config.serialize() if isinstance(self._config, Config) else self._config
        what = [operator.launcher, config, operator.command, operator.manifest, operator.op_args, operator.op_kwargs]
        function = operator.python_callable
        if function is not None:
            try:
                what.append(inspect.getsource(inspect.unwrap(function)))
            except (OSError, TypeError):
                what.append(getattr(function, "__qualname__", type(function).__qualname__))
        return hashlib.sha256(json.dumps(_stable(what)).encode()).hexdigest()

    def check_ranks(self, log: Any) -> None:
        """Say which of ``log_ranks`` do not exist."""
        size = getattr(self._config, "world_size", None)
        beyond = [rank for rank in self._operator.log_ranks or () if size is not None and rank >= size]
        if beyond:
            log.warning("log_ranks: there is no rank %s among the %s of this job", beyond, size)

    # ------------------------------------------------------------------ Kubernetes

    @functools.cached_property
    def _settings(self) -> KubernetesSettings:
        """Of the connection; reading it asks Airflow, so once is enough."""
        return KubernetesHook(self._operator.kubernetes_conn_id).settings()

    def kubernetes_run(self, store: RecordStore, log: Any) -> KubernetesRun:
        """A leg on a worker."""
        return KubernetesRun(
            self._settings, self._operator.kubernetes_conn_id, store, lambda text: log.info("%s", text)
        )

    @contextlib.contextmanager
    def order(self, context: Context, store: RecordStore, *, submits: bool = True) -> Iterator[Order]:
        """The order; a payload that does not travel with it lies at ``payload_path`` until it is consumed."""
        operator = self._operator
        identity = identity_of(context, operator, store.scope)
        store.spec_hash = self.spec_hash()
        namespace = self._config.namespace or self._settings.namespace
        elsewhere = self._elsewhere(identity)
        payload = operator.payload(context) if submits and operator.python_callable is not None else None
        fields = None
        if payload is not None and elsewhere is not None:
            fields = {"payload_file": str(elsewhere), "payload_sha256": hashlib.sha256(payload).hexdigest()}
            elsewhere.parent.mkdir(parents=True, exist_ok=True)
            elsewhere.write_bytes(payload)
        elif payload is not None:
            _check_size(payload)
        task = self.task(identity, namespace, fields)
        try:
            yield Order(
                identity,
                namespace,
                lambda each: operator.cluster(self._config, dataclasses.replace(task, identity=each)),
                payload if elsewhere is None else None,
                lambda ref: self.waiting(ref, context),
                lambda succeeded: operator.keep_job in (("always",) if succeeded else ("always", "on_failure")),
                operator.python_callable is not None,
                comes_again(context),
            )
        finally:
            if elsewhere is not None and store.consumed:
                elsewhere.unlink(missing_ok=True)

    def _elsewhere(self, identity: JobIdentity) -> ObjectStoragePath | None:
        """Where the payload lies, if not in the job's Secret."""
        folder = self._operator.payload_path
        if folder is None or self._operator.python_callable is None:
            return None
        # One for all tries: the job that a later one adopts reads the same.
        return ObjectStoragePath(str(folder)) / f"{dataclasses.replace(identity, try_number=0).name()}.payload"

    def waiting(self, ref: JobRef, context: Context) -> Waiting:
        """How to wait for a job."""
        operator = self._operator
        task = self.task(identity_of(context, operator), ref.address["namespace"])
        return Waiting(
            ref,
            operator.kubernetes_conn_id,
            deadline=_deadline(context, operator.execution_timeout),
            patience=operator.patience.serialize(),
            logs=operator.log_ranks is None or bool(operator.log_ranks),
            log_roles=operator.cluster(self._config, task).log_roles,
            named=operator.python_callable is None,
        )

    def defer_timeout(self, context: Context) -> timedelta | None:
        """Airflow's own limit for the deferral; later than the trigger's."""
        deadline = _deadline(context, self._operator.execution_timeout)
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
        if record.ref.system != SYSTEM:
            return
        run = self.kubernetes_run(store, log)
        run.ref = record.ref
        with contextlib.suppress(ClusterError):
            asyncio.run(run.cancel())
        store.write(Phase.CONSUMED)

    def leave_or_cancel(
        self, run: KubernetesRun, store: RecordStore, context: Context, ref: JobRef, *, late: bool = False
    ) -> None:
        """Without a trigger: leave the job for the next try to adopt, or cancel it when none will come."""
        if comes_again(context) and not late and self._operator.durable:
            store.write(Phase.TRIGGER_LOST, ref)
            return
        run.ref = ref
        asyncio.run(run.cancel())
        store.write(Phase.CONSUMED)


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


def _check_size(payload: bytes) -> None:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ConfigError(
            "payload_path",
            f"the function and its arguments take {len(payload) / 1024:.0f} KiB, more than the "
            f"{MAX_PAYLOAD_BYTES // 1024} KiB that travel in a job's Secret: load the data inside the function, or set "
            "payload_path to a place that the Airflow worker and the ranks both reach",
        )


def _deadline(context: Context, limit: timedelta | None) -> float | None:
    """Seconds since the epoch at which the try's time is over; its start outlives deferrals."""
    if limit is None:
        return None
    started = context["ti"].start_date
    assert started is not None
    return float(started.timestamp() + limit.total_seconds())
