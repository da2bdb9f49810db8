"""One try of a task, from its submission to its value, on a Kubernetes API server in memory."""

from __future__ import annotations

from typing import Any

from airflow_distrib import PyTorchJob, Replica
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.record import JobRecord
from airflow_distrib.jobs.launcher import Connection
from airflow_distrib.jobs.request import JobRequest
from airflow_distrib.jobs.run import Attempt, JobRun
from airflow_distrib.jobs.waiting import Ending, Waiting
from airflow_distrib.operators.record_store import RecordStore
from airflow_distrib.operators.storage import AirflowStorage
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import report
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.systems.kubernetes.client import KubernetesSettings
from airflow_distrib.systems.kubernetes.launcher import KubernetesLauncher
from airflow_distrib.systems.kubernetes.manifest import KubernetesSubmission
from airflow_distrib.systems.kubernetes.registry import kind_named
from airflow_distrib.systems.pytorchjob import render as pytorchjob
from fake_context import FakeStateStore, FakeTaskInstance, context
from fake_kubernetes import FakeKubernetes

JOBS, PODS, SECRETS = kind_named("pytorchjob").path("ns"), "/api/v1/namespaces/ns/pods", "/api/v1/namespaces/ns/secrets"
RESULT = Outcome(outcomes.SUCCESS, 0, result='{"a": 1}')

CONFIG = PyTorchJob(image="x", worker=Replica(replicas=0))
LAUNCHER = KubernetesLauncher(pytorchjob.kubernetes, pytorchjob.config_of_manifest)


def render(identity: JobIdentity) -> KubernetesSubmission:
    """What a try submits: one master that calls a function, without its log."""
    request = JobRequest(identity=identity, payload=b"payload", log_ranks=[])
    return LAUNCHER.render(CONFIG, request)


class Try:
    """One try of a task.

    Attributes:
        state: where its record is stored.
        log: lines of the task log.
    """

    def __init__(
        self,
        api: FakeKubernetes,
        state: FakeStateStore | None = None,
        try_number: int = 1,
        max_tries: int = 0,
        keep_job: str = "never",
    ) -> None:
        self.state = state or FakeStateStore()
        self.log: list[str] = []
        ti = FakeTaskInstance(try_number=try_number, max_tries=max_tries)
        self.records = RecordStore(context(self.state, ti=ti), durable=True)
        self.records.spec_hash = "spec"
        self.identity = JobIdentity("d", "r", "t", -1, try_number, self.records.scope)

        async def settings() -> KubernetesSettings:
            return api.settings()

        connection = Connection("c", settings)
        self.run = JobRun(LAUNCHER, connection, self.records, AirflowStorage(), self.log.append)
        self.attempt = Attempt(render(self.identity), render, comes_again=try_number <= max_tries, keep_job=keep_job)

    async def start(self, *, deferrable: bool = True) -> tuple[Waiting | None, Any]:
        """Up to the deferral, or to the value."""
        return await self.run.start(self.attempt, deferrable=deferrable)

    async def deferred(self) -> Waiting:
        """Up to the deferral, which has to come."""
        waiting, _ = await self.start()
        assert waiting is not None
        return waiting

    async def resume(self, waiting: Waiting, ending: Ending) -> Any:
        """From the trigger's event to the value."""
        return await self.run.resume(self.attempt, waiting, ending)

    @property
    def phase(self) -> str:
        """What the record holds."""
        record = JobRecord.from_json(self.state.value)
        assert record is not None
        return record.phase.value


def end(api: FakeKubernetes, name: str, state: str = "Succeeded", outcome: Outcome | None = RESULT) -> None:
    """Let a job end, with its pod."""
    job = api.objects[JOBS][name]
    condition = {"type": state, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "message": "a message"}
    api.put(JOBS, {**job, "status": {"conditions": [condition]}})
    message = report.termination_message(outcome) if outcome else ""
    code = 1 if state == "Failed" else 0
    ended = {"exitCode": code, "message": message, "finishedAt": "2026-01-01T00:00:00Z"}
    status = {"phase": state, "containerStatuses": [{"name": "pytorch", "state": {"terminated": ended}}]}
    metadata = {"name": f"{name}-master-0", "labels": {"airflow-distrib/job": name}}
    api.put(PODS, {"metadata": metadata, "status": status})
