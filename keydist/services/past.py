"""Verifying a JWT as of an earlier time, with the public keys that a node keeps for ever; fails closed.

A key that was revoked proves nothing for any time: from some moment before the revocation somebody else may have had
it, and whoever signs chooses what `iat` says. So it is refused, whenever the JWT says that it was made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from keydist.core import crypto
from keydist.core.crypto import KEY_BYTES
from keydist.core.jwk import parse_public_jwk
from keydist.core.jws import Claims, check_claims, check_signature, parse_compact
from keydist.core.strict import fixed
from keydist.errors import (
    DiskError,
    InvalidJwtError,
    KeydistError,
    MalformedError,
    NotYetError,
    RebuiltFloorError,
    UnavailableError,
    UsageError,
)
from keydist.services.dates import date

if TYPE_CHECKING:
    from keydist.core.accept import Floor, Held
    from keydist.core.local import Local
    from keydist.ports import PublicKeys


def verify_past(
    jwt: str,
    *,
    keys: PublicKeys,
    load: Callable[[], Local],
    at: int,
    audience: str,
    issuer: str,
    leeway: int | None = None,
    typ: str = "JWT",
) -> Claims:
    """Return what a JWT says that was valid at a unix second, by a key that was never revoked as far as is known here.

    `load` returns what this node's disk holds. Raises `InvalidJwtError`; `UnavailableError` where this node cannot
    tell: it holds no keyset, forgot what was revoked, or has no unaltered copy of the key; `UsageError`.
    """
    if not audience or not issuer:
        raise UsageError("audience and issuer say what is expected of a JWT", expected="text that is not empty")
    parsed = parse_compact(jwt)
    kid = parsed.header.kid
    _check_kid(kid)
    held, floor = _held(load)
    _refuse_revoked(kid, held, floor, keys)
    alg, public = _kept(keys, kid)
    check_signature(parsed, crypto.load_public(public.spki), alg=alg, typ=typ)
    if leeway is None:
        leeway = held.keyset.policy.leeway
    return check_claims(parsed, issuer=issuer, audience=audience, now=at, leeway=leeway)


def _check_kid(kid: str) -> None:
    """Refuse a kid that no signing key can have: it is about to be a file's name."""
    try:
        fixed(kid, KEY_BYTES, "the JWT's kid")
    except MalformedError as exc:
        raise InvalidJwtError(exc.message, reason="kid-unknown", expected=exc.expected) from None


def _held(load: Callable[[], Local]) -> tuple[Held, Floor | None]:
    """Return the keyset on disk, and the floor. What is wrong with them says nothing about a JWT."""
    try:
        local = load()
    except KeydistError as exc:
        _cannot_tell("this node's state cannot be read", exc)
    if local.held is None:
        _cannot_tell("this node has no keyset: it does not know what was revoked", local.damage or NotYetError("none"))
    for alarm in local.alarms:
        if isinstance(alarm, RebuiltFloorError | DiskError):
            _cannot_tell("this node may have forgotten what was revoked", alarm)
    return local.held, local.floor


def _refuse_revoked(kid: str, held: Held, floor: Floor | None, keys: PublicKeys) -> None:
    when = next((date(entry.at) for entry in held.keyset.revoked if entry.kid == kid), None)
    if when is None and (floor is None or kid not in floor.revoked) and not _is_marked(keys, kid):
        return
    raise InvalidJwtError(
        f"the key of the JWT was revoked {when or 'at a time that the keyset no longer lists'}: it proves nothing,"
        " not for earlier either",
        reason="kid-revoked",
        expected="a key that was never revoked",
        fix="rest on other evidence that the JWT was there before: whoever had the key may have dated it back",
    )


def _is_marked(keys: PublicKeys, kid: str) -> bool:
    try:
        return keys.was_revoked(kid)
    except KeydistError as exc:
        _cannot_tell("this node cannot read what was revoked: public/", exc)


def _kept(keys: PublicKeys, kid: str) -> tuple[str, crypto.PublicPart]:
    """Return the public key of a kid, as it was accepted."""
    try:
        raw = keys.public_jwk(kid)
        if raw is not None:
            return parse_public_jwk(raw, kid)
    except KeydistError as exc:
        _cannot_tell(f"the copy of the JWT's key cannot be trusted: public/{kid}.jwk", exc)
    raise UnavailableError(
        "this node has no copy of the JWT's key",
        expected=f"public/{kid}.jwk, kept since the key was accepted",
        found="no such file",
        fix="verify it on a node that was there when the key was in use: that one knows whether it was revoked, too",
    )


def _cannot_tell(message: str, why: KeydistError) -> NoReturn:
    raise UnavailableError(message, expected=why.expected, found=why.message, fix=why.fix) from why
