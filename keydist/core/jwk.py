"""Public keys as JSON Web Keys: thumbprints (RFC 7638), JWKs and the JWK Set (RFC 7517).

The kid of an asymmetric key is its SHA-256 thumbprint, so a kid cannot be given to another key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from keydist.core.crypto import PublicPart, public_of_jwk
from keydist.core.strict import b64url_decode, b64url_encode, parse_object, serialise
from keydist.errors import MalformedError

if TYPE_CHECKING:
    from keydist.core.keyset import Key, Keyset

_ABOUT: Final = frozenset({"use", "alg", "kid"})
"""The members of a JWK that say something of a key and are no part of it."""


def thumbprint(members: Mapping[str, str]) -> str:
    """Return the RFC 7638 SHA-256 thumbprint of a public key's required members."""
    return b64url_encode(hashlib.sha256(serialise(dict(sorted(members.items())))).digest())


def public_jwk(key: Key) -> dict[str, str]:
    """Return the public JWK of a signing key: kty, use, alg, kid and the key's own members."""
    members = key.public.members
    return {"kty": members["kty"], "use": "sig", "alg": key.alg, "kid": key.kid} | {
        name: value for name, value in members.items() if name != "kty"
    }


def parse_public_jwk(raw: bytes, kid: str) -> tuple[str, PublicPart]:
    """Return the algorithm and the key of a JWK that `public_jwk` wrote, its thumbprint recomputed.

    Raises `MalformedError` for any other key than that of `kid`, and any other spelling.
    """
    value = parse_object(raw, "the JWK")
    if not all(isinstance(text, str) for text in value.values()):
        raise MalformedError("a member of the JWK is not text", expected="text")
    members = {name: text for name, text in value.items() if name not in _ABOUT}
    alg = value.get("alg", "")
    part = public_of_jwk(members, alg)
    if value != {"kty": members["kty"], "use": "sig", "alg": alg, "kid": kid} | members or thumbprint(members) != kid:
        raise MalformedError("the JWK is not that of its kid", expected="the key whose thumbprint is the kid")
    return alg, part


def bits_of(key: Key) -> int:
    """Return the size of an RSA key's modulus in bits; 0 for a signing key of another kind."""
    modulus = key.public.members.get("n", "")
    return int.from_bytes(b64url_decode(modulus, "n"), "big").bit_length()


def jwk_set(keyset: Keyset) -> dict[str, list[dict[str, str]]]:
    """Return the JWK Set: every signing key that verifies (next, active, retired), never a symmetric one."""
    return {"keys": [public_jwk(key) for key in keyset.signing_keys()]}
