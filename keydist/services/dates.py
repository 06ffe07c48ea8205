"""Times as people read them, in messages and on the terminal."""

from __future__ import annotations

from datetime import UTC, datetime


def date(at: int) -> str:
    """Return unix seconds as RFC 3339 in UTC; years beyond 9999 as they are."""
    try:
        return datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(at)
