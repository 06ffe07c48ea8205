"""Taking connections at a listening socket: each has its place in the crowd before it is made, and may lose it.

asyncio's own server would shake hands with as many as come at once, and with strangers that say nothing that is every
descriptor of the process; and what it has taken when it is closed, it neither serves nor lets go.
"""

from __future__ import annotations

import asyncio
import math
import socket
from typing import TYPE_CHECKING, Final

from keydist.adapters.http.guard import peer_of

if TYPE_CHECKING:
    import ssl

    from keydist.adapters.http.guard import Crowd, GuardedProtocol

HANDSHAKE_SECONDS: Final = 5.0
AT_ONCE: Final = 32
"""So many are taken in one turn of the event loop: a request that came with a connection is read before so many more
connections came that this one, which waits for no answer yet, would have to go."""
_AGAIN_SECONDS: Final = 1.0


class Acceptor:
    """Takes what connects to a socket, with TLS or without; `close` it."""

    def __init__(self, bound: socket.socket, crowd: Crowd, tls: ssl.SSLContext | None) -> None:
        self._bound = bound
        self._crowd = crowd
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        bound.setblocking(False)  # noqa: FBT003 - socket's own
        self._loop.add_reader(bound, self._take)

    def close(self) -> None:
        """Take no more. What is being made ends with the crowd."""
        if self._bound.fileno() >= 0:
            self._loop.remove_reader(self._bound)
            self._bound.close()

    def _take(self) -> None:
        for _ in range(AT_ONCE):
            try:
                taken, address = self._bound.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptor is left
                self._loop.remove_reader(self._bound)
                self._loop.call_later(_AGAIN_SECONDS, self._take_again)
                return
            taken.setblocking(False)  # noqa: FBT003 - socket's own
            arriving = Arriving(self._crowd, taken, _owner(taken, address))
            if self._crowd.enter(arriving):
                arriving.begin(self._tls)
            else:
                taken.close()

    def _take_again(self) -> None:
        if self._bound.fileno() >= 0:
            self._loop.add_reader(self._bound, self._take)


def _owner(taken: socket.socket, address: object) -> object:
    """Return whose share of the connections one is of: a user, or an address."""
    if taken.family == socket.AF_UNIX:
        try:
            return peer_of(taken).uid
        except OSError:  # pragma: no cover - Linux knows who connected
            return None
    return address[0] if isinstance(address, tuple) else None


class Arriving:
    """A connection that is not yet made: it waits for its client, as one that has asked for nothing."""

    is_answered = False

    def __init__(self, crowd: Crowd, taken: socket.socket, owner: object) -> None:
        self.owner = owner
        self.due = math.inf  # asyncio has the deadline of a handshake
        self._crowd = crowd
        self._taken = taken
        self._is_taken_over = False
        self._task: asyncio.Task[object] | None = None

    def begin(self, tls: ssl.SSLContext | None) -> None:
        """Make the connection, which takes this one's place; what fails is the client's matter."""
        loop = asyncio.get_running_loop()
        seconds = None if tls is None else HANDSHAKE_SECONDS
        making = loop.connect_accepted_socket(self._made, self._taken, ssl=tls, ssl_handshake_timeout=seconds)
        self._task = asyncio.ensure_future(making)  # noqa: TID251 - it ends within its time, and nobody waits for it
        self._task.add_done_callback(self._done)

    def drop(self) -> None:
        """End it at once."""
        self._crowd.leave(self)
        if self._task is not None:
            self._task.cancel()

    def _made(self) -> GuardedProtocol:
        self._is_taken_over = True
        made = self._crowd.protocol()
        made.before = self
        return made

    def _done(self, task: asyncio.Task[object]) -> None:
        self._crowd.leave(self)
        is_over = task.cancelled() or task.exception() is not None
        if is_over and not self._is_taken_over:  # a transport closes its socket itself, once nobody waits for it
            self._taken.close()
