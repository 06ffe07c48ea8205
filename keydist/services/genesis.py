"""Making the first sealed keyset of a new lineage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keydist.core.crypto import IV_BYTES, KEY_BYTES
from keydist.core.envelope import RND_BYTES, Place, seal
from keydist.core.genesis import FreshKeys, first_keyset
from keydist.core.plaintext import ENC_KID_BYTES, serialise_keyset

if TYPE_CHECKING:
    from keydist.core.policy import Policy
    from keydist.core.token import BootstrapToken
    from keydist.ports import Clock, Entropy

_LINEAGE_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What a first keyset is made with: where it belongs, the token it is sealed under, its policy and algorithm."""

    place: Place
    token: BootstrapToken
    policy: Policy
    alg: str
    bits: int


async def first_envelope(beginning: Beginning, *, entropy: Entropy, clock: Clock) -> bytes:
    """Return the sealed epoch 1 of a new lineage."""
    active, following = [await fresh_keys(beginning.alg, beginning.bits, entropy) for _ in range(2)]
    keyset = first_keyset(
        lineage=entropy.random(_LINEAGE_BYTES).hex(),
        now=clock.now(),
        policy=beginning.policy,
        alg=beginning.alg,
        active=active,
        following=following,
    )
    return seal(
        serialise_keyset(keyset),
        token=beginning.token,
        place=beginning.place,
        lineage=keyset.lineage,
        epoch=keyset.epoch,
        issued=keyset.issued,
        rnd=entropy.random(RND_BYTES),
        iv=entropy.random(IV_BYTES),
    )


async def fresh_keys(alg: str, bits: int, entropy: Entropy) -> FreshKeys:
    """Return new material for one state of each use; `bits` is the size of an RSA key."""
    return FreshKeys(
        pkcs8=await entropy.signing_key(alg, bits),
        secret=entropy.random(KEY_BYTES),
        secret_kid=entropy.random(ENC_KID_BYTES),
    )
