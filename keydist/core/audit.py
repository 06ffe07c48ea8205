"""What the audit trail tells: events, what a keyset changes against the one before it, JWTs by their SHA-256.

No part of it is a secret: names, numbers, digests. How it is written down is `keydist.core.audit_record`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from keydist.core.keyset import State
from keydist.core.strict import b64url_encode, serialise

if TYPE_CHECKING:
    from keydist.core.accept import Held

CHAIN_HEX: Final = 16
HASH_BYTES: Final = 32
BEGINNING: Final = bytes(HASH_BYTES)
"""What stands for the record before the first one."""
MAX_TEXT: Final = 256
MAX_LIST: Final = 64

Fact = str | int | tuple[str, ...]
Facts = Mapping[str, Fact]


class What(StrEnum):
    """What a record tells."""

    GENESIS = "genesis"
    """A first key was made here."""
    EPOCH = "epoch"
    """A keyset was written or taken; its facts say what it changes."""
    FOUND = "found"
    """A keyset is in use that no record tells of: a crash came between, or the trail began."""
    PUT_BACK = "put-back"
    RESOLVED = "resolved"
    RESTORED = "restored"
    REFUSED = "refused"
    """The store held something that must not be used."""
    MINTED = "minted"


ANEW: Final = frozenset({What.GENESIS, What.FOUND, What.RESOLVED, What.RESTORED})
"""What may lawfully bring a node from one lineage to another."""


class Mint(NamedTuple):
    """One JWT that was minted: its SHA-256, what it says, and the user id that had it minted. Never the JWT.

    Records of before the user id was kept have None.
    """

    sha256: bytes
    kid: str
    jti: str
    sub: str
    aud: tuple[str, ...]
    exp: int
    uid: int | None = None


class Event(NamedTuple):
    """Something that happened; `held` is the keyset in use then, whose active key signs the record."""

    what: What
    held: Held
    how: str = ""
    facts: Mapping[str, Fact] = {}
    minted: tuple[Mint, ...] = ()


class Place(NamedTuple):
    """Whose trail it is."""

    cluster: str
    node: str


class Link(NamedTuple):
    """The last record of a chain: what the next one is linked to. `seq` is 0 before the first."""

    chain: str
    seq: int = 0
    hash: bytes = BEGINNING
    lineage: str = ""
    digest: bytes = b""


def change(before: Held | None, after: Held) -> dict[str, Fact]:
    """Return what a keyset changes against the one before it: the facts of an epoch."""
    new = after.keyset
    facts: dict[str, Fact] = {"active": new.active.kid, "token": after.token_id}
    if before is None:
        return facts
    old = before.keyset
    facts["was"] = old.epoch
    changed = [
        name
        for name, is_so in (
            ("rotated", old.active.kid != new.active.kid),
            ("token-replaced", before.token_id != after.token_id),
            ("policy", old.policy != new.policy),
        )
        if is_so
    ]
    gone = {entry.kid for entry in old.revoked}
    revoked = [entry for entry in new.revoked if entry.kid not in gone]
    listed = {key.kid for key in new.keys}
    were = {key.kid for key in old.keys}
    until = {key.kid: key.verify_until for key in old.keys}
    for name, kids in (
        ("revoked", [entry.kid for entry in revoked]),
        ("published", [key.kid for key in new.keys if key.kid not in were and key.state is State.NEXT]),
        ("dropped", [kid for kid in were if kid not in listed and kid not in {entry.kid for entry in new.revoked}]),
        ("extended", [key.kid for key in new.keys if key.kid in were and key.verify_until != until[key.kid]]),
    ):
        if kids:
            changed.append(name)
            facts[name] = tuple(sorted(kids)[:MAX_LIST])
    if revoked:
        facts["reason"] = revoked[0].reason
    return facts | ({"change": tuple(changed)} if changed else {})


def mint_json(mint: Mint) -> dict[str, object]:
    """Return a minted JWT's members, as records and spools hold them."""
    members: dict[str, object] = {
        "sha256": b64url_encode(mint.sha256),
        "kid": mint.kid,
        "jti": mint.jti,
        "sub": mint.sub,
        "aud": list(mint.aud),
        "exp": mint.exp,
    }
    return members if mint.uid is None else members | {"uid": mint.uid}


def mint_of(jwt: str, claims: Mapping[str, Any], kid: str, *, uid: int | None = None) -> Mint:
    """Return what the trail keeps of a JWT; text that is too long, and too many audiences, by their SHA-256."""
    aud = claims["aud"]
    audiences = (aud,) if isinstance(aud, str) else tuple(aud)
    jti = claims.get("jti", "")
    return Mint(
        sha256=jwt_hash(jwt),
        kid=kid,
        jti=_shortened(jti) if isinstance(jti, str) else "",
        sub=_shortened(claims["sub"]),
        aud=_audiences(audiences),
        exp=claims["exp"],
        uid=uid,
    )


def jwt_hash(jwt: str) -> bytes:
    """Return the SHA-256 by which the trail knows a JWT."""
    return hashlib.sha256(jwt.encode("utf-8", "surrogatepass")).digest()


def _audiences(audiences: tuple[str, ...]) -> tuple[str, ...]:
    """Return what is kept of them; of too many, the last stands for all: none can be hidden behind others."""
    if len(audiences) <= MAX_LIST:
        return tuple(_shortened(item) for item in audiences)
    kept = tuple(_shortened(item) for item in audiences[: MAX_LIST - 1])
    return (*kept, _hashed(serialise({"aud": list(audiences)})))


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else _hashed(text.encode("utf-8", "surrogatepass"))


def _hashed(raw: bytes) -> str:
    return "sha256:" + b64url_encode(hashlib.sha256(raw).digest())
