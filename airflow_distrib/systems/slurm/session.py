"""Everything that is shared by the jobs of one connection in one event loop."""

from __future__ import annotations

from airflow_distrib.systems.slurm.queue import QueueWatch
from airflow_distrib.systems.slurm.scheduler import Scheduler
from airflow_distrib.systems.slurm.ssh import SshClient
from airflow_distrib.systems.slurm.timing import TIMING, Timing


class SlurmSession:
    """A client, and one watch of the user's queue for each cluster."""

    def __init__(self, client: SshClient, timing: Timing | None = None) -> None:
        self.client = client
        self.scheduler = Scheduler(client)
        self.timing = timing or TIMING
        self._queues: dict[str, QueueWatch] = {}

    def queue(self, cluster: str) -> QueueWatch:
        """The one watch of a user's queue."""
        if cluster not in self._queues:
            self._queues[cluster] = QueueWatch(self.scheduler, cluster, self.timing)
        return self._queues[cluster]

    async def close(self) -> None:
        """Stop watching, then close the client."""
        for queue in self._queues.values():
            await queue.close()
        self._queues.clear()
        await self.client.close()
