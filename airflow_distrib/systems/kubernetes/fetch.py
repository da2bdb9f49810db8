"""Collects the result, or the failures, of a finished job on Kubernetes."""

from __future__ import annotations

import contextlib
import dataclasses

from airflow_distrib.core.errors import ClusterError, ResultMissing
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import JobState, JobStatus, Problem
from airflow_distrib.jobs.launcher import Conclusion, Emit
from airflow_distrib.jobs.waiting import Ending, Waiting
from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.systems.kubernetes import problems, reports
from airflow_distrib.systems.kubernetes.client import ApiError
from airflow_distrib.systems.kubernetes.judge import View
from airflow_distrib.systems.kubernetes.logs import JobLogs
from airflow_distrib.systems.kubernetes.resource import ResourceApi
from airflow_distrib.systems.kubernetes.session import KubernetesSession

# Log lines shown in the error for a container that could not report its own.
TAIL_LINES = 30


async def conclusion(
    session: KubernetesSession, api: ResourceApi, waiting: Waiting, ending: Ending, emit: Emit, *, returns: bool
) -> Conclusion:
    """Combine what the trigger saw with the job's current state.

    Raises:
        ResultMissing: rank 0's pod was removed before its result was read.
    """
    view = await _view(api, waiting.ref, ending)
    ending = _updated(api, ending, view)
    if waiting.logs and view.resource is not None:
        await JobLogs(session, api.kind, waiting, emit, ending.log).rest(view.pods)
    succeeded = bool(ending.succeeded)
    reported = await _outcomes(api, waiting.ref, ending, view, returns=returns, succeeded=succeeded)
    return Conclusion(succeeded, None if succeeded else _problem(ending, reported), {"": reported})


async def _view(api: ResourceApi, ref: JobRef, ending: Ending) -> View:
    """The job as it is now; what the trigger saw is enough of a failure that may not be looked at any more."""
    try:
        return await api.view(ref)
    except ApiError as error:
        # A namespace that is being deleted takes the account's rights along.
        if ending.succeeded is not False or error.status not in (403, 404):
            raise
        return View(None)


def _updated(api: ResourceApi, ending: Ending, view: View) -> Ending:
    """The ending according to the resource now, if the trigger did not see one."""
    if ending.succeeded is not None or view.resource is None:
        return ending
    status = api.kind.read(view.resource)
    if status.state is JobState.SUCCEEDED or ending.problem is None:
        # Also if the job seemed stuck and then succeeded after all.
        succeeded = status.state is JobState.SUCCEEDED
        return dataclasses.replace(ending, succeeded=succeeded, reason=status.reason, message=status.message)
    return ending


def _problem(ending: Ending, reported: list[Outcome]) -> Problem | None:
    """Why there is no result; None if the failure of a rank explains it better."""
    failed = any(each.kind == outcomes.FAILURE for each in reported)
    if ending.problem is not None and not (failed and ending.problem.reason in (problems.DELETED, problems.CRASH_LOOP)):
        return ending.problem
    return None if failed else problems.failed(JobStatus(JobState.FAILED, ending.reason, ending.message))


async def _outcomes(
    api: ResourceApi, ref: JobRef, ending: Ending, view: View, *, returns: bool, succeeded: bool
) -> list[Outcome]:
    """What the pods reported: to the trigger, in their current state, in their logs."""
    seen = {each.to_json() for each in ending.outcomes}
    now = [each for each in reports.of_pods(api.kind, ref.name, view.pods) if each.to_json() not in seen]
    found = [*ending.outcomes, *now]
    if succeeded:
        found = [each for each in found if each.kind != outcomes.TERMINATED]
        if returns and not any(each.rank == 0 for each in found):
            found += await _framed(api, ref, view)
        return found
    silent = [each for each in found if each.kind == outcomes.FAILURE and not each.log_tail]
    return [each for each in found if each not in silent] + [await _with_tail(api, ref, each) for each in silent]


async def _framed(api: ResourceApi, ref: JobRef, view: View) -> list[Outcome]:
    """Rank 0's outcome from its pod's log, if it was too large for a termination message."""
    kind = api.kind
    pods = [pod for pod in view.pods if kind.reports(kind.role(ref.name, pod))]
    if not pods:
        raise ResultMissing(
            "the job succeeded, but rank 0's pod and its log were removed before the result was read: do not set "
            "run_policy.clean_pod_policy, or return less than 4 KiB, or set result_path"
        )
    pods.sort(key=lambda pod: (kind.rank(kind.role(ref.name, pod)) or 0, pod["metadata"]["name"]))
    for pod in pods:
        ended = reports.ending(kind, pod)
        if ended is not None and not ended.get("message"):
            found = await api.framed(ref, pod["metadata"]["name"])
            if found is not None and found.rank == 0:
                return [found]
    return []


async def _with_tail(api: ResourceApi, ref: JobRef, outcome: Outcome) -> Outcome:
    """Add the last log lines of a container that could not report them itself."""
    pod = outcome.host.removeprefix("pod ")
    if pod == outcome.host:
        return outcome
    query = {"container": api.kind.container, "tailLines": str(TAIL_LINES)}
    with contextlib.suppress(ClusterError):
        return outcome._replace(log_tail=(await api.log(ref, pod, query)).splitlines()[-TAIL_LINES:])
    return outcome
