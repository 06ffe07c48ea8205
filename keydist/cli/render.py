"""What a person or a program sees: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keydist.errors import KeydistError


def print_json(value: Mapping[str, object]) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(value, indent=None, separators=(", ", ": ")))  # noqa: T201 - this is where output is made


def print_line(text: str) -> None:
    """Print a line of data on standard output."""
    print(text)  # noqa: T201


def tell(text: str) -> None:
    """Print a line for people on standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def tell_alarms(alarms: tuple[KeydistError, ...]) -> None:
    """Print each alarm on standard error."""
    for alarm in alarms:
        tell(f"keydist: alarm [{alarm.code}]: {alarm}")


def fail(error: KeydistError, *, as_json: bool) -> int:
    """Say what went wrong, on standard error and for programs on standard output; return the exit code."""
    tell(f"keydist: {error}")
    if as_json:
        print_json({"error": error.as_json()})
    return error.exit_code


def date(at: int) -> str:
    """Return unix seconds as RFC 3339 in UTC; years beyond 9999 as they are."""
    try:
        return datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(at)


def age(seconds: int) -> str:
    """Return a duration in its largest unit, for people."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
