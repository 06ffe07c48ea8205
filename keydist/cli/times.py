"""Times as people read them."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from keydist.adapters.duration import format_duration, parse_duration
from keydist.errors import ConfigError, UsageError
from keydist.services.dates import date

__all__ = ["age", "ago", "date", "parse_time", "span"]

_DIGITS: Final = 15


def parse_time(text: str, *, now: int) -> int:
    """Return the unix seconds that a person means: RFC 3339 with its offset, a number, or `+30d` from `now`.

    Raises `UsageError`.
    """
    try:
        if text.startswith("+"):
            return now + parse_duration(text[1:])
        if text.isascii() and text.isdigit() and len(text) <= _DIGITS:
            return int(text)
        found = datetime.fromisoformat(text)
    except (ValueError, ConfigError):
        found = None
    if found is None or found.tzinfo is None:
        raise UsageError(
            "that is not a time",
            expected="RFC 3339 with its offset, unix seconds, or a duration from now",
            found=ascii(text[:40]),
            fix="write it as 2027-06-30T00:00:00Z, 1814313600 or +30d",
        )
    return int(found.timestamp())


def ago(seconds: int, *, skew: int) -> str:
    """Return how long ago something was, for people; clocks that differ by at most `skew` count as one."""
    return "in the future: check the clock" if seconds < -skew else f"{age(max(0, seconds))} ago"


def age(seconds: int) -> str:
    """Return a duration in its largest unit, for people."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def span(seconds: int) -> str:
    """Return a duration as `parse_duration` reads it, in days instead of weeks: `30d`, `1d12h`, `0s`."""
    days, rest = divmod(seconds, 86_400)
    return (f"{days}d" if days else "") + (format_duration(rest) if rest or not days else "")
