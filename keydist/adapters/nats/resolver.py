"""Names resolved in daemon threads: asyncio waits at its end for a lookup that hangs, for all of its 25 seconds."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any


def resolve_apart(loop: asyncio.AbstractEventLoop) -> None:
    """Make an event loop resolve names in threads that nobody waits for at the end, nor at the end of the process."""

    async def getaddrinfo(host: Any, port: Any, **hints: Any) -> Any:  # noqa: ANN401 - as the loop's own
        found: asyncio.Future[Any] = loop.create_future()

        def settle(answer: Any) -> None:  # noqa: ANN401
            if found.done():
                return  # nobody waits any more
            if isinstance(answer, Exception):
                found.set_exception(answer)
            else:
                found.set_result(answer)

        def look_up() -> None:
            answer: Any
            try:
                answer = socket.getaddrinfo(host, port, **hints)
            except Exception as exc:  # noqa: BLE001 - told where it is waited for
                answer = exc
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, answer)

        threading.Thread(target=look_up, name="resolver", daemon=True).start()
        return await found

    loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]
