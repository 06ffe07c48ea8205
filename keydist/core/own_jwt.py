"""What stands in a JWT that this node made itself, or once left in a file: no check of who signed it."""

from __future__ import annotations

from dataclasses import dataclass, field

from keydist.core.jws import parse_compact
from keydist.core.strict import integer, parse_object


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnJwt:
    """A JWT with its key and its times, in unix seconds."""

    text: str = field(repr=False)
    kid: str
    issued: int
    expires: int


def own_jwt(text: str) -> OwnJwt:
    """Return a JWT with what stands in it, not verified. Raises `InvalidJwtError`, `MalformedError`."""
    parsed = parse_compact(text)
    claims = parse_object(parsed.payload, "the JWT's claims")
    return OwnJwt(
        text=text,
        kid=parsed.header.kid,
        issued=integer(claims.get("iat"), "iat"),
        expires=integer(claims.get("exp"), "exp"),
    )
