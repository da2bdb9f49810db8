"""How much of a job's log the task log takes, and how fast."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

# Lines a second that one job may bring into the task log for long. A faster log is not cut,
# it comes later: what the trigger has not read by the end, the worker reads.
LINES_PER_SECOND = 300
_BURST = 3000
# How much of one log the task log takes in all.
MAX_BYTES = 64 * 1024 * 1024


@dataclass
class Pace:
    """Holds a job's lines to :data:`LINES_PER_SECOND`, after a burst."""

    left: float = _BURST
    at: float = field(default_factory=time.monotonic)

    async def spend(self, lines: int) -> None:
        """Wait until so many lines may pass."""
        now = time.monotonic()
        self.left = min(_BURST, self.left + (now - self.at) * LINES_PER_SECOND) - lines
        self.at = now
        await asyncio.sleep(-self.left / LINES_PER_SECOND if self.left < 0 else 0)
