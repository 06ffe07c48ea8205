"""How the fleet looks: a summary, one row a node, worst first, and what to do about each that stands badly.

The same lines everywhere: with styles on a terminal, plain elsewhere. Where a terminal is narrow, columns are left
out, the least needed first; nothing wraps. A time after `~` is by the node's own stamp: this reader did not hear it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.cli.fleet_words import hints, summary
from keydist.cli.render import printable
from keydist.cli.times import age
from keydist.core.fleet import NodeState
from keydist.services.survey import ABSENT, UNHEARD, UNREADABLE

if TYPE_CHECKING:
    from keydist.core.accept import Held
    from keydist.core.record import Record
    from keydist.services.survey import Look, Row

_SHORT: Final = 8
_LEAST_ROOM: Final = 8
_STYLES: Final = {
    NodeState.CURRENT.value: "green",
    NodeState.LEAVING.value: "dim",
    NodeState.BEHIND.value: "yellow",
    NodeState.AHEAD.value: "red",
    NodeState.OLD_TOKEN.value: "yellow",
    NodeState.ALARMED.value: "yellow",
    UNHEARD: "yellow",
    NodeState.SILENT.value: "red",
    UNREADABLE: "red",
    NodeState.DOUBLE.value: "bold red",
    NodeState.FORKED.value: "bold red",
}


class Span(NamedTuple):
    """A piece of a line, and how it looks on a terminal."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


class Frame(NamedTuple):
    """A look at the fleet and what it is measured by; `now` in unix seconds."""

    look: Look
    held: Held
    now: int
    title: str


class Column(NamedTuple):
    """One column: where space is short, that with the highest `spare` goes first; 0 stays."""

    title: str
    cell: Callable[[Record, Row, int], str]
    spare: int = 0


def _state(_record: Record, row: Row, _now: int) -> str:
    return f"{row.state}?" if row.is_first_sight else row.state


def _last_seen(_record: Record, row: Row, now: int) -> str:
    if row.seen is not None:
        return f"{age(max(0, now - row.seen))} ago"
    return "-" if row.written is None else f"~{age(max(0, now - row.written))} ago"


COLUMNS: Final = (
    Column("node", lambda record, _row, _now: record.node),
    Column("role", lambda record, _row, _now: record.role.value, 4),
    Column("state", _state),
    Column("epoch", lambda record, _row, _now: str(record.epoch)),
    Column("key", lambda record, _row, _now: record.kid[:_SHORT], 5),
    Column("token", lambda record, _row, _now: record.token, 3),
    Column("last seen", _last_seen, 1),
    Column("loaded", lambda record, _row, now: age(max(0, now - record.loaded)), 6),
    Column("minted", lambda record, _row, _now: str(sum(minted.jwts for minted in record.minted.values())), 7),
    Column("version", lambda record, _row, _now: record.version, 8),
    Column("alarms", lambda record, _row, _now: ", ".join(record.alarms), 2),
)
_RIGHT: Final = frozenset({"epoch", "minted"})


def lines(frame: Frame, *, width: int | None) -> Iterator[Line]:
    """Yield everything that is shown; no line is longer than `width`, None being as long as it takes."""
    for text, style in summary(frame.look, frame.held, title=frame.title):
        for part in _wrapped(text, width, indent="  "):
            yield (Span(part, style),)
    if frame.look.rows:
        yield ()
        yield from table(frame, width=width)
    advice = tuple(hints(frame.look, frame.held))
    if advice:
        yield ()
    for hint in advice:
        for part in _wrapped(hint, width, indent="  "):
            yield (Span(part),)


def table(frame: Frame, *, width: int | None) -> Iterator[Line]:
    """Yield the names of the columns, and a line a row."""
    cells = [[_cell(column, row, frame.now) for column in COLUMNS] for row in frame.look.rows]
    shown = _fitting(cells, width)
    sizes = {at: max(len(COLUMNS[at].title), *(len(row[at]) for row in cells)) for at in shown}
    room = None if width is None else width + 2 - sum(sizes[at] + 2 for at in shown)
    if room is not None and room < 0:
        widest = max(shown, key=lambda at: sizes[at] if COLUMNS[at].title in ("node", "alarms") else 0)
        sizes[widest] = max(_LEAST_ROOM, sizes[widest] + room)
    yield (Span(_aligned([column.title for column in COLUMNS], shown, sizes)[0].rstrip(), "bold"),)
    for row, texts in zip(frame.look.rows, cells, strict=True):
        yield _styled(row, *_aligned(texts, shown, sizes))


def _cell(column: Column, row: Row, now: int) -> str:
    if row.record is not None:
        return printable(column.cell(row.record, row, now))
    own = {"node": row.name, "state": row.state, "alarms": row.why.code if row.why else ""}
    return printable(own.get(column.title, "-"))


def _fitting(cells: list[list[str]], width: int | None) -> list[int]:
    """Return which columns fit; of those that may go, what is empty goes first."""
    shown = [at for at in range(len(COLUMNS)) if COLUMNS[at].title != "alarms" or any(row[at] for row in cells)]
    for spare in sorted((COLUMNS[at].spare for at in shown), reverse=True):
        sizes = [max(len(COLUMNS[at].title), *(len(row[at]) for row in cells)) for at in shown]
        if COLUMNS[shown[-1]].title == "alarms":
            sizes[-1] = min(sizes[-1], 2 * _LEAST_ROOM)  # what is cut there can be read on the node
        if width is None or spare == 0 or sum(sizes) + 2 * (len(sizes) - 1) <= width:
            break
        shown = [at for at in shown if COLUMNS[at].spare != spare]
    return shown


def _aligned(texts: list[str], shown: list[int], sizes: dict[int, int]) -> tuple[str, int, int]:
    """Return a line, and where the state stands in it."""
    parts: list[str] = []
    start, end = 0, 0
    for at in shown:
        if COLUMNS[at].title == "state":
            start = sum(len(part) + 2 for part in parts)
            end = start + len(texts[at])
        text = _cut(texts[at], sizes[at])
        parts.append(text.rjust(sizes[at]) if COLUMNS[at].title in _RIGHT else text.ljust(sizes[at]))
    return "  ".join(parts), start, end


def _styled(row: Row, text: str, start: int, end: int) -> Line:
    """Return a row's line; one that was not heard yet is dim."""
    dim = "dim" if row.state in ABSENT or row.is_first_sight else ""
    return (
        Span(text[:start], dim),
        Span(text[start:end], _STYLES.get(row.state, "")),
        Span(text[end:].rstrip(), dim),
    )


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[: size - 2]}.."


def _wrapped(text: str, width: int | None, *, indent: str) -> list[str]:
    if width is None:
        return [printable(text)]
    return textwrap.wrap(printable(text), max(20, width), subsequent_indent=indent, break_on_hyphens=False)
