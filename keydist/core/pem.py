"""Keys as PEM (RFC 7468): what programs that do not read JWK take."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

from keydist.core.keyset import State
from keydist.errors import MalformedError, UsageError

if TYPE_CHECKING:
    from keydist.core.keyset import Key

_LINE: Final = 64


def private_pem(key: Key) -> bytes:
    """Return a signing key as `PRIVATE KEY` (PKCS#8). Raises `UsageError` for a retired key: it was not kept."""
    if key.use != "sig":
        raise MalformedError("a symmetric key has no PEM")
    if key.state is State.RETIRED:
        raise UsageError(
            f"the private part of retired key {key.kid} is not kept",
            expected="an active or next key",
            fix="choose one from: keydist key list",
        )
    return pem("PRIVATE KEY", key.material)


def public_pem(key: Key) -> bytes:
    """Return the public part of a signing key as `PUBLIC KEY` (SubjectPublicKeyInfo)."""
    return pem("PUBLIC KEY", key.public.spki)


def pem(label: str, der: bytes) -> bytes:
    """Return DER under a label."""
    text = base64.b64encode(der).decode("ascii")
    lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode("ascii")
