"""What a person or a program sees: results on standard output, everything else on standard error.

A message may quote what a file, a server or another machine said. Whatever is not printable goes out as its escape,
so that nothing takes a terminal over or forges a line. JSON is ASCII anyway.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from keydist.errors import DiskError

if TYPE_CHECKING:
    from keydist.errors import KeydistError


def printable(text: str) -> str:
    """Return text as one line that holds no control, format or surrogate character."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def print_json(value: Mapping[str, object]) -> None:
    """Print one JSON object on standard output. Raises `DiskError`."""
    _print(json.dumps(value, indent=None, separators=(", ", ": ")))


def print_line(text: str) -> None:
    """Print a line of data on standard output. Raises `DiskError`."""
    _print(printable(text))


def print_styled(text: str, style: str) -> None:
    """Print the beginning of a line on standard output; `style` is an SGR sequence's numbers, or empty."""
    shown = printable(text)
    _print(f"\x1b[{style}m{shown}\x1b[0m" if style else shown, end="")


def print_bytes(data: bytes) -> None:
    """Print bytes on standard output, exactly these. Raises `DiskError`."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as exc:
        _never_again(sys.stdout)
        raise _unwritable(exc) from exc


def tell(text: str) -> None:
    """Print a line for people on standard error. What cannot be told changes no result."""
    with suppress(OSError):
        write(sys.stderr, f"{printable(text)}\n")


def tell_alarms(alarms: tuple[KeydistError, ...]) -> None:
    """Print each alarm on standard error."""
    for alarm in alarms:
        tell(f"keydist: alarm [{alarm.code}]: {alarm}")


def fail(error: KeydistError, *, as_json: bool) -> int:
    """Say what went wrong, on standard error and for programs on standard output; return the exit code."""
    if not isinstance(error.__cause__, BrokenPipeError):  # who reads no further need not hear of it
        tell(f"keydist: {error}")
    if as_json:
        with suppress(DiskError):
            print_json({"error": error.as_json()})
    return error.exit_code


def write(stream: TextIO | None, text: str) -> None:
    """Write to a standard stream at once; one that was closed takes nothing, as /dev/null.

    What its encoding lacks goes out as its escape. Raises `OSError`, and then never again for this stream.
    """
    if stream is None:
        return
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError:
        _never_again(stream)
        raise


def _never_again(stream: TextIO) -> None:
    """Let a stream that failed take nothing: what it has buffered would fail once more when the interpreter ends."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _print(text: str, *, end: str = "\n") -> None:
    try:
        write(sys.stdout, f"{text}{end}")
    except OSError as exc:
        raise _unwritable(exc) from exc


def _unwritable(exc: OSError) -> DiskError:
    return DiskError(
        "standard output cannot be written", found=os.strerror(exc.errno or 0), fix="look at where it goes"
    )
