"""Sessions that are shared by all who use the same connection in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar


class Session(Protocol):
    """An open client, with everything that is shared through it."""

    async def close(self) -> None:
        """Close it."""


SessionT = TypeVar("SessionT", bound=Session)

# A session that nobody has used for so long is closed.
IDLE_SECONDS = 30.0


class SessionPool:
    """One session for each key, which is a launcher and a connection, closed when nobody has used it for a while."""

    _pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, SessionPool] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str], Any] = {}
        self._users: dict[tuple[str, str], int] = {}
        self._opening: dict[tuple[str, str], asyncio.Lock] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @classmethod
    def current(cls) -> SessionPool:
        """The running event loop's pool."""
        return cls._pools.setdefault(asyncio.get_running_loop(), cls())

    @contextlib.asynccontextmanager
    async def session(self, key: tuple[str, str], make: Callable[[], Awaitable[SessionT]]) -> AsyncIterator[SessionT]:
        """The one session of a key."""
        async with self._opening.setdefault(key, asyncio.Lock()):
            if key not in self._sessions:
                self._sessions[key] = await make()
        self._users[key] = self._users.get(key, 0) + 1
        try:
            yield self._sessions[key]
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                self._close_later(key)

    def _close_later(self, key: tuple[str, str]) -> None:
        # In a context of its own: otherwise its log lines went to whichever task came first.
        task = asyncio.get_running_loop().create_task(self._close_if_idle(key), context=contextvars.Context())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_if_idle(self, key: tuple[str, str]) -> None:
        await asyncio.sleep(IDLE_SECONDS)
        if not self._users.get(key):
            await self._close(key)

    async def _close(self, key: tuple[str, str]) -> None:
        # Taken out first: whoever opens the connection meanwhile gets a new session.
        session = self._sessions.pop(key, None)
        self._users.pop(key, None)
        if session is not None:
            await session.close()

    async def close(self) -> None:
        """Close everything now: before a worker's event loop ends."""
        for task in self._closing:
            task.cancel()
        for key in list(self._sessions):
            await self._close(key)
