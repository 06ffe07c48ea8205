"""What nats-py is told and says, made safe: bounded parsing, answers, reasons, waits that leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import nats.errors
from nats.protocol.parser import Parser

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from nats.aio.client import Client
    from nats.aio.msg import Msg

T = TypeVar("T")
_CLOSE_SECONDS: Final = 1.0
_MOST_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer: its status (200 where it has none), headers and payload."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class BoundedParser(Parser):
    """A parser that hangs up on a server that announces more than any answer holds, before it comes."""

    async def parse(self, data: bytes = b"") -> None:
        """Parse what came. Raises `nats.errors.ProtocolError` where more is announced."""
        await super().parse(data)
        if max(self.needed, len(self.buf)) > _MOST_BYTES:
            raise nats.errors.ProtocolError


async def first_of(work: Coroutine[Any, Any, T], stop: Coroutine[Any, Any, object], *, seconds: float) -> T | None:
    """Return what `work` returns, or None where `stop` or the time came first. Neither outlives the call."""
    working = asyncio.ensure_future(work)  # noqa: TID251 - both end below
    stopping = asyncio.ensure_future(stop)  # noqa: TID251
    try:
        await asyncio.wait({working, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def close_client(client: Client) -> None:
    """Close a client in whatever state it is. Never raises."""
    with suppress(Exception):
        await asyncio.wait_for(client.close(), _CLOSE_SECONDS)


def reply_of(message: Msg) -> Reply:
    """Return a message as an answer."""
    headers = message.headers or {}
    text = headers.get("Status", "")  # anything at all: a stored message carries what its writer gave it
    is_status = len(text) == 3 and text.isascii() and text.isdigit()  # noqa: PLR2004 - three digits
    return Reply(status=int(text) if is_status else 200, headers=headers, data=message.data)


def reason_of(exc: Exception) -> str:
    """Return why something failed, in printable words."""
    if isinstance(exc, ssl.SSLError):  # an OSError with a number of its own
        return f"TLS: {getattr(exc, 'verify_message', '') or exc.reason or 'no handshake'}".lower()
    if isinstance(exc, OSError) and exc.errno and exc.errno > 0:
        return os.strerror(exc.errno).lower()
    text = "".join(char if char.isprintable() else "?" for char in str(exc).removeprefix("nats: ").strip()[:200])
    return text or type(exc).__name__
