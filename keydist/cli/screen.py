"""Where the fleet is shown: drawn and redrawn on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Protocol, TextIO

from keydist.cli.fleet_table import lines
from keydist.cli.render import print_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keydist.cli.fleet_table import Frame
    from keydist.errors import KeydistError


class Screen(Protocol):
    """Where to show; entered while something is drawn again and again."""

    is_live: bool

    def __enter__(self) -> object: ...
    def __exit__(self, *failure: object) -> None: ...

    def show(self, frame: Frame, *, note: str, alarms: tuple[KeydistError, ...] = ()) -> None:
        """Draw in place of what was drawn; nothing where nothing can be drawn over."""
        ...

    def keep(self, frame: Frame) -> None:
        """Print, to stay. Raises `DiskError`."""
        ...


def open_screen(stream: TextIO | None, environ: Mapping[str, str]) -> Screen:
    """Return the screen that suits a stream."""
    if stream is None or not stream.isatty():
        return PlainScreen(width=None)
    if environ.get("TERM", "") in ("", "dumb", "unknown"):
        return PlainScreen(width=shutil.get_terminal_size().columns)
    from keydist.cli.live_screen import LiveScreen  # noqa: PLC0415 - rich costs 60 ms

    return LiveScreen(stream)


class PlainScreen:
    """Lines without styles; see `Screen`. `width` is None where lines may be as long as they are."""

    is_live = False

    def __init__(self, *, width: int | None) -> None:
        self._width = width

    def __enter__(self) -> object:
        return self

    def __exit__(self, *failure: object) -> None:
        return None

    def show(self, frame: Frame, *, note: str, alarms: tuple[KeydistError, ...] = ()) -> None:
        """Draw nothing."""

    def keep(self, frame: Frame) -> None:
        """Print, to stay; see `Screen`."""
        for line in lines(frame, width=self._width):
            print_line("".join(span.text for span in line))
