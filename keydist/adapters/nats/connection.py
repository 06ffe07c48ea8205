"""A connection to NATS for a process that lives for months: made at a request, and made anew at one after its loss.

A loss is a reason to look again, as a change notice is: it wakes who waits, who then asks, which connects. What is
subscribed to stays so over every loss.
"""

from __future__ import annotations

import asyncio
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keydist.adapters.nats.link import Link
from keydist.errors import KeydistError, UnreachableError

if TYPE_CHECKING:
    from keydist.adapters.config import TlsConfig
    from keydist.adapters.nats.link import Callback
    from keydist.adapters.nats.wire import Heard, Reply

CONNECT_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 5.0
LONGEST_CONNECT: Final = 60.0
"""For who connects all the time anyway, and need not tell anybody soon that it could not."""
_LAST_SECONDS: Final = 1.0
_SPREAD_SECONDS: Final = 0.05
_NOTICE_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where to connect, and as whom. `node` names the connection and its inbox."""

    urls: tuple[str, ...]
    node: str
    creds_file: str | None = None
    nkey_file: str | None = None
    tls: TlsConfig | None = None

    def __str__(self) -> str:
        """Return the addresses, for messages."""
        return ", ".join(self.urls)


class Connection:
    """At most one link at a time; whoever asks while it is made shares what comes of it."""

    def __init__(
        self,
        server: Server,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        request_seconds: float = REQUEST_SECONDS,
        longest_connect: float | None = None,
        until: float | None = None,
    ) -> None:
        """Connect within `connect_seconds`; where those are over, within twice as many, up to `longest_connect`.

        A server that a whole fleet connects to serves all of them at once: who gives up early begins again, behind
        everybody, and so does everybody. Where no server is reached it is the other way round: a new try gets through
        a healed network sooner than an old one. After `until` (monotonic) nobody waits for more than a second.
        """
        self._server = server
        self._connect_seconds = self._patience = connect_seconds
        self._longest_connect = connect_seconds if longest_connect is None else longest_connect
        self._until = until
        self._request_seconds = request_seconds
        self._link: Link | None = None
        self._connecting = asyncio.Lock()
        self._tries = 0
        self._failure: KeydistError | None = None
        self._callbacks: dict[str, Callback] = {}
        self._changed = asyncio.Event()
        self._waiting = 0
        # A fleet does not read all at once, nor does who writes all the time make it read all the time.
        self._spread = zlib.crc32(server.node.encode()) / 2**32 * _SPREAD_SECONDS
        self._next_wake = 0.0

    # --- the link ------------------------------------------------------------------------------

    async def _linked(self) -> Link:
        """Return a link that stands, with its subscriptions. Errors as `dial`."""
        tries = self._tries
        async with self._connecting:
            link = self._link
            if link is None or not link.is_usable:
                if self._failure is not None and self._tries != tries:  # it was tried while this one waited
                    raise self._failure.with_traceback(None)
                link = await self._dial()
            await link.subscribe(self._callbacks)
            return link

    async def _dial(self) -> Link:
        await self.close()
        self._failure = None
        loop = asyncio.get_running_loop()
        begun, seconds = loop.time(), self._patience
        if self._until is not None:
            seconds = min(seconds, max(_LAST_SECONDS, self._until - begun))
        try:
            link = await Link.dialled(self._server, seconds=seconds, on_end=self._changed.set)
        except KeydistError as exc:
            self._failure = exc
            if isinstance(exc, UnreachableError) and exc.is_there and loop.time() >= begun + seconds:  # it is slow
                self._patience = min(2 * self._patience, max(self._patience, self._longest_connect))
            raise
        finally:
            self._tries += 1
        self._link, self._patience = link, self._connect_seconds
        if self._waiting:  # for a notice, while another request made the connection: it may have missed some
            self._changed.set()
        return link

    async def connect(self) -> None:
        """Connect now, where it is not. Errors as `dial`."""
        await self._linked()

    @property
    def is_clustered(self) -> bool:
        """Whether the connected server says that it is one of a cluster."""
        return self._link is not None and self._link.is_clustered

    async def close(self) -> None:
        """Close the connection. Never raises; a later request makes another."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    # --- asking --------------------------------------------------------------------------------

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        seconds: float | None = None,
    ) -> Reply:
        """Return the answer within `seconds` (else this connection's own); nobody listening is status 503.

        It is asked once: for what writes, which may happen though its acknowledgement is lost.

        Raises `UnreachableError`, `StoreTimeoutError`, `ForbiddenError`, `CredentialsRefusedError`.
        """
        seconds = self._request_seconds if seconds is None else seconds
        return await self._asked(subject, payload, headers=headers, seconds=seconds, only_reads=False)

    async def read(self, subject: str, payload: bytes = b"") -> Reply:
        """Return the answer to what only reads: where none comes, it is asked again in the same time. As `request`."""
        return await self._asked(subject, payload, headers=None, seconds=self._request_seconds, only_reads=True)

    async def _asked(
        self, subject: str, payload: bytes, *, headers: dict[str, str] | None, seconds: float, only_reads: bool
    ) -> Reply:
        link = await self._linked()
        try:
            return await link.request(subject, payload, headers=headers, seconds=seconds, only_reads=only_reads)
        except KeydistError:
            self._let_back_off(link)
            raise

    async def ask_all(self, subject: str, *, seconds: float, most: int, most_bytes: int) -> tuple[bytes, ...]:
        """Return what all who listen answer within `seconds`, `most` of them; soon and empty where nobody listens.

        Answers larger than `most_bytes` are empty ones. Errors as `request`: `StoreTimeoutError` where somebody
        listens and nobody answers.
        """
        link = await self._linked()
        try:
            return await link.ask_all(subject, seconds=seconds, most=most, most_bytes=most_bytes)
        except KeydistError:
            self._let_back_off(link)
            raise

    async def may_publish(self, subject: str, payload: bytes = b"", *, headers: dict[str, str] | None) -> bool | None:
        """Tell whether this user may publish, without anything being delivered; see `Link`. Errors as `request`."""
        return await (await self._linked()).may_publish(subject, payload, headers=headers)

    async def may_hear(self, subject: str) -> bool:
        """Tell whether this user may subscribe; see `Link`. Errors as `request`."""
        return await (await self._linked()).may_hear(subject)

    def _let_back_off(self, link: Link) -> None:
        """Leave the loss to who was told of it by a failure: at a server that hangs up, it waits as long as it will."""
        if not link.is_usable:
            self._changed.clear()

    # --- hearing -------------------------------------------------------------------------------

    def subscribe(self, subject: str, callback: Callback) -> None:
        """Have `callback` called with what comes, from the next request on and over every loss of the connection.

        What it returns answers a question. It must not raise. A subscription may be denied: `denied_subscriptions`.
        """
        self._callbacks[subject] = callback

    def denied_subscriptions(self) -> tuple[str, ...]:
        """Return the subjects that the server does not let this user hear, as far as it has said so."""
        return () if self._link is None else self._link.denied_subscriptions()

    async def wait_for_notice(self, subject: str, seconds: float) -> None:
        """Return after `seconds`, or sooner on a message on `subject`, or a loss; five times a second at most.

        Never raises on its own.
        """
        self._callbacks.setdefault(subject, self._on_notice)
        link = self._link  # where there is none, the next request makes it
        if link is not None and link.is_usable and await link.subscribe(self._callbacks):
            return  # what changed before the subscription stood would not be told: read again at once
        loop = asyncio.get_running_loop()
        end = loop.time() + max(0.0, seconds)
        self._waiting += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, seconds)):  # `wait_for` loses cancellations before Python 3.12
                    await self._changed.wait()
                wake = min(end, max(loop.time() + self._spread, self._next_wake))
                self._next_wake = wake + _NOTICE_SECONDS
                await asyncio.wait({loop.create_future()}, timeout=wake - loop.time())
        finally:
            self._waiting -= 1
        self._changed.clear()

    def _on_notice(self, _heard: Heard) -> None:
        self._changed.set()
