"""Whether every NATS server refuses connections, found out with bare sockets.

A node that restarts while NATS is down starts from disk: it need not load a NATS client (100 ms) to learn that.
Only numeric addresses are asked; anything slow, doubtful or to be resolved is left to the client.
"""

from __future__ import annotations

import errno
import select
import socket
from contextlib import ExitStack
from typing import Final

from keydist.errors import UnreachableError

_PATIENCE_SECONDS: Final = 0.25
_DEFAULT_PORT: Final = 4222
_REFUSED: Final = frozenset({errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH})


def refused_by_all(urls: tuple[str, ...]) -> UnreachableError | None:
    """Return the error where every address refuses at once; None where any accepts, waits or has a name to resolve."""
    reasons = []
    with ExitStack() as stack:
        for url in urls:
            address = _numeric(url)
            if address is None:
                return None
            family, target = address
            probe = stack.enter_context(
                socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            )
            code = probe.connect_ex(target)
            if code == errno.EINPROGRESS:
                poller = select.poll()
                poller.register(probe, select.POLLOUT)
                if not poller.poll(int(_PATIENCE_SECONDS * 1000)):
                    return None
                code = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code not in _REFUSED:
                return None
            reasons.append(errno.errorcode[code])
    return UnreachableError(
        f"NATS at {', '.join(urls)} cannot be reached",
        found="connection refused" if set(reasons) == {"ECONNREFUSED"} else ", ".join(sorted(set(reasons))),
        fix="check that nats-server runs and nats.servers is right",
    )


def _numeric(url: str) -> tuple[socket.AddressFamily, tuple[str, int]] | None:
    authority = url.partition("://")[2].rstrip("/")
    host, _, port = authority.rpartition(":")
    if not host or not port.isdigit():
        host, port = authority, str(_DEFAULT_PORT)
    host = host.strip("[]")
    if host == "localhost":
        return None  # two addresses: the client tries both
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, OverflowError):
        return None
    family, _, _, _, target = found[0]
    return family, (str(target[0]), int(target[1]))
