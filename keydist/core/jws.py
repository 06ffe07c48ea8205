"""JWTs as compact JWS (RFC 7515, 7519), strict by RFC 8725: one shape, and its algorithm is its key's, never its own.

The header has exactly `alg`, `kid` and `typ`, so that `jku`, `jwk`, `x5u`, `crit`, `b64` and `zip` have no place. The
signature is verified before a claim is looked at. Every refusal is an `InvalidJwtError` with one of these reasons:
size, shape, encoding, header, alg, typ, kid-unknown, kid-revoked, signature, claims, issuer, audience, expired,
not-yet. None of them says anything that stood in the JWT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from keydist.core import crypto
from keydist.core.strict import (
    MAX_INT,
    ascii_text,
    b64url_decode,
    b64url_encode,
    exact_members,
    parse_object,
    serialise,
)
from keydist.errors import InvalidJwtError, MalformedError, UsageError

if TYPE_CHECKING:
    from keydist.core.crypto import PrivateKey, PublicKey
    from keydist.core.keyset import Key

MAX_JWT: Final = 8192
"""The longest JWT that is made or read, in characters."""
REGISTERED: Final = frozenset({"iss", "sub", "aud", "exp", "iat"})
"""The claims that every JWT has and that `compose_claims` makes."""

_MAX_HEADER: Final = 512
_MAX_TYP: Final = 64
_MAX_DEPTH: Final = 16
_SEGMENTS: Final = 3
_HEADER: Final = frozenset({"alg", "kid", "typ"})
_CONTAINERS: Final = (dict, list, tuple)


class Header(NamedTuple):
    """The protected header; not to be believed before the signature is verified."""

    alg: str
    kid: str
    typ: str


class Parsed(NamedTuple):
    """A JWT of the right shape, and not yet verified."""

    header: Header
    payload: bytes
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a verified JWT says; times in unix seconds. `all` has every claim and cannot be written to."""

    issuer: str
    subject: str
    audience: tuple[str, ...]
    expires: int
    issued: int
    kid: str
    all: Mapping[str, Any] = field(repr=False)


# --- minting ------------------------------------------------------------------------------------


def compose_claims(
    claims: Mapping[str, Any], *, issuer: str, subject: str, audience: str | Sequence[str], issued: int, expires: int
) -> dict[str, object]:
    """Return the claims of a JWT, the registered ones first. Raises `UsageError` for what no verifier would take."""
    several = [audience] if isinstance(audience, str) else list(audience)
    composed = {
        "iss": issuer,
        "sub": subject,
        "aud": audience if isinstance(audience, str) else several,
        "exp": expires,
        "iat": issued,
        **claims,
    }
    if len(composed) < len(REGISTERED) + len(claims):
        raise UsageError(
            "a registered claim is given twice",
            expected="iss, sub, aud, exp and iat only by argument",
            found=", ".join(sorted(REGISTERED & claims.keys())),
        )
    texts: list[object] = [issuer, subject, *(several or [""])]
    for text in texts:
        if not (isinstance(text, str) and text):
            raise UsageError("a JWT needs an issuer, a subject and an audience", expected="text that is not empty")
    if type(claims.get("nbf", issued)) is not int:
        raise UsageError("nbf is not a time", expected="unix seconds")
    if not isinstance(claims.get("jti", ""), str):
        raise UsageError("jti is not text", expected="text (RFC 7519, section 4.1.7)")
    if not _is_exact(composed):
        raise UsageError(
            "a claim cannot be written so that every reader reads the same",
            expected=f"text, integers from 0 below 2^53, true, false, null, arrays and objects, {_MAX_DEPTH} deep",
            found=next(ascii(name) for name, value in composed.items() if not _is_exact({name: value})),
        )
    return composed


def is_unicode(text: str) -> bool:
    """Tell whether text has no half of a surrogate pair, which JSON can carry and UTF-8 cannot."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _is_exact(value: object, depth: int = 0) -> bool:
    """Tell whether every reader of JSON gets a value back as it went in: what RFC 7493 allows, and less deep.

    Plain loops: with `all` and generators it costs twice as much, and it runs for each JWT that is minted.
    """
    if isinstance(value, str):
        return value.isascii() or is_unicode(value)
    if isinstance(value, int):  # true and false are
        return 0 <= value < MAX_INT
    if depth == _MAX_DEPTH or not isinstance(value, _CONTAINERS):
        return value is None
    if isinstance(value, dict):
        for name in value:
            if not (isinstance(name, str) and is_unicode(name)):
                return False
    for item in value.values() if isinstance(value, dict) else value:  # noqa: SIM110 - as above
        if not _is_exact(item, depth + 1):
            return False
    return True


def mint_compact(key: Key, private: PrivateKey, claims: Mapping[str, object], typ: str) -> str:
    """Return claims signed with a key's private part. Raises `UsageError` where no verifier would take the result."""
    signed = f"{_header_segment(key.alg, key.kid, typ)}.{b64url_encode(serialise(claims))}"
    jwt = f"{signed}.{b64url_encode(crypto.sign(private, key.alg, signed.encode('ascii')))}"
    if len(jwt) > MAX_JWT:
        raise UsageError("the JWT is too long", expected=f"at most {MAX_JWT} characters", found=str(len(jwt)))
    return jwt


@lru_cache(maxsize=64)
def _header_segment(alg: str, kid: str, typ: str) -> str:
    try:
        ascii_text(typ, "typ", most=_MAX_TYP)
    except MalformedError as exc:
        raise UsageError(exc.message, expected=exc.expected) from None
    return b64url_encode(serialise({"alg": alg, "kid": kid, "typ": typ}))


# --- verifying ----------------------------------------------------------------------------------


def parse_compact(text: str) -> Parsed:
    """Take a JWT apart, believing nothing. Raises `InvalidJwtError`."""
    head, body, tail = segments_of(text)
    return Parsed(
        header=_parse_header(head),
        payload=decode_segment(body, "the JWT's claims"),
        signed=text[: len(head) + 1 + len(body)].encode("ascii"),
        signature=decode_segment(tail, "the JWT's signature"),
    )


def segments_of(text: str) -> tuple[str, str, str]:
    """Return the header, the claims and the signature of a compact JWS, as yet encoded. Raises `InvalidJwtError`."""
    if type(text) is not str:
        raise InvalidJwtError("the JWT is not text", reason="shape", expected="header.claims.signature")
    if len(text) > MAX_JWT:
        raise InvalidJwtError("the JWT is too long", reason="size", expected=f"at most {MAX_JWT} characters")
    if not text.isascii():
        raise InvalidJwtError("the JWT is not ASCII", reason="encoding", expected="three segments of base64url")
    segments = text.split(".", 3)
    if len(segments) != _SEGMENTS:
        raise InvalidJwtError(
            "the JWT does not have three segments", reason="shape", expected="header.claims.signature"
        )
    head, body, tail = segments
    if len(head) > _MAX_HEADER:
        raise InvalidJwtError("the JWT's header is too long", reason="size", expected=f"at most {_MAX_HEADER}")
    return head, body, tail


def decode_segment(segment: str, what: str) -> bytes:
    """Return the bytes of one segment, named `what`. Raises `InvalidJwtError`."""
    try:
        return b64url_decode(segment, what)
    except MalformedError as exc:
        raise InvalidJwtError(exc.message, reason="encoding", expected=exc.expected) from None


@lru_cache(maxsize=256)  # a cluster mints under a handful of headers; a refused one is not kept
def _parse_header(segment: str) -> Header:
    raw = decode_segment(segment, "the JWT's header")
    try:
        header = parse_object(raw, "the JWT's header")
        exact_members(header, _HEADER, frozenset(), "the JWT's header")
    except MalformedError as exc:
        raise InvalidJwtError(exc.message, reason="header", expected=exc.expected) from None
    alg, kid, typ = header["alg"], header["kid"], header["typ"]
    if not (isinstance(alg, str) and isinstance(kid, str) and isinstance(typ, str)):
        raise InvalidJwtError("a member of the JWT's header is not text", reason="header", expected="text")
    if alg not in crypto.SIGNING_ALGS:
        raise InvalidJwtError(
            "the JWT has an unsupported algorithm", reason="alg", expected=", ".join(sorted(crypto.SIGNING_ALGS))
        )
    return Header(alg=alg, kid=kid, typ=typ)


def check_signature(parsed: Parsed, public: PublicKey, *, alg: str, typ: str) -> None:
    """Check a JWT's signature by a key of `alg`, and that it is of the type asked for. Raises `InvalidJwtError`."""
    if parsed.header.alg != alg:
        raise InvalidJwtError("the JWT names another algorithm than its key has", reason="alg", expected=alg)
    if parsed.header.typ != typ:
        raise InvalidJwtError("the JWT is of another type", reason="typ", expected=typ)
    if not crypto.verify(public, alg, parsed.signed, parsed.signature):
        raise InvalidJwtError("the JWT's signature is not its key's", reason="signature", expected="a valid signature")


def check_claims(parsed: Parsed, *, issuer: str, audience: str, now: int, leeway: int) -> Claims:
    """Return the claims of a JWT whose signature was verified. Times in seconds. Raises `InvalidJwtError`.

    A lifetime is not tested: how long a JWT may live is a rule for its minter.
    """
    found = claims_of(_parse_claims(parsed.payload), kid=parsed.header.kid)
    begins = found.all.get("nbf", found.issued)
    if type(begins) is not int or not isinstance(found.all.get("jti", ""), str):
        raise InvalidJwtError("nbf or jti is not of its type", reason="claims", expected="unix seconds, text")
    if found.issuer != issuer:
        raise InvalidJwtError("the JWT is by another issuer", reason="issuer", expected=issuer)
    if audience not in found.audience:
        raise InvalidJwtError("the JWT is for another audience", reason="audience", expected=audience)
    if found.expires <= now - leeway:
        raise InvalidJwtError("the JWT has expired", reason="expired", expected=f"exp after {now - leeway}")
    if max(found.issued, begins) > now + leeway:
        raise InvalidJwtError("the JWT is not yet valid", reason="not-yet", expected=f"iat and nbf to {now + leeway}")
    return found


def claims_of(claims: dict[str, Any], *, kid: str) -> Claims:
    """Return what a JWT says by its members. Raises `InvalidJwtError` where one is missing or not of its type."""
    issuer, subject, expires, issued = (claims.get(name) for name in ("iss", "sub", "exp", "iat"))
    if not (isinstance(issuer, str) and isinstance(subject, str) and type(expires) is int and type(issued) is int):
        raise InvalidJwtError("a claim is missing or not of its type", reason="claims", expected="iss, sub, exp, iat")
    return Claims(
        issuer=issuer,
        subject=subject,
        audience=_audiences(claims.get("aud")),
        expires=expires,
        issued=issued,
        kid=kid,
        all=MappingProxyType(claims),
    )


def _parse_claims(payload: bytes) -> dict[str, Any]:
    try:
        claims = parse_object(payload, "the JWT's claims")
    except MalformedError as exc:
        raise InvalidJwtError(exc.message, reason="claims", expected=exc.expected) from None
    # What was parsed is exact but for its depth and halves of surrogate pairs (\\u): few JWTs need a second look.
    if (b"\\u" in payload or payload.count(b"[") + payload.count(b"{") > _MAX_DEPTH) and not _is_exact(claims):
        raise InvalidJwtError(
            "the JWT's claims are not exact", reason="claims", expected=f"Unicode text, at most {_MAX_DEPTH} deep"
        )
    return claims


def _audiences(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise InvalidJwtError("aud is not an audience", reason="claims", expected="text, or an array of text")
