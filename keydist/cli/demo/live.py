"""The demo on a terminal: the present act is redrawn while it is played."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from keydist.cli.demo.screen import HEADER, error_lines, heading, layout, opening_lines, row
from keydist.cli.demo.story import Scene, Start

_STYLES: Final = {
    "generated": "bold green",
    "republished": "bold green",
    "retrieved": "green",
    "from-disk": "cyan",
    "failed": "bold red",
}


class LiveScreen:
    """A terminal; see `keydist.cli.demo.screen.Screen`."""

    pause = 0.7

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._live: Live | None = None

    def opening(self, nodes: int) -> None:
        """Show the beginning; see `Screen`."""
        title, note = opening_lines(nodes)
        self.line(title, style="bold")
        self.line(note, style="dim")
        self.line()
        self.line(layout(HEADER, self._console.width), style="dim")

    def line(self, text: str = "", *, style: str = "") -> None:
        """Show a line; see `Screen`."""
        self._console.print(Text(text, style=style))

    @contextmanager
    def scene(self, number: int, scene: Scene) -> Iterator[None]:
        """Show an act; see `Screen`."""
        self.line()
        self.line(heading(number, scene), style="bold")
        # Transient, then printed: what is taller than the terminal is cut while it lives, and whole when it stays.
        live = Live(console=self._console, get_renderable=lambda: self._rows(scene, most=self._room), transient=True)
        try:
            with live:
                self._live = live
                yield
        finally:
            self._live = None
            self._console.print(self._rows(scene))

    def changed(self) -> None:
        """Redraw; see `Screen`."""
        if self._live is not None:
            self._live.refresh()

    @property
    def _room(self) -> int:
        return max(1, self._console.height - 4)

    def _rows(self, scene: Scene, *, most: int | None = None) -> Text:
        shown = scene.starts[:most]
        text = Text("\n", no_wrap=True, overflow="crop").join(self._row(start) for start in shown)
        rest = scene.starts[len(shown) :]
        if rest:
            done = sum(start.seconds is not None for start in rest)
            text.append(f"\n   and {len(rest)} more: {done} done, {len(rest) - done} not yet", style="dim")
        return text

    def _row(self, start: Start) -> Text:
        cells = row(start)
        text = Text(layout(cells, self._console.width))
        if start.note or start.began is None:
            text.stylize("dim")
        for word, style in _STYLES.items():
            text.highlight_words([word], style=style)
        if start.alarms:
            text.highlight_words([cells.alarm], style="yellow")
        if start.error:
            text.append("".join(f"\n{line}" for line in error_lines(start, self._console.width)), style="red")
        return text
