"""Strict base64url and JSON: one accepted spelling a value, bounded before it is decoded.

Everything that comes from the store or the disk passes through here first. Raises `MalformedError` only.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, TypeVar

from keydist.errors import MalformedError

MAX_INT: Final = 2**53
"""Integers stay below this, so that every JSON implementation reads the same number (RFC 7493)."""

_T = TypeVar("_T")
_HEX: Final = frozenset("0123456789abcdef")
_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_LAST: Final = {2: _ALPHABET[::16], 3: _ALPHABET[::4]}
"""What may stand last, by the number of characters beyond whole groups of four: its spare bits are zero."""


def b64url_encode(raw: bytes) -> str:
    """Return unpadded base64url (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def b64url_decode(text: str | bytes, what: str) -> bytes:
    """Decode unpadded base64url, refusing padding, other alphabets and non-zero spare bits.

    Raises `MalformedError`, naming `what`.
    """
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if len(data) % 4 == 1 or data.translate(None, _ALPHABET):
        raise MalformedError(f"{what} is not base64url", expected="unpadded base64url")
    try:
        raw = base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4))
    except (binascii.Error, ValueError) as exc:  # pragma: no cover - the checks above leave nothing to raise
        raise MalformedError(f"{what} is not base64url", expected="unpadded base64url") from exc
    if len(data) % 4 and data[-1] not in _LAST[len(data) % 4]:
        raise MalformedError(f"{what} is not canonical base64url", expected="spare bits of zero")
    return raw


def fixed(text: object, length: int, what: str) -> bytes:
    """Decode base64url text of exactly `length` bytes. Raises `MalformedError`."""
    if not isinstance(text, str) or len(text) != (length * 8 + 5) // 6:
        raise MalformedError(f"{what} has the wrong length", expected=f"{length} bytes as base64url")
    return b64url_decode(text, what)


def _refuse_number(_text: str) -> NoReturn:
    raise MalformedError("a number is not an integer", expected="integers only")


def _integer(text: str) -> int:
    if len(text) > len(str(MAX_INT)) or abs(value := int(text)) >= MAX_INT or text.startswith("-"):
        raise MalformedError("an integer is out of range", expected="0 up to 2^53")
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedError("a member stands twice in one object", expected="each name once")
    return members


# Made once: json.loads and json.dumps with options make a new one at each call. What contains itself is nobody's value
# here, and to look for it costs a JWT a fifth of all that is not its signature.
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_float=_refuse_number, parse_constant=_refuse_number, parse_int=_integer
)
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False, check_circular=False)


def parse_object(raw: bytes, what: str) -> dict[str, Any]:
    """Parse one JSON object: UTF-8, no duplicate members, integers 0 ≤ n < 2^53 only.

    Raises `MalformedError`, naming `what`.
    """
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except MalformedError as exc:
        problem = MalformedError(f"{what}: {exc.message}", expected=exc.expected)
    except (ValueError, RecursionError):  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        problem = MalformedError(f"{what} is not JSON", expected="one JSON object in UTF-8")
    else:
        if isinstance(value, dict):
            return value
        problem = MalformedError(f"{what} is not a JSON object", expected="an object")
    raise problem  # outside the handlers: what they caught carries the whole text, which may hold private keys


def serialise(value: Mapping[str, object]) -> bytes:
    """Return compact ASCII JSON with the members in the order given."""
    return _ENCODER.encode(value).encode("ascii")


def exact_members(value: Mapping[str, object], required: frozenset[str], optional: frozenset[str], what: str) -> None:
    """Check an object's member names. Raises `MalformedError`."""
    names = value.keys()
    if not (required <= names <= required | optional):
        missing = sorted(required - names)
        unknown = sorted(names - required - optional)
        found = [f"missing {', '.join(missing)}"] if missing else []
        found += [f"{len(unknown)} unknown"] if unknown else []
        raise MalformedError(
            f"{what} has the wrong members", expected=", ".join(sorted(required)), found="; ".join(found)
        )


def is_hex(value: object, length: int) -> bool:
    """Tell whether `value` is exactly `length` lower-case hex digits."""
    return isinstance(value, str) and len(value) == length and _HEX.issuperset(value)


def integer(value: object, what: str, *, least: int = 0) -> int:
    """Return `value` if it is an integer of at least `least` (booleans are not). Raises `MalformedError`."""
    if type(value) is not int or not least <= value < MAX_INT:
        raise MalformedError(f"{what} is not an integer in range", expected=f"{least} up to 2^53")
    return value


def ascii_text(value: object, what: str, *, most: int) -> str:
    """Return `value` if it is 1 to `most` printable ASCII characters. Raises `MalformedError`."""
    if not isinstance(value, str) or not 1 <= len(value) <= most or not (value.isascii() and value.isprintable()):
        raise MalformedError(f"{what} is not text in range", expected=f"1 to {most} printable ASCII characters")
    return value


def array_of(value: object, item: Callable[[object], _T], what: str, *, most: int) -> tuple[_T, ...]:
    """Parse a JSON array of at most `most` items. Raises `MalformedError`."""
    if not isinstance(value, list) or len(value) > most:
        raise MalformedError(f"{what} is not an array in range", expected=f"at most {most} items")
    return tuple(item(entry) for entry in value)
