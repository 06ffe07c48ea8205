"""A user of the cluster as a plain client of nats-py, which keeps what it is told is forbidden."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from nats.aio.client import Client

from keydist.adapters.nats.connection import Server
from keydist.adapters.nats.wire import close_client


class User(Client):
    """A client of nats-py that keeps what the server told it is forbidden."""

    def __init__(self) -> None:
        super().__init__()
        self.denied: list[str] = []
        self._told = asyncio.Event()

    async def note(self, exc: Exception) -> None:
        """Keep a denial (nats-py gives it in lower case); all else is about connections that come and go."""
        if "permissions violation" in str(exc).lower():
            self.denied.append(str(exc))
            self._told.set()

    async def denial(self, act: Awaitable[object], of: str = "it", *, seconds: float = 5.0) -> str:
        """Return what the server says against a publication or a subscription `of` a subject; fail if nothing.

        An answer to a flush does not tell that nothing was denied: the denial may come after it.
        """
        self._told.clear()
        await act
        try:
            async with asyncio.timeout(seconds):
                await self._told.wait()
        except TimeoutError:
            raise AssertionError(f"{of} is not denied") from None
        return self.denied[-1]


@asynccontextmanager
async def connect(server: Server, **options: Any) -> AsyncIterator[User]:  # noqa: ANN401 - those of nats-py
    """Connect as and where keydist would, and close at the end."""
    user = User()
    defaults = {
        "name": server.node,
        "nkeys_seed": server.nkey_file,
        "inbox_prefix": f"_INBOX_{server.node}",
        "error_cb": user.note,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.1,
        "pending_size": 0,
    }
    await user.connect(list(server.urls), **(defaults | options))
    try:
        yield user
    finally:
        await close_client(user)  # nats-py leaves a TLS transport behind
