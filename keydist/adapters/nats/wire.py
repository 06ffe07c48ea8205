"""What nats-py is told and says, made safe: bounded parsing, answers, reasons, waits that leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import nats.errors
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from nats.aio.client import Client
    from nats.aio.msg import Msg

T = TypeVar("T")
_CLOSE_SECONDS: Final = 1.0
_CANCEL_SECONDS: Final = 0.1
_MOST_BYTES: Final = 2 * 1024 * 1024
_MOST_LINE: Final = 128 * 1024
# What answers a question goes to an inbox, or through an account's import; on to nothing that stores.
_INBOXES: Final = ("_INBOX", "_R_.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer: its status (200 where it has none), headers and payload."""

    status: int
    headers: Mapping[str, str]
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A message to a standing subscription. A question's reply subject is an inbox, and nothing else."""

    subject: str
    headers: Mapping[str, str]
    data: bytes
    is_question: bool


class BoundedParser(Parser):
    """A parser that hangs up on what it does not understand, and on more than any answer holds, before it comes."""

    async def parse(self, data: bytes = b"") -> None:
        """Parse what came. Raises `nats.errors.ProtocolError`; anything else would end the client half-way."""
        try:
            await super().parse(data)
        except (nats.errors.Error, OSError):
            raise
        except Exception as exc:
            raise nats.errors.ProtocolError from exc
        is_line = self.state == AWAITING_CONTROL_LINE
        if (len(self.buf) > _MOST_LINE) if is_line else (self.needed > _MOST_BYTES):
            raise nats.errors.ProtocolError


async def _first_done(futures: Iterable[asyncio.Future[Any]], *, seconds: float) -> set[asyncio.Future[Any]]:
    """Return which were done first, none where the time is over.

    In two halves: where this process stood still for longer, what came meanwhile is read before the second is over.
    """
    waited_for, done = set(futures), set[asyncio.Future[Any]]()
    for _ in range(2):
        done, _ = await asyncio.wait(waited_for, timeout=seconds / 2, return_when=asyncio.FIRST_COMPLETED)
        if done:
            break
    return done


async def first_of(work: Coroutine[Any, Any, T], stop: Coroutine[Any, Any, object], *, seconds: float) -> T | None:
    """Return what `work` returns, or None where `stop` or the time came first. Neither outlives the call."""
    working = asyncio.ensure_future(work)  # noqa: TID251 - both end below
    stopping = asyncio.ensure_future(stop)  # noqa: TID251
    try:
        await _first_done({working, stopping}, seconds=seconds)
        return working.result() if working.done() else None
    finally:
        pending: set[asyncio.Future[Any]] = {working, stopping}
        while pending:  # nats-py loses a cancellation now and then while it connects: it is told again
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=_CANCEL_SECONDS)
        await asyncio.gather(working, stopping, return_exceptions=True)


async def first_answer(ask: Callable[[], Coroutine[Any, Any, T]], *, every: float) -> T:
    """Ask, and again so many seconds later where there is no answer yet; return the first one. Raises what `ask` does.

    Of a question that was lost on its way nothing is told, and an answer that comes late is one.
    """
    asked: set[asyncio.Future[T]] = set()
    try:
        while True:
            asked.add(asyncio.ensure_future(ask()))  # noqa: TID251 - all end below
            if done := await _first_done(asked, seconds=every):
                found: T = done.pop().result()
                return found
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


def tasks_of(client: Client) -> list[asyncio.Task[Any]]:
    """Return the tasks without which a client is deaf: it reads, and it asks whether somebody is there."""
    tasks = (client._reading_task, client._ping_interval_task)  # noqa: SLF001 - nowhere else
    return [task for task in tasks if task is not None]


def is_lost(client: Client) -> bool:
    """Tell whether a client that was connected is no longer, whatever it says itself."""
    return client.is_closed or any(task.done() for task in tasks_of(client))


async def answers_ping(client: Client, *, seconds: float) -> bool:
    """Tell whether the server answers a PING in time; a client that is closed meanwhile is not answered."""
    pong = asyncio.get_running_loop().create_future()
    await client._send_ping(pong)  # noqa: SLF001 - nowhere else; `flush` raises where this process stood still
    return bool(await _first_done({pong}, seconds=seconds))


async def give_up(client: Client) -> None:
    """Make a client a lost one, as its own pings do where nobody answers them. Never raises."""
    _abort(client)  # first: it would wait for what can no longer be sent
    with suppress(Exception):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await client._process_op_err(nats.errors.StaleConnectionError())  # noqa: SLF001 - nowhere else


async def close_client(client: Client) -> None:
    """Close a client in whatever state it is, and leave nothing of it behind. Never raises.

    nats-py stops half-way where the server is gone: it waits for what can no longer be sent, or raises on the way.
    """
    if is_lost(client):
        _abort(client)
    with suppress(Exception):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await client.close()
    _abort(client)
    deliveries = [sub._wait_for_msgs_task for sub in client._subs.values()]  # noqa: SLF001 - nowhere else
    left = [task for task in (*tasks_of(client), client._flusher_task, *deliveries) if task and not task.done()]  # noqa: SLF001
    client._subs.clear()  # noqa: SLF001
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=_CLOSE_SECONDS)


async def settle(client: Client, *, seconds: int) -> None:
    """Return once the server has taken what was sent, and has said what it denies of it. Raises nats-py's errors.

    Twice: nats-py writes the PING of `flush` ahead of commands that it has yet to write. When the first PONG comes
    they are written, and the second is behind them.
    """
    await client.flush(timeout=seconds)
    await client.flush(timeout=seconds)


def _abort(client: Client) -> None:
    client._pending.clear()  # noqa: SLF001 - nowhere else; what was not sent is not sent any more
    client._pending_data_size = 0  # noqa: SLF001
    for name in ("_io_writer", "_bare_io_writer"):
        writer: asyncio.StreamWriter | None = getattr(client._transport, name, None)  # noqa: SLF001
        if writer is not None:
            with suppress(AttributeError):  # of TLS that was closed twice, as of Python 3.11.2
                writer.transport.abort()


def reply_of(message: Msg) -> Reply:
    """Return a message as an answer."""
    headers = message.headers or {}
    text = headers.get("Status", "")  # anything at all: a stored message carries what its writer gave it
    is_status = len(text) == 3 and text.isascii() and text.isdigit()  # noqa: PLR2004 - three digits
    return Reply(status=int(text) if is_status else 200, headers=headers, data=message.data)


def heard_of(message: Msg) -> Heard:
    """Return a message to a standing subscription."""
    return Heard(
        subject=message.subject,
        headers=message.headers or {},
        data=message.data,
        is_question=message.reply.startswith(_INBOXES),
    )


def reason_of(exc: Exception) -> str:
    """Return why something failed, in printable words."""
    if isinstance(exc, ssl.SSLError):  # an OSError with a number of its own
        return f"TLS: {getattr(exc, 'verify_message', '') or exc.reason or 'no handshake'}".lower()
    if isinstance(exc, OSError) and exc.errno and exc.errno > 0:
        return os.strerror(exc.errno).lower()
    if isinstance(exc, TimeoutError) and not exc.args:
        return "no answer in time"
    text = "".join(char if char.isprintable() else "?" for char in str(exc).removeprefix("nats: ").strip()[:200])
    return text or type(exc).__name__
