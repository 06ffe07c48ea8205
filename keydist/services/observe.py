"""Reading the store and judging what is there, against what this node holds and demands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from keydist.core.accept import Accepted, Demands, Unchanged, accept
from keydist.core.entry import Absence, Absent, Stored
from keydist.core.envelope import digest
from keydist.core.local import Confirmation, Local
from keydist.core.restart import InStore, OnDisk
from keydist.errors import (
    ConfigError,
    CredentialsRefusedError,
    ForbiddenError,
    KeydistError,
    RollbackError,
    StaleMirrorError,
    StoreLostError,
    TransientError,
    TrustError,
    UnconfirmedError,
    WrongTokenError,
)
from keydist.ports import Clock, KeysetStore

_ABSENT: Final = {
    Absence.NEVER_WRITTEN: InStore.NEVER_WRITTEN,
    Absence.BUCKET_MISSING: InStore.BUCKET_MISSING,
    Absence.DELETED: InStore.DELETED,
    Absence.EMPTIED: InStore.EMPTIED,
    Absence.UNKNOWN: InStore.ABSENT,
}

WHY_ABSENT: Final = {
    InStore.NEVER_WRITTEN: "nothing was ever written to it",
    InStore.BUCKET_MISSING: "the bucket does not exist",
    InStore.DELETED: "the key was deleted",
    InStore.EMPTIED: "the bucket was emptied",
    InStore.ABSENT: "there is no key, and this user may not ask why",
}
"""What a person is told where nothing is there."""

_FIX = "look for who else writes to the store; on a node that has the keyset: keydist store resolve --keep local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the store holds in this node's judgement, read at `sent` (unix seconds, before the request left)."""

    found: InStore
    sent: int
    revision: int = 0
    accepted: Accepted | None = None
    envelope: bytes | None = None
    error: KeydistError | None = None


def on_disk(local: Local) -> OnDisk:
    """Return which row of the restart table a node's disk is in."""
    if local.held is not None:
        return OnDisk.VALID
    return OnDisk.NOTHING if local.damage is None else OnDisk.DAMAGED


async def observe(
    store: KeysetStore, clock: Clock, demands: Demands, local: Local, *, from_leader: bool
) -> Observation:
    """Read the store and judge what is there. Raises nothing of the store's: failures are observations too."""
    sent = clock.now()
    try:
        read = await store.read(from_leader=from_leader)
    except TransientError as exc:
        return Observation(found=InStore.UNREACHABLE, sent=sent, error=exc)
    except (ForbiddenError, CredentialsRefusedError, ConfigError) as exc:  # or credentials that cannot be read
        return Observation(found=InStore.FORBIDDEN, sent=sent, error=exc)
    if isinstance(read, Absent):
        return Observation(found=_ABSENT[read.why], sent=sent, revision=read.revision, error=None)
    return judge(read, demands, local, sent=sent)


def judge(read: Stored, demands: Demands, local: Local, *, sent: int) -> Observation:
    """Judge bytes of the store by the acceptance rules."""
    mine = local.held
    base = Observation(found=InStore.REFUSED, sent=sent, revision=read.revision, envelope=read.envelope)
    try:
        answer = accept(read.envelope, demands._replace(held=mine, floor=local.floor))
    except RollbackError as exc:
        ancestor = mine is not None and digest(read.envelope) in mine.keyset.ancestors
        return replace(base, found=InStore.ANCESTOR if ancestor else InStore.REFUSED, error=exc)
    except (TrustError, WrongTokenError) as exc:
        exc.fix = exc.fix or _FIX  # a parser does not know where its bytes come from
        return replace(base, error=exc)
    if isinstance(answer, Unchanged):
        return replace(base, found=InStore.SAME)
    return replace(base, found=InStore.ACCEPTABLE, accepted=answer)


def lost(seen: Observation) -> StoreLostError:
    """Return the failure of a store that does not hold what this node holds, where nothing else is wrong with it."""
    return StoreLostError(
        "the store lost the keyset",
        expected="the keyset of this node",
        found=WHY_ABSENT.get(seen.found, seen.found.value),
        fix="a leader that has it puts it back: keydist bootstrap, or keydist store republish",
    )


def unconfirmed(seen: Observation) -> KeydistError:
    """Return the failure of a read from the stream's leader, where a read from any replica told what this node holds.

    Without an answer nothing is wrong with the keyset; only that it is the latest is not confirmed.
    """
    if seen.found is not InStore.UNREACHABLE:
        return seen.error or lost(seen)
    return UnconfirmedError(
        "the store answers, but not the leader of its stream: this node's epoch is not confirmed",
        expected="an answer of the stream's leader",
        found=seen.error.message if seen.error else "none",
        fix="a stream without a leader has one within seconds; in a region, mend the link to home. This node verifies,"
        " and mints for the lease since its last confirmation",
    )


def stale_mirror(replica: int, leader: int) -> StaleMirrorError:
    """Return the failure of a replica whose revision is later than what the stream's leader showed after it.

    No replica is ahead of its leader: it is of another stream. What it shows is judged like anything else, and the
    leader is asked each time; but it tells of no change, and a region that is cut off has nothing later.
    """
    return StaleMirrorError(
        "this region's mirror is of a bucket that was made anew at home since: nothing new comes into it",
        expected=f"revision {leader} or earlier",
        found=f"revision {replica}",
        fix="make the mirror anew: docs/scaling.md, 'When home's bucket was made anew'",
    )


def confirmation(local: Local, sent: int) -> Confirmation | None:
    """Return what confirms a node's epoch by a leader read that was sent at `sent`."""
    if local.held is None:
        return None
    return Confirmation(epoch=local.held.keyset.epoch, digest=local.held.digest, at=sent)
