"""Which machine this is, told by a hash: the id itself stays on the machine (machine-id(5))."""

from __future__ import annotations

import hashlib
import socket

_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_MOST = 256


def machine_hash() -> str:
    """Return 32 hex digits that tell this machine from another; made of the host's name where there is no id."""
    for path in _FILES:
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - as everywhere on the way to a start
                found = file.read(_MOST).strip()
        except OSError:
            continue
        if found:
            return _hash(found)
    return _hash(socket.gethostname().encode("utf-8", "surrogateescape"))


def _hash(text: bytes) -> str:
    return hashlib.sha256(b"keydist machine\0" + text).hexdigest()[:32]
