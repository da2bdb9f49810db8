"""These tests wait for a scripted job on a clock that only moves while somebody waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest

from airflow_distrib.core.errors import ClusterError
from airflow_distrib.core.identity import JobIdentity
from airflow_distrib.core.reference import JobRef
from airflow_distrib.core.status import Category, JobState, JobStatus, Problem
from airflow_distrib.jobs import wait
from airflow_distrib.jobs.launcher import (
    Conclusion,
    Emit,
    JobClient,
    JobWatch,
    Observation,
    Obstacle,
    Storage,
    Submission,
)
from airflow_distrib.jobs.wait import cancel_patiently, until_over
from airflow_distrib.jobs.waiting import Ending, Waiting
from airflow_distrib.runner.outcome import FAILURE, SUCCESS, Outcome

REF = JobRef("fake", "job", "uid")
DAY = 86400.0
Script: TypeAlias = dict[float, Observation | ClusterError]
QUEUED, RUNNING = JobStatus(JobState.QUEUED), JobStatus(JobState.RUNNING)
SUCCEEDED = Observation(JobStatus(JobState.SUCCEEDED), over=True)
WELL = Observation(RUNNING)
NO_IMAGE = Problem("ImagePullFailed", "401", category=Category.NOT_STARTED)
NO_NODE = Problem("Unschedulable", "no GPU", category=Category.NOT_STARTED)


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        self.passed = 0.0

    def time(self) -> float:
        """Return seconds since the epoch."""
        return 1_790_000_000.0 + self.passed

    def monotonic(self) -> float:
        """Return seconds since some other moment."""
        return 5000.0 + self.passed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock of the wait."""
    made = Clock()
    monkeypatch.setattr(wait, "time", made)
    return made


@dataclass
class FakeWatch(JobWatch):
    """A job whose observations follow a script.

    Attributes:
        script: observations, or errors, by the second from which on they hold.
        unnoticed: seconds of the script that do not wake who waits.
        late: what the ranks report after the end.
        outages: begin and end of the times at which the system does not answer.
        looks: the seconds at which the job was observed.
        closed: whether the watch has ended.
    """

    clock: Clock
    script: Script
    unnoticed: frozenset[float] = frozenset()
    late: tuple[Outcome, ...] = ()
    outages: tuple[tuple[float, float], ...] = ()
    looks: list[float] = field(default_factory=list)
    closed: bool = False

    @property
    def outage(self) -> float:
        """Return for how long the system has not answered."""
        passed = self.clock.passed
        return next((passed - begin for begin, end in self.outages if begin < passed < end), 0.0)

    @property
    def trouble(self) -> str:
        """Return what is wrong."""
        return "the cluster does not answer"

    def observe(self, now: float) -> Observation:
        """Return what holds at present."""
        assert now == self.clock.time()
        self.looks.append(self.clock.passed)
        found = self.script[max(each for each in self.script if each <= self.clock.passed)]
        if isinstance(found, ClusterError):
            raise found
        return found

    async def wait(self, seconds: float) -> None:
        """Let the time pass until the next change."""
        assert seconds > 0
        await asyncio.sleep(0)
        changes = [each for each in self.script if each > self.clock.passed and each not in self.unnoticed]
        self.clock.passed = min([self.clock.passed + seconds, *changes])

    async def finish(self, seen: Observation) -> tuple[Outcome, ...]:
        """Return what the ranks reported, before the watch is closed."""
        assert not self.closed
        return (*seen.outcomes, *self.late)

    def positions(self) -> dict[str, Any]:
        """Return how far the log was shown."""
        return {"log": 7}


@dataclass
class FakeClient(JobClient[Submission]):
    """The jobs of a system that answers to a cancel with each of these in turn, and then that the job is gone.

    Attributes:
        takes: seconds that each cancel takes.
        cancelled: how each cancel was called.
    """

    watched: FakeWatch | None = None
    answers: list[bool | ClusterError] = field(default_factory=list)
    confirm_seconds: float = 30.0
    clock: Clock | None = None
    takes: float = 0.0
    cancelled: list[tuple[JobRef, float, bool]] = field(default_factory=list)

    async def reserve(self, submission: Submission) -> JobRef:
        """Nobody submits here."""
        raise NotImplementedError

    async def submit(self, submission: Submission, reserved: JobRef, storage: Storage) -> tuple[JobRef, bool]:
        """Nobody submits here."""
        raise NotImplementedError

    async def find(self, reserved: JobRef, identity: JobIdentity) -> JobRef | None:
        """Nobody adopts here."""
        raise NotImplementedError

    async def status(self, ref: JobRef) -> JobStatus | None:
        """Nobody adopts here."""
        raise NotImplementedError

    async def fetch(
        self, submission: Submission, waiting: Waiting, ending: Ending, emit: Emit, storage: Storage
    ) -> Conclusion:
        """Nobody fetches here."""
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def watch(self, waiting: Waiting, emit: Emit) -> AsyncIterator[JobWatch]:
        """Give the scripted watch."""
        assert waiting.ref == REF
        assert self.watched is not None
        del emit  # the script has no log
        try:
            yield self.watched
        finally:
            self.watched.closed = True

    async def cancel(self, ref: JobRef, *, confirm_for: float = 0.0, keep_files: bool = False) -> bool:
        """Answer as scripted."""
        self.cancelled.append((ref, confirm_for, keep_files))
        if self.clock is not None:
            self.clock.passed += self.takes
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, ClusterError):
            raise answer
        return answer

    def describe(self, ref: JobRef) -> str:
        """Return what the log calls the job."""
        return f"fake job {ref.name}"


async def ending_of(watch: FakeWatch, deadline: float | None = None, lines: list[str] | None = None) -> Ending:
    """Wait until the job is over; the deadline is in seconds of the script."""
    until = None if deadline is None else watch.clock.time() + deadline
    emit: Emit = ([] if lines is None else lines).append
    ending = await until_over(FakeClient(watch), Waiting(REF, "c", deadline=until), emit)
    assert watch.closed
    return ending


def stuck(problem: Problem, seconds: float | None, key: str = "pod-0") -> Obstacle:
    """Return an obstacle that has the name of a pod in its key."""
    return Obstacle(f"{key}/{problem.reason}", seconds, problem)


def stuck_job(*obstacles: Obstacle) -> Observation:
    """Return a queued job with obstacles."""
    return Observation(QUEUED, obstacles=obstacles)


# ---------------------------------------------------------------------- the end of the job


async def test_the_wait_ends_with_what_the_system_and_the_ranks_reported(clock: Clock) -> None:
    """The worker that resumes the task gets everything it needs for the result, or for the error."""
    failure = Outcome(FAILURE, 1, error_type="ValueError")
    problem = Problem("Preempted", "by x", category=Category.PREEMPTED)
    failed = Observation(JobStatus(JobState.FAILED, "JobFailed", "1 replica failed"), True, problem, (failure,))
    ending = await ending_of(FakeWatch(clock, {0: WELL, 500: failed}))
    assert ending == Ending(False, "JobFailed", "1 replica failed", problem, (failure,), {"log": 7})
    assert (await ending_of(FakeWatch(clock, {0: SUCCEEDED}))).succeeded is True


async def test_what_the_ranks_report_after_the_end_counts(clock: Clock) -> None:
    """A watch that is behind, or a log that catches up, may bring the result a moment after the end."""
    result = Outcome(SUCCESS, 0, result="1")
    assert (await ending_of(FakeWatch(clock, {0: SUCCEEDED}, late=(result,)))).outcomes == (result,)
    assert (await ending_of(FakeWatch(clock, {0: WELL}, late=(result,)), deadline=5)).outcomes == (result,)


async def test_a_change_that_nobody_noticed_is_found_within_a_minute(clock: Clock) -> None:
    """A lost notification costs a little time, but it cannot make a task wait for ever."""
    watch = FakeWatch(clock, {0: WELL, 61: SUCCEEDED}, unnoticed=frozenset({61.0}))
    assert (await ending_of(watch)).succeeded is True
    assert watch.looks == [0, 60, 120]


async def test_a_job_is_looked_at_again_when_its_system_asks_for_it(clock: Clock) -> None:
    """Peers of a failed rank have a few seconds to report, although nothing changes when these are over."""
    failed = JobStatus(JobState.FAILED, "JobFailed")
    script: Script = {0: Observation(failed, look_again=3.0), 3: Observation(failed, over=True)}
    watch = FakeWatch(clock, script, unnoticed=frozenset({3.0}))
    assert (await ending_of(watch)).succeeded is False
    assert watch.looks == [0, 3]


async def test_an_error_of_the_watch_ends_the_wait_and_closes_the_watch(clock: Clock) -> None:
    """A refusal that has lasted reaches the user, and no connection stays open behind it."""
    watch = FakeWatch(clock, {0: WELL, 70: ClusterError("403 Forbidden")})
    with pytest.raises(ClusterError, match="403 Forbidden"):
        await ending_of(watch)
    assert watch.closed


# ---------------------------------------------------------------------- patience


async def test_an_obstacle_that_outlasts_its_patience_ends_the_wait(clock: Clock) -> None:
    """The task fails with what is in the way of its job, which is cancelled because it has no end of its own."""
    ending = await ending_of(FakeWatch(clock, {0: stuck_job(stuck(NO_IMAGE, 180))}))
    assert (ending.succeeded, ending.problem) == (None, NO_IMAGE)
    assert clock.passed == 180


async def test_an_obstacle_without_patience_ends_the_wait_at_once(clock: Clock) -> None:
    """A mistake that no waiting can cure does not hold the task up."""
    invalid = Problem("InvalidImageName", "UPPER", category=Category.NOT_STARTED)
    assert (await ending_of(FakeWatch(clock, {0: stuck_job(stuck(invalid, 0.0))}))).problem == invalid
    assert clock.passed == 0


async def test_an_obstacle_that_goes_away_in_time_does_not_end_the_wait(clock: Clock) -> None:
    """A registry's bad minute costs a minute and not the job."""
    ending = await ending_of(FakeWatch(clock, {0: stuck_job(stuck(NO_IMAGE, 180)), 179: WELL, 9000: SUCCEEDED}))
    assert (ending.succeeded, ending.problem) == (True, None)


async def test_patience_begins_when_an_obstacle_is_seen_and_not_before(clock: Clock) -> None:
    """A container that is restarted after an hour may have a bad minute as well."""
    ending = await ending_of(FakeWatch(clock, {0: WELL, 3600: stuck_job(stuck(NO_IMAGE, 180))}))
    assert ending.problem == NO_IMAGE
    assert clock.passed == 3600 + 180


async def test_an_obstacle_that_comes_back_has_its_whole_patience_again(clock: Clock) -> None:
    """Two bad minutes with a good hour between them are not added up."""
    image = stuck_job(stuck(NO_IMAGE, 180))
    ending = await ending_of(FakeWatch(clock, {0: image, 170: WELL, 3600: image}))
    assert ending.problem == NO_IMAGE
    assert clock.passed == 3600 + 180


async def test_every_obstacle_has_a_time_of_its_own(clock: Clock) -> None:
    """A second pod that gets stuck does not inherit the time for which the first one was."""
    first, second = stuck(NO_IMAGE, 180, "pod-0"), stuck(NO_IMAGE, 180, "pod-1")
    script: Script = {0: stuck_job(first), 100: stuck_job(first, second), 170: stuck_job(second)}
    assert (await ending_of(FakeWatch(clock, script))).problem == NO_IMAGE
    assert clock.passed == 100 + 180


async def test_the_shortest_patience_decides(clock: Clock) -> None:
    """A job without an image does not wait for half an hour because it has no node either."""
    job = stuck_job(stuck(NO_NODE, 1800, "pod-0"), stuck(NO_IMAGE, 180, "pod-1"))
    assert (await ending_of(FakeWatch(clock, {0: job}))).problem == NO_IMAGE
    assert clock.passed == 180


async def test_an_obstacle_that_changes_its_text_is_still_the_same(clock: Clock) -> None:
    """A scheduler that counts other nodes each time does not start the patience again, and the last text is shown."""
    later = Problem("Unschedulable", "no GPU on 4 nodes", category=Category.NOT_STARTED)
    script: Script = {0: stuck_job(stuck(NO_NODE, 180)), 100: stuck_job(stuck(later, 180))}
    assert (await ending_of(FakeWatch(clock, script))).problem == later
    assert clock.passed == 180


async def test_a_patience_of_none_waits_for_ever(clock: Clock) -> None:
    """A user whose nodes come tomorrow can switch a limit off."""
    script: Script = {0: stuck_job(stuck(NO_NODE, None)), DAY: WELL, DAY + 60: SUCCEEDED}
    assert (await ending_of(FakeWatch(clock, script))).succeeded is True


# ---------------------------------------------------------------------- the end of a job that has to settle


async def test_a_job_that_does_not_know_when_it_ended_has_a_time_to_settle(clock: Clock) -> None:
    """An evicted pod is no obstacle with a problem of its own: the wait ends with the failure of the job."""
    failed = JobStatus(JobState.FAILED, "OutOfcpu", "not enough cpu")
    settling = Observation(failed, obstacles=(Obstacle("settling", 4.0),))
    ending = await ending_of(FakeWatch(clock, {0: WELL, 10: settling}))
    assert (ending.succeeded, ending.reason, ending.problem) == (False, "OutOfcpu", None)
    assert clock.passed == 14


async def test_a_job_that_settles_keeps_the_problem_that_ended_it(clock: Clock) -> None:
    """The user learns that the job was preempted, also when its ranks report nothing."""
    problem = Problem("Preempted", "by x", category=Category.PREEMPTED)
    failed = JobStatus(JobState.FAILED, "Evicted")
    settling = Observation(failed, problem=problem, obstacles=(Obstacle("settling", 4.0),))
    ending = await ending_of(FakeWatch(clock, {0: settling}))
    assert (ending.succeeded, ending.problem) == (False, problem)


async def test_what_a_rank_reports_while_the_job_settles_counts(clock: Clock) -> None:
    """The rank that failed is named, although it reported a moment after the job had ended."""
    failed = JobStatus(JobState.FAILED, "JobFailed")
    outcome = Outcome(FAILURE, 1, error_type="ValueError")
    settling = Obstacle("settling", 4.0)
    script: Script = {0: Observation(failed, obstacles=(settling,)), 2: Observation(failed, True, None, (outcome,))}
    assert (await ending_of(FakeWatch(clock, script))).outcomes == (outcome,)
    assert clock.passed == 2


# ---------------------------------------------------------------------- the deadline


@pytest.mark.parametrize("status", [QUEUED, RUNNING])
async def test_the_deadline_ends_the_wait(clock: Clock, status: JobStatus) -> None:
    """The task's execution_timeout counts while it is deferred, and the error names the state of the job."""
    ending = await ending_of(FakeWatch(clock, {0: Observation(status)}), deadline=500)
    assert ending.succeeded is None
    assert ending.problem is not None
    assert (ending.problem.reason, ending.problem.category) == ("TimedOut", Category.TIMED_OUT)
    assert f"the job was still {status.state.value} when the task's execution_timeout was over" in str(ending.problem)
    assert clock.passed == 500


async def test_a_deadline_that_has_passed_ends_the_wait_after_one_look(clock: Clock) -> None:
    """A triggerer that was down for a while does not grant more time."""
    watch = FakeWatch(clock, {0: WELL})
    ending = await ending_of(watch, deadline=-5)
    assert ending.problem is not None
    assert ending.problem.reason == "TimedOut"
    assert watch.looks == [0]


async def test_a_failed_job_that_settles_past_its_deadline_has_not_timed_out(clock: Clock) -> None:
    """The rank's error is shown, and not that its time was over a second later."""
    settling = Observation(JobStatus(JobState.FAILED, "JobFailed"), obstacles=(Obstacle("settling", 4.0),))
    ending = await ending_of(FakeWatch(clock, {0: WELL, 8: settling}), deadline=10)
    assert (ending.succeeded, ending.problem) == (False, None)


async def test_a_job_that_is_over_at_its_deadline_has_not_timed_out(clock: Clock) -> None:
    """A result that is there is not thrown away because a triggerer was down."""
    result = Outcome(SUCCESS, 0, result="1")
    done = Observation(JobStatus(JobState.SUCCEEDED), True, None, (result,))
    ending = await ending_of(FakeWatch(clock, {0: done}), deadline=-5)
    assert (ending.succeeded, ending.problem, ending.outcomes) == (True, None, (result,))


@pytest.mark.parametrize(("deadline", "reason"), [(179, "TimedOut"), (181, "ImagePullFailed")])
async def test_deadline_and_patience_each_count(clock: Clock, deadline: float, reason: str) -> None:
    """The error names what came first."""
    ending = await ending_of(FakeWatch(clock, {0: stuck_job(stuck(NO_IMAGE, 180))}), deadline=deadline)
    assert ending.problem is not None
    assert ending.problem.reason == reason


# ---------------------------------------------------------------------- outages


async def test_an_obstacle_does_not_count_during_an_outage(clock: Clock) -> None:
    """What looks stuck is only what was seen last, so the job gets its whole patience once the system answers."""
    image = stuck_job(stuck(NO_IMAGE, 180))
    watch = FakeWatch(clock, {0: image, 100: image, 1000: image}, outages=((50, 1000),))
    assert (await ending_of(watch)).problem == NO_IMAGE
    assert clock.passed == 1000 + 180


async def test_an_obstacle_that_vanishes_during_an_outage_does_not_end_the_wait(clock: Clock) -> None:
    """A job that got its image while nobody could see it goes on."""
    image = stuck_job(stuck(NO_IMAGE, 180))
    watch = FakeWatch(clock, {0: image, 100: image, 1000: WELL, 2000: SUCCEEDED}, outages=((50, 1000),))
    ending = await ending_of(watch)
    assert (ending.succeeded, ending.problem) == (True, None)


async def test_a_job_settles_during_an_outage_as_well(clock: Clock) -> None:
    """Its end has been seen, and no outage changes it."""
    settling = Observation(JobStatus(JobState.FAILED, "Evicted"), obstacles=(Obstacle("settling", 4.0),))
    watch = FakeWatch(clock, {0: WELL, 10: settling}, outages=((9, DAY),))
    assert (await ending_of(watch)).reason == "Evicted"
    assert clock.passed == 14


async def test_the_deadline_counts_during_an_outage(clock: Clock) -> None:
    """A task does not hang longer than its execution_timeout because its cluster is away."""
    ending = await ending_of(FakeWatch(clock, {0: WELL}, outages=((1, DAY),)), deadline=500)
    assert ending.problem is not None
    assert ending.problem.reason == "TimedOut"


async def test_an_outage_is_mentioned_once_when_it_has_lasted(clock: Clock) -> None:
    """A reader of the log learns why nothing happens, without reading it again every minute."""
    lines: list[str] = []
    await ending_of(FakeWatch(clock, {0: WELL, 1000: SUCCEEDED}, outages=((10, 900),)), lines=lines)
    assert lines == ["the cluster does not answer; still waiting for the job"]


async def test_a_short_outage_is_not_mentioned(clock: Clock) -> None:
    """A connection that is opened again within seconds does not worry anybody."""
    lines: list[str] = []
    await ending_of(FakeWatch(clock, {0: WELL, 1000: SUCCEEDED}, outages=((45, 75),)), lines=lines)
    assert lines == []


# ---------------------------------------------------------------------- what the log notes


async def test_every_note_is_emitted_once(clock: Clock) -> None:
    """The task log tells what has changed, however often the job is looked at."""
    lines: list[str] = []
    state = ("running", "job: running")
    script: Script = {
        0: Observation(QUEUED, notes=(("queued", "job: queued"), ("pod/Unschedulable", "no GPU on 3 nodes"))),
        # The same trouble with another text, and something new.
        50: Observation(QUEUED, notes=(("queued", "job: queued"), ("pod/Unschedulable", "no GPU on 4 nodes"))),
        100: Observation(RUNNING, notes=(state,)),
        150: Observation(RUNNING, notes=(state, ("events", "events cannot be read"))),
        900: Observation(JobStatus(JobState.SUCCEEDED), over=True, notes=(("succeeded", "job: succeeded"),)),
    }
    await ending_of(FakeWatch(clock, script), lines=lines)
    assert lines == ["job: queued", "no GPU on 3 nodes", "job: running", "events cannot be read", "job: succeeded"]


# ---------------------------------------------------------------------- cancelling


@pytest.fixture
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "CANCEL_PAUSE", 0.0)


@pytest.mark.parametrize("keep_files", [True, False])
async def test_a_job_is_cancelled_and_seen_to_be_gone(clock: Clock, keep_files: bool) -> None:
    """A cancel that works costs one request and no line in the log."""
    lines: list[str] = []
    fake = FakeClient(confirm_seconds=30.0)
    await cancel_patiently(fake, REF, lines.append, keep_files=keep_files)
    assert (fake.cancelled, lines) == ([(REF, 30.0, keep_files)], [])


@pytest.mark.usefixtures("_no_pauses")
async def test_a_cancel_is_tried_again_while_the_system_does_not_answer(clock: Clock) -> None:
    """No job keeps its nodes because its controller restarted, and the log shows each reason only once."""
    lines: list[str] = []
    away, busy = ClusterError("no route to host"), ClusterError("too many requests")
    fake = FakeClient(answers=[away, away, busy, True])
    await cancel_patiently(fake, REF, lines.append)
    assert len(fake.cancelled) == 4
    assert lines == [
        "fake job job cannot be cancelled yet: no route to host; trying again",
        "fake job job cannot be cancelled yet: too many requests; trying again",
    ]


async def test_a_cancel_that_is_refused_for_good_is_not_tried_again(clock: Clock) -> None:
    """The error shows at once, because the same request would be refused for ever."""
    lines: list[str] = []
    fake = FakeClient(answers=[ClusterError("bad request", permanent=True)])
    with pytest.raises(ClusterError, match="bad request"):
        await cancel_patiently(fake, REF, lines.append)
    assert (len(fake.cancelled), lines) == (1, [])


@pytest.mark.usefixtures("_no_pauses")
async def test_a_cancel_gives_up_when_the_system_has_not_answered_for_long(clock: Clock) -> None:
    """A triggerer does not collect cancels for a cluster that never comes back."""
    fake = FakeClient(answers=[ClusterError(f"attempt {n}") for n in range(9)], clock=clock, takes=600.0)
    with pytest.raises(ClusterError, match="attempt 3"):
        await cancel_patiently(fake, REF, lambda _: None)
    assert len(fake.cancelled) == 4


@pytest.mark.parametrize(
    ("confirm_seconds", "expected"),
    [(30.0, ["fake job job was cancelled, but is still ending after 30 s"]), (0.0, [])],
)
async def test_a_job_that_does_not_go_is_reported_if_anybody_waited_for_it(
    clock: Clock, confirm_seconds: float, expected: list[str]
) -> None:
    """The reader learns that nodes are still taken, where the system lets us see it."""
    lines: list[str] = []
    fake = FakeClient(answers=[False], confirm_seconds=confirm_seconds)
    await cancel_patiently(fake, REF, lines.append)
    assert (len(fake.cancelled), lines) == (1, expected)
