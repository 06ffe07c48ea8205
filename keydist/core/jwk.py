"""Public keys as JSON Web Keys: thumbprints (RFC 7638), JWKs and the JWK Set (RFC 7517).

The kid of an asymmetric key is its SHA-256 thumbprint, so a kid cannot be given to another key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from keydist.core.crypto import public_of_members
from keydist.core.strict import ascii_text, b64url_decode, b64url_encode, parse_object, serialise
from keydist.errors import MalformedError

if TYPE_CHECKING:
    from keydist.core.crypto import PublicKey
    from keydist.core.keyset import Key, Keyset


def thumbprint(members: Mapping[str, str]) -> str:
    """Return the RFC 7638 SHA-256 thumbprint of a public key's required members."""
    return b64url_encode(hashlib.sha256(serialise(dict(sorted(members.items())))).digest())


def public_jwk(key: Key) -> dict[str, str]:
    """Return the public JWK of a signing key: kty, use, alg, kid and the key's own members."""
    members = key.public.members
    return {"kty": members["kty"], "use": "sig", "alg": key.alg, "kid": key.kid} | {
        name: value for name, value in members.items() if name != "kty"
    }


def parse_public_jwk(raw: bytes, kid: str) -> tuple[PublicKey, str]:
    """Return the public key that `public_jwk` wrote under a kid, and its algorithm. Raises `MalformedError`.

    The kid is the key's own thumbprint: whatever became of the file, no other key passes for it.
    """
    value = parse_object(raw, "a public key")
    named = {name: value.pop(name, None) for name in ("use", "alg", "kid")}
    members = {name: ascii_text(text, "a public key", most=1024) for name, text in value.items()}
    if named["kid"] != kid or named["use"] != "sig" or thumbprint(members) != kid:
        raise MalformedError("a public key is not the one of its name", expected=f"key {kid}")
    alg = str(named["alg"])
    return public_of_members(members, alg), alg


def bits_of(key: Key) -> int:
    """Return the size of an RSA key's modulus in bits; 0 for a signing key of another kind."""
    modulus = key.public.members.get("n", "")
    return int.from_bytes(b64url_decode(modulus, "n"), "big").bit_length()


def jwk_set(keyset: Keyset) -> dict[str, list[dict[str, str]]]:
    """Return the JWK Set: every signing key that verifies (next, active, retired), never a symmetric one."""
    return {"keys": [public_jwk(key) for key in keyset.signing_keys()]}
