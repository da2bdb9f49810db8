"""From what a trigger was told to the job itself: one function for each system."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from airflow_distrib.backends.kubernetes.resource import SYSTEM as KUBERNETES
from airflow_distrib.backends.slurm.jobs import SYSTEM as SLURM
from airflow_distrib.hooks.kubernetes import KubernetesHook
from airflow_distrib.hooks.ssh import SlurmSSHHook
from airflow_distrib.watching.kubernetes.hub import WatchHub
from airflow_distrib.watching.kubernetes.job import JobWait
from airflow_distrib.watching.slurm.job import SlurmHub, SlurmWait
from airflow_distrib.watching.waiting import Job, Waiting

Say = Callable[[str], None]


def opened(waiting: Waiting, say: Say) -> AbstractAsyncContextManager[Job]:
    """The job, through the client that all who wait with its connection share."""
    return _PLACES[waiting.ref.system](waiting, say)


@contextlib.asynccontextmanager
async def _on_kubernetes(waiting: Waiting, say: Say) -> AsyncIterator[Job]:
    hub = WatchHub.current()
    async with hub.client(waiting.connection, KubernetesHook(waiting.connection).asettings) as client:
        yield JobWait(waiting, hub, client, say)


@contextlib.asynccontextmanager
async def _on_slurm(waiting: Waiting, say: Say) -> AsyncIterator[Job]:
    hub = SlurmHub.current()
    async with hub.client(waiting.connection, SlurmSSHHook(waiting.connection).asettings) as client:
        yield SlurmWait(waiting, hub, client, say)


_PLACES: dict[str, Callable[[Waiting, Say], AbstractAsyncContextManager[Job]]] = {
    KUBERNETES: _on_kubernetes,
    SLURM: _on_slurm,
}
