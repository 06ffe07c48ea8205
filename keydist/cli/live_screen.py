"""The fleet on a terminal: drawn in place while it is looked at, then printed whole."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from keydist.cli.fleet_table import Frame, lines
from keydist.cli.render import printable, write
from keydist.errors import DiskError

if TYPE_CHECKING:
    from keydist.errors import KeydistError


class LiveScreen:
    """A terminal; see `keydist.cli.screen.Screen`."""

    is_live = True

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> object:
        self._live.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._live.transient = not any(failure)  # what was seen when it was interrupted stays
        self._live.stop()

    def show(self, frame: Frame, *, note: str, alarms: tuple[KeydistError, ...] = ()) -> None:
        """Draw in place; see `Screen`. What is too high for the terminal is cut at its end: the worst is first."""
        text = self._text(frame)
        for alarm in alarms:
            text.append(f"\nthis node: alarm [{alarm.code}]: {printable(str(alarm))}", style="yellow")
        text.append(f"\n{note}", style="dim")
        self._live.update(text, refresh=True)

    def keep(self, frame: Frame) -> None:
        """Print, to stay; see `Screen`."""
        with self._console.capture() as captured:
            self._console.print(self._text(frame))
        try:
            write(sys.stdout, captured.get())
        except OSError as exc:
            raise DiskError("standard output cannot be written", fix="look at where it goes") from exc

    def _text(self, frame: Frame) -> Text:
        text = Text()
        for number, line in enumerate(lines(frame, width=self._console.width)):
            text.append("\n" if number else "")
            for span in line:
                text.append(span.text, style=span.style or None)
        return text
