"""Times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from keydist.adapters.duration import parse_duration
from keydist.errors import ConfigError, UsageError

_DIGITS: Final = 15


def date(at: int) -> str:
    """Return unix seconds as RFC 3339 in UTC; years beyond 9999 as they are."""
    try:
        return datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(at)


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
            f"{text[:40]!a} is not a time",
            expected="RFC 3339 with its offset, such as 2027-06-30T00:00:00Z, unix seconds, or +30d",
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
