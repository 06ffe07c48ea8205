"""What a target is, and the checks that several are made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

from keydist.errors import KeydistError


class Target(NamedTuple):
    """A parser, or several that are all given each input, and inputs to begin from: good ones, and refused ones."""

    check: Callable[[bytes], object]
    good: tuple[bytes, ...]
    refused: tuple[bytes, ...] = ()


def as_text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """Return a check of a parser of text; what is no UTF-8 comes as Python gives it to programs."""
    return lambda raw: parse(raw.decode("utf-8", "surrogateescape"))


def each(*checks: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """Return a check that gives an input to several; it is refused where all of them refuse it."""

    def check(raw: bytes) -> None:
        refusal: KeydistError | None = None
        refusals = 0
        for one in checks:
            try:
                one(raw)
            except KeydistError as exc:
                refusal, refusals = exc, refusals + 1
        if refusal is not None and refusals == len(checks):
            raise refusal

    return check


def same(parse: Callable[[bytes], object], write: Callable[..., bytes]) -> Callable[[bytes], None]:
    """Return a check that what is read is written as what reads as the same."""

    def check(raw: bytes) -> None:
        value = parse(raw)
        assert parse(write(value)) == value

    return check


def as_file(raw: bytes) -> str:
    """Return the path of a file that holds an input."""
    path = _folder() / "input"
    path.write_bytes(raw)
    path.chmod(0o600)
    return str(path)


@cache
def _folder() -> Path:
    return Path(mkdtemp(prefix="keydist-fuzz-"))
