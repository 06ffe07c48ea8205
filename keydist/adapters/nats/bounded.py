"""Reading from a socket for so long and so much: who sends a byte now and then is not waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keydist.adapters.clock import SystemClock

if TYPE_CHECKING:
    import socket


def received(talk: socket.socket, *, most: int, seconds: float, until: bytes = b"") -> bytes:
    """Return what comes until the other side ends, `until` is there, or it is more than enough. Raises `OSError`."""
    clock = SystemClock()
    end, said = clock.monotonic() + seconds, bytearray()
    while len(said) < most and not (until and until in said):
        left = end - clock.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        talk.settimeout(left)
        part = talk.recv(min(1 << 16, most))
        if not part:
            break
        said += part
    return bytes(said)
