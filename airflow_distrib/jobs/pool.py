"""Clients that are shared by all who wait with the same connection."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """A client."""

    async def close(self) -> None:
        """Close it."""


C = TypeVar("C", bound=Closable)

# A client that nobody has used for so long is closed.
IDLE_SECONDS = 30.0


class ClientPool(Generic[C]):
    """One client for each connection, closed when nobody has used it for a while.

    Args:
        closing: called with the connection before its client is closed.
    """

    def __init__(self, closing: Callable[[str], Awaitable[None]]) -> None:
        self._closing_first = closing
        self._clients: dict[str, C] = {}
        self._users: dict[str, int] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def client(self, connection: str, make: Callable[[], Awaitable[C]]) -> AsyncIterator[C]:
        """The one client of a connection."""
        async with self._opening.setdefault(connection, asyncio.Lock()):
            if connection not in self._clients:
                self._clients[connection] = await make()
        self._users[connection] = self._users.get(connection, 0) + 1
        try:
            yield self._clients[connection]
        finally:
            self._users[connection] -= 1
            if not self._users[connection]:
                self._close_later(connection)

    def _close_later(self, connection: str) -> None:
        # In a context of its own: otherwise its log lines went to whichever task came first.
        task = asyncio.get_running_loop().create_task(self._close_if_idle(connection), context=contextvars.Context())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_if_idle(self, connection: str) -> None:
        await asyncio.sleep(IDLE_SECONDS)
        if not self._users.get(connection):
            await self._close(connection)

    async def _close(self, connection: str) -> None:
        client = self._clients.pop(connection, None)
        self._users.pop(connection, None)
        await self._closing_first(connection)
        if client is not None:
            await client.close()

    async def close(self) -> None:
        """Close everything at once: before a worker's event loop ends."""
        for task in self._closing:
            task.cancel()
        for connection in list(self._clients):
            await self._close(connection)
