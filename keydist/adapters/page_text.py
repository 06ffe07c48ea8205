"""Text and times as the status page shows them: escaped, without what could deceive a reader, and bounded."""

from __future__ import annotations

import html
from datetime import UTC, datetime
from typing import Final

_MOST: Final = 1000
_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "min"))


def safe(value: object) -> str:
    """Return text for HTML, in an element or a quoted attribute.

    What turns the direction of writing around, or shows as nothing, is shown as the replacement character.
    """
    text = str(value)
    if len(text) > _MOST:
        text = text[:_MOST] + "…"
    return html.escape("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text))


def stamp(at: int) -> str:
    """Return unix seconds as RFC 3339 in UTC, to the second; what no calendar has, as it is."""
    found = calendar(at)
    return str(at) if found is None else found.strftime("%Y-%m-%dT%H:%M:%SZ")


def calendar(at: int) -> datetime | None:
    """Return unix seconds as a date in UTC; None for what no calendar has."""
    try:
        return datetime.fromtimestamp(at, tz=UTC)
    except (ValueError, OverflowError, OSError):
        return None


def moment(at: int | None, *, now: int, absent: str = "never") -> str:
    """Return an element with a time and how far that is from now."""
    if at is None:
        return f'<span class="quiet">{safe(absent)}</span>'
    found = calendar(at)
    if found is None:
        return f"{safe(at)} (unix seconds)"
    shown = found.strftime("%Y-%m-%d %H:%M")
    return f'<time datetime="{stamp(at)}">{shown}</time> <span class="far">{far(at - now)}</span>'


def far(seconds: int) -> str:
    """Return how far a time is from now, for people."""
    if seconds == 0:
        return "now"
    return f"in {span(seconds)}" if seconds > 0 else f"{span(-seconds)} ago"


def span(seconds: float) -> str:
    """Return a duration in its largest unit, for people."""
    whole = int(seconds)
    for size, unit in _UNITS:
        if whole >= 2 * size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def short(kid: str) -> str:
    """Return enough of a kid to tell keys apart."""
    return safe(kid[:10] + "…" if len(kid) > 12 else kid)  # noqa: PLR2004 - where cutting saves something
