"""How the demo looks: the same lines everywhere, alive on a terminal and plain elsewhere.

One table runs through all acts. On a terminal the rows of the present act change while its processes run, and stay
when it ends. Elsewhere (a pipe, a file, TERM=dumb) each line is written once and holds no escape codes.
"""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final, NamedTuple, Protocol, TextIO

from keydist.cli.demo.story import Scene, Start

_WHOLE_KID: Final = 43
_OTHER_COLUMNS: Final = 65
_SHORT_KID: Final = (8, 14)
_PLAIN_WIDTH: Final = 120
_INDENT: Final = " " * 12


class Screen(Protocol):
    """Where the demo is shown. `pause` is how long something is left to be looked at, in seconds."""

    pause: float

    def opening(self, nodes: int) -> None:
        """Show the first lines and the names of the columns."""
        ...

    def line(self, text: str = "", *, style: str = "") -> None:
        """Show a line."""
        ...

    def scene(self, number: int, scene: Scene) -> AbstractContextManager[None]:
        """Show an act while it is played, and its rows when it ended."""
        ...

    def changed(self) -> None:
        """Show what has changed."""
        ...


class Row(NamedTuple):
    """The cells of one row."""

    node: str
    role: str
    epoch: str
    kid: str
    how: str
    alarm: str
    milliseconds: str


HEADER: Final = Row("node", "role", "epoch", "kid", "how it got it", "alarm", "ms")


def row(start: Start) -> Row:
    """Return the cells of a start as it is now."""
    return Row(
        node=start.node,
        role=start.role,
        epoch=str(start.epoch or "-"),
        kid=start.kid or "-",
        how="failed" if start.error else start.note or start.outcome or "not started",
        alarm=", ".join(start.alarms),
        milliseconds="" if start.seconds is None else f"{1000 * start.seconds:.0f}",
    )


def layout(cells: Row, width: int) -> str:
    """Return a row's line: the kid whole where there is room, else its beginning."""
    kid = cells.kid
    room = width - _OTHER_COLUMNS
    if room < _WHOLE_KID:
        least, most = _SHORT_KID
        room = max(least, min(most, room))
        if len(kid) > room:
            kid = f"{kid[: room - 2]}.."
    else:
        room = _WHOLE_KID
    got = f"{cells.how:<15}{cells.alarm:<13}"
    line = f"   {cells.node:<9}{cells.role:<10}{cells.epoch:>5}  {kid:<{room}}  {got:<28}{cells.milliseconds:>6}"
    return line.rstrip()


def opening_lines(nodes: int) -> tuple[str, str]:
    """Return the first two lines of the demo."""
    return (
        f"keydist demo: {nodes} nodes, each a real process, and a real nats-server.",
        "All of it is removed at the end. ms: from the start of a process to its end.",
    )


def heading(number: int, scene: Scene) -> str:
    """Return the first line of an act."""
    return f"{number}  {scene.act.title}"


def error_lines(start: Start, width: int) -> list[str]:
    """Return the lines that say why a start failed."""
    return textwrap.wrap(start.error, max(40, width - 1), initial_indent=_INDENT, subsequent_indent=_INDENT)


def open_screen(stream: TextIO) -> Screen:
    """Return the screen that suits a stream."""
    if not stream.isatty():
        return PlainScreen(stream)
    if os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return PlainScreen(stream, width=shutil.get_terminal_size().columns)
    from keydist.cli.demo.live import LiveScreen  # noqa: PLC0415 - rich costs 60 ms

    return LiveScreen(stream)


class PlainScreen:
    """Lines, each written once; see `Screen`."""

    pause = 0.0

    def __init__(self, stream: TextIO, *, width: int = _PLAIN_WIDTH) -> None:
        self._stream = stream
        self._width = width
        self._starts: Sequence[Start] = ()
        self._said = False

    def opening(self, nodes: int) -> None:
        """Show the beginning; see `Screen`."""
        for text in (*opening_lines(nodes), "", layout(HEADER, self._width)):
            self.line(text)

    def line(self, text: str = "", *, style: str = "") -> None:  # noqa: ARG002 - plain has no styles
        """Show a line; see `Screen`."""
        self._stream.write(f"{text}\n")
        self._stream.flush()

    @contextmanager
    def scene(self, number: int, scene: Scene) -> Iterator[None]:
        """Show an act; see `Screen`."""
        self.line()
        self.line(heading(number, scene))
        self._starts, self._said = scene.starts, False
        try:
            yield
        finally:
            for start in scene.starts:
                self.line(layout(row(start), self._width))
                for text in error_lines(start, self._width):
                    self.line(text)

    def changed(self) -> None:
        """Say once that all followers wait; see `Screen`."""
        followers = [start for start in self._starts if not start.is_leader]
        notes = {start.note for start in followers}
        note = notes.pop() if len(notes) == 1 else ""
        if note.startswith("wait") and not self._said:
            self._said = True
            names = [start.node for start in followers]
            self.line(f"   {names[0]} {note}" if len(names) == 1 else f"   {names[0]} to {names[-1]}: each {note}")
