"""nats-py as it reads, without a server: what comes are the bytes of an input, and nothing is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlparse

import nats.errors
from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from keydist.adapters.nats.denials import Denials
from keydist.adapters.nats.wire import BoundedParser, reply_of
from keydist.errors import ForbiddenError, StoreTimeoutError
from tests.fakes.virtual_loop import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from keydist.adapters.nats.wire import Heard, Reply

LOOP: Final = VirtualLoop()
APART: Final = b"\xff"
"""Stands between answers: no text has it."""
DENIED: Final = 403
"""An answer with this status stands for a request that is denied."""
NODE: Final = "n1"
_MOST_REPLIES: Final = 8


class ReadingClient(Client):
    """A client that is connected to nobody, and heard a subscription."""

    def __init__(self) -> None:
        super().__init__()
        self.denials = Denials(NODE)
        self.options: dict[str, Any] = {"dont_randomize": True, "allow_reconnect": False}
        self.parser = BoundedParser(self)
        self._status = Client.CONNECTED
        self._current_server = Srv(urlparse("nats://127.0.0.1:4222"))
        self._error_cb = self._told
        self.heard = Subscription(self, 1, "keydist.changed")
        self._subs[1] = self.heard

    async def _told(self, exc: Exception) -> None:
        self.denials.note(exc)

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: FBT001, FBT002 - nats-py's
        """Close nothing."""

    async def _process_op_err(self, e: Exception) -> None:
        """End nothing."""

    async def _send_command(self, cmd: bytes, priority: bool = False) -> None:  # noqa: FBT001, FBT002 - nats-py's
        """Send nothing."""

    async def _flush_pending(self, force_flush: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - nats-py's
        """Send nothing."""

    def messages(self) -> list[Msg]:
        """Return what came, in order."""
        queue = self.heard._pending_queue
        return [queue.get_nowait() for _ in range(queue.qsize())]


def run(work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever it returns
    """Run a coroutine to its end, on the one loop, whose time begins anew: late in time it could not tell seconds."""
    LOOP._jumping.passed = 0.0
    return LOOP.run_until_complete(work)


def replies(raw: bytes) -> list[Reply]:
    """Return the answers of an input, their headers read as nats-py does. Raises what nats-py does."""
    client, found = ReadingClient(), []
    for part in raw.split(APART)[:_MOST_REPLIES]:
        head, blank, data = part.partition(b"\r\n\r\n")
        try:
            headers = run(client._process_headers(head + blank if blank else b""))
        except (ValueError, IndexError):  # ends the connection: see `BoundedParser`
            continue
        found.append(reply_of(Msg(_client=client, data=data if blank else head, headers=headers)))
    return found


class Answering:
    """Stands for a connection: each request has the next answer, and behind the last one none comes."""

    is_clustered = True

    def __init__(self, given: list[Reply]) -> None:
        self._left = list(given)
        self.given = given
        self.callbacks: dict[str, Callable[[Heard], bytes | None]] = {}

    async def request(self, subject: str, _payload: bytes = b"", **_kept: object) -> Reply:
        """Return the next answer."""
        if not self._left:
            raise StoreTimeoutError("no answer")
        reply = self._left.pop(0)
        if reply.status == DENIED:
            raise ForbiddenError(f"{subject} is denied")
        return reply

    async def read(self, subject: str, payload: bytes = b"") -> Reply:
        """Return the next answer."""
        return await self.request(subject, payload)

    async def ask_all(self, _subject: str, **_bounds: object) -> tuple[bytes, ...]:
        """Return what all the answers say."""
        return tuple(reply.data for reply in self.given)

    def subscribe(self, subject: str, callback: Callable[[Heard], bytes | None]) -> None:
        """Keep who hears of a subject."""
        self.callbacks[subject] = callback


ENDS: Final = (nats.errors.Error, OSError)
"""What may come of a parser: it ends the connection."""
