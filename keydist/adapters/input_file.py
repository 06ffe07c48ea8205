"""What a command is given to read: a file or standard input, bounded, and never taken for an argument."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from keydist.errors import ConfigError

STDIN: Final = "-"
_SHOWN: Final = 64


def read_input(path: str, *, most: int) -> bytes:
    """Return the bytes of a file, or of standard input for `-`: all, or `most` and one more where there are more.

    Raises `ConfigError`. A path that is long is not repeated: it may be what should have been in the file.
    """
    try:
        if path == STDIN:
            return sys.stdin.buffer.read(most + 1)
        with Path(path).open("rb") as stream:
            return stream.read(most + 1)
    except (OSError, ValueError) as exc:  # ValueError: a path with a NUL
        reason = os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno else type(exc).__name__
        raise ConfigError(
            f"cannot read {_named(path)}: {reason}", fix="name a file that this user can read, or - for standard input"
        ) from None


def without_newline(data: bytes) -> bytes:
    """Return what a program printed as one line without the end of that line; one newline, nothing else."""
    return data.removesuffix(b"\n")


def _named(path: str) -> str:
    """Return how a path is told."""
    return "standard input" if path == STDIN else ascii(path) if len(path) <= _SHOWN else "the file"
