"""Putting a node's envelope back, byte for byte, where the store lost it: by compare-and-set, then read back."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from keydist.core.restart import InStore
from keydist.errors import StoreTimeoutError
from keydist.services.observe import Observation, observe

if TYPE_CHECKING:
    from keydist.core.accept import Demands, Held
    from keydist.core.local import Local
    from keydist.ports import Clock, KeysetStore

LOST: Final = frozenset(
    {InStore.BUCKET_MISSING, InStore.NEVER_WRITTEN, InStore.EMPTIED, InStore.DELETED, InStore.ANCESTOR}
)
"""What the store may hold for an envelope to be put back with no person asked."""


async def put_back(
    seen: Observation, held: Held, *, store: KeysetStore, clock: Clock, demands: Demands, local: Local
) -> Observation:
    """Write `held` over what was `seen` and return what the stream leader holds then.

    Raises `ConflictError` where somebody else wrote meanwhile, and the errors of `KeysetStore`.
    """
    if seen.found is InStore.BUCKET_MISSING:
        await store.create_bucket()
    with suppress(StoreTimeoutError):  # it may have happened all the same: read back
        if seen.found in (InStore.BUCKET_MISSING, InStore.NEVER_WRITTEN):
            await store.write_first(held.envelope)
        else:
            await store.replace(held.envelope, revision=seen.revision)
    return await observe(store, clock, demands, local, from_leader=True)
