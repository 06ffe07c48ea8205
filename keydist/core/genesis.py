"""The first keyset of a lineage: one active key and one standing next key, for signing and for encryption."""

from __future__ import annotations

from dataclasses import dataclass, field

from keydist.core import crypto
from keydist.core.jwk import thumbprint
from keydist.core.keyset import Key, Keyset, State
from keydist.core.plaintext import ENC_ALG, ENC_KID_BYTES
from keydist.core.policy import Policy
from keydist.core.strict import b64url_encode


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshKeys:
    """New material for one state: a PKCS#8 signing key, 32 bytes for encryption, 16 bytes for its kid."""

    pkcs8: bytes = field(repr=False)
    secret: bytes = field(repr=False)
    secret_kid: bytes


def first_keyset(
    *, lineage: str, now: int, policy: Policy, alg: str, active: FreshKeys, following: FreshKeys
) -> Keyset:
    """Return epoch 1: `active` signs at once, `following` is published as next. `now` in unix seconds."""
    keys = []
    for state, fresh in ((State.ACTIVE, active), (State.NEXT, following)):
        activated = now if state is State.ACTIVE else None
        keys.append(signing_key(fresh.pkcs8, alg=alg, state=state, now=now, activated=activated))
        keys.append(encryption_key(fresh.secret, fresh.secret_kid, state=state, now=now, activated=activated))
    return Keyset(lineage=lineage, epoch=1, issued=now, policy=policy, ancestors=(), keys=tuple(keys))


def signing_key(pkcs8: bytes, *, alg: str, state: State, now: int, activated: int | None) -> Key:
    """Return a newly published signing key, its kid being its thumbprint."""
    part = crypto.public_of_private(pkcs8, alg, validate=False)
    return Key(
        kid=thumbprint(part.members),
        use="sig",
        alg=alg,
        state=state,
        created=now,
        published=now,
        activated=activated,
        material=pkcs8,
        public_part=part,
    )


def encryption_key(secret: bytes, kid: bytes, *, state: State, now: int, activated: int | None) -> Key:
    """Return a newly published symmetric key; its kid is 16 random bytes."""
    if len(kid) != ENC_KID_BYTES:
        msg = f"the kid of an encryption key has {ENC_KID_BYTES} bytes"
        raise ValueError(msg)
    return Key(
        kid=b64url_encode(kid),
        use="enc",
        alg=ENC_ALG,
        state=state,
        created=now,
        published=now,
        activated=activated,
        material=secret,
    )
