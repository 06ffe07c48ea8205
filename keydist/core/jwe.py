"""Sensitive claims as compact JWE (RFC 7516; `dir`, `A256GCM`), under the encryption keys of the keyset.

The header has exactly `alg`, `enc`, `kid` and `typ`. The active key encrypts; next, active and retired decrypt, each by
its exact kid; a revoked one never does. What is refused is an `InvalidJweError`, which says nothing of the content.

IVs are 96 random bits, and every node encrypts under the same key: at most 2^32 messages a key, over all nodes (NIST
SP 800-38D, section 8.3). Nothing counts them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from keydist.core import crypto
from keydist.core.compact import Compact, compact_jwe, parse_compact_jwe
from keydist.core.keyset import Key, Keyset, State
from keydist.core.plaintext import ENC_ALG, ENC_KID_BYTES
from keydist.core.strict import b64url_encode, exact_members, fixed, parse_object, serialise
from keydist.errors import InvalidJweError, MalformedError, NotYetError, TamperedError, UsageError

JWE_TYPE: Final = "JWE"
"""The `typ` of the header (RFC 7516, section 4.1.11)."""
MAX_PLAINTEXT: Final = 64 * 1024
"""The largest plaintext that is taken, in bytes."""
MAX_JWE: Final = 88 * 1024
"""The longest JWE that is read, in characters: a largest plaintext in base64url, and everything around it."""

_MAX_HEADER: Final = 256
_WHAT: Final = "the JWE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Jwe:
    """A JWE of the right shape, not yet authenticated."""

    kid: str
    parts: Compact = field(repr=False)


def _header(kid: str) -> dict[str, object]:
    return {"alg": "dir", "enc": ENC_ALG, "kid": kid, "typ": JWE_TYPE}


def encryption_key_of(keyset: Keyset, revoked: Collection[str]) -> Key:
    """Return the key that encrypts. Raises `NotYetError` where the floor, whose kids `revoked` has, refuses it."""
    key = next(key for key in keyset.keys if key.use == "enc" and key.state is State.ACTIVE)
    if key.kid in revoked:
        raise NotYetError(
            "the active encryption key of this node was revoked",
            expected="a keyset without it",
            found="the one from before",
            fix="take the newer keyset, with NATS reachable: keydist bootstrap",
        )
    return key


def encrypt_jwe(plaintext: bytes, key: Key, *, iv: bytes) -> str:
    """Return a JWE; `iv` must be 12 fresh random bytes. Raises `UsageError` for a plaintext too large."""
    if len(plaintext) > MAX_PLAINTEXT:
        raise UsageError(
            "the plaintext is too large", expected=f"at most {MAX_PLAINTEXT} bytes", fix="encrypt it in parts"
        )
    aad = b64url_encode(serialise(_header(key.kid))).encode("ascii")
    return compact_jwe(aad, iv, crypto.encrypt(key.material, iv, plaintext, aad)).decode("ascii")


def parse_jwe(raw: bytes) -> Jwe:
    """Take a JWE apart, believing nothing. Raises `InvalidJweError`."""
    if len(raw) > MAX_JWE:
        raise InvalidJweError("the JWE is too long", expected=f"at most {MAX_JWE} characters")
    try:
        parts = parse_compact_jwe(raw, _WHAT, max_header=_MAX_HEADER)
        header = parse_object(parts.header, "the JWE's header")
        exact_members(header, frozenset(_header("")), frozenset(), "the JWE's header")
        fixed(header["kid"], ENC_KID_BYTES, "the JWE's kid")
    except MalformedError as exc:
        raise InvalidJweError(exc.message, expected=exc.expected, found=exc.found) from None
    kid = str(header["kid"])
    if header != _header(kid):
        raise InvalidJweError("the JWE is of another kind", expected=f"alg dir, enc {ENC_ALG}, typ {JWE_TYPE}")
    return Jwe(kid=kid, parts=parts)


def decryption_key(jwe: Jwe, keyset: Keyset, revoked: Collection[str]) -> Key | None:
    """Return the key that a JWE names, None where the keyset has none of that kid.

    `revoked` has the kids of the floor. Raises `InvalidJweError` for a revoked key.
    """
    if jwe.kid in revoked or any(entry.kid == jwe.kid for entry in keyset.revoked):
        raise InvalidJweError(
            "the key of the JWE was revoked: what it encrypted is not opened any more",
            expected="a key in use",
            fix="get the content from where it came from, and encrypt it anew",
        )
    return next((key for key in keyset.keys if key.use == "enc" and key.kid == jwe.kid), None)


def decrypt_jwe(jwe: Jwe, key: Key) -> bytes:
    """Return the plaintext. Raises `InvalidJweError`."""
    try:
        plaintext = crypto.decrypt(key.material, jwe.parts.iv, jwe.parts.sealed, jwe.parts.aad)
    except TamperedError:
        raise InvalidJweError(
            "the JWE does not authenticate: it was altered, or its kid is not its key's", expected="a valid tag"
        ) from None
    if len(plaintext) > MAX_PLAINTEXT:
        raise InvalidJweError("the plaintext is too large", expected=f"at most {MAX_PLAINTEXT} bytes")
    return plaintext
