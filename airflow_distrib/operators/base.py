"""The one operator behind all systems: config and function in, rank 0's value out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from airflow.sdk import BaseOperator, Context, ObjectStoragePath, conf
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout

from airflow_distrib.backends.local import job as local
from airflow_distrib.backends.local.plan import LocalPlan
from airflow_distrib.core import config as configs
from airflow_distrib.core import packing
from airflow_distrib.core.config import Config
from airflow_distrib.core.errors import ConfigError, DistribError, JobTerminated
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.record import Action, Phase, next_action
from airflow_distrib.links import JobLink
from airflow_distrib.operators.arguments import call_arguments, check_function
from airflow_distrib.operators.configured import ConfiguredOperator
from airflow_distrib.operators.result import value_of
from airflow_distrib.operators.store import RecordStore
from airflow_distrib.runner.lines import prefixed
from airflow_distrib.runner.payload import header_of

SECTION = "airflow_distrib"
LOCAL = "local"


class DistributedJobOperator(ConfiguredOperator):
    """Run a Python function on every rank of a job and return what rank 0 returned.

    Args:
        task_config: the system's config, a mapping with its fields, or an upstream task's
            output that is such a mapping; by default a config without any field set.
            Templated, in every field.
        python_callable: the function; it is shipped by value, so the ranks need its
            libraries but not the DAG file.
        op_args: positional arguments of the function. Templated.
        op_kwargs: keyword arguments of the function. Templated.
        task_config_overrides: fields to replace in ``task_config`` at run time, such as an
            upstream task's output ``{"worker": {"replicas": 8}}``. Templated.
        launcher: ``"local"`` runs the ranks as processes of the Airflow worker. None takes
            ``[airflow_distrib] launcher``, and without it the system's own.
        log_ranks: ranks whose output goes to the task log, or ``"all"``; rank 0 by default.
        result_path: where rank 0 writes a result of more than 1 MiB: a path or URL that the
            ranks and the Airflow worker both reach. Templated.
        python: interpreter of local ranks; None is the worker's own.
        termination_grace_seconds: time between SIGTERM and SIGKILL when a job is stopped.
        durable: keep a record of the job, so that a try that follows a lost worker finds
            what is left of it.

    Raises:
        ConfigError: an argument cannot work; at DAG parse time unless it is a template.
    """

    template_fields: Sequence[str] = ("task_config", "task_config_overrides", "op_args", "op_kwargs", "result_path")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "task_config": "json",
        "task_config_overrides": "json",
        "op_args": "py",
        "op_kwargs": "py",
    }
    shallow_copy_attrs: Sequence[str] = ("python_callable",)
    operator_extra_links = (JobLink(),)
    ui_color = "#e8e4f8"

    # Launchers of this operator; the first is what launcher=None means.
    launchers: ClassVar[tuple[str, ...]] = (LOCAL,)
    # Launchers that a later release brings, with what to do until then.
    missing_launchers: ClassVar[Mapping[str, str]] = {}

    def __init__(
        self,
        *,
        task_config: Any = None,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        task_config_overrides: Any = None,
        launcher: str | None = None,
        log_ranks: Sequence[int] | str = (0,),
        result_path: str | os.PathLike[str] | ObjectStoragePath | None = None,
        python: str | None = None,
        termination_grace_seconds: float = 3.0,
        durable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(task_config=task_config, task_config_overrides=task_config_overrides, **kwargs)
        self._asked_launcher = launcher or conf.get(SECTION, "launcher", fallback="")
        self.python_callable = python_callable
        self.op_args = op_args or ()
        self.op_kwargs = op_kwargs or {}
        self.launcher = self._choose_launcher()
        self.log_ranks = _log_ranks(log_ranks)
        self.result_path = result_path
        if result_path is not None and not isinstance(result_path, str | os.PathLike | ObjectStoragePath):
            raise ConfigError("result_path", f"must be a path or a URL; got {result_path!r}")
        self.python = python
        self.termination_grace_seconds = configs.seconds()("termination_grace_seconds", termination_grace_seconds)
        self.durable = durable
        self._job: local.LocalJob | None = None
        self._killed = False
        check_function(python_callable, self.op_args, self.op_kwargs)
        if isinstance(self.task_config, Config):
            self.check_final(self.final_config())

    def local_plan(self, config: Any, rendezvous_id: str) -> LocalPlan:
        """Render a complete config for the local launcher."""
        raise ConfigError("launcher", f"{type(self).__name__} cannot render {config} ({rendezvous_id}) for local ranks")

    def _choose_launcher(self) -> str:
        name = self._asked_launcher or self.launchers[0]
        if name in self.missing_launchers:
            raise ConfigError("launcher", self.missing_launchers[name])
        if name not in self.launchers:
            raise ConfigError(
                "launcher", f"{type(self).__name__} runs with {' or '.join(self.launchers)}; got {name!r}"
            )
        return name

    # ------------------------------------------------------------------ rendering

    def render(self, context: Context | None = None) -> dict[str, Any]:
        """Return what would be started, without starting it or needing any service.

        Args:
            context: a task's context; None renders with the values in the DAG file and
                leaves templates as they stand.
        """
        identity = _identity(context, self)
        config = self.final_config()
        shown = {
            "launcher": self.launcher,
            "name": identity.name(),
            "labels": identity.labels(),
            "function": getattr(self.python_callable, "__qualname__", str(self.python_callable)),
            "config": config.serialize() if isinstance(config, Config) else str(config),
        }
        if unknown := self.unknown_fields(config):
            return {**shown, "known at run time": unknown}
        plan = self.local_plan(config, identity.name())
        return {
            **shown,
            "spec": plan.spec("<a private folder>", None, self._spec_options())._asdict(),
            "environment": plan.environment({}, None),
            "not_applied": list(plan.not_applied),
        }

    def _spec_options(self) -> dict[str, Any]:
        return {
            "log_ranks": self.log_ranks,
            "result_path": None if self.result_path is None else str(self.result_path),
            "grace_seconds": self.termination_grace_seconds,
        }

    def _payload(self, context: Context) -> bytes:
        # Airflow's own context has no try number but in the task instance.
        values = {**context, "try_number": context["ti"].try_number}
        args, kwargs = call_arguments(self.python_callable, self.op_args, self.op_kwargs, values)
        return packing.pack(self.python_callable, args, kwargs, self._dag_folders(context))

    def _dag_folders(self, context: Context) -> list[Path]:
        """Where the modules of this DAG lie, which the ranks do not have."""
        folders = [Path(folder) for folder in [conf.get("core", "dags_folder", fallback="")] if folder]
        bundle = getattr(context["ti"], "bundle_instance", None)
        if bundle is not None:
            folders.append(Path(bundle.path))
        if self._dag is not None and self._dag.fileloc:
            folders.append(Path(self.dag.fileloc).parent)
        return folders

    # ------------------------------------------------------------------ running

    def execute(self, context: Context) -> Any:
        """Run the job and return rank 0's value.

        Raises:
            AirflowFailException: a retry cannot help.
            DistribError: everything else that went wrong, see :mod:`airflow_distrib.core.errors`.
        """
        try:
            return asyncio.run(self._execute(context))
        except DistribError as error:
            if error.permanent:
                raise AirflowFailException(str(error)) from error
            raise

    async def _execute(self, context: Context) -> Any:
        identity = _identity(context, self)
        config = self.final_config()
        self.check_final(config)
        plan = self.local_plan(config, identity.name())
        payload = self._payload(context)
        spec_hash = hashlib.sha256(repr((plan, header_of(payload)["sha256"])).encode()).hexdigest()
        store = RecordStore(context, durable=self.durable, spec_hash=spec_hash)
        self._remove_leftover(store, identity, spec_hash)
        for name in plan.not_applied:
            self.log.warning("task_config: %s has no effect on this job of local ranks", name)
        if plan.world_size is not None and (beyond := [r for r in self.log_ranks or () if r >= plan.world_size]):
            self.log.warning("log_ranks: there is no rank %s among the %s of this job", beyond, plan.world_size)
        return await self._run_local(plan, payload, identity.name(), store)

    def _remove_leftover(self, store: RecordStore, identity: JobIdentity, spec_hash: str) -> None:
        """End what an earlier try may have left behind; local processes are never adopted."""
        record = store.read()
        action = next_action(record, identity.try_number, spec_hash, outlives_worker=False)
        if action is Action.REPLACE and record is not None and record.ref is not None:
            host = record.ref.address.get("host")
            if local.remove(record.ref):
                self.log.info("Removed what try %s may have left on %s", record.try_number, host)
            else:
                self.log.warning("Try %s ran on %s; its processes end with its worker", record.try_number, host)

    async def _run_local(self, plan: LocalPlan, payload: bytes, name: str, store: RecordStore) -> Any:
        store.write(Phase.SUBMITTING)
        job = await local.LocalJob.start(plan, payload, name=name, python=self.python, options=self._spec_options())
        self._job = job
        started = time.monotonic()
        try:
            store.write(Phase.SUBMITTED, job.ref)
            if self._killed:
                job.terminate()
            self.log.info("Started %s: %s on %s, supervisor pid %s", name, plan.size, job.host, job.pid)
            async with self._deadline(), _stop_without_parent(job):
                async for line in job.lines():
                    self.log.info("%s", prefixed(line))
                code, left = await job.outcomes()
            # Before anything else can go wrong: from here on nothing of the job is left.
            await job.close()
            if self._killed:
                raise JobTerminated("the job was stopped by SIGTERM")
            store.write(Phase.CONSUMED)
            self.log.info("All ranks ended after %.1f s", time.monotonic() - started)
            value, warnings = value_of(left, code, lambda path: ObjectStoragePath(path).read_text())
        finally:
            await job.close()
        for warning in warnings:
            self.log.warning("%s", warning)
        return value

    @contextlib.asynccontextmanager
    async def _deadline(self) -> Any:
        """Hold to ``execution_timeout`` ourselves as well.

        Airflow raises its timeout from a signal handler; when that fires inside a callback
        of the event loop, the loop logs it and goes on.
        """
        limit = self.execution_timeout.total_seconds() + 1 if self.execution_timeout else None
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError as error:
            raise AirflowTaskTimeout(f"the job ran longer than execution_timeout={self.execution_timeout}") from error

    def on_kill(self) -> None:
        """Stop the job; called in a signal handler, so it asks and does not wait.

        ``execute`` goes on after it, sees the job end and raises.
        """
        self._killed = True
        if self._job is not None:
            self._job.terminate()


@contextlib.asynccontextmanager
async def _stop_without_parent(job: local.LocalJob) -> Any:
    """Stop the job when Airflow's supervisor of this task dies: nobody could mark it failed."""
    parent = os.getppid()
    orphaned = False

    async def watch() -> None:
        nonlocal orphaned
        while os.getppid() == parent:  # noqa: ASYNC110 - a parent's death is no event of this loop
            await asyncio.sleep(0.5)
        orphaned = True
        job.terminate()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
    if orphaned:
        raise JobTerminated("the Airflow worker that ran this task is gone")


def _log_ranks(given: Any) -> list[int] | None:
    """``"all"`` is None, which is what the runner takes for every rank."""
    if given == "all":
        return None
    if not isinstance(given, Sequence | set) or not all(type(rank) is int and rank >= 0 for rank in given):
        raise ConfigError("log_ranks", f'must be a list of ranks such as [0, 1], or "all"; got {given!r}')
    return list(given)


def _identity(context: Context | None, operator: BaseOperator) -> JobIdentity:
    if context is None:
        dag_id = operator.dag_id
        return JobIdentity(dag_id, "render", operator.task_id, -1, 1)
    ti = context["ti"]
    map_index = -1 if ti.map_index is None else ti.map_index
    return JobIdentity(ti.dag_id, ti.run_id, ti.task_id, map_index, ti.try_number)
