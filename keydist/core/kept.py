"""A public key as it is kept for ever: its JWK, checked against the kid that it is kept under."""

from __future__ import annotations

from typing import NamedTuple

from keydist.core import crypto
from keydist.core.jwk import thumbprint
from keydist.core.pem import pem
from keydist.core.strict import parse_object
from keydist.errors import CorruptError, MalformedError


class Kept(NamedTuple):
    """One public signing key: the algorithm that it was used with, its JWK and its SubjectPublicKeyInfo."""

    alg: str
    jwk: dict[str, str]
    spki: bytes

    def pem(self) -> bytes:
        """Return it as `PUBLIC KEY`."""
        return pem("PUBLIC KEY", self.spki)


def parse_kept(raw: bytes, kid: str) -> Kept:
    """Parse a file of `public/`. Raises `CorruptError` where it is not the key of that kid, whole and unaltered."""
    try:
        jwk = parse_object(raw, "a kept public key")
        alg = jwk.get("alg")
        if not isinstance(alg, str) or alg not in crypto.SIGNING_ALGS:
            raise MalformedError("a kept public key has no known algorithm")  # noqa: TRY301 - told below
        part = crypto.public_of_jwk(jwk, alg)
        whole = {"use": "sig", "alg": alg, "kid": thumbprint(part.members), **part.members}
        if jwk != whole or jwk["kid"] != kid:
            raise MalformedError("a kept public key is not the one of its kid")  # noqa: TRY301 - told below
    except MalformedError as exc:
        raise CorruptError(
            f"the public key kept for {kid} was altered",
            expected="the key that the kid is the thumbprint of",
            found=exc.message,
            fix="take the file from another node, or from a backup",
        ) from None
    return Kept(alg, jwk, part.spki)
