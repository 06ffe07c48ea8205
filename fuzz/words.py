"""Changes that leave a text its form: one word, or one innermost list or object, in place of another.

Bytes that are changed at random seldom leave JSON or a request whole, and then only the first test is tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Final

_WORD: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[A-Za-z0-9_.+/-]+')
_INNERMOST: Final = re.compile(rb"\[[^\[\]{}]*\]|\{[^\[\]{}]*\}")
ODD: Final = (
    *(b"null", b"true", b"-1", b"0", b"7", b"1.5", b"1e999", b"9007199254740993", b"9" * 5000),
    *(b'""', b'"x"', b'"\\u0000"', b'"\\ud800"', b'"\xc2\xb2"', b"\xc2\xb2", b"\xff", b"", b" ", b"\r\n"),
    *(b"[]", b"{}", b'["x"]', b"[[]]", b'{"x":null}', b"[" * 900 + b"]" * 900),
)


def _places(raw: bytes) -> list[tuple[int, int]]:
    return [found.span() for found in chain(_WORD.finditer(raw), _INNERMOST.finditer(raw))]


def swapped(raw: bytes, place: int, other: int) -> bytes:
    """Return a text with something else in one place: what is odd, or what stands in another place of it."""
    places = _places(raw)
    if not places:
        return raw
    start, end = places[place % len(places)]
    others = (*ODD, *(raw[begin:behind] for begin, behind in places))
    return raw[:start] + others[other % len(others)] + raw[end:]


def each_swapped(raw: bytes) -> Iterator[bytes]:
    """Yield a text with each odd thing in each place."""
    for start, end in _places(raw):
        for odd in ODD:
            yield raw[:start] + odd + raw[end:]
