"""What the service manager is told, by the notification socket (sd_notify(3)); silent where there is none."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from time import CLOCK_MONOTONIC, clock_gettime_ns
from typing import Final

_MARGIN_SECONDS: Final = 10
_MAX_DIGITS: Final = 18


class ServiceManager:
    """The service manager behind `NOTIFY_SOCKET`; a `keydist.ports.Notifier`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self.is_ready = False
        """Whether `ready` was ever said."""
        self._watchdog = (environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID"))

    @property
    def watchdog_seconds(self) -> float | None:
        """How often at least `watchdog` must be called, in seconds; None where nobody watches this process."""
        microseconds, pid = self._watchdog
        if pid not in (None, str(os.getpid())):
            return None
        is_count = microseconds.isascii() and microseconds.isdigit() and len(microseconds) <= _MAX_DIGITS
        return int(microseconds) / 1_000_000 or None if is_count else None

    def waiting(self, what: str, *, seconds_left: float) -> None:
        """Show what is waited for, and ask for the time that the wait may still take."""
        microseconds = int((seconds_left + _MARGIN_SECONDS) * 1_000_000)
        self._send(f"STATUS=waiting: {_one_line(what)}\nEXTEND_TIMEOUT_USEC={microseconds}")

    def ready(self, status: str) -> None:
        """Say that a verified key is on disk."""
        self.is_ready = True
        self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def status(self, text: str) -> None:
        """Show one line in the unit's status."""
        self._send(f"STATUS={_one_line(text)}")

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` ends it."""
        # systemd 253 on (Type=notify-reload) compares it with when it asked, by this clock and no other.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Say that this process is on its way out."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Say that this process is alive."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._address[:1] not in ("/", "@"):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # A notification is a courtesy: a manager that does not listen must not stop a node.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.sendto(message.encode("utf-8", "replace"), address)


def _one_line(text: str) -> str:
    return " ".join(text.split())
