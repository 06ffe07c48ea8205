"""The compact form of a JWE under a key that both sides have (RFC 7516, section 7.1; `dir`): five segments, no more.

What is shared by a keyset's envelope and by what `keydist jwe` makes. Sizes are the caller's to bound first.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from keydist.core import crypto
from keydist.core.strict import b64url_decode, b64url_encode
from keydist.errors import MalformedError

_SEGMENTS: Final = 5


class Compact(NamedTuple):
    """A JWE taken apart and not yet authenticated; `aad` is the header's segment, `sealed` the ciphertext and tag."""

    header: bytes
    aad: bytes
    iv: bytes
    sealed: bytes


def parse_compact_jwe(raw: bytes, what: str, *, max_header: int) -> Compact:
    """Take a JWE with an empty encrypted key apart. Raises `MalformedError`, naming `what`.

    `max_header` bounds the header in characters of base64url.
    """
    if raw.find(b".", 0, max_header + 1) < 0:
        raise MalformedError(f"{what}'s header is too long", expected=f"at most {max_header} characters")
    segments = raw.split(b".", _SEGMENTS)
    if len(segments) != _SEGMENTS or segments[1]:
        raise MalformedError(f"{what} is not a compact JWE", expected="five segments, the second empty")
    names = ("header", "", "initialization vector", "ciphertext", "tag")
    header, _, iv, ciphertext, tag = (
        b64url_decode(part, f"the {name}") for part, name in zip(segments, names, strict=True)
    )
    if len(iv) != crypto.IV_BYTES or len(tag) != crypto.TAG_BYTES:
        raise MalformedError(
            f"{what}'s IV or tag has the wrong length", expected=f"{crypto.IV_BYTES} and {crypto.TAG_BYTES} bytes"
        )
    return Compact(header=header, aad=segments[0], iv=iv, sealed=ciphertext + tag)


def compact_jwe(aad: bytes, iv: bytes, sealed: bytes) -> bytes:
    """Return the five segments as one; the inverse of `parse_compact_jwe`."""
    body, tag = sealed[: -crypto.TAG_BYTES], sealed[-crypto.TAG_BYTES :]
    return b".".join((aad, b"", *(b64url_encode(part).encode("ascii") for part in (iv, body, tag))))
