"""What a service manager does for `LoadCredential=` with a socket: it connects, says nothing, and reads to the end."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = pytest.mark.skipif(os.geteuid() != 0, reason="not root: only root may be a service manager")
TOO_MUCH: Final = 2**20
_numbers = count()


def client(path: Path, address: bytes | None, *, seconds: float = 10) -> socket.socket:
    """Connect as the service manager does: from an address that names unit and credential, saying nothing."""
    made = socket.socket(socket.AF_UNIX)
    if address is not None:
        made.bind(address)
    made.connect(str(path))  # where the queue is full, this waits
    made.settimeout(seconds)
    made.shutdown(socket.SHUT_WR)
    return made


def address_of(unit: str, credential: str) -> bytes:
    return b"\0%x/unit/%s/%s" % (os.getpid() << 24 | next(_numbers), unit.encode(), credential.encode())


def read(made: socket.socket) -> bytes | None:
    """Return what is read until the end, as far as the service manager reads; None where it would fail."""
    found = b""
    with made, suppress(ConnectionResetError):
        while part := made.recv(65_536):
            found += part
            if len(found) > TOO_MUCH:
                return None
        return found
    return None
