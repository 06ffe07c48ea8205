"""Telling a long wait: one line on a terminal, rewritten; a line each time the reason changes elsewhere."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TextIO

from keydist.cli.render import printable, write

if TYPE_CHECKING:
    from keydist.adapters.systemd import ServiceManager

_COLUMNS: Final = 80
"""The width of a terminal that does not know its own."""


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
        left = f" ({seconds_left:.0f} s left)"
        if self._is_terminal():
            most = self._columns() - 1  # a line that wraps cannot be rewritten
            line = f"keydist: {printable(what)}"[: max(0, most - len(left))] + left
            self._write(f"\r{line:<{min(self._width, most)}}")
            self._width = len(line)
        elif what != self._last:
            self._write(f"keydist: {printable(what)}{left}\n")
        self._last = what

    def done(self) -> None:
        """End the line that was rewritten."""
        if self._width:
            self._write("\r" + " " * self._width + "\r")
            self._width = 0

    def _is_terminal(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def _columns(self) -> int:
        with suppress(OSError):
            return os.get_terminal_size(self._stream.fileno()).columns or _COLUMNS
        return _COLUMNS

    def _write(self, text: str) -> None:
        with suppress(OSError):  # what cannot be told changes no result
            write(self._stream, text)
