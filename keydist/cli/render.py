"""What a person or a program sees: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
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
