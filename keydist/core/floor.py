"""The floor of a node: what it will not go back behind, how it rises, and whether a live keyset stands on it.

A keyset on disk that does not stand on its floor was put there by something else than keydist: a partial restore, a
copied directory. It must not be used, and the floor must not follow it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keydist.core.accept import Floor, Held
from keydist.errors import ForkError, RollbackError

if TYPE_CHECKING:
    from keydist.errors import TrustError

_FIX = (
    "start keydist with NATS reachable, restore a backup (keydist store restore FILE), or forget it all: keydist reset"
)


def raised_floor(earlier: Floor | None, held: Held, *, revoked: frozenset[str] = frozenset()) -> Floor:
    """Return the floor of an installed keyset; what was superseded or `revoked` before stays so."""
    superseded = earlier.superseded if earlier else frozenset[str]()
    if earlier is not None and earlier.token_id not in (None, held.token_id):
        superseded |= {earlier.token_id}
    revoked |= {entry.kid for entry in held.keyset.revoked}
    return Floor(
        lineage=held.keyset.lineage,
        epoch=held.keyset.epoch,
        digest=held.digest,
        token_id=held.token_id,
        superseded=superseded,
        revoked=revoked | (earlier.revoked if earlier else frozenset()),
    )


def not_on_floor(floor: Floor, held: Held) -> TrustError | None:
    """Return why a live keyset does not stand on the floor; None where it does.

    It may be ahead: a crash came between the link and the floor.
    """
    keyset = held.keyset
    if floor.lineage not in (None, keyset.lineage):
        return _fork(f"lineage {floor.lineage}", f"lineage {keyset.lineage}")
    if keyset.epoch < floor.epoch:
        return RollbackError(
            "the state directory was put back to an earlier epoch",
            expected=f"epoch {floor.epoch}",
            found=f"epoch {keyset.epoch}",
            fix=_FIX,
        )
    behind = keyset.epoch - floor.epoch
    ancestors = (held.digest, *keyset.ancestors)
    if behind < len(ancestors) and ancestors[behind] != floor.digest:
        return _fork(f"a descendant of epoch {floor.epoch}", f"another epoch {keyset.epoch}")
    for key in keyset.keys:
        if key.kid in floor.revoked:
            return _fork(f"key {key.kid} revoked", f"key {key.kid} {key.state.value}")
    return None


def _fork(expected: str, found: str) -> ForkError:
    return ForkError(
        "the keyset in the state directory is not the one that this node's floor knows",
        expected=expected,
        found=found,
        fix=_FIX,
    )
