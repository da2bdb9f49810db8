"""The outermost process of a job on one machine: starts, listens, stops, reports."""

from __future__ import annotations

import collections
import contextlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Deque, Dict, Iterator, List, Optional

from airflow_distrib.runner import collector, counting, launcher, outcome, process, rank, report
from airflow_distrib.runner import spec as specs
from airflow_distrib.runner.lines import MAX_LINE_BYTES, RELAYED_LINE_BYTES, LineSplitter, RankLine, parse, prefixed
from airflow_distrib.runner.outcome import Outcome
from airflow_distrib.runner.spec import Spec

# Lines of a failing rank that go into its outcome.
TAIL_LINES = 30

# A rank that ended may leave children that hold its output open: how long to listen on.
_AFTER_EXIT_SECONDS = 0.3
_LAST_READS = 64

# Python's resource trackers outlive their process by a moment, to remove its semaphores.
_LAST_MOMENT_SECONDS = 0.4

# How much earlier than a signal of our own a rank may end by it.
_SAME_SIGNAL_SECONDS = 2.0

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Process(subprocess.Popen):  # type: ignore[type-arg] # not before Python 3.9
    """A program whose output is read by its descriptor."""

    def __init__(self, arguments: List[str], environment: Dict[str, str]) -> None:
        super().__init__(
            arguments, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self.stdout is not None
        self.output = self.stdout.fileno()


class Child:
    """One process under supervision: a rank, or one that speaks for several.

    Args:
        process: has ``pid``, ``output``, ``returncode``, ``poll`` and ``send_signal`` of :class:`Process`.
    """

    def __init__(self, rank: Optional[int], process: Any) -> None:
        self.rank = rank
        self.splitter = LineSplitter(limit=MAX_LINE_BYTES if rank is not None else RELAYED_LINE_BYTES)
        self.process = process
        self.output: Optional[int] = process.output
        os.set_blocking(process.output, False)
        self.ended_at: Optional[float] = None
        self.asked = False

    def end(self, number: int) -> None:
        """Send a signal, and remember that the end is not the process's own."""
        if self.code is None:
            self.asked = True
            self.process.send_signal(number)

    @property
    def code(self) -> Optional[int]:
        """Exit status; negative for a signal; None while it runs."""
        code: Optional[int] = self.process.returncode
        return code


class Supervisor:
    """Runs one :class:`Spec` to its end."""

    def __init__(self, spec: Spec, archive: str) -> None:
        self.spec = spec
        self.children: List[Child] = []
        self.tails: Dict[Optional[int], Deque[str]] = collections.defaultdict(
            lambda: collections.deque(maxlen=TAIL_LINES)
        )
        self._archive = archive
        self._selector = selectors.DefaultSelector()
        self._stopped_by: Optional[int] = None
        self._stopped_at = 0.0
        self._kill_at: Optional[float] = None
        self._orphaned = False
        self._oom_before = process.oom_kills()

    def run(self) -> int:
        """Start everything, wait for its end, leave the outcomes; returns the exit status."""
        self._listen_to_signals()
        if self.spec.lifeline:
            process.adopt_orphans()
        self._start()
        while any(child.output is not None or child.code is None for child in self.children):
            self._turn()
        if self._stopped_by is None and any(child.code == -signal.SIGTERM for child in self.children):
            # Whoever ended it may be about to end this process too.
            time.sleep(0.3)
        # One that arrived during the last turn counts as well.
        self._take_signals()
        if self.spec.lifeline:
            process.end_descendants(_LAST_MOMENT_SECONDS)
        if self._orphaned:
            # Nobody is left to do it, and nobody to read outcomes.
            shutil.rmtree(self.spec.directory, ignore_errors=True)
            os.killpg(os.getpgrp(), signal.SIGKILL)
        self._leave_outcomes()
        left = report.collect(self.spec.directory)
        if self.spec.termination_log or self.spec.reports:
            self._publish(left)
        if self._stopped_by is not None:
            return 128 + self._stopped_by
        well = all(child.code == 0 for child in self.children) and all(each.kind == outcome.SUCCESS for each in left)
        return 0 if well else 1

    def _start(self) -> None:
        base = {**os.environ, "PYTHONUNBUFFERED": "1", process.PARENT: str(os.getpid())}
        if self.spec.mode == specs.LAUNCHER:
            base = self._open_for_reports(base)
        for child in self._new_children(base):
            self.children.append(child)
            if self._stopped_by is not None:
                child.end(signal.SIGTERM)
            self._selector.register(child.process.output, selectors.EVENT_READ, child)

    def _new_children(self, base: Dict[str, str]) -> Iterator[Child]:
        """Start what the spec says, one after the other."""
        spec = self.spec
        if spec.mode == specs.LAUNCHER:
            exports = launcher.exports(spec.exports, base)
            yield Child(None, Process([*spec.command, *exports, *spec.program], base))
        elif spec.mode == specs.ENVIRONMENT:
            place = rank.from_env(base)
            yield Child(place.rank, Process(self._runner("--rank"), {**self._meeting(place, base), **base}))
        else:
            yield from self._of_this_machine(base)

    def _meeting(self, place: rank.Rank, base: Dict[str, str]) -> Dict[str, str]:
        """Where the rank meets the others; most launchers say so themselves."""
        if place.world_size == 1:
            return rank.meeting_here(base)
        asks = self.spec.reports and "MASTER_ADDR" not in base
        return collector.meeting_point(place, self.spec.token, base) if asks else {}

    def _of_this_machine(self, base: Dict[str, str]) -> Iterator[Child]:
        """Agents or ranks whose number follows from the spec and this machine."""
        spec, elastic = self.spec, self.spec.elastic
        count = spec.processes
        if elastic is not None:
            count = counting.ranks_per_node(elastic.nproc_per_node, self._runner("--count"), base)
            if not count or not self._goes_on():
                return
        if count > 1:
            # As torchrun does: ranks that each start a thread per core choke one another.
            base.setdefault("OMP_NUM_THREADS", "1")
        if spec.mode == specs.ELASTIC:
            for node in range(spec.processes):
                yield Child(None, Process(self._runner("--agent", node, count), base))
            return
        base = rank.meeting_here(base)
        if elastic is not None and elastic.start_method == "fork":
            yield Child(None, Process(self._runner("--fork", count), base))
            return
        for number in range(count):
            yield Child(number, Process(self._runner("--rank"), {**base, **self._variables(number, count, base)}))

    def _runner(self, what: str, *arguments: int) -> List[str]:
        """The command of one of the runner's own processes."""
        path = os.path.join(self.spec.directory, "spec.json")
        return [sys.executable, "-u", self._archive, what, path, *map(str, arguments)]

    def _variables(self, number: int, count: int, base: Dict[str, str]) -> Dict[str, str]:
        """Of one of the ranks that this supervisor numbers itself."""
        elastic = self.spec.elastic
        torchruns = rank.torchrun_variables(elastic, number, count, base) if elastic is not None else {}
        return {**rank.numbers(number, count), **torchruns}

    def _open_for_reports(self, base: Dict[str, str]) -> Dict[str, str]:
        """Be ready for what the ranks will report, and see that their hosts can be reached."""
        address = collector.Collector(self.spec.directory, self.spec.token).start()
        if self.spec.hostfile:
            launcher.wait_for_hosts(self.spec.hostfile, self.spec.ssh_port, self._say, self._goes_on)
        return {**base, collector.ADDRESS: address}

    def _goes_on(self) -> bool:
        self._take_signals()
        return self._stopped_by is None

    def _listen_to_signals(self) -> None:
        self._signals, write = os.pipe()
        for end in (self._signals, write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._selector.register(self._signals, selectors.EVENT_READ, "signals")
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        if self.spec.lifeline:
            self._selector.register(0, selectors.EVENT_READ, "lifeline")

    def _turn(self) -> None:
        """Wait for something to happen and deal with it."""
        for key, _ in self._selector.select(timeout=0.1):
            if key.data == "signals":
                self._take_signals()
            elif key.data == "lifeline":
                if not os.read(0, 512):
                    self._selector.unregister(0)
                    self._orphaned = True
                    self._say("the process that started this job is gone: stopping")
                    self._stop(signal.SIGHUP)
            else:
                self._read(key.data)
        self._look_at_children()

    def _take_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._signals, 512):
                if number in STOP_SIGNALS:
                    self._stop(number)

    def _read(self, child: Child) -> bool:
        assert child.output is not None
        try:
            data = os.read(child.output, 65536)
        except BlockingIOError:
            return False
        self._pass_on(child, child.splitter.feed(data) if data else child.splitter.flush())
        if not data:
            self._selector.unregister(child.output)
            child.output = None
        return bool(data)

    def _pass_on(self, child: Child, texts: List[str]) -> None:
        chosen = []
        for text in texts:
            line = RankLine(child.rank, text) if child.rank is not None else parse(text)
            self.tails[line.rank].append(line.text)
            if line.rank is None or self.spec.log_ranks is None or line.rank in self.spec.log_ranks:
                chosen.append(prefixed(line))
        if chosen:
            # All at once: a call of the system for each line would take longer than the lines.
            self._say("\n".join(chosen))

    def _say(self, text: str) -> None:
        data = (text + "\n").encode("utf-8", "replace")
        try:
            while data:
                data = data[os.write(1, data) :]
        except BrokenPipeError:
            # Whoever read the log is gone; the lifeline or a signal will say so.
            return

    def _look_at_children(self) -> None:
        now = time.time()
        for child in self.children:
            if child.ended_at is None and child.process.poll() is not None:
                child.ended_at = now
                if child.code != 0 or self._vanished(child):
                    self._end_others()
            if child.output is not None and child.ended_at is not None and now - child.ended_at > _AFTER_EXIT_SECONDS:
                self._stop_listening(child)
        process.reap_orphans({child.process.pid for child in self.children})
        if self._kill_at is not None and now > self._kill_at:
            for child in self.children:
                child.end(signal.SIGKILL)

    def _vanished(self, child: Child) -> bool:
        """Exit status 0 without an outcome: a library ended the process, and its peers may wait for it."""
        return child.rank is not None and not report.has_left(self.spec.directory, child.rank)

    def _stop_listening(self, child: Child) -> None:
        # Bounded: what the rank left behind may go on writing faster than anybody reads.
        for _ in range(_LAST_READS):
            if child.output is None or not self._read(child):
                break
        if child.output is not None:
            self._pass_on(child, child.splitter.flush())
            self._selector.unregister(child.output)
            child.output = None

    def _stop(self, number: int) -> None:
        """Someone asked the job to stop."""
        if self._stopped_by is None:
            self._stopped_by, self._stopped_at = number, time.time()
            self._end_others()

    def _end_others(self) -> None:
        """Ask every running child to stop, and allow it the grace period."""
        if self._kill_at is None:
            self._kill_at = time.time() + self.spec.grace_seconds
            for child in self.children:
                child.end(signal.SIGTERM)

    def _leave_outcomes(self) -> None:
        reported = {each.rank: each for each in report.collect(self.spec.directory) if each.rank is not None}
        for child in self.children:
            if child.rank is not None:
                reported[child.rank] = self._judge(child, reported.get(child.rank))
        for number, outcome_of_rank in reported.items():
            final = self._after_stop(outcome_of_rank)
            if final.host in ("", socket.gethostname()):
                final = outcome.with_cause_of_kill(final, self._kills_for_memory())
            if final.kind != outcome.SUCCESS:
                final = final._replace(log_tail=list(self.tails[number]))
            report.leave(self.spec.directory, final)
        failed = any(each.kind == outcome.FAILURE for each in report.collect(self.spec.directory))
        for node, child in enumerate(self.children):
            if child.rank is None and child.code != 0 and not failed and self._stopped_by is None:
                report.leave(
                    self.spec.directory, self._ended_silently(child, self._launcher_name()), "agent-{}".format(node)
                )
        if self._stopped_by is not None:
            name = process.signal_name(self._stopped_by)
            stopped = outcome.now(outcome.TERMINATED, None, message="the job was stopped by {}".format(name))
            report.leave(self.spec.directory, stopped._replace(time=self._stopped_at), "supervisor")

    def _kills_for_memory(self) -> Optional[int]:
        count = process.oom_kills()
        return None if count is None or self._oom_before is None else count - self._oom_before

    def _launcher_name(self) -> str:
        if self.spec.mode == specs.LAUNCHER:
            return os.path.basename(self.spec.command[0])
        return "torch's agent" if self.spec.mode == specs.ELASTIC else "the process that forks the ranks"

    def _publish(self, left: List[Outcome]) -> None:
        """Leave one document: what failed first here, or how the lowest rank ended."""
        document = outcome.earliest_failure(left) or (left[0] if left else None)
        if document is None or (self.spec.reports and collector.send(document, self.spec.token, os.environ)):
            return
        message = report.termination_message(document)
        if message is None or not self.spec.termination_log:
            for line in report.frames(document):
                self._say(line)
            return
        # Not by replacing: in a pod this file is a mount.
        with open(self.spec.termination_log, "w", encoding="ascii") as file:
            file.write(message)

    def _judge(self, child: Child, reported: Optional[Outcome]) -> Outcome:
        """What became of a rank: its own word, unless its end contradicts it."""
        if reported is None:
            return self._ended_silently(child, "rank {}".format(child.rank))
        if reported.kind == outcome.SUCCESS and child.code != 0:
            late = self._ended_silently(
                child, "the function returned, but then the process of rank {}".format(child.rank)
            )
            return late._replace(world_size=reported.world_size)
        return reported

    def _ended_silently(self, child: Child, who: str) -> Outcome:
        code = child.code or 0
        fields: Dict[str, Any] = {"exit_code": code, "pid": child.process.pid}
        if child.asked and -code in (signal.SIGTERM, signal.SIGKILL):
            kind = outcome.TERMINATED
            why = "the job was" if self._stopped_by is not None else "another rank failed"
            fields["message"] = "{} was stopped because {}".format(who, why)
        else:
            kind = outcome.FAILURE
            fields.update(self._silent_cause(code, who))
        return outcome.now(kind, child.rank, **fields)._replace(time=child.ended_at or time.time())

    def _silent_cause(self, code: int, who: str) -> Dict[str, Any]:
        if code == 0:
            message = "{} exited with status 0 before the function returned, so there is no result".format(who)
            return {"error_type": outcome.EXITED_EARLY, "message": message}
        return {"error_type": outcome.PROCESS_KILLED, "message": "{} ended with {}".format(who, _how(code))}

    def _after_stop(self, reported: Outcome) -> Outcome:
        """What happens after a stop was asked for is its consequence, not a failure or a success.

        Slurm sends its signal to every process of a job, so a rank's end by it may be seen first.
        """
        if self._stopped_by is None:
            return reported
        by_the_same = (
            reported.exit_code == -self._stopped_by and reported.time > self._stopped_at - _SAME_SIGNAL_SECONDS
        )
        if reported.time < self._stopped_at and not by_the_same:
            return reported
        return reported._replace(kind=outcome.TERMINATED, result=None, result_path=None)


def _how(code: int) -> str:
    return "signal {}".format(process.signal_name(-code)) if code < 0 else "exit status {}".format(code)
