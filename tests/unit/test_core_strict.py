"""Strict base64url and JSON: one spelling a value, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from keydist.core import strict
from keydist.errors import MalformedError


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"", ""), (b"f", "Zg"), (b"fo", "Zm8"), (b"foo", "Zm9v"), (b"\xfb\xff", "-_8")],
)
def test_base64url_is_unpadded(raw: bytes, text: str) -> None:
    assert strict.b64url_encode(raw) == text
    assert strict.b64url_decode(text, "x") == raw
    assert strict.b64url_decode(text.encode(), "x") == raw


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Z", "x is not base64url"),
        ("Zm9vY", "x is not base64url"),
        ("Zg==", "x is not base64url"),
        ("+/8", "x is not base64url"),
        ("Zm 8", "x is not base64url"),
        ("Zm9v\n", "x is not base64url"),
        ("Zm\u0131v", "x is not base64url"),
        ("Zm\ud800v", "x is not base64url"),
        ("Zh", "x is not canonical base64url"),
        ("Zm9", "x is not canonical base64url"),
    ],
)
def test_other_spellings_are_refused(text: str, message: str) -> None:
    with pytest.raises(MalformedError) as caught:
        strict.b64url_decode(text, "x")
    assert caught.value.message == message


def test_a_value_of_fixed_length_has_that_length() -> None:
    assert strict.fixed("Zm8", 2, "x") == b"fo"
    for other in ("Zg", "Zm9v", "", None, 2, b"Zm8", ["Zm8"]):
        with pytest.raises(MalformedError, match="x has the wrong length"):
            strict.fixed(other, 2, "x")


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"{}", {}),
        (b' {"b" : [true, null, "\\u00e9"], "a":{"a":0}}\n', {"b": [True, None, "é"], "a": {"a": 0}}),
        (b'{"a":9007199254740991}', {"a": 2**53 - 1}),
    ],
)
def test_one_json_object_is_read(raw: bytes, value: dict[str, object]) -> None:
    assert strict.parse_object(raw, "x") == value


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "x is not JSON"),
        (b"{", "x is not JSON"),
        (b"{}{}", "x is not JSON"),
        (b"{'a':1}", "x is not JSON"),
        (b'{"a":1,}', "x is not JSON"),
        (b'{"a":01}', "x is not JSON"),
        (b'{"a":"\n"}', "x is not JSON"),
        (b"\xef\xbb\xbf{}", "x is not JSON"),
        (b'{"a":"\xff"}', "x is not JSON"),
        (b"\xff\xfe{\x00}\x00", "x is not JSON"),
        (b'{"a":' + b"[" * 20_000, "x is not JSON"),
        (b"[]", "x is not a JSON object"),
        (b"null", "x is not a JSON object"),
        (b'"{}"', "x is not a JSON object"),
        (b"1", "x is not a JSON object"),
        (b'{"a":1,"a":1}', "x: a member stands twice in one object"),
        (b'{"b":{"a":1,"\\u0061":2}}', "x: a member stands twice in one object"),
        (b'{"a":1.0}', "x: a number is not an integer"),
        (b'{"a":1e2}', "x: a number is not an integer"),
        (b'{"a":NaN}', "x: a number is not an integer"),
        (b'{"a":-Infinity}', "x: a number is not an integer"),
        (b'{"a":9007199254740992}', "x: an integer is out of range"),
        (b'{"a":-1}', "x: an integer is out of range"),
        (b'{"a":-0}', "x: an integer is out of range"),
        (b'{"a":' + b"9" * 5000 + b"}", "x: an integer is out of range"),
    ],
    ids=lambda value: value[:24] if isinstance(value, bytes) else "",
)
def test_everything_else_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(MalformedError) as caught:
        strict.parse_object(raw, "x")
    assert caught.value.message == message


def test_json_is_written_compact_in_ascii_and_in_order() -> None:
    assert strict.serialise({"b": "é", "a": [1, {"c": None}]}) == b'{"b":"\\u00e9","a":[1,{"c":null}]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        strict.serialise({"a": float("nan")})


def test_members_are_exact() -> None:
    required, optional = frozenset({"a", "b"}), frozenset({"c"})
    strict.exact_members({"a": 1, "b": 1}, required, optional, "x")
    strict.exact_members({"c": 1, "a": 1, "b": 1}, required, optional, "x")
    for members, found in (
        ({"a": 1}, "missing b"),
        ({"c": 1}, "missing a, b"),
        ({"a": 1, "b": 1, "d": 1}, "1 unknown"),
        ({"a": 1, "B": 1, "d": 1}, "missing b; 2 unknown"),
    ):
        with pytest.raises(MalformedError, match="x has the wrong members") as caught:
            strict.exact_members(members, required, optional, "x")
        assert caught.value.found == found
        assert caught.value.expected == "a, b"


@pytest.mark.parametrize("value", [1, 2, 2**53 - 1])
def test_an_integer_in_range(value: int) -> None:
    assert strict.integer(value, "x", least=1) == value


@pytest.mark.parametrize("value", [0, -1, 2**53, True, 1.0, "1", None, [1]])
def test_no_integer_in_range(value: object) -> None:
    with pytest.raises(MalformedError, match="x is not an integer in range"):
        strict.integer(value, "x", least=1)


def test_zero_is_the_least_integer_unless_told() -> None:
    assert strict.integer(0, "x") == 0


@pytest.mark.parametrize("value", ["a", " ", "~~~", "a.b"])
def test_printable_ascii(value: str) -> None:
    assert strict.ascii_text(value, "x", most=3) == value


@pytest.mark.parametrize("value", ["", "four", "é", "\n", "\x7f", "\x00", None, 1, b"a", ["a"]])
def test_no_printable_ascii(value: object) -> None:
    with pytest.raises(MalformedError, match="x is not text in range"):
        strict.ascii_text(value, "x", most=3)


def test_an_array_is_bounded_before_its_items_are_parsed() -> None:
    def item(value: object) -> int:
        return strict.integer(value, "item")

    def never(value: object) -> int:
        raise AssertionError(value)

    assert strict.array_of([1, 2], item, "x", most=2) == (1, 2)
    assert strict.array_of([], item, "x", most=2) == ()
    bad: list[tuple[object, Callable[[object], int]]] = [([1, 2, 3], never), ({}, never), (None, never), ("ab", never)]
    for value, parse in bad:
        with pytest.raises(MalformedError, match="x is not an array in range"):
            strict.array_of(value, parse, "x", most=2)
    with pytest.raises(MalformedError, match="item is not an integer"):
        strict.array_of([1, "2"], item, "x", most=2)
