"""What operators have in common whose jobs can run on Kubernetes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow.sdk import Context, ObjectStoragePath

from airflow_distrib.backends.kubernetes.kind import Rendered
from airflow_distrib.backends.kubernetes.manifest import Task
from airflow_distrib.backends.kubernetes.problems import Patience
from airflow_distrib.backends.kubernetes.resource import MAX_PAYLOAD_BYTES, SYSTEM
from airflow_distrib.clients.kubernetes import KubernetesSettings
from airflow_distrib.core import config as configs
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.hooks.kubernetes import DEFAULT, KubernetesHook
from airflow_distrib.operators.arguments import check_place, check_words, is_open
from airflow_distrib.operators.base import KUBERNETES, DistributedJobOperator
from airflow_distrib.operators.kubernetes import KubernetesRun
from airflow_distrib.operators.ordering import Ordering, comes_again, identity_of, spec_hash
from airflow_distrib.operators.remote import Order
from airflow_distrib.operators.store import RecordStore
from airflow_distrib.watching.waiting import Waiting


class KubernetesJobOperator(DistributedJobOperator):
    """A function, a program or a manifest as a job on Kubernetes.

    Args:
        command: a program of the image and its arguments, instead of a function; the task
            returns None. Templated.
        manifest: a manifest of the system's own resource, merged over what is rendered; may
            stand without a function or command if it says itself what runs. Templated.
        kubernetes_conn_id: connection to the cluster.
        payload_path: a folder, as path or URL, that the worker writes to and the ranks read
            from, for a function with more than 700 KiB of data. Templated.
        patience: a :class:`~airflow_distrib.Patience`: how long a job may be stuck.

    All other arguments are those of :class:`~airflow_distrib.operators.base.DistributedJobOperator`.

    Raises:
        ConfigError: an argument cannot work; at DAG parse time unless it is a template.
    """

    template_fields: Sequence[str] = (
        *DistributedJobOperator.template_fields,
        *("command", "manifest", "payload_path", "kubernetes_conn_id"),
    )
    template_fields_renderers = {**DistributedJobOperator.template_fields_renderers, "manifest": "json"}

    def __init__(
        self,
        *,
        task_config: Any = None,
        command: Sequence[str] | None = None,
        manifest: Mapping[str, Any] | None = None,
        kubernetes_conn_id: str | None = None,
        payload_path: str | os.PathLike[str] | ObjectStoragePath | None = None,
        patience: Patience | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._manifest_alone = task_config is None and manifest is not None
        if self._manifest_alone and isinstance(manifest, Mapping):
            task_config = self.config_of_manifest(manifest)
        self.command = command
        self.manifest = manifest
        self.kubernetes_conn_id = kubernetes_conn_id or DEFAULT
        self.asked_connection = kubernetes_conn_id
        self.payload_path = check_place("payload_path", payload_path)
        self.patience = configs.of(Patience)("patience", patience or {})
        super().__init__(task_config=task_config, **kwargs)

    # ------------------------------------------------------------------ for the systems

    def cluster(self, config: Any, task: Task) -> Rendered:
        """Render a complete config for Kubernetes."""
        raise ConfigError("launcher", f"{type(self).__name__} cannot render {config} for {task}")

    @staticmethod
    def config_of_manifest(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fields of the config that a manifest which stands alone already says."""
        del manifest
        return {}

    # ------------------------------------------------------------------ checks

    def what_runs(self) -> list[Any]:
        """A program or a manifest."""
        return [self.command, self.manifest]

    def _check_what_runs(self) -> None:
        if self.command is not None and self.python_callable is not None:
            raise ConfigError("command", "a task runs a function or a command; leave one of them")
        if self.python_callable is None and self.command is None and self.manifest is None:
            raise ConfigError("python_callable", "is required, unless command= or manifest= says what runs")
        super()._check_what_runs()

    def _check_program(self) -> None:
        check_words(self.command)
        given_manifest: Any = self.manifest
        if not (given_manifest is None or isinstance(given_manifest, Mapping) or configs.is_template(given_manifest)):
            raise ConfigError("manifest", f"must be a mapping; got {given_manifest!r}")

    def final_config(self) -> Any:
        """The config with its overrides; of a manifest that stood alone as a template, what it says now."""
        if self._manifest_alone and isinstance(self.manifest, Mapping):
            self.task_config = self.check_config(self.config_of_manifest(self.manifest))
        return super().final_config()

    def unknown_fields(self, config: Any) -> list[str]:
        """What templates and upstream tasks still have to say."""
        given = {"command": self.command, "manifest": self.manifest}
        return super().unknown_fields(config) + [name for name, value in given.items() if is_open(value)]

    def ordering(self, config: Any, launcher: str) -> Ordering[Any]:
        """On Kubernetes."""
        return KubernetesOrdering(self, config) if launcher == KUBERNETES else super().ordering(config, launcher)


class KubernetesOrdering(Ordering[Rendered]):
    """One operator with its final config, for Kubernetes."""

    system = SYSTEM

    def check(self) -> None:
        self._rendered(self.task(identity_of(None, self._operator), "default"))

    def _rendered(self, task: Task) -> Rendered:
        rendered: Rendered = self._operator.cluster(self._config, task)
        return rendered

    def task(self, identity: JobIdentity, namespace: str, payload: Mapping[str, Any] | None = None) -> Task:
        """What the cluster is asked besides the config."""
        operator = self._operator
        return Task(
            identity,
            namespace,
            command=operator.command,
            manifest=operator.manifest,
            runs_function=self.runs_function,
            options={**self.remote_options, **(payload or {})},
            python=operator.python or "python3",
            deadline_seconds=self.deadline_seconds,
            token=secrets.token_hex(16),
        )

    def shown(self, identity: JobIdentity) -> dict[str, Any]:
        rendered = self._rendered(self.task(identity, self._config.namespace or "<the connection's>"))
        return {
            "name": rendered.manifest["metadata"]["name"],
            "manifest": rendered.manifest,
            "specs": {n: s._asdict() for n, s in rendered.specs.items()},
        }

    @functools.cached_property
    def _settings(self) -> KubernetesSettings:
        """Of the connection; reading it asks Airflow, so once is enough."""
        return KubernetesHook(self._operator.kubernetes_conn_id).settings()

    def leg(self, store: RecordStore, log: Any) -> KubernetesRun:
        return KubernetesRun(
            self._settings, self._operator.kubernetes_conn_id, store, lambda text: log.info("%s", text)
        )

    @contextlib.contextmanager
    def order(self, context: Context, store: RecordStore, *, submits: bool = True) -> Iterator[Order[Rendered]]:
        """The order; a payload that does not travel with it lies at ``payload_path`` until it is consumed."""
        operator = self._operator
        identity = identity_of(context, operator, store.scope)
        store.spec_hash = spec_hash(operator, self._config)
        namespace = self._config.namespace or self._settings.namespace
        elsewhere = self._elsewhere(identity)
        payload = operator.payload(context) if submits and self.runs_function else None
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
                lambda each: self._rendered(dataclasses.replace(task, identity=each)),
                payload if elsewhere is None else None,
                lambda ref: self.waiting(ref, context),
                self.keeps,
                self.runs_function,
                comes_again(context),
            )
        finally:
            if elsewhere is not None and store.consumed:
                elsewhere.unlink(missing_ok=True)

    def _elsewhere(self, identity: JobIdentity) -> ObjectStoragePath | None:
        """Where the payload lies, if not in the job's Secret."""
        folder = self._operator.payload_path
        if folder is None or not self.runs_function:
            return None
        # One for all tries: the job that a later one adopts reads the same.
        return ObjectStoragePath(str(folder)) / f"{dataclasses.replace(identity, try_number=0).name()}.payload"

    def waiting(self, ref: JobRef, context: Context) -> Waiting:
        operator = self._operator
        task = self.task(identity_of(context, operator), ref.address["namespace"])
        return Waiting(
            ref,
            operator.kubernetes_conn_id,
            deadline=self.deadline(context),
            patience=operator.patience.serialize(),
            logs=operator.log_ranks is None or bool(operator.log_ranks),
            log_roles=self._rendered(task).log_roles,
            named=not self.runs_function,
        )


def _check_size(payload: bytes) -> None:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ConfigError(
            "payload_path",
            f"the function and its arguments take {len(payload) / 1024:.0f} KiB, more than the "
            f"{MAX_PAYLOAD_BYTES // 1024} KiB that travel in a job's Secret: load the data inside the function, or set "
            "payload_path to a place that the Airflow worker and the ranks both reach",
        )
