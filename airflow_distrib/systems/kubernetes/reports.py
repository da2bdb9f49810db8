"""Outcomes of a job's pods: as they reported themselves, or as Kubernetes reports their end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Mapping

from airflow_distrib.runner import outcome as outcomes
from airflow_distrib.runner import report
from airflow_distrib.runner.outcome import Outcome, OutcomeUnreadable
from airflow_distrib.runner.process import signal_name
from airflow_distrib.systems.kubernetes.kind import Kind, Object, seconds

CONTAINER_FAILED = "ContainerFailed"
START_FAILED = "ContainerStartFailed"

# containerd and CRI-O: the command could not be started at all.
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun"})


def of_pods(kind: Kind, job: str, pods: Iterable[Object], *, before: bool = False) -> list[Outcome]:
    """Outcomes of the pods that report and have ended, in the order of their names.

    Args:
        before: how they ended before they were started again.
    """
    found = []
    for pod in sorted(pods, key=lambda each: str(each["metadata"]["name"])):
        role = kind.role(job, pod)
        ended = (main_status(kind, pod).get("lastState") or {}).get("terminated") if before else ending(kind, pod)
        if kind.reports(role) and (outcome := of_pod(kind, role, pod, ended)) is not None:
            found.append(outcome)
    return found


def of_pod(kind: Kind, role: str, pod: Object, ended: Object | None) -> Outcome | None:
    """How one pod's main container ended; None while it runs, or if the outcome is in its log."""
    if ended is None:
        return None
    # The termination message may be any text of the container's.
    with contextlib.suppress(OutcomeUnreadable, ValueError):
        if reported := report.from_termination_message(str(ended.get("message") or "")):
            return reported
    code = int(ended.get("exitCode") or 0)
    if code == 0:
        return None
    host, time = f"pod {pod['metadata']['name']}", seconds(ended.get("finishedAt"))
    return _with_cause(Outcome(outcomes.FAILURE, kind.rank(role), host=host, time=time), role, ended, code)


def main_status(kind: Kind, pod: Object) -> Object:
    """The status of the container that runs ranks; empty before there is one."""
    statuses: Iterable[Object] = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((each for each in statuses if each["name"] == kind.container), {})


def ending(kind: Kind, pod: Object) -> Object | None:
    """The main container's ``terminated`` state; None while it runs or will be restarted."""
    main = main_status(kind, pod)
    state = main.get("state") or {}
    ended = state.get("terminated")
    if ended is None and is_crash_loop(main):
        ended = (main.get("lastState") or {}).get("terminated")
    return ended if isinstance(ended, Mapping) else None


def is_crash_loop(container: Object) -> bool:
    """Whether a container has ended and waits to be started again."""
    return ((container.get("state") or {}).get("waiting") or {}).get("reason") == "CrashLoopBackOff"


def crashes(kind: Kind, pod: Object) -> int:
    """How often the main container, or a container before it, has ended and is started again."""
    before = (pod.get("status") or {}).get("initContainerStatuses") or ()
    return sum(int(each.get("restartCount") or 0) + is_crash_loop(each) for each in (main_status(kind, pod), *before))


def _with_cause(outcome: Outcome, role: str, ended: Object, code: int) -> Outcome:
    reason = str(ended.get("reason") or "")
    message = str(ended.get("message") or "").strip()[-800:]
    if reason == "OOMKilled":
        text = f"the container of {role} was killed because it used more memory than its limit"
        return outcome._replace(error_type=outcomes.OUT_OF_MEMORY, message=text, exit_code=-signal.SIGKILL)
    if reason in _NOT_STARTED:
        text = f"the container of {role} could not be started: {message}"
        return outcome._replace(error_type=START_FAILED, message=text, exit_code=code, recoverable=False)
    if code > 128 and code - 128 in set(signal.Signals):
        text = f"the container of {role} ended with signal {signal_name(code - 128)}"
        return outcome._replace(error_type=outcomes.PROCESS_KILLED, message=text, exit_code=128 - code)
    text = f"the container of {role} ended with exit status {code}" + (f": {message}" if message else "")
    return outcome._replace(error_type=CONTAINER_FAILED, message=text, exit_code=code)
