"""What the service manager is told, by the notification socket (sd_notify(3)); silent where there is none."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

_MARGIN_SECONDS: Final = 10


class ServiceManager:
    """The service manager behind `NOTIFY_SOCKET`; a `keydist.ports.Notifier`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")

    def waiting(self, what: str, *, seconds_left: float) -> None:
        """Show what is waited for, and ask for the time that the wait may still take."""
        microseconds = int((seconds_left + _MARGIN_SECONDS) * 1_000_000)
        self._send(f"STATUS=waiting: {_one_line(what)}\nEXTEND_TIMEOUT_USEC={microseconds}")

    def ready(self, status: str) -> None:
        """Say that a verified key is on disk."""
        self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def _send(self, message: str) -> None:
        if self._address[:1] not in ("/", "@"):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # A notification is a courtesy: a manager that does not listen must not stop a node.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.sendto(message.encode("utf-8", "replace"), address)


def _one_line(text: str) -> str:
    return " ".join(text.split())
