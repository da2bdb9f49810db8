"""What operators have in common whose jobs can run on a Slurm."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from airflow.sdk import Context

from airflow_distrib.backends.slurm.jobs import SYSTEM
from airflow_distrib.backends.slurm.plan import JOB_SCRIPT, SPEC, Plan, Request
from airflow_distrib.backends.slurm.script import RANKS_SCRIPT
from airflow_distrib.clients.ssh import SshSettings
from airflow_distrib.core.errors import ConfigError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.hooks.ssh import DEFAULT, SlurmSSHHook
from airflow_distrib.operators.arguments import ranks_of
from airflow_distrib.operators.base import SLURM, DistributedJobOperator
from airflow_distrib.operators.ordering import Ordering, comes_again, identity_of, spec_hash
from airflow_distrib.operators.remote import Order
from airflow_distrib.operators.slurm_jobs import SlurmRun
from airflow_distrib.operators.store import RecordStore
from airflow_distrib.watching.waiting import Waiting


class SlurmJobOperator(DistributedJobOperator):
    """A job on a Slurm, submitted through a login node.

    Args:
        ssh_conn_id: connection to the login node, of Airflow's type ``ssh``. Templated.
        log_elements: indexes of a job array whose output goes to the task log, or ``"all"``;
            the first by default.

    All other arguments are those of :class:`~airflow_distrib.operators.base.DistributedJobOperator`.
    ``keep_job`` keeps the job's private folder.

    Raises:
        ConfigError: an argument cannot work; at DAG parse time unless it is a template.
    """

    template_fields: Sequence[str] = (*DistributedJobOperator.template_fields, "ssh_conn_id")

    def __init__(
        self, *, ssh_conn_id: str | None = None, log_elements: Sequence[int] | str | None = None, **kwargs: Any
    ) -> None:
        self.ssh_conn_id = ssh_conn_id or DEFAULT
        self.asked_ssh = ssh_conn_id
        self.log_elements = () if log_elements is None else ranks_of(log_elements, "log_elements")
        super().__init__(**kwargs)

    def slurm_plan(self, config: Any, request: Request) -> Plan:
        """Render a complete config for Slurm."""
        raise ConfigError("launcher", f"{type(self).__name__} cannot render {config} for {request}")

    def ordering(self, config: Any, launcher: str) -> Ordering[Any]:
        """On Slurm."""
        return SlurmOrdering(self, config) if launcher == SLURM else super().ordering(config, launcher)


class SlurmOrdering(Ordering[Plan]):
    """One operator with its final config, for Slurm."""

    system = SYSTEM

    def check(self) -> None:
        self._plan(self._request(identity_of(None, self._operator), None)).build("/folder")

    def _plan(self, request: Request) -> Plan:
        plan: Plan = self._operator.slurm_plan(self._config, request)
        return plan

    def _request(self, identity: JobIdentity, payload: bytes | None) -> Request:
        python = self._operator.python or "python3"
        return Request(identity, self.remote_options, python, self.deadline_seconds, payload)

    def shown(self, identity: JobIdentity) -> dict[str, Any]:
        plan = self._plan(self._request(identity, None))
        submission = plan.build("<private folder>")
        shown: dict[str, Any] = {"name": plan.name, "sbatch": [*submission.words]}
        for name, key in ((JOB_SCRIPT, "script"), (RANKS_SCRIPT, "ranks"), (SPEC, "spec")):
            if name in submission.files:
                shown[key] = submission.files[name].decode()
        return shown

    @functools.cached_property
    def _settings(self) -> SshSettings:
        """Of the connection; reading it asks Airflow, so once is enough."""
        return SlurmSSHHook(self._operator.ssh_conn_id).settings()

    def leg(self, store: RecordStore, log: Any) -> SlurmRun:
        return SlurmRun(self._settings, self._operator.ssh_conn_id, store, lambda text: log.info("%s", text))

    @contextlib.contextmanager
    def order(self, context: Context, store: RecordStore, *, submits: bool = True) -> Iterator[Order[Plan]]:
        operator = self._operator
        identity = identity_of(context, operator, store.scope)
        store.spec_hash = spec_hash(operator, self._config)
        payload = operator.payload(context) if submits and self.runs_function else None
        yield Order(
            identity,
            lambda each: self._plan(self._request(each, payload)),
            payload,
            lambda ref: self.waiting(ref, context),
            self.keeps,
            self.runs_function,
            comes_again(context),
        )

    def waiting(self, ref: JobRef, context: Context) -> Waiting:
        operator = self._operator
        plan = self._plan(self._request(identity_of(context, operator), None))
        wanted = plan.array if operator.log_elements is None else operator.log_elements or plan.array[:1]
        chosen = tuple(str(index) for index in plan.array if index in wanted)
        return Waiting(
            ref,
            operator.ssh_conn_id,
            deadline=self.deadline(context),
            logs=operator.log_ranks is None or bool(operator.log_ranks),
            log_roles=chosen or None,
            named=len(chosen) > 1,
        )
