"""Follows the logs of pods: across reconnects no line is lost or shown twice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from airflow_distrib.core.errors import ClusterError
from airflow_distrib.jobs.launcher import Emit
from airflow_distrib.jobs.pace import MAX_BYTES, Pace
from airflow_distrib.jobs.waiting import Waiting
from airflow_distrib.runner.lines import RELAYED_LINE_BYTES, LineSplitter, shown
from airflow_distrib.runner.report import FRAME_MARK
from airflow_distrib.systems.kubernetes.client import ApiError, KubernetesClient
from airflow_distrib.systems.kubernetes.kind import Kind, Object
from airflow_distrib.systems.kubernetes.reports import ending
from airflow_distrib.systems.kubernetes.session import KubernetesSession
from airflow_distrib.systems.kubernetes.timing import TIMING, Timing

log = logging.getLogger(__name__)


@dataclass
class Position:
    """How far a log has been read: the last line's time, and how many lines with that time were seen."""

    time: str = ""
    same: int = 0
    bytes: int = 0

    def to_json(self) -> list[str | int]:
        """As plain JSON values."""
        return [self.time, self.same, self.bytes]

    @classmethod
    def from_json(cls, values: object) -> Position:
        """The reverse of :meth:`to_json`."""
        return cls(str(values[0]), int(values[1]), int(values[2])) if isinstance(values, list) and values else cls()


class PodLog:
    """Reads one pod's log from a position on."""

    def __init__(
        self,
        client: KubernetesClient,
        path: str,
        container: str,
        emit: Emit,
        position: Position,
        pace: Pace | None,
        timing: Timing = TIMING,
    ) -> None:
        self.position = position
        self._client = client
        self._path = path
        self._container = container
        self._emit = emit
        self._pace, self._timing = pace, timing
        self._seen = 0
        self._passing = False
        self._catching_up = False

    async def read(self, *, follow: bool) -> bool:
        """Read to the current end, or follow until the container ends; False if there is no log yet."""
        query = {"container": self._container, "timestamps": "true"}
        if follow:
            query["follow"] = "true"
        if self.position.time:
            # The API accepts whole seconds only, so some lines arrive again and are skipped.
            query["sinceTime"] = self.position.time[:19] + "Z"
        self._seen, self._catching_up = 0, bool(self.position.time)
        splitter = LineSplitter(keep_returns=True, limit=RELAYED_LINE_BYTES)
        try:
            async with self._client.stream(self._path, query, quiet_for=self._timing.log_quiet) as pieces:
                async for piece in pieces:
                    await self._show(splitter.feed(piece))
                await self._show(splitter.flush())
        except ApiError as error:
            if error.status in (400, 404):
                return False
            raise
        return True

    async def _show(self, lines: list[str]) -> None:
        for begin in range(0, len(lines), 64):
            fresh = [text for line in lines[begin : begin + 64] if (text := self._fresh(line)) is not None]
            for text in fresh:
                self._emit(text)
            if fresh and self._pace is not None:
                await self._pace.spend(len(fresh))
            await asyncio.sleep(0)

    def _fresh(self, line: str) -> str | None:
        """The text of a line that is to be shown; None if it was shown before, or never should be."""
        stamp, _, text = line.partition(" ")
        text = shown(text)
        key = _sortable(stamp)
        at = self.position
        if key is None:
            # The rest of a line that kubelet has split: shown if its beginning was.
            return shown(line) if self._passing else None
        self._passing = False
        if self._catching_up and key <= at.time:
            self._seen += key == at.time
            if key < at.time or self._seen <= at.same:
                return None
        self._catching_up = False
        # Lines of stdout and stderr may be slightly out of order.
        at.same = at.same + 1 if key == at.time else at.same if key < at.time else 1
        at.time = max(at.time, key)
        if text.startswith(FRAME_MARK):
            return None
        at.bytes += len(text) + 1
        if at.bytes > MAX_BYTES:
            first = at.bytes - len(text) - 1 <= MAX_BYTES
            return f"[the rest of this log is not shown: more than {MAX_BYTES // 2**20} MiB]" if first else None
        self._passing = True
        return text


def _sortable(stamp: str) -> str | None:
    """A timestamp as text that sorts: kubelet omits trailing zeros, and may use a local time zone."""
    if len(stamp) < 20 or stamp[10] != "T":
        return None
    if not stamp.endswith("Z"):
        try:
            local = datetime.fromisoformat(stamp[:19] + stamp[-6:])
        except ValueError:
            return None
        stamp = local.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S") + stamp[19:-6] + "Z"
    return f"{stamp[:19]}.{stamp[20:-1]:0<9}"


class JobLogs:
    """Follows the logs of those pods of a job that were asked for."""

    def __init__(
        self,
        session: KubernetesSession,
        kind: Kind,
        waiting: Waiting,
        emit: Emit,
        positions: Mapping[str, object] | None = None,
    ) -> None:
        self._session, self._kind, self._ref, self._emit = session, kind, waiting.ref, emit
        self._roles, self._named = waiting.log_parts, waiting.named
        self._pace = Pace()
        self._positions = {uid: Position.from_json(each) for uid, each in (positions or {}).items()}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended: set[str] = set()

    def positions(self) -> dict[str, object]:
        """How far every pod's log has been read, by the pod's uid."""
        return {uid: position.to_json() for uid, position in self._positions.items()}

    def see(self, pods: Iterable[Object]) -> None:
        """Start to follow pods that have started, and remember which have ended."""
        for pod in pods:
            uid = pod["metadata"]["uid"]
            phase = (pod.get("status") or {}).get("phase")
            if pod.get("deleted") or phase in ("Succeeded", "Failed") or ending(self._kind, pod) is not None:
                self._ended.add(uid)
            started = phase not in (None, "Pending")
            if started and uid not in self._tasks and not pod.get("deleted") and self._wanted(pod):
                self._tasks[uid] = asyncio.create_task(self._follow(pod, uid))

    def _wanted(self, pod: Object) -> bool:
        role = self._kind.role(self._ref.name, pod)
        return self._roles is None or any(role == each or role.startswith(f"{each}-") for each in self._roles)

    def _pod_log(self, pod: Object, pace: Pace | None) -> PodLog:
        path = f"/api/v1/namespaces/{self._ref.address['namespace']}/pods/{pod['metadata']['name']}/log"
        role = self._kind.role(self._ref.name, pod)
        emit = (lambda text: self._emit(f"[{role}] {text}")) if self._named else self._emit
        position = self._positions.setdefault(pod["metadata"]["uid"], Position())
        session = self._session
        return PodLog(session.client, path, self._kind.container, emit, position, pace, session.timing)

    async def _follow(self, pod: Object, uid: str) -> None:
        reader = self._pod_log(pod, self._pace)
        pause = 0.5
        while True:
            ended = uid in self._ended
            try:
                if self._session.log_streams.locked():
                    await reader.read(follow=False)
                    pause = self._session.timing.log_poll
                else:
                    async with self._session.log_streams:
                        await reader.read(follow=True)
                    pause = 0.5
            except ClusterError as error:
                log.debug("log of %s: %s", pod["metadata"]["name"], error)
                pause = min(pause * 2, self._session.timing.log_poll)
            if ended:
                return
            await asyncio.sleep(pause)

    async def finish(self, seconds: float) -> None:
        """Let the logs of ended pods be read to their end, for at most ``seconds``; then stop."""
        ended = [task for uid, task in self._tasks.items() if uid in self._ended]
        try:
            if ended:
                await asyncio.wait(ended, timeout=seconds)
        finally:
            await self.close()

    async def rest(self, pods: Iterable[Object]) -> None:
        """Read from the positions to the end, at full speed; used on a worker."""
        for pod in pods:
            if self._wanted(pod):
                with contextlib.suppress(ClusterError):
                    await self._pod_log(pod, None).read(follow=False)

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
