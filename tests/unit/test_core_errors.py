"""Errors: one family a reaction, one exit code a family, fields beside the words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from keydist import errors
from keydist.errors import KeydistError, WrongTokenError

FAMILIES: Final = {
    "internal": 70,
    "usage": 2,
    "trust": 65,
    "transient": 75,
    "conflict": 75,
    "permission": 77,
    "disk": 73,
    "configuration": 78,
}


def classes(base: type[KeydistError] = KeydistError) -> Iterator[type[KeydistError]]:
    yield base
    for child in base.__subclasses__():
        yield from classes(child)


def defined_here() -> list[type[KeydistError]]:
    return sorted({one for one in classes() if one.__module__ == errors.__name__}, key=lambda one: one.__name__)


@pytest.mark.parametrize("error", defined_here())
def test_an_error_class_says_how_to_react(error: type[KeydistError]) -> None:
    assert error.exit_code == FAMILIES[error.family]
    assert error.__doc__
    assert error.code == error.code.lower()
    assert error.__name__.endswith("Error")


def test_every_code_is_given_once() -> None:
    codes = [error.code for error in defined_here()]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeydistError("no"), "no"),
        (KeydistError("no", fix="do"), "no; do"),
        (KeydistError("no", expected="a"), "no (expected a)"),
        (KeydistError("no", found="b"), "no (found b)"),
        (KeydistError("no", expected="a", found="b", fix="do"), "no (expected a, found b); do"),
        (WrongTokenError("no", have=(), need="x", fix="do"), "no (expected token x, found no token); do"),
        (WrongTokenError("no", have=("y", "z"), need="x", fix="do"), "no (expected token x, found y, z); do"),
    ],
    ids=["bare", "fix", "expected", "found", "all", "no token", "two tokens"],
)
def test_an_error_is_one_line(error: KeydistError, text: str) -> None:
    assert str(error) == text
    assert error.as_json() == {
        "code": error.code,
        "family": error.family,
        "message": "no",
        "expected": error.expected,
        "found": error.found,
        "fix": error.fix,
    }
