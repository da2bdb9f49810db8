"""The one operator behind all systems: config and function in, rank 0's value out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from airflow.sdk import Context, ObjectStoragePath, conf
from airflow.sdk.exceptions import AirflowFailException, TaskDeferralError, TaskDeferralTimeout

from airflow_distrib.backends.local.plan import LocalPlan
from airflow_distrib.core import config as configs
from airflow_distrib.core import packing
from airflow_distrib.core.config import Config
from airflow_distrib.core.errors import ConfigError, DistribError
from airflow_distrib.core.record import Phase
from airflow_distrib.core.reference import JobRef
from airflow_distrib.links import JobLink, LogsLink
from airflow_distrib.operators.arguments import call_arguments, check_function, check_place, ranks_of
from airflow_distrib.operators.configured import ConfiguredOperator
from airflow_distrib.operators.local import LocalRun
from airflow_distrib.operators.ordering import Ordering, check_ranks, identity_of, result_options, spec_hash
from airflow_distrib.operators.remote import RemoteRun
from airflow_distrib.operators.store import RecordStore
from airflow_distrib.watching.waiting import Ending, Waiting

SECTION = "airflow_distrib"
LOCAL, KUBERNETES, SLURM = "local", "kubernetes", "slurm"

KEEP_JOB = ("never", "on_failure", "always")


class DistributedJobOperator(ConfiguredOperator):
    """Run a Python function, or a program, on every rank of a job; return what rank 0 returned.

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
        launcher: ``"local"`` runs the ranks as processes of the Airflow worker,
            ``"kubernetes"`` on a cluster, ``"slurm"`` on a Slurm. None takes ``[airflow_distrib] launcher``, and
            without it the system's own.
        deferrable: wait in the triggerer instead of on a worker.
        log_ranks: ranks whose output goes to the task log, or ``"all"``; rank 0 by default.
        result_path: where rank 0 writes a result of more than 1 MiB: a path or URL that the
            ranks and the Airflow worker both reach. Templated.
        python: interpreter of the ranks; None is the worker's own for local ranks and
            ``python3`` in an image or on a Slurm's nodes.
        keep_job: whether a finished job stays on the cluster: "never", "on_failure" or
            "always"; one that stays goes after ``run_policy.ttl_seconds_after_finished``.
        termination_grace_seconds: time between SIGTERM and SIGKILL when local ranks are stopped.
        durable: keep a record of the job, so that a try that follows a lost worker finds
            it and goes on with it.

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
    operator_extra_links = (JobLink(), LogsLink())
    ui_color = "#e8e4f8"

    # Launchers of this operator; the first is what launcher=None means.
    launchers: ClassVar[tuple[str, ...]] = (LOCAL,)

    def __init__(
        self,
        *,
        task_config: Any = None,
        python_callable: Callable[..., Any] | None = None,
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        task_config_overrides: Any = None,
        launcher: str | None = None,
        deferrable: bool = True,
        log_ranks: Sequence[int] | str = (0,),
        result_path: str | os.PathLike[str] | ObjectStoragePath | None = None,
        python: str | None = None,
        keep_job: str = "never",
        termination_grace_seconds: float = 3.0,
        durable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(task_config=task_config, task_config_overrides=task_config_overrides, **kwargs)
        self.everywhere = "" if launcher else conf.get(SECTION, "launcher", fallback="")
        self.asked_launcher = launcher or self.everywhere
        self.python_callable = python_callable
        self.op_args = op_args or ()
        self.op_kwargs = op_kwargs or {}
        self.deferrable = deferrable
        self.log_ranks = ranks_of(log_ranks)
        self.result_path = check_place("result_path", result_path)
        self.python = None if python is None else configs.text("python", python)
        self.keep_job = configs.one_of(*KEEP_JOB)("keep_job", keep_job)
        self.termination_grace_seconds = configs.seconds()("termination_grace_seconds", termination_grace_seconds)
        self.durable = durable
        self.job_ref: JobRef | None = None
        self._run: LocalRun | RemoteRun[Any] | None = None
        self._killed = False
        self.depend_on_references()
        self._check_what_runs()
        config = self.final_config() if isinstance(self.task_config, Config) else self.task_config
        self.launcher = self.choose_launcher(config)
        if isinstance(config, Config):
            self._check_rendering(config)

    def _check_what_runs(self) -> None:
        if self.python_callable is not None:
            check_function(self.python_callable, self.op_args, self.op_kwargs)
        elif self.op_args or self.op_kwargs:
            raise ConfigError("op_kwargs", "there is no function to give it to")
        self._check_program()

    def _check_program(self) -> None:
        """What is checked again once templates are rendered."""

    def what_runs(self) -> list[Any]:
        """What the task runs if it is no function: plain values, which make a job another one."""
        return []

    # ------------------------------------------------------------------ for the systems

    def local_plan(self, config: Any, rendezvous_id: str) -> LocalPlan:
        """Render a complete config for the local launcher."""
        raise ConfigError("launcher", f"{type(self).__name__} cannot render {config} ({rendezvous_id}) for local ranks")

    def ordering(self, config: Any, launcher: str) -> Ordering[Any]:
        """How a complete config is submitted by a launcher of this operator."""
        raise ConfigError("launcher", f"{type(self).__name__} cannot submit {config} by {launcher}")

    def choose_launcher(self, config: Any) -> str:
        """Where a job of ``config`` runs; the config may still be a template."""
        del config
        name = self.asked_launcher or self.launchers[0]
        if name == self.everywhere and name not in self.launchers:
            # The setting is for all operators that can.
            name = self.launchers[0]
        if name not in self.launchers:
            raise ConfigError(
                "launcher", f"{type(self).__name__} runs with {' or '.join(self.launchers)}; got {name!r}"
            )
        return name

    def _check_rendering(self, config: Any) -> None:
        """Meet what only rendering finds, such as a missing image, when the DAG file is parsed."""
        if self.launcher == LOCAL:
            if self.python_callable is None:
                places = " or ".join(repr(each) for each in self.launchers if each != LOCAL)
                raise ConfigError("launcher", f"local ranks run functions; anything else needs launcher={places}")
            if not self.unknown_fields(config):
                self.local_plan(config, "render")
            return
        if not self.unknown_fields(config):
            self.ordering(config, self.launcher).check()

    # ------------------------------------------------------------------ rendering

    def render(self, context: Context | None = None) -> dict[str, Any]:
        """Return what would be started, without starting it or needing any service.

        Args:
            context: a task's context; None renders with the values in the DAG file and
                leaves templates as they stand.
        """
        identity = identity_of(context, self)
        config = self.final_config()
        shown = {
            "launcher": self.launcher,
            "name": identity.name(),
            "labels": identity.labels(),
            "config": config.serialize() if isinstance(config, Config) else str(config),
        }
        if self.python_callable is not None:
            shown["function"] = getattr(self.python_callable, "__qualname__", str(self.python_callable))
        if unknown := self.unknown_fields(config):
            return {**shown, "known at run time": unknown}
        if self.launcher != LOCAL:
            return {**shown, **self.ordering(config, self.launcher).shown(identity)}
        plan = self.local_plan(config, identity.name())
        return {
            **shown,
            "spec": plan.spec("<a private folder>", None, self._local_options())._asdict(),
            "environment": plan.environment({}, None),
            "not_applied": list(plan.not_applied),
        }

    def payload(self, context: Context) -> bytes:
        """Pickle the function and its arguments."""
        assert self.python_callable is not None
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
        waiting, value = self._permanent_errors(context, lambda: self._execute(context))
        if waiting is not None:
            # Only a task that defers needs it: DAG files are parsed over and over.
            from airflow_distrib.triggers.job import JobTrigger

            self.defer(
                trigger=JobTrigger(waiting.to_json()),
                method_name="execute_complete",
                kwargs={"waiting": waiting.to_json()},
                timeout=self.ordering(self.final_config(), self.launcher).defer_timeout(context),
            )
        return value

    def _permanent_errors(self, context: Context, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except DistribError as error:
            if error.permanent:
                # The task fails for good, whatever its retries: a job of an earlier try must not go on.
                self._abandon(RecordStore(context, durable=self.durable))
                raise AirflowFailException(str(error)) from error
            raise

    def _abandon(self, store: RecordStore, *, but: str = LOCAL) -> None:
        """Cancel the recorded job, wherever it is."""
        for launcher in self.launchers:
            if launcher not in (LOCAL, but):
                self.ordering(None, launcher).abandon(store, self.log)

    def _execute(self, context: Context) -> tuple[Waiting | None, Any]:
        config = self.final_config()
        self._check_program()
        self.launcher = self.choose_launcher(config)
        self._check_rendering(config)
        store = RecordStore(context, durable=self.durable)
        check_ranks(self, config)
        # A job of an earlier try that the DAG file sent somewhere else.
        self._abandon(store, but=self.launcher)
        if self.launcher == LOCAL:
            return None, asyncio.run(self._execute_locally(context, config, store))
        ordering = self.ordering(config, self.launcher)
        run = ordering.leg(store, self.log)
        self._begin(run)
        with ordering.order(context, store) as order:
            waiting, value = asyncio.run(run.start(order, deferrable=self.deferrable, read=_read))
        self.job_ref = run.ref
        return waiting, value

    async def _execute_locally(self, context: Context, config: Any, store: RecordStore) -> Any:
        identity = identity_of(context, self, store.scope)
        plan = self.local_plan(config, identity.name())
        payload = self.payload(context)
        store.spec_hash = spec_hash(self, config)
        run = LocalRun(store, self.log, self.execution_timeout)
        self._begin(run)
        run.remove_leftover(identity.try_number)
        return await run.run(
            plan, payload, identity.name(), python=self.python, options=self._local_options(), read=_read
        )

    def _local_options(self) -> dict[str, Any]:
        return {**result_options(self), "grace_seconds": self.termination_grace_seconds}

    def execute_complete(
        self, context: Context, event: Mapping[str, Any] | None = None, waiting: Mapping[str, Any] | None = None
    ) -> Any:
        """Fetch the result of the job that a trigger has waited for."""
        return self._permanent_errors(context, lambda: self._fetch(context, dict(event or {}), waiting))

    def _fetch(self, context: Context, event: dict[str, Any], waiting: Mapping[str, Any] | None) -> Any:
        config = self.final_config()
        store = RecordStore(context, durable=self.durable)
        # Where the job is, whatever the DAG file says by now.
        self.launcher = Waiting.from_json(waiting).ref.system if waiting else self.choose_launcher(config)
        ordering = self.ordering(config, self.launcher)
        waits_for = ordering.waited_for(store, waiting, context)
        store.spec_hash = spec_hash(self, config)
        self.job_ref = waits_for.ref
        run = ordering.leg(store, self.log)
        self._begin(run)
        if "error" in event:
            # Before anything else can go wrong: the next try is to go on with the job.
            store.write(Phase.TRIGGER_LOST, waits_for.ref)
            if not asyncio.run(run.is_over(waits_for.ref)):
                ordering.leave_or_cancel(run, store, context, waits_for.ref)
                raise DistribError(f"the trigger could not wait for the job: {event['error']}")
        with ordering.order(context, store, submits=False) as order:
            return asyncio.run(run.resume(order, waits_for, Ending.from_json(event), _read))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """As Airflow does; but a job whose trigger was lost is adopted or cancelled, not forgotten."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralError, TaskDeferralTimeout) as error:
            store = RecordStore(context, durable=self.durable)
            record = store.read()
            if record is not None and record.ref is not None and record.ref.uid:
                config = self.final_config()
                ordering = self.ordering(config, record.ref.system)
                store.spec_hash = record.spec_hash
                late = isinstance(error, TaskDeferralTimeout)
                ordering.leave_or_cancel(ordering.leg(store, self.log), store, context, record.ref, late=late)
            raise

    def on_kill(self) -> None:
        """Stop the job; called in a signal handler of the process that runs ``execute``."""
        self._killed = True
        if self._run is not None:
            self._run.kill()

    def _begin(self, run: LocalRun | RemoteRun[Any]) -> None:
        self._run = run
        if self._killed:
            run.kill()


def _read(path: str) -> str:
    return str(ObjectStoragePath(path).read_text())
