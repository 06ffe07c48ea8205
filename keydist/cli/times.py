"""Times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime


def date(at: int) -> str:
    """Return unix seconds as RFC 3339 in UTC; years beyond 9999 as they are."""
    try:
        return datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(at)


def ago(seconds: int, *, skew: int) -> str:
    """Return how long ago something was, for people; clocks that differ by at most `skew` count as one."""
    return "in the future: check the clock" if seconds < -skew else f"{age(max(0, seconds))} ago"


def age(seconds: int) -> str:
    """Return a duration in its largest unit, for people."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
