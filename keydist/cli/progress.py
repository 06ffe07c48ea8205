"""Telling a long wait: one line on a terminal, rewritten; a line each time the reason changes elsewhere."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from keydist.adapters.systemd import ServiceManager


class Progress:
    """A `keydist.ports.Notifier` for standard error and the service manager."""

    def __init__(self, manager: ServiceManager, *, stream: TextIO | None = None) -> None:
        self._manager = manager
        self._stream = stream or sys.stderr
        self._last = ""
        self._width = 0

    def waiting(self, what: str, *, seconds_left: float) -> None:
        """Say what is being waited for."""
        gc.enable()  # the way in turned it off for a process that ends at once; this one waits
        self._manager.waiting(what, seconds_left=seconds_left)
        if self._stream.isatty():
            line = f"keydist: {what} ({seconds_left:.0f} s left)"
            self._stream.write(f"\r{line:<{self._width}}")
            self._stream.flush()
            self._width = len(line)
        elif what != self._last:
            self._stream.write(f"keydist: {what} ({seconds_left:.0f} s left)\n")
            self._stream.flush()
        self._last = what

    def done(self) -> None:
        """End the line that was rewritten."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0
