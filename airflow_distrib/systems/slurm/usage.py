"""What a job used, from the accounting: pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from airflow_distrib.systems.slurm.status import STATES

# Of sacct; steps have lines of their own, and only they have MaxRSS.
FORMAT = "JobID,State,ElapsedRaw,TotalCPU,CPUTimeRAW,NNodes,MaxRSS,AllocTRES"
_CPU_TIME = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+(?:\.\d+)?)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGTP]?)")
_GPUS = re.compile(r"(?:^|,)gres/gpu=(\d+)")


class Usage(NamedTuple):
    """What all allocations of a job used together.

    Attributes:
        node_hours, cpu_hours, gpu_hours: what was held, used or not.
        cpu_efficiency: which part of the held processor time was used, from 0 to 1; None where
            Slurm gathers nothing.
        max_rss: bytes of memory that the largest task had at once; None likewise.
    """

    node_hours: float
    cpu_hours: float
    gpu_hours: float
    cpu_efficiency: float | None
    max_rss: int | None

    def report(self) -> dict[str, object]:
        """For the task's result."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in self._asdict().items()}

    def sentence(self) -> str:
        """For the task's log."""
        parts = [f"{self.node_hours:.4g} node hours", f"{self.cpu_hours:.4g} CPU hours"]
        if self.cpu_efficiency is not None:
            parts[-1] += f" ({self.cpu_efficiency:.0%} used)"
        if self.gpu_hours:
            parts.append(f"{self.gpu_hours:.4g} GPU hours")
        if self.max_rss is not None:
            parts.append(f"at most {self.max_rss / 2**20:,.0f} MiB of memory in one task")
        return f"Slurm's accounting: {', '.join(parts)}"


def from_sacct(text: str) -> Usage | None:
    """From ``sacct --parsable2 --noconvert --format=`` :data:`FORMAT`; None while it does not know all of the job."""
    nodes = cpus = gpus = used = 0.0
    sizes, found = [], False
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != len(FORMAT.split(",")):
            continue
        job, state, elapsed, cpu_time, cpu_seconds, node_count, size, resources = fields
        if found_size := _SIZE.fullmatch(size):
            sizes.append(_bytes(*found_size.groups()))
        if "." in job:
            continue
        ended = STATES.get(state.split(" ")[0])
        if ended is None or not ended.finished or not (elapsed.isdecimal() and cpu_seconds.isdecimal()):
            return None
        found = True
        nodes += int(elapsed) * int(node_count or 1)
        cpus += int(cpu_seconds)
        used += _seconds(cpu_time)
        if count := _GPUS.search(resources):
            gpus += int(elapsed) * int(count[1])
    if not found:
        return None
    efficiency = used / cpus if cpus and used else None
    return Usage(nodes / 3600, cpus / 3600, gpus / 3600, efficiency, max(sizes) if sizes else None)


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * 1024 ** " KMGTP".index(unit or " "))


def _seconds(text: str) -> float:
    """Of ``[days-][hours:]minutes:seconds``."""
    match = _CPU_TIME.fullmatch(text)
    if not match:
        return 0.0
    days, hours, minutes, seconds = (float(each or 0) for each in match.groups())
    return days * 86400 + hours * 3600 + minutes * 60 + seconds
