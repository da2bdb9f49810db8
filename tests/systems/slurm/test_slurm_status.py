"""What Slurm's commands print, recorded (22.05) or taken from their manuals, is read into the state of jobs."""

from __future__ import annotations

import pytest

from airflow_distrib.core.errors import ClusterError
from airflow_distrib.core.status import JobState, Retry
from airflow_distrib.systems.slurm import status
from airflow_distrib.systems.slurm.status import Part, aggregated, from_sacct, from_scontrol, from_squeue

SQUEUE = """\
CLUSTER: lab
3_0|COMPLETED|None|wrap
3_[4-9%2]|PENDING|JobArrayTaskLimit|wrap
1|RUNNING|None|with | bar
9+0|COMPLETED|None|het
9+1|FAILED|NonZeroExitCode|het
21|PENDING|DependencyNeverSatisfied|wrap
not a line
"""
SACCT = """\
1|FAILED|3:0|None|n1|wrap
3_0|COMPLETED|0:0|None|n[1-2]|wrap
8|CANCELLED by 1001|0:0|None|n1|foo
22|OUT_OF_MEMORY|0:125|None|n1|wrap
23|CANCELLED+|0:0|None|None assigned|wrap
"""
SCONTROL = (
    "JobId=1 JobName=wrap it UserId=me(1001) GroupId=me(1001) MCS_label=N/A Priority=4294901759 JobState=FAILED "
    "Reason=NonZeroExitCode Dependency=(null) Requeue=1 ExitCode=3:0 NodeList=n1 BatchHost=n1 "
    "StdErr=/home/my folder/slurm-1.out StdIn=/dev/null StdOut=/home/my folder/slurm-1.out Power= \n"
    # Line ends, and what looks like fields, in a script's arguments.
    "JobId=14 JobName=args JobState=RUNNING Reason=None Command=/x a\nb JobState=FAILED StdOut=/not/this WorkDir=/w "
    "StdErr=/w/err StdIn=/dev/null StdOut=/w/out Power=\n"
    "JobId=13 ArrayJobId=12 ArrayTaskId=0 JobName=a JobState=RUNNING Reason=None ExitCode=0:9 NodeList=n2\n"
    "JobId=12 ArrayJobId=12 ArrayTaskId=1-3%1 ArrayTaskThrottle=1 JobName=a JobState=PENDING Reason=Resources\n"
    "JobId=10 HetJobId=9 HetJobOffset=1 JobName=h JobState=COMPLETED Reason=None ExitCode=0:0 NodeList=n3\n"
)


def test_squeue_is_read_by_job_and_part() -> None:
    """Elements and components are found under their job, even when names contain the separator."""
    found = from_squeue(SQUEUE)
    assert set(found) == {"3", "1", "9", "21"}
    assert [part.index for part in found["3"].values()] == ["0", "[4-9%2]"]
    assert found["1"]["+"] == Part("1", state="RUNNING", name="with | bar")
    assert [part.component for part in found["9"].values()] == ["0", "1"]


def test_sacct_reports_the_exit_status_and_who_cancelled_the_job() -> None:
    """A failure can be explained, although sacct cuts states short or appends a user to them."""
    found = from_sacct(SACCT)
    assert (found["1"]["+"].exit_code, found["1"]["+"].nodes) == (3, "n1")
    assert (found["8"]["+"].state, found["8"]["+"].by) == ("CANCELLED", "1001")
    assert found["22"]["+"].exit_code == -125
    assert found["23"]["+"].state == "CANCELLED"


def test_scontrol_is_read_though_its_values_hold_blanks_and_line_ends() -> None:
    """A user's names and arguments cannot hide a job's state or output files, and its parts are found under one id."""
    found = from_scontrol(SCONTROL)
    assert (found["1"]["+"].exit_code, found["1"]["+"].name) == (3, "wrap it")
    assert {part.index: part.state for part in found["12"].values()} == {"0": "RUNNING", "[1-3%1]": "PENDING"}
    assert found["9"]["+1"].state == "COMPLETED"
    assert found["14"]["+"].state == "RUNNING"
    assert status.last_of("StdOut", status.records(SCONTROL)[1]) == "/w/out"
    fields = status.fields_of(SCONTROL.splitlines()[0])
    assert fields["StdOut"] == fields["StdErr"] == "/home/my folder/slurm-1.out"


@pytest.mark.parametrize(
    ("states", "whole"),
    [
        ([], JobState.QUEUED),
        (["PENDING"], JobState.QUEUED),
        (["CONFIGURING"], JobState.QUEUED),
        (["REQUEUED"], JobState.QUEUED),
        (["COMPLETED", "PENDING"], JobState.QUEUED),
        (["COMPLETED", "FAILED", "RUNNING"], JobState.RUNNING),
        (["COMPLETING"], JobState.RUNNING),
        (["SUSPENDED"], JobState.SUSPENDED),
        (["COMPLETED", "COMPLETED"], JobState.SUCCEEDED),
        (["COMPLETED", "TIMEOUT"], JobState.FAILED),
        (["OUT_OF_MEMORY"], JobState.FAILED),
        (["NODE_FAIL"], JobState.FAILED),
        (["SOMETHING_NEW"], JobState.RUNNING),
    ],
)
def test_a_job_is_over_when_all_its_parts_are(states: list[str], whole: JobState) -> None:
    """A job array is only fetched once no element can change, and a state of a newer Slurm never ends the wait."""
    assert aggregated(Part("1", str(n), state=state) for n, state in enumerate(states)).state is whole


@pytest.mark.parametrize("state", [each for each, found in status.STATES.items() if found is JobState.FAILED])
def test_every_failed_state_becomes_a_problem_with_advice(state: str) -> None:
    """The error shows the user everything that Slurm reports of the failed part, and what to do next."""
    part = Part("7", "2", state=state, exit_code=-9, nodes="n1", by="1001", reason="SystemFailure")
    problem = status.problem_of([part, Part("7", "3", state="COMPLETED")], ["the end"])
    assert problem.advice
    for text in (f"job 7_2 is {state} by user id 1001, signal 9 on n1 (SystemFailure)", "    the end"):
        assert text in problem.message


@pytest.mark.parametrize(
    "line",
    [
        "slurmstepd: error: StepId=22.batch exceeded memory limit (422395904 > 62914560), being killed",
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=1.batch.",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=1.0. Some of the step tasks have been OOM Killed.",
    ],
)
def test_a_lack_of_memory_is_recognized_in_the_output_too(line: str) -> None:
    """Users learn of the cause on clusters without control groups too, where Slurm only reports FAILED."""
    assert status.problem_of([Part("1", state="FAILED")], [line]).reason == "OutOfMemory"
    assert status.problem_of([Part("1", state="FAILED")], ["something else"]).reason == "JobFailed"


def test_a_job_whose_output_cannot_be_written_names_that() -> None:
    """A wrong folder of output is named, because such a job leaves no line that could explain it."""
    found = status.problem_of([Part("1", state="FAILED", exit_code=-53)])
    assert (found.reason, "last lines" in found.advice, "output and error" in found.advice) == ("NoOutput", False, True)


def test_nobody_is_sent_to_lines_that_there_are_not() -> None:
    """The last lines of the output are mentioned only where there are any."""
    assert "last lines" not in status.problem_of([Part("1", state="FAILED", exit_code=1)]).advice
    assert "last lines" in status.problem_of([Part("1", state="FAILED", exit_code=1)], ["x"]).advice


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("PartitionDown", False),
        ("Resources", False),
        ("AssocGrpCpuLimit", False),
        ("NonZeroExitCode", False),
        ("SystemFailure", True),
        ("TimeLimit", True),
        ("RaisedSignal:9(Killed)", True),
        ("DependencyNeverSatisfied", True),
    ],
)
def test_why_a_job_once_waited_is_not_why_it_failed(reason: str, shown: bool) -> None:
    """Slurm keeps the reason of a wait that is long over; only reasons of an end are shown."""
    text = status.problem_of([Part("1", state="FAILED", exit_code=1, reason=reason)]).message
    assert (reason in text) is shown


def test_a_node_without_the_interpreter_rules_out_a_retry() -> None:
    """The script's own line says so, and the next job would find no more."""
    line = "airflow_distrib: there is no Python 'python9' on node n1: set python=, modules=, venv= or conda_env="
    assert status.problem_of([Part("1", state="FAILED")], [line]).retry is Retry.CANNOT_HELP
    assert status.problem_of([Part("1", state="FAILED")], ["python9: not found"]).retry is Retry.MAY_HELP


@pytest.mark.parametrize(
    ("reason", "retry"),
    [
        ("DependencyNeverSatisfied", Retry.CANNOT_HELP),
        ("PartitionTimeLimit", Retry.CANNOT_HELP),
        ("JobHeldAdmin", Retry.MAY_HELP),
        ("launch failed requeued held", Retry.MAY_HELP),
        ("Resources", None),
        ("Priority", None),
        ("QOSMaxJobsPerUserLimit", None),
    ],
)
def test_only_reasons_that_never_pass_make_a_job_stuck(reason: str, retry: Retry | None) -> None:
    """Jobs that can never start are given up, while those that merely queue are waited for."""
    found = status.stuck([Part("1", state="PENDING", reason=reason)])
    assert (found[0].retry if found else None) is retry
    assert status.stuck([Part("1", state="RUNNING", reason=reason)]) is None


@pytest.mark.parametrize(
    ("text", "expected"), [("12\n", ("12", "")), ("12;north\n", ("12", "north")), ("warning: x\n7", ("7", ""))]
)
def test_the_answer_of_sbatch_is_read(text: str, expected: tuple[str, str]) -> None:
    """The job's id is found, with its cluster in a federation, and anything else is refused."""
    assert status.submitted(text) == expected
    with pytest.raises(ClusterError, match="no job id"):
        status.submitted("Submitted batch job 12 on cluster x")
