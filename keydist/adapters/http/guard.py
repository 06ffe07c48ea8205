"""What a server library does not guard against: clients that are slow, idle, many or not of this protocol.

The protocol is uvicorn's, on h11. This adds one deadline for each request, from its first byte (or the connection's
begin) until its answer was written; a limit for idle connections; a share of the connections for everybody; and who
the peer is. The limits are in `Limits`, and in docs/serving.md.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, MutableMapping

    from keydist.ports import Clock

    Scope = MutableMapping[str, Any]
    App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

_SILENT: Final = logging.CRITICAL + 1
"""What uvicorn would tell is what clients do; what the application does is told by it."""
_GRACE_SECONDS: Final = 1.0
_CREDENTIALS: Final = struct.Struct("=iII")
_NO_LINGER: Final = struct.pack("ii", 1, 0)
_PEER_GROUPS: Final = 59
"""SO_PEERGROUPS of Linux 4.13, for which Python has no name."""
_MOST_GROUPS: Final = 256
"""What `getsockopt` of Python takes; of a process with more groups, only the first one is known."""


class Limits(NamedTuple):
    """What one listener takes; seconds, bytes and connections."""

    request_seconds: float = 10.0
    idle_seconds: float = 30.0
    head: int = 16_384
    connections: int = 128
    sweep_seconds: float = 1.0
    """How often it is looked whose time is over."""


class Peer(NamedTuple):
    """Who is at the other end of a Unix socket, as the kernel knows it."""

    pid: int
    uid: int
    gids: frozenset[int]


def peer_of(connection: socket.socket) -> Peer:
    """Return who connected. Raises `OSError`."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    try:
        more = connection.getsockopt(socket.SOL_SOCKET, _PEER_GROUPS, 4 * _MOST_GROUPS)
    except OSError:  # more than fit: what cannot be told is not granted
        more = b""
    return Peer(pid, uid, frozenset({gid, *struct.unpack(f"={len(more) // 4}I", more)}))


class Member(Protocol):
    """A connection, as far as it takes a place: whose it is, whether it waits for this side alone, when it is over."""

    owner: object
    due: float

    @property
    def is_answered(self) -> bool:
        """Whether a request of it was read whole and waits for this side alone."""
        ...

    def drop(self) -> None:
        """End it at once."""
        ...


class Crowd:
    """The connections of one listener, and whose turn it is to go."""

    def __init__(self, app: App, clock: Clock, limits: Limits) -> None:
        self.clock = clock
        self.limits = limits
        self.state = ServerState()
        self.config = Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level=_SILENT,
            access_log=False,
            date_header=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(limits.idle_seconds),
            h11_max_incomplete_event_size=limits.head,
        )
        self.config.load()
        self._open: dict[Member, None] = {}
        self._is_closed = False

    def protocol(self) -> GuardedProtocol:
        """Return what talks to one more connection."""
        return GuardedProtocol(self)

    def enter(self, new: Member, *, instead_of: Member | None = None) -> bool:
        """Take a connection in, in place of another where there are too many; False where it must go itself.

        The other one is the oldest of whoever has most, and one that waits for no answer, so that idle connections
        keep nobody out, and one peer no other. Once it is closed nobody is taken in: asyncio takes a connection some
        turns before it is made, and what came to the agent of before a reload is not answered by its rules. Nor is who
        comes `instead_of` one that had to go.
        """
        if self._is_closed or (instead_of is not None and instead_of not in self._open):
            return False
        if instead_of is not None:
            self.leave(instead_of)
        self._open[new] = None
        if len(self._open) <= self.limits.connections:
            return True
        greedy, share = Counter(other.owner for other in self._open).most_common(1)[0]
        theirs = [other for other in self._open if other.owner == greedy and other is not new]
        leaving = next((other for other in theirs if not other.is_answered), None)
        if leaving is None and greedy != new.owner and share > 1:
            leaving = theirs[0]
        if leaving is None:
            self.leave(new)
            return False
        leaving.drop()
        return True

    def leave(self, gone: Member) -> None:
        """Forget a connection."""
        self._open.pop(gone, None)

    def sweep(self) -> None:
        """Drop every connection whose time is over."""
        now = self.clock.monotonic()
        for other in [other for other in self._open if other.due < now]:
            other.drop()

    def close(self) -> None:
        """Drop all connections, those too that are still being made."""
        self._is_closed = True
        for other in list(self._open):
            other.drop()


class GuardedProtocol(H11Protocol):
    """One connection."""

    def __init__(self, crowd: Crowd) -> None:
        super().__init__(crowd.config, crowd.state, {})
        self._crowd = crowd
        self._is_idle = False
        self._is_half_closed = False
        self.before: Member | None = None
        """What held its place until it was made: a handshake."""
        self.owner: object = None
        """Whose share of the connections this one is of: a user, or an address."""
        self.due = 0.0
        """When it is dropped (monotonic seconds)."""

    @property
    def is_answered(self) -> bool:
        """Whether a request of it was read whole and waits for this side alone."""
        return self._is_asked and not self.cycle.more_body and not self.flow.write_paused

    @property
    def _is_asked(self) -> bool:
        # uvicorn's types say that it is never None, and it begins as None
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; see `asyncio.Protocol`."""
        super().connection_made(transport)
        self._begin()
        connection = transport.get_extra_info("socket")
        if connection.family == socket.AF_UNIX:
            try:
                peer = peer_of(connection)
            except OSError:  # pragma: no cover - Linux knows who connected
                transport.abort()
                return
            self.owner = peer.uid
            self.app_state = {"peer": peer}
        else:
            self.owner = self.client[0] if self.client else None
        if not self._crowd.enter(self, instead_of=self.before):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; see `asyncio.Protocol`."""
        self._crowd.leave(self)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Read; see `asyncio.Protocol`."""
        if self._is_idle:
            self._begin()
        super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the way back open for an answer that is due: a client may close its own side behind its request."""
        has_tls = self.transport.get_extra_info("sslcontext") is not None  # which has no such state
        self._is_half_closed = self._is_asked and not self.cycle.more_body and not has_tls
        return self._is_half_closed

    def handle_events(self) -> None:
        """Act on what was read; where that is no HTTP in a state that uvicorn did not think of, end."""
        try:
            super().handle_events()
        except h11.ProtocolError:
            self.drop()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP; behind a request that is still being answered, only end."""
        if self._is_asked:
            self.drop()
        else:
            super().send_400_response(msg)

    def on_response_complete(self) -> None:
        """Wait for the next request; what is not written yet keeps its deadline where nothing may follow."""
        super().on_response_complete()
        if self._is_asked:  # the next request was there already
            self._begin()
        elif self._is_half_closed:
            self.transport.close()
        elif not self.transport.is_closing():
            self._is_idle = True
            # uvicorn closes it before that, in order; this is for a client that does not even read its answer.
            self.due = self._crowd.clock.monotonic() + self._crowd.limits.idle_seconds + _GRACE_SECONDS

    def drop(self) -> None:
        """End the connection at once. What is still to be written is lost: the kernel keeps nothing for the deaf."""
        self._crowd.leave(self)
        self._unset_keepalive_if_required()
        if self._is_asked:
            self.cycle.disconnected = True  # whoever answers may go on, to nobody
            self.cycle.message_event.set()
        connection = self.transport.get_extra_info("socket")
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def _begin(self) -> None:
        self._is_idle = False
        self.due = self._crowd.clock.monotonic() + self._crowd.limits.request_seconds
