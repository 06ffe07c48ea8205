"""Changes that leave a text its form: one word, list or object in place of another.

Bytes that are changed at random seldom leave JSON or a request whole, and then only the first test is tried.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Final

_WORD: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[A-Za-z0-9_.+/-]+')
_BRACKET: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')
ODD: Final = (
    *(b"null", b"true", b"false", b"-1", b"0", b"7", b"1.5", b"1e999", b"9007199254740993", b"9" * 5000),
    *(b'""', b'"x"', b'"\\u0000"', b'"\\ud800"', b'"\xc2\xb2"', b"\xc2\xb2", b"\xff", b"", b" ", b"\r\n"),
    *(b"[]", b"{}", b'["x"]', b"[[]]", b'{"x":null}', b'"' + b"9" * 5000 + b'"', b"[" * 900 + b"]" * 900),
)


def _places(raw: bytes) -> list[tuple[int, int]]:
    return [*(found.span() for found in _WORD.finditer(raw)), *_containers(raw)]


def _containers(raw: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each list and each object begins and ends."""
    begun: list[int] = []
    for found in _BRACKET.finditer(raw):
        if found[0] in (b"[", b"{"):
            begun.append(found.start())
        elif found[0] in (b"]", b"}") and begun:
            yield begun.pop(), found.end()


def swapped(raw: bytes, place: int, other: int) -> bytes:
    """Return a text with something else in one place: what is odd, or what stands in another place of it."""
    places = _places(raw)
    if not places:
        return raw
    start, end = places[place % len(places)]
    others = (*ODD, *(raw[begin:behind] for begin, behind in places))
    return raw[:start] + others[other % len(others)] + raw[end:]


def some_swapped(raw: bytes, *, most: int) -> list[bytes]:
    """Return a text with each odd thing in each place, or so many of them; the same ones in every run."""
    found = [raw[:begin] + odd + raw[end:] for begin, end in _places(raw) for odd in ODD]
    return random.Random(len(found)).sample(found, min(len(found), most))
