"""The one operator behind all systems: config and function in, rank 0's value out."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from airflow.sdk import Context, ObjectStoragePath, conf
from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout

from airflow_distrib.core import config as configs
from airflow_distrib.core.config import Config, ConfigT
from airflow_distrib.core.errors import ConfigError, DistribError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.record import Phase
from airflow_distrib.core.reference import JobRef
from airflow_distrib.jobs.request import DEADLINE_MARGIN_SECONDS, JobRequest, digest
from airflow_distrib.jobs.run import Attempt, JobRun
from airflow_distrib.jobs.waiting import Ending, Waiting
from airflow_distrib.links import ConfiguredLinks
from airflow_distrib.operators import launching, rendering, tries
from airflow_distrib.operators.arguments import check_function, check_ranks, optional, ranks_of
from airflow_distrib.operators.configured import ConfiguredOperator
from airflow_distrib.operators.connections import connection_of
from airflow_distrib.operators.failures import ends_the_task
from airflow_distrib.operators.launching import LIMITED, AnyLauncher
from airflow_distrib.operators.payloads import pack, place_payload
from airflow_distrib.operators.record_store import RecordStore
from airflow_distrib.operators.storage import AirflowStorage
from airflow_distrib.triggers.task_log import emitter

T = TypeVar("T")

KEEP_JOB = ("never", "on_failure", "always")


class DistributedJobOperator(ConfiguredOperator[ConfigT]):
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
        launcher: where the ranks run: ``"local"`` is as processes of the Airflow worker. None
            takes ``[airflow_distrib] launcher``, and without it the first launcher of the
            operator that honours all arguments and suits the config.
        deferrable: wait in the triggerer instead of on a worker.
        log_ranks: ranks whose output goes to the task log, or ``"all"``; rank 0 by default.
        result_path: where rank 0 writes a result of more than 1 MiB: a path or URL that the
            ranks and the Airflow worker both reach. Templated.
        python: interpreter of the ranks; None is the worker's own for local ranks and
            ``python3`` elsewhere.
        keep_job: whether a finished job stays on the cluster: "never", "on_failure" or
            "always"; one that stays goes after ``run_policy.ttl_seconds_after_finished``.
        termination_grace_seconds: time between SIGTERM and SIGKILL when local ranks are
            stopped, 3 by default.
        durable: keep a record of the job, so that a try that follows a lost worker finds
            it and goes on with it.

    Raises:
        ConfigError: an argument cannot work, or has no effect with the launcher; at DAG parse
            time unless it is a template.
    """

    template_fields: Sequence[str] = ("task_config", "task_config_overrides", "op_args", "op_kwargs", "result_path")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "task_config": "json",
        "task_config_overrides": "json",
        "op_args": "py",
        "op_kwargs": "py",
    }
    shallow_copy_attrs: Sequence[str] = ("python_callable",)
    operator_extra_links = ConfiguredLinks()
    ui_color = "#e8e4f8"

    # Launchers of this operator, the preferred one first.
    launchers: ClassVar[tuple[AnyLauncher, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "launchers" not in vars(cls):
            return
        own = launching.arguments_of(cls.launchers)
        cls.launcher_arguments = own
        base = DistributedJobOperator
        cls.template_fields = (*base.template_fields, *(each.name for each in own.values() if each.templated))
        shown = {each.name: each.renderer for each in own.values() if each.renderer}
        cls.template_fields_renderers = {**base.template_fields_renderers, **shown}
        cls.__init__ = launching.with_parameters(cls.__init__, own)  # type: ignore[method-assign]

    def __init__(
        self,
        *,
        task_config: object = None,
        python_callable: Callable[..., object] | None = None,
        op_args: Collection[object] | None = None,
        op_kwargs: Mapping[str, object] | None = None,
        task_config_overrides: object = None,
        launcher: str | None = None,
        deferrable: bool = True,
        log_ranks: Sequence[int] | str = (0,),
        result_path: str | os.PathLike[str] | ObjectStoragePath | None = None,
        python: str | None = None,
        keep_job: str = "never",
        termination_grace_seconds: float | None = None,
        durable: bool = True,
        **kwargs: Any,
    ) -> None:
        arguments = {name: kwargs.pop(name, None) for name in self.launcher_arguments}
        self._implies_config = task_config is None
        implied = self._implied_config(arguments) if task_config is None else None
        super().__init__(
            task_config=task_config if implied is None else implied,
            task_config_overrides=task_config_overrides,
            **kwargs,
        )
        self.everywhere = "" if launcher else conf.get("airflow_distrib", "launcher", fallback="")
        self.asked_launcher = launcher or ""
        self.python_callable = python_callable
        self.op_args = op_args or ()
        self.op_kwargs = op_kwargs or {}
        self.deferrable = deferrable
        self.log_ranks = ranks_of(log_ranks)
        self.result_path = optional(configs.location, "result_path", result_path)
        self.python = optional(configs.text, "python", python)
        self.keep_job = configs.one_of(*KEEP_JOB)("keep_job", keep_job)
        grace = optional(configs.seconds(), "termination_grace_seconds", termination_grace_seconds)
        self.termination_grace_seconds = grace
        self.durable = durable
        self.job_ref: JobRef | None = None
        self._run: JobRun[Any] | None = None
        self._killed = False
        for name, value in arguments.items():
            setattr(self, name, value)
        self._check_what_runs()
        self._check_arguments()
        self.depend_on_references()
        config = self.final_config() if isinstance(self.task_config, Config) else self.task_config
        chosen = self._chosen(config)
        self.launcher = chosen.name
        self.template_fields = launching.fields_shown(self.template_fields, chosen, self._arguments())
        if isinstance(config, Config) and not self.unknown_fields(config):
            check_ranks(self.log_ranks, config)
            # Meets what only rendering finds, such as a missing image, when the DAG file is parsed.
            launching.render(chosen, config, self._request(tries.identity(None, self)))

    # ------------------------------------------------------------------ arguments

    def _check_what_runs(self) -> None:
        programs = [each for each in self.launcher_arguments.values() if each.runs]
        given = [each for each in programs if getattr(self, each.name) is not None]
        if self.python_callable is None:
            if not given and not getattr(self.task_config, "runs", False):
                unless = (
                    f", unless {' or '.join(f'{each.name}=' for each in programs)} says what runs" if programs else ""
                )
                raise ConfigError("python_callable", f"is required{unless}")
            if self.op_args or self.op_kwargs:
                raise ConfigError("op_kwargs", "there is no function to give it to")
            return
        for each in given:
            if each.excludes_function:
                raise ConfigError(each.name, f"a task runs a function or a {each.name}; set only one of them")
        check_function(self.python_callable, self.op_args, self.op_kwargs)

    def _check_arguments(self) -> None:
        """Again once templates are rendered."""
        for name, argument in self.launcher_arguments.items():
            setattr(self, name, launching.checked(argument, getattr(self, name)))

    def _arguments(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.launcher_arguments}

    def _given(self) -> list[str]:
        """Arguments that are set and that not every launcher honours."""
        own = [name for name, value in self._arguments().items() if value is not None]
        return own + [name for name, default in LIMITED.items() if getattr(self, name) != default]

    def _implied_config(self, arguments: Mapping[str, object]) -> Mapping[str, object] | None:
        """Fields of the config that arguments already hold, where the user gives no config."""
        implied = (launcher.implied_config(arguments) for launcher in self.launchers)
        return next((each for each in implied if each is not None), None)

    def final_config(self) -> Any:
        """The config with its overrides, as far as both are known."""
        if self._implies_config and (implied := self._implied_config(self._arguments())) is not None:
            self.task_config = self.check_config(implied)
        return super().final_config()

    def unknown_fields(self, config: object) -> list[str]:
        """What templates and upstream tasks still have to supply."""
        return super().unknown_fields(config) + launching.unknown(self.launcher_arguments, self._arguments())

    def _chosen(self, config: object) -> AnyLauncher:
        """Where a job of ``config`` runs; the config may still be a template."""
        names = {each.name for each in self.launchers}
        # The setting is for all operators that can.
        everywhere = self.everywhere if self.everywhere in names else ""
        own = {name: value for name, value in self._arguments().items() if value is not None}
        launcher = launching.choose(type(self).__name__, self.launchers, self.asked_launcher or everywhere, own, config)
        if not everywhere:
            launching.refuse(launcher, self.launchers, self._given())
        elif self.python_callable is None:
            launching.refuse(launcher, self.launchers, [n for n in own if self.launcher_arguments[n].runs])
        return launcher

    def _launcher_named(self, name: str) -> AnyLauncher:
        return launching.choose(type(self).__name__, self.launchers, name, {}, None)

    # ------------------------------------------------------------------ rendering

    def _request(self, identity: JobIdentity, **payload: Any) -> JobRequest:
        timeout = self.execution_timeout
        return JobRequest(
            identity=identity,
            runs_function=self.python_callable is not None,
            python=self.python,
            log_ranks=self.log_ranks,
            result_path=None if self.result_path is None else str(self.result_path),
            grace_seconds=self.termination_grace_seconds,
            deadline_seconds=int(timeout.total_seconds()) + DEADLINE_MARGIN_SECONDS if timeout else None,
            arguments=self._arguments(),
            **payload,
        )

    def render(self, context: Context | None = None) -> dict[str, Any]:
        """Return what would be started, without starting it or needing any service.

        Args:
            context: a task's context; None renders with the values in the DAG file and
                leaves templates as they stand.
        """
        identity, config = tries.identity(context, self), self.final_config()
        shown = {"launcher": self.launcher, "name": identity.name(), "labels": identity.labels(), "config": config}
        if self.python_callable is not None:
            shown["function"] = getattr(self.python_callable, "__qualname__", str(self.python_callable))
        launcher, request = self._launcher_named(self.launcher), self._request(identity)
        job = functools.partial(launching.render, launcher, request=request)
        known = rendering.job(self.unknown_fields(config), config, job, self._arguments())
        return {**rendering.readable(shown), **known}

    def spec_hash(self, config: object) -> str:
        """Digest of what is wanted, the same for every try that wants the same."""
        parts = {name: getattr(self, name) for name, each in self.launcher_arguments.items() if each.part_of_job}
        what = {"launcher": self.launcher, "config": config, "args": self.op_args, "kwargs": self.op_kwargs, **parts}
        return digest(what, self.python_callable)

    # ------------------------------------------------------------------ running

    @ends_the_task
    def execute(self, context: Context) -> object:
        """Run the job and return rank 0's value.

        Raises:
            DistribError: what went wrong, see :mod:`airflow_distrib.core.errors`; where a retry
                cannot help it is an AirflowFailException too.
        """
        waiting, value = self._permanent_errors(context, lambda: self._execute(context))
        if waiting is not None:
            # Only a task that defers needs it: DAG files are parsed over and over.
            from airflow_distrib.triggers.job import JobTrigger

            values = waiting.to_json()
            self.defer(
                trigger=JobTrigger(values),
                method_name="execute_complete",
                kwargs={"waiting": values},
                timeout=tries.defer_timeout(waiting.deadline),
            )
        return value

    def _permanent_errors(self, context: Context, step: Callable[[], T]) -> T:
        try:
            return step()
        except DistribError as error:
            if error.permanent:
                # The task fails for good, whatever its retries: a job of an earlier try must not go on.
                self._abandon(RecordStore(context, durable=self.durable))
            raise

    def _abandon(self, store: RecordStore, *, unless: str = "") -> None:
        """Cancel the recorded job, wherever it is."""
        record = store.read()
        if record is None or record.ref is None or record.ref.launcher == unless:
            return
        for launcher in self.launchers:
            if launcher.name == record.ref.launcher and launcher.outlives_worker:
                self._run_with(launcher, store).abandon()

    def _execute(self, context: Context) -> tuple[Waiting | None, object]:
        config = self.final_config()
        self._check_arguments()
        check_ranks(self.log_ranks, config)
        launcher = self._chosen(config)
        self.launcher = launcher.name
        store = RecordStore(context, durable=self.durable)
        # A job of an earlier try that the DAG file sent somewhere else.
        self._abandon(store, unless=launcher.name)
        with self._attempt(context, store, config, launcher) as attempt:
            self._warn(launcher, attempt.submission.ignored)
            run = self._begin(launcher, store)
            try:
                return asyncio.run(run.start(attempt, deferrable=self.deferrable))
            finally:
                self.job_ref = run.ref  # also for the links of a task that fails

    def _warn(self, launcher: AnyLauncher, ignored: Sequence[str]) -> None:
        """About what has no effect."""
        for name in (*launching.not_honoured(launcher, self._given()), *ignored):
            self.log.warning("%s has no effect with launcher=%r", name, launcher.name)

    def _run_with(self, launcher: AnyLauncher, store: RecordStore) -> JobRun[Any]:
        connection = connection_of(self, launcher)
        return JobRun(launcher, connection, store, AirflowStorage(), emitter(on_worker=True))

    def _begin(self, launcher: AnyLauncher, store: RecordStore) -> JobRun[Any]:
        """A run that ``on_kill`` reaches, also if it was called before."""
        self._run = run = self._run_with(launcher, store)
        if self._killed:
            run.kill()
        return run

    @contextlib.contextmanager
    def _attempt(
        self, context: Context, store: RecordStore, config: object, launcher: AnyLauncher, *, submits: bool = True
    ) -> Iterator[Attempt[Any]]:
        """This try's job, rendered; a payload that does not travel with it exists until it is consumed."""
        identity = tries.identity(context, self, store.scope)
        store.spec_hash = self.spec_hash(config)
        payload = pack(self, context) if submits and self.python_callable is not None else None
        folder = getattr(self, "payload_path", None) if "payload_path" in launcher.takes else None
        with place_payload(payload, folder, identity, store) as fields:
            request = self._request(identity, **fields)
            yield Attempt(
                launching.render(launcher, config, request),
                lambda other: launching.render(launcher, config, request.of(other)),
                comes_again=tries.comes_again(context),
                keep_job=self.keep_job,
                deadline=tries.deadline(context, self.execution_timeout, on_worker=not launcher.outlives_worker),
                log_ranks=self.log_ranks,
            )

    @ends_the_task
    def execute_complete(
        self, context: Context, event: Mapping[str, Any] | None = None, waiting: Mapping[str, Any] | None = None
    ) -> object:
        """Fetch the result of the job that a trigger has waited for."""
        return self._permanent_errors(context, lambda: self._fetch(context, dict(event or {}), waiting))

    def _fetch(self, context: Context, event: Mapping[str, Any], given: Mapping[str, Any] | None) -> object:
        config = self.final_config()
        store = RecordStore(context, durable=self.durable)
        ref = tries.awaited(store, given)
        # Where the job is, whatever the DAG file says by now.
        launcher = self._launcher_named(ref.launcher)
        self.launcher, self.job_ref = launcher.name, ref
        run = self._begin(launcher, store)
        if "error" in event:
            store.spec_hash = self.spec_hash(config)
            # Before anything else can go wrong: the next try is to go on with the job.
            store.write(Phase.TRIGGER_LOST, ref)
            if not asyncio.run(run.is_over(ref)):
                run.keep_or_cancel(ref, adopted_later=tries.comes_again(context) and self.durable)
                raise DistribError(f"the trigger could not wait for the job: {event['error']}")
        with self._attempt(context, store, config, launcher, submits=False) as attempt:
            waiting = Waiting.from_json(given) if given is not None else run.waiting(attempt, ref)
            return asyncio.run(run.resume(attempt, waiting, Ending.from_json(event)))

    @ends_the_task
    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> object:
        """As Airflow does; but a job whose trigger was lost is adopted or cancelled, not forgotten."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralError, TaskDeferralTimeout) as error:
            store = RecordStore(context, durable=self.durable)
            record = store.read()
            if record is not None and record.ref is not None and record.ref.uid:
                store.spec_hash = record.spec_hash
                late = isinstance(error, TaskDeferralTimeout)
                run = self._run_with(self._launcher_named(record.ref.launcher), store)
                run.keep_or_cancel(record.ref, adopted_later=tries.comes_again(context) and not late and self.durable)
            raise

    def on_kill(self) -> None:
        """Stop the job; called in a signal handler of the process that runs ``execute``."""
        self._killed = True
        if self._run is not None:
            self._run.kill()
