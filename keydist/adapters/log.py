"""Structured logs: one event a line, a name and fields; text for a terminal, JSON for programs.

Nothing here raises: a log that cannot be written is lost, and whoever writes it goes on. Lines hold printable
characters only and are bounded, so that no value can forge a line or move a cursor.
"""

from __future__ import annotations

import codecs
import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, TextIO

from keydist.errors import KeydistError

MAX_VALUE: Final = 4_096
"""The longest text of one value, in characters; the rest is cut."""
MAX_LINE: Final = 32_768

_PRIORITY: Final[Mapping[str, int]] = {"info": 6, "warning": 4, "error": 3}  # sd-daemon(3)
_RESERVED: Final = frozenset({"ts", "level", "event"})
_MAX_DEPTH: Final = 6
_CUT: Final = "…"
_ESCAPE: Final = codecs.lookup("unicode_escape").encode
"""Found now: Python would look for its file at the first use, and then there may be no descriptor left."""


class Log:
    """A `keydist.ports.Journal` on a text stream.

    `now` returns unix seconds with their fraction. `priorities` puts the `<N>` of sd-daemon before each line.
    """

    def __init__(self, stream: TextIO, *, as_text: bool, now: Callable[[], float], priorities: bool = False) -> None:
        self._stream = stream
        self._line = _text_line if as_text else _json_line
        self._now = now
        self._priorities = priorities

    def event(self, name: str, /, *, level: str = "info", **fields: object) -> None:
        """Write one event; see `keydist.ports.Journal`."""
        level = level if level in _PRIORITY else "error"
        try:
            line = self._line(self._stamp(), level, name, _spread(fields))
            if len(line) > MAX_LINE:
                line = self._line(self._stamp(), level, name, {"cut": f"{len(line)} characters"})
        except Exception:  # noqa: BLE001 - whatever a value does when it is looked at, the event is told
            line = self._line(self._stamp(), level, printable(str(name)), {"unprintable": True})
        self._write(f"<{_PRIORITY[level]}>{line}" if self._priorities else line)

    def info(self, name: str, /, **fields: object) -> None:
        """Tell what happened."""
        self.event(name, level="info", **fields)

    def warning(self, name: str, /, **fields: object) -> None:
        """Tell what somebody should look at."""
        self.event(name, level="warning", **fields)

    def error(self, name: str, /, **fields: object) -> None:
        """Tell what failed."""
        self.event(name, level="error", **fields)

    def _stamp(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _write(self, line: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: the stream is closed
            try:
                self._stream.write(line + "\n")
            except UnicodeEncodeError:
                self._stream.write(line.encode("ascii", "backslashreplace").decode() + "\n")
            self._stream.flush()


def open_log(stream: TextIO, environ: Mapping[str, str], *, now: Callable[[], float]) -> Log:
    """Return the log that fits a stream: text on a terminal, else JSON, with priorities where it is the journal."""
    return Log(stream, as_text=_is_terminal(stream), now=now, priorities=_is_journal(stream, environ))


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:
        return False


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Tell whether a stream is the one that `JOURNAL_STREAM` names by device and inode (systemd.exec(5))."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def printable(text: str) -> str:
    """Return text with everything escaped that is not printable, cut where it is long."""
    cut = text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + _CUT
    return cut if cut.isprintable() else "".join(map(_escaped, cut))


def _escaped(character: str) -> str:
    return character if character.isprintable() else _ESCAPE(character)[0].decode("ascii")


def _spread(fields: Mapping[str, object]) -> dict[str, object]:
    """Return fields of plain values; a `KeydistError` becomes the members that it has, the caller's own first."""
    spread: dict[str, object] = {}
    for name, value in fields.items():
        if isinstance(value, KeydistError):
            told = {member: text for member, text in value.as_json().items() if text and member != "family"}
            spread = {**{member: printable(text) for member, text in told.items()}, **spread}
        else:
            spread[printable(f"{name}_" if name in _RESERVED else name)] = _plain(value, 0)
    return spread


def _plain(value: object, depth: int) -> object:
    """Return a value that JSON has; bytes, which may be a secret, by their length only."""
    value = value.value if isinstance(value, Enum) else value
    for kinds, told in _SCALARS:
        if isinstance(value, kinds):
            return told(value)
    if depth >= _MAX_DEPTH:
        return _CUT
    if isinstance(value, Mapping):
        return {str(_plain(key, depth + 1)): _plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, depth + 1) for inner in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(inner, depth + 1) for inner in value), key=str)
    return printable(str(value))


_SCALARS: Final[tuple[tuple[tuple[type, ...], Callable[[Any], object]], ...]] = (
    ((bool, type(None)), lambda value: value),
    ((int,), int),
    ((float,), lambda value: round(value, 6) if abs(value) < float("inf") else str(value)),
    ((str,), printable),
    ((bytes, bytearray, memoryview), lambda value: f"{len(value)} bytes"),
    ((BaseException,), lambda value: printable(f"{type(value).__name__}: {value}")),
)
"""How a value without an inside that is walked is told; the first that fits."""


def _json_line(stamp: str, level: str, name: str, fields: Mapping[str, object]) -> str:
    line = {"ts": stamp, "level": level, "event": printable(name), **fields}
    return json.dumps(line, separators=(",", ":"))


def _text_line(stamp: str, level: str, name: str, fields: Mapping[str, object]) -> str:
    told = "".join(f" {key}={_quoted(value)}" for key, value in fields.items())
    return f"{stamp} {level:<7} {printable(name)}{told}"


def _quoted(value: object) -> str:
    """Return a value for a line of text: bare where it is one plain word, else as JSON."""
    if isinstance(value, str) and value and not set(value) & set(' "=\\'):
        return value
    return json.dumps(value, ensure_ascii=False)


class LibraryLog(logging.Handler):
    """What libraries say through `logging`, from warnings on, as events named `library`."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; of an exception its type and text, not where it came from."""
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's mistake in a format is not ours to fail on
            text = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        fields = {} if error is None else {"exception": f"{type(error).__name__}: {error}"}
        self._log.event("library", level="warning", logger=record.name, text=text, **fields)


def take_library_log(log: Log) -> LibraryLog:
    """Route what libraries say into `log` and return the handler, for `logging.getLogger().removeHandler`."""
    handler = LibraryLog(log)
    logging.getLogger().addHandler(handler)
    return handler
