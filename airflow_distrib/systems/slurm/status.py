"""What Slurm's commands print, read into what the package knows of a job: pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from airflow_distrib.core.errors import ClusterError
from airflow_distrib.core.status import Category, JobState, JobStatus, Problem, Retry

# slurm.h, job_states and the flags that squeue shows in their place (20.02 to 25.05).
STATES: Mapping[str, JobState] = {
    **dict.fromkeys(
        ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "POWER_UP_NODE", "EXPEDITING"), JobState.QUEUED
    ),
    **dict.fromkeys(("REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"), JobState.QUEUED),
    **dict.fromkeys(("RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "UPDATE_DB"), JobState.RUNNING),
    # A federation runs it on another cluster, and has taken it back here.
    "REVOKED": JobState.RUNNING,
    **dict.fromkeys(("SUSPENDED", "STOPPED"), JobState.SUSPENDED),
    "COMPLETED": JobState.SUCCEEDED,
    **dict.fromkeys(
        ("BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY"), JobState.FAILED
    ),
    **dict.fromkeys(("PREEMPTED", "RECONFIG_FAIL", "TIMEOUT"), JobState.FAILED),
}
# The reason of an end that neither the queue nor the accounting knows.
FORGOTTEN = "Forgotten"
# After these Slurm may start a job again, so they are believed only when they last.
MAY_COME_BACK = frozenset({"NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL"})

_ID = re.compile(r"(\d+)(?:_(\d+|\[.*\]))?(?:\+(\d+))?")
_FIELD = re.compile(r"(?:^| )([A-Za-z/:]+)=(.*?)(?= [A-Za-z/:]+=|\s*$)")

# Reasons for which a pending job waits in vain, and after how many seconds that is believed.
_STUCK: Mapping[str, tuple[float, str]] = {
    "DependencyNeverSatisfied": (0, "a job that it depends on failed, or is unknown; correct dependency"),
    "BadConstraints": (60, "no node has what it asks for; correct constraint, gres or the other resources"),
    "InvalidAccount": (60, "correct account; `sacctmgr show associations user=$USER` lists yours"),
    "InvalidQOS": (60, "correct qos; `sacctmgr show associations user=$USER` lists yours"),
    "AccountNotAllowed": (60, "the partition does not take this account"),
    "QOSNotAllowed": (60, "the partition does not take this QOS"),
    "PartitionTimeLimit": (60, "lower time, or take a partition that allows it"),
    "PartitionNodeLimit": (60, "lower nodes, or take a partition that has as many"),
    "JobHoldMaxRequeue": (0, "it was started again too often"),
    "launch failed requeued held": (0, "Slurm could not start it; its administrators see why in the node's slurmd log"),
    "JobHeldAdmin": (600, "an administrator holds it: ask them, or `scontrol release` it"),
}


# Reasons that tell something of an end, beside the state.
_OF_AN_END = re.compile(
    r"SystemFailure|InactiveLimit|TimeLimit|NodeDown|RaisedSignal:.*|launch failed.*|OutOfMemory|Deadline"
)
# The "signal" that Slurm reports for a job whose output it could not open.
_NO_OUTPUT = -53


@dataclass(frozen=True)
class Part:
    """One element of a job array, one component of a heterogeneous job, or a whole job.

    Attributes:
        index: ``"3"``, of an array's elements that still wait ``"[4-9]"``, else empty.
        state: Slurm's own word.
        exit_code: of the batch script; negative is a signal. None where it is not known.
        by: who cancelled it, a user's id.
        name: of the job, which tells it from one that got the same id after a controller lost its state.
    """

    job: str
    index: str = ""
    component: str = ""
    state: str = ""
    reason: str = ""
    exit_code: int | None = None
    nodes: str = ""
    by: str = ""
    name: str = ""

    @property
    def key(self) -> str:
        """Different for every part of a job."""
        return f"{self.index}+{self.component}"

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return STATES.get(self.state, JobState.QUEUED).finished


def _part(identifier: str, state: str, reason: str, name: str) -> Part | None:
    match = _ID.fullmatch(identifier.strip())
    if not match:
        return None
    word, _, by = state.strip().partition(" by ")
    plain = reason.strip()
    return Part(
        match[1],
        match[2] or "",
        match[3] or "",
        word.rstrip("+").split(" ")[0] if word else "",
        "" if plain in ("None", "(null)") else plain,
        by=by.strip(),
        name=name.strip(),
    )


def from_squeue(text: str) -> dict[str, dict[str, Part]]:
    """Parts by job id and key, from ``squeue --format='%i|%T|%r|%j'``."""
    found: dict[str, dict[str, Part]] = {}
    for line in text.splitlines():
        fields = line.split("|", 3)
        part = _part(*fields) if len(fields) == 4 else None
        if part is not None:
            found.setdefault(part.job, {})[part.key] = part
    return found


def from_sacct(text: str) -> dict[str, dict[str, Part]]:
    """The same, from ``sacct --format=JobID,State,ExitCode,Reason,NodeList,JobName``."""
    found: dict[str, dict[str, Part]] = {}
    for line in text.splitlines():
        fields = line.split("|", 5)
        part = _part(fields[0], fields[1], fields[3], fields[5]) if len(fields) == 6 else None
        if part is not None:
            complete = replace(part, exit_code=exit_code(fields[2]), nodes=fields[4])
            found.setdefault(part.job, {})[part.key] = complete
    return found


def from_scontrol(text: str) -> dict[str, dict[str, Part]]:
    """The same, from ``scontrol --oneliner show job``."""
    found: dict[str, dict[str, Part]] = {}
    for fields in map(fields_of, records(text)):
        job = fields.get("ArrayJobId") or fields.get("HetJobId") or fields["JobId"]
        index, component = fields.get("ArrayTaskId", ""), fields.get("HetJobOffset", "")
        part = Part(
            job,
            index if index.isdecimal() or not index else f"[{index}]",
            component,
            fields.get("JobState", ""),
            "" if fields.get("Reason") in (None, "None") else fields["Reason"],
            exit_code(fields.get("ExitCode", "")),
            fields.get("NodeList", ""),
            name=fields.get("JobName", ""),
        )
        found.setdefault(job, {})[part.key] = part
    return found


def of_job(found: Mapping[str, Mapping[str, Part]], job: str, name: str) -> dict[str, Part]:
    """The parts of one job, by id and name."""
    return {key: part for key, part in found.get(job, {}).items() if part.name == name}


def records(text: str) -> list[str]:
    """What scontrol prints of each job; a script's arguments, which are part of it, may hold line ends."""
    return [each for each in re.split(r"(?m)^(?=JobId=\d)", text) if each.startswith("JobId=")]


def last_of(name: str, record: str) -> str:
    """The last value of a name, for what stands behind a script's arguments."""
    found = re.findall(rf" {name}=(.*?)(?= [A-Za-z/:]+=|\s*$)", record)
    return str(found[-1]) if found else ""


def fields_of(line: str) -> dict[str, str]:
    """``Name=value`` pairs of one line of scontrol; values may hold blanks."""
    found: dict[str, str] = {}
    for name, value in _FIELD.findall(line):
        # The first counts: later ones may stand in a comment, or in a script's arguments.
        found.setdefault(name, value.strip())
    return found


def exit_code(text: str) -> int | None:
    """``status:signal`` as one number, negative for a signal."""
    status, _, signal = text.partition(":")
    if not status.isdecimal():
        return None
    return -int(signal) if signal.isdecimal() and int(signal) else int(status)


def submitted(text: str) -> tuple[str, str]:
    """Job id and cluster from ``sbatch --parsable``: ``12`` or ``12;cluster``.

    Raises:
        ClusterError: it is neither.
    """
    job, _, cluster = text.strip().rpartition("\n")[2].partition(";")
    if not job.isdecimal():
        raise ClusterError(f"sbatch answered {text.strip()!r}, which is no job id")
    return job, cluster


def aggregated(parts: Iterable[Part]) -> JobStatus:
    """One status for all parts of a job.

    It is over when all of them are, and has failed when one of them has.
    """
    known = [(STATES.get(part.state), part) for part in parts]
    for state in (JobState.RUNNING, JobState.SUSPENDED, JobState.QUEUED, None):
        for each, part in known:
            if each is state:
                # What is unknown is believed to run: it is looked at again.
                return JobStatus(state or JobState.RUNNING, part.state, part.reason)
    failed = [part for state, part in known if state is JobState.FAILED]
    if failed:
        return JobStatus(JobState.FAILED, failed[0].state, summary_of(failed))
    return JobStatus(JobState.SUCCEEDED if known else JobState.QUEUED, "COMPLETED" if known else "")


def summary_of(failed: list[Part]) -> str:
    """What Slurm says of parts that failed."""
    many = f"{len(failed)} elements failed, the first of them: " if len(failed) > 1 else ""
    return many + _sentence(failed[0])


def _sentence(part: Part) -> str:
    what = f"job {part.job}" + (f"_{part.index}" if part.index else "") + (f"+{part.component}" * bool(part.component))
    how = ""
    if part.exit_code is not None and part.exit_code < 0:
        how = f", signal {-part.exit_code}"
    elif part.exit_code:
        how = f", exit status {part.exit_code}"
    who = f" by user id {part.by}" if part.by else ""
    where = f" on {part.nodes}" if part.nodes and part.nodes != "None assigned" else ""
    # Slurm keeps the reason for which a job once waited.
    reason = f" ({part.reason})" if part.reason in _STUCK or _OF_AN_END.fullmatch(part.reason) else ""
    return f"Slurm says that {what} is {part.state}{who}{how}{where}{reason}"


# By state: our word for it, what to do, and what kind of end it is.
_PROBLEMS: Mapping[str, tuple[str, str, Category]] = {
    "BOOT_FAIL": ("BootFailed", "a node did not start; retry, or exclude it", Category.NOT_STARTED),
    "CANCELLED": (
        "Cancelled",
        "somebody cancelled it, or a dependency was never satisfied; find out who, then retry",
        Category.LOST,
    ),
    "DEADLINE": ("TimedOut", "it could not end before its deadline; raise it, or begin earlier", Category.TIMED_OUT),
    "FAILED": ("JobFailed", "see the last lines of its output", Category.FAILED),
    "LAUNCH_FAILED": (
        "LaunchFailed",
        "Slurm could not start it; its administrators see why in the node's slurmd log",
        Category.NOT_STARTED,
    ),
    "NODE_FAIL": (
        "NodeLost",
        "a node went away; retry, or set requeue=True so that Slurm starts it again",
        Category.LOST,
    ),
    "OUT_OF_MEMORY": ("OutOfMemory", "raise mem, mem_per_cpu or mem_per_gpu", Category.FAILED),
    "PREEMPTED": (
        "Preempted",
        "set requeue=True so that Slurm starts it again, or take a QOS that is not preempted",
        Category.PREEMPTED,
    ),
    "RECONFIG_FAIL": ("BootFailed", "a node could not be set up; retry, or exclude it", Category.NOT_STARTED),
    "TIMEOUT": ("TimedOut", "raise time, or execution_timeout where time is not set", Category.TIMED_OUT),
}
# What Slurm writes into the job's own output when memory ran out but its state does not say so.
_OUT_OF_MEMORY = re.compile(r"exceeded (?:job |step )?memory limit|oom[-_]kill|Out Of Memory", re.IGNORECASE)


_NO_PYTHON = "airflow_distrib: there is no Python"


def problem_of(parts: Iterable[Part], tail: Iterable[str] = ()) -> Problem:
    """Why a job that failed has no result.

    Args:
        tail: the last lines of its output.
    """
    failed = [part for part in parts if STATES.get(part.state) is JobState.FAILED]
    lines = list(tail)
    state = failed[0].state if failed else "FAILED"
    if state == "FAILED" and any(_OUT_OF_MEMORY.search(line) for line in lines):
        state = "OUT_OF_MEMORY"
    reason, advice, category = _PROBLEMS[state]
    if state == "FAILED" and failed and failed[0].exit_code == _NO_OUTPUT:
        reason, advice = (
            "NoOutput",
            "Slurm could not write its output: make the folder of output and error, or change them",
        )
    elif state == "FAILED" and not lines:
        advice = "it wrote nothing that could be read; run it by hand on a node of the partition"
    text = summary_of(failed) if failed else "the batch script failed"
    # Our own script looks for it on the job's first node.
    retry = Retry.CANNOT_HELP if any(_NO_PYTHON in line for line in lines) else Retry.MAY_HELP
    if lines:
        text += "\nLast lines of its output:\n" + "\n".join(f"    {line}" for line in lines)
    return Problem(reason, text, advice, retry, category)


def forgotten(what: str) -> Problem:
    """A job of which nobody knows how it ended."""
    advice = "switch accounting on, or raise MinJobAge, so that Slurm remembers jobs for longer"
    return Problem(FORGOTTEN, f"Slurm no longer knows how {what} ended", advice, category=Category.LOST)


def stuck(parts: Iterable[Part]) -> tuple[Problem, float] | None:
    """Why a job will never start, and after how many seconds of that to give up."""
    for part in parts:
        if STATES.get(part.state) is JobState.QUEUED and part.reason in _STUCK:
            patience, advice = _STUCK[part.reason]
            help_possible = part.reason in ("JobHeldAdmin", "launch failed requeued held")
            retry = Retry.MAY_HELP if help_possible else Retry.CANNOT_HELP
            text = f"job {part.job} is pending, and will not start: {part.reason}"
            return Problem(part.reason, text, advice, retry, Category.NOT_STARTED), patience
    return None
