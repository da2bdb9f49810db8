"""The one operator behind all systems: config and function in, rank 0's value out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from airflow.sdk import Context, ObjectStoragePath, conf
from airflow.sdk.exceptions import AirflowFailException, TaskDeferralError, TaskDeferralTimeout

from airflow_distrib.backends.kubernetes.kind import Rendered
from airflow_distrib.backends.kubernetes.manifest import Task
from airflow_distrib.backends.kubernetes.problems import Patience
from airflow_distrib.backends.local.plan import LocalPlan
from airflow_distrib.core import config as configs
from airflow_distrib.core import packing
from airflow_distrib.core.config import Config
from airflow_distrib.core.errors import ConfigError, DistribError
from airflow_distrib.core.record import Phase
from airflow_distrib.core.reference import JobRef
from airflow_distrib.hooks.kubernetes import DEFAULT
from airflow_distrib.links import JobLink, LogsLink
from airflow_distrib.operators.arguments import (
    call_arguments,
    check_function,
    check_place,
    check_words,
    is_open,
    ranks_of,
)
from airflow_distrib.operators.configured import ConfiguredOperator
from airflow_distrib.operators.kubernetes import KubernetesRun
from airflow_distrib.operators.local import LocalRun
from airflow_distrib.operators.ordering import Ordering, identity_of
from airflow_distrib.operators.store import RecordStore
from airflow_distrib.watching.job import Ending, Waiting

SECTION = "airflow_distrib"
LOCAL, KUBERNETES = "local", "kubernetes"

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
        command: a program of the image and its arguments, instead of a function; the task
            returns None. Templated.
        manifest: a manifest of the system's own resource, merged over what is rendered; may
            stand without a function or command if it says itself what runs. Templated.
        task_config_overrides: fields to replace in ``task_config`` at run time, such as an
            upstream task's output ``{"worker": {"replicas": 8}}``. Templated.
        launcher: ``"local"`` runs the ranks as processes of the Airflow worker,
            ``"kubernetes"`` on a cluster. None takes ``[airflow_distrib] launcher``, and
            without it the system's own.
        kubernetes_conn_id: connection to the cluster.
        deferrable: wait in the triggerer instead of on a worker.
        log_ranks: ranks whose output goes to the task log, or ``"all"``; rank 0 by default.
        result_path: where rank 0 writes a result of more than 1 MiB: a path or URL that the
            ranks and the Airflow worker both reach. Templated.
        payload_path: a folder, as path or URL, that the worker writes to and the ranks read
            from, for a function with more than 700 KiB of data. Templated.
        python: interpreter of the ranks; None is the worker's own for local ranks and
            ``python3`` in an image.
        patience: a :class:`~airflow_distrib.Patience`: how long a job may be stuck.
        keep_job: whether a finished job stays on the cluster: "never", "on_failure" or
            "always"; one that stays goes after ``run_policy.ttl_seconds_after_finished``.
        termination_grace_seconds: time between SIGTERM and SIGKILL when local ranks are stopped.
        durable: keep a record of the job, so that a try that follows a lost worker finds
            it and goes on with it.

    Raises:
        ConfigError: an argument cannot work; at DAG parse time unless it is a template.
    """

    template_fields: Sequence[str] = (
        *("task_config", "task_config_overrides", "op_args", "op_kwargs", "command", "manifest", "result_path"),
        *("payload_path", "kubernetes_conn_id"),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "task_config": "json",
        "task_config_overrides": "json",
        "op_args": "py",
        "op_kwargs": "py",
        "manifest": "json",
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
        command: Sequence[str] | None = None,
        manifest: Mapping[str, Any] | None = None,
        task_config_overrides: Any = None,
        launcher: str | None = None,
        kubernetes_conn_id: str | None = None,
        deferrable: bool = True,
        log_ranks: Sequence[int] | str = (0,),
        result_path: str | os.PathLike[str] | ObjectStoragePath | None = None,
        payload_path: str | os.PathLike[str] | ObjectStoragePath | None = None,
        python: str | None = None,
        patience: Patience | Mapping[str, Any] | None = None,
        keep_job: str = "never",
        termination_grace_seconds: float = 3.0,
        durable: bool = True,
        **kwargs: Any,
    ) -> None:
        self._manifest_alone = task_config is None and manifest is not None
        if self._manifest_alone and isinstance(manifest, Mapping):
            task_config = self.config_of_manifest(manifest)
        super().__init__(task_config=task_config, task_config_overrides=task_config_overrides, **kwargs)
        self._asked_launcher = launcher or conf.get(SECTION, "launcher", fallback="")
        self._asked_connection = kubernetes_conn_id
        self.python_callable = python_callable
        self.op_args = op_args or ()
        self.op_kwargs = op_kwargs or {}
        self.command = command
        self.manifest = manifest
        self.kubernetes_conn_id = kubernetes_conn_id or DEFAULT
        self.deferrable = deferrable
        self.log_ranks = ranks_of(log_ranks)
        self.result_path = check_place("result_path", result_path)
        self.payload_path = check_place("payload_path", payload_path)
        self.python = python
        self.patience = configs.of(Patience)("patience", patience or {})
        self.keep_job = configs.one_of(*KEEP_JOB)("keep_job", keep_job)
        self.termination_grace_seconds = configs.seconds()("termination_grace_seconds", termination_grace_seconds)
        self.durable = durable
        self.job_ref: JobRef | None = None
        self._run: LocalRun | KubernetesRun | None = None
        self._killed = False
        self._check_what_runs()
        config = self.final_config() if isinstance(self.task_config, Config) else self.task_config
        self.launcher = self.choose_launcher(config)
        if isinstance(config, Config):
            self._check_rendering(config)

    def _check_what_runs(self) -> None:
        given = [name for name in ("python_callable", "command") if getattr(self, name) is not None]
        if len(given) == 2:
            raise ConfigError("command", "a task runs a function or a command; leave one of them")
        if not given and self.manifest is None:
            raise ConfigError("python_callable", "is required, unless command= or manifest= says what runs")
        if self.python_callable is not None:
            check_function(self.python_callable, self.op_args, self.op_kwargs)
        elif self.op_args or self.op_kwargs:
            raise ConfigError("op_kwargs", "there is no function to give it to")
        self._check_program()

    def _check_program(self) -> None:
        """What is checked again once templates are rendered."""
        check_words(self.command)
        given_manifest: Any = self.manifest
        if not (given_manifest is None or isinstance(given_manifest, Mapping) or configs.is_template(given_manifest)):
            raise ConfigError("manifest", f"must be a mapping; got {given_manifest!r}")

    # ------------------------------------------------------------------ for the systems

    def local_plan(self, config: Any, rendezvous_id: str) -> LocalPlan:
        """Render a complete config for the local launcher."""
        raise ConfigError("launcher", f"{type(self).__name__} cannot render {config} ({rendezvous_id}) for local ranks")

    def cluster(self, config: Any, task: Task) -> Rendered:
        """Render a complete config for Kubernetes."""
        raise ConfigError("launcher", f"{type(self).__name__} cannot render {config} for {task}")

    @staticmethod
    def config_of_manifest(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fields of the config that a manifest which stands alone already says."""
        del manifest
        return {}

    def final_config(self) -> Any:
        """The config with its overrides; of a manifest that stood alone as a template, what it says now."""
        if self._manifest_alone and isinstance(self.manifest, Mapping):
            self.task_config = self.check_config(self.config_of_manifest(self.manifest))
        return super().final_config()

    def choose_launcher(self, config: Any) -> str:
        """Where a job of ``config`` runs; the config may still be a template."""
        del config
        name = self._asked_launcher or self.launchers[0]
        if name not in self.launchers:
            raise ConfigError(
                "launcher", f"{type(self).__name__} runs with {' or '.join(self.launchers)}; got {name!r}"
            )
        return name

    def _check_rendering(self, config: Any) -> None:
        """Meet what only rendering finds, such as a missing image, when the DAG file is parsed."""
        if self.launcher == LOCAL:
            if self.python_callable is None:
                raise ConfigError(
                    "launcher", "local ranks run functions; commands and manifests need launcher='kubernetes'"
                )
            return
        if not self.unknown_fields(config):
            self.cluster(config, Ordering(self, config).task(identity_of(None, self), "default"))

    # ------------------------------------------------------------------ rendering

    def unknown_fields(self, config: Any) -> list[str]:
        """What templates and upstream tasks still have to say."""
        given = {"command": self.command, "manifest": self.manifest}
        return super().unknown_fields(config) + [name for name, value in given.items() if is_open(value)]

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
        ordering = Ordering(self, config)
        if self.launcher == KUBERNETES:
            namespace = config.namespace or "<the connection's>"
            rendered = self.cluster(config, ordering.task(identity, namespace))
            shown["name"] = rendered.manifest["metadata"]["name"]
            return {
                **shown,
                "manifest": rendered.manifest,
                "specs": {n: s._asdict() for n, s in rendered.specs.items()},
            }
        plan = self.local_plan(config, identity.name())
        return {
            **shown,
            "spec": plan.spec("<a private folder>", None, ordering.local_options())._asdict(),
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
                timeout=Ordering(self, self.final_config()).defer_timeout(context),
            )
        return value

    def _permanent_errors(self, context: Context, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except DistribError as error:
            if error.permanent:
                # The task fails for good, whatever its retries: a job of an earlier try must not go on.
                Ordering(self, None).abandon(RecordStore(context, durable=self.durable), self.log)
                raise AirflowFailException(str(error)) from error
            raise

    def _execute(self, context: Context) -> tuple[Waiting | None, Any]:
        config = self.final_config()
        self._check_program()
        self.launcher = self.choose_launcher(config)
        self._check_rendering(config)
        store = RecordStore(context, durable=self.durable)
        ordering = Ordering(self, config)
        ordering.check_ranks(self.log)
        if self.launcher == LOCAL:
            return None, asyncio.run(self._execute_locally(context, config, store))
        run = ordering.kubernetes_run(store, self.log)
        self._begin(run)
        with ordering.order(context, store) as order:
            waiting, value = asyncio.run(run.start(order, deferrable=self.deferrable, read=_read))
        self.job_ref = run.ref
        return waiting, value

    async def _execute_locally(self, context: Context, config: Any, store: RecordStore) -> Any:
        identity = identity_of(context, self, store.scope)
        plan = self.local_plan(config, identity.name())
        payload = self.payload(context)
        store.spec_hash = Ordering(self, config).spec_hash()
        run = LocalRun(store, self.log, self.execution_timeout)
        self._begin(run)
        run.remove_leftover(identity.try_number)
        options = Ordering(self, config).local_options()
        return await run.run(plan, payload, identity.name(), python=self.python, options=options, read=_read)

    def execute_complete(
        self, context: Context, event: Mapping[str, Any] | None = None, waiting: Mapping[str, Any] | None = None
    ) -> Any:
        """Fetch the result of the job that a trigger has waited for."""
        return self._permanent_errors(context, lambda: self._fetch(context, dict(event or {}), waiting))

    def _fetch(self, context: Context, event: dict[str, Any], waiting: Mapping[str, Any] | None) -> Any:
        config = self.final_config()
        self.launcher = KUBERNETES
        store = RecordStore(context, durable=self.durable)
        ordering = Ordering(self, config)
        waits_for = ordering.waited_for(store, waiting, context)
        store.spec_hash = ordering.spec_hash()
        self.job_ref = waits_for.ref
        run = ordering.kubernetes_run(store, self.log)
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
                ordering = Ordering(self, self.final_config())
                store.spec_hash = record.spec_hash
                late = isinstance(error, TaskDeferralTimeout)
                ordering.leave_or_cancel(
                    ordering.kubernetes_run(store, self.log), store, context, record.ref, late=late
                )
            raise

    def on_kill(self) -> None:
        """Stop the job; called in a signal handler of the process that runs ``execute``."""
        self._killed = True
        if self._run is not None:
            self._run.kill()

    def _begin(self, run: LocalRun | KubernetesRun) -> None:
        self._run = run
        if self._killed:
            run.kill()


def _read(path: str) -> str:
    return str(ObjectStoragePath(path).read_text())
