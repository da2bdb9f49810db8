"""The kernel kills a rank because memory ran out, in a control group with little of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT = 300 * 2**20
# Version 2, then version 1: where groups are made, the limit, who is in.
ROOTS = ((Path("/sys/fs/cgroup"), "memory.max"), (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"))

SCRIPT = """
import asyncio
from airflow_distrib.systems.local.job import LocalJob
from airflow_distrib.systems.local.plan import LocalPlan
from airflow_distrib.core import packing
from airflow_distrib.runner.outcome import earliest_failure

def devour():
    import os, time
    if os.environ["RANK"] == "1":
        hoard = [bytearray(b"x" * (20 << 20)) for _ in range(60)]
    time.sleep(20)

async def go():
    job = await LocalJob.start(LocalPlan("ranks", 2), packing.pack(devour, [], {}), options={})
    async for _ in job.lines():
        pass
    _, found = await job.outcomes()
    await job.close()
    first = earliest_failure(found)
    print(first.rank, first.error_type, first.message)

asyncio.run(go())
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with a limit; skips where none can be made."""
    for root, limit in ROOTS:
        folder = root / f"airflow-distrib-test-{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir()
        except OSError:
            continue
        # Where this is no control group but a plain folder, the kernel made no file for the limit.
        if not (folder / limit).exists():
            folder.rmdir()
            continue
        (folder / limit).write_text(str(LIMIT))
        with contextlib.suppress(OSError):
            (folder / "memory.swap.max").write_text("0")
        yield folder
        folder.rmdir()
        return
    pytest.skip("no control group with a memory limit can be made here")


def test_the_kernels_oom_killer_is_named(group: Path) -> None:
    """The kernel's own count tells it from any other SIGKILL, so that the advice can be about memory."""

    def join() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, preexec_fn=join, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "1 OutOfMemory rank 1 was killed by the kernel because memory ran out", done.stderr
