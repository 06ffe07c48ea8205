"""Durations as people write them: `30s`, `15m`, `1h30m`, `30d`, `2w`, or a bare number of seconds."""

from __future__ import annotations

from typing import Final

from keydist.errors import ConfigError

UNITS: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
PATTERN: Final = "[0-9]{1,10}|(?=[0-9])" + "".join(f"(?:[0-9]{{1,10}}{unit})?" for unit in UNITS)
"""The same grammar as a regular expression, for the JSON Schema."""
EXPECTED: Final = "a duration such as 30s, 15m, 1h30m, 30d or 2w, or a number of seconds"

_MAX_DIGITS: Final = 10


def parse_duration(text: str) -> int:
    """Return the seconds that `text` stands for; units come largest first, each at most once. Raises `ConfigError`."""
    if _is_count(text):
        return int(text)
    seconds, rest = 0, text
    for unit, size in UNITS.items():
        count, found, after = rest.partition(unit)
        if found and _is_count(count):
            seconds, rest = seconds + int(count) * size, after
    if rest or not text:
        raise ConfigError("is not a duration", expected=EXPECTED, found=ascii(text[:32]))
    return seconds


def format_duration(seconds: int) -> str:
    """Return the shortest spelling that `parse_duration` reads back: `90` becomes `1m30s`, `0` becomes `0s`."""
    parts = []
    for unit, size in UNITS.items():
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
