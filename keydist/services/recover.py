"""Recovery that a person asks for: republishing, taking a side of a fork, restoring a backup and its rehearsal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keydist.core import crypto
from keydist.core.accept import RESOLVE, Accepted, Held, accept, open_held
from keydist.core.audit import Event, What, change
from keydist.core.restart import InStore
from keydist.core.strict import b64url_encode
from keydist.errors import (
    CorruptError,
    ForeignClusterError,
    ForkError,
    KeydistError,
    RefusedOverwriteError,
    TamperedError,
    UnreachableError,
    UnsupportedError,
)
from keydist.services.observe import Observation
from keydist.services.put_back import LOST

if TYPE_CHECKING:
    from keydist.core.local import Local
    from keydist.services.node import Node

_REHEARSAL: Final = b"keydist restore rehearsal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of a fork: what it is, and the signing keys that only it has."""

    lineage: str
    epoch: int
    issued: int
    kid: str
    token_id: str
    digest: str
    only_here: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Two histories: this node's, and the store's where it can be opened.

    `reason` is why the store's is refused, `obstacle` why it cannot be kept even if a person says so.
    """

    local: Side
    store: Side | None
    reason: KeydistError
    obstacle: KeydistError | None
    seen: Observation
    store_held: Held | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What a recovery left in place, and whether it changed anything; `revision` is the store's own number."""

    held: Held
    changed: bool
    revision: int = 0


async def republish(node: Node, local: Local) -> Recovered:
    """Put this node's keyset back into a store that lost it.

    Raises `RefusedOverwriteError` where the store holds anything but an ancestor, and the errors of the store.
    """
    held = _held(local)
    seen = await _observe(node, local)
    if seen.found is InStore.SAME:
        return Recovered(held=held, changed=False, revision=seen.revision)
    if seen.found not in LOST:
        raise _refused(seen)
    back = await node.put_back(seen, held, local)
    if back.found is not InStore.SAME:
        raise back.error or UnreachableError("the keyset was written, but cannot be read back", fix="try again")
    return Recovered(held=held, changed=True, revision=back.revision)


async def inspect_fork(node: Node, local: Local) -> Fork | None:
    """Return both sides of a fork; None where the store holds this node's keyset. Changes nothing.

    Raises `RefusedOverwriteError` where there is no fork to resolve, and the errors of the store.
    """
    held = _held(local)
    seen = await _observe(node, local)
    if seen.found is InStore.SAME:
        return None
    if seen.found is not InStore.REFUSED or seen.envelope is None or seen.error is None:
        raise _refused(seen)
    if isinstance(seen.error, ForeignClusterError | UnsupportedError):
        raise RefusedOverwriteError(
            f"this is not a fork: {seen.error.message}",
            expected=seen.error.expected,
            found=seen.error.found,
            fix=f"{seen.error.fix}; keydist overwrites neither another cluster's keyset nor a newer format",
        ) from seen.error
    theirs, obstacle = None, seen.error
    try:
        theirs = open_held(seen.envelope, node.demands)
    except KeydistError as exc:
        obstacle = exc
    return Fork(
        local=_side(held, theirs),
        store=_side(theirs, held) if theirs else None,
        reason=seen.error,
        obstacle=_obstacle(theirs, node, local) if theirs else obstacle,
        seen=seen,
        store_held=theirs,
    )


async def keep_local(node: Node, local: Local, fork: Fork) -> Recovered:
    """Overwrite the store's side with this node's. Raises `ConflictError` and the errors of the store."""
    held = _held(local)
    back = await node.put_back(fork.seen, held, local)
    if back.found is not InStore.SAME:
        raise back.error or UnreachableError("the keyset was written, but cannot be read back", fix="try again")
    return Recovered(held=held, changed=True, revision=back.revision)


def keep_store(node: Node, local: Local, fork: Fork) -> Recovered:
    """Give up this node's side for the store's. Raises the obstacle where there is one."""
    if fork.obstacle is not None or fork.store_held is None:
        raise fork.obstacle or fork.reason
    node.disk.override(fork.store_held, based_on=local, now=node.clock.now())
    facts = change(None, fork.store_held) | {"given_up": b64url_encode(_held(local).digest)}
    node.audit.note(Event(what=What.RESOLVED, held=fork.store_held, how="keep store", facts=facts))
    return Recovered(held=fork.store_held, changed=True, revision=fork.seen.revision)


def restore(node: Node, local: Local, envelope: bytes) -> Recovered:
    """Install a backup on this node, by the rules for every envelope. Raises what `accept` raises."""
    answer = accept(envelope, node.demands._replace(held=local.held, floor=local.floor))
    if not isinstance(answer, Accepted):
        return Recovered(held=_held(local), changed=False)
    node.disk.install(answer.held, based_on=local, now=node.clock.now())
    node.audit.note(Event(what=What.RESTORED, held=answer.held, facts=change(local.held, answer.held)))
    return Recovered(held=answer.held, changed=True)


def rehearse(node: Node, local: Local, envelope: bytes) -> Held:
    """Open a backup in memory, check it as a restore would, sign with its key and verify. Changes nothing.

    An older epoch of this node's own history is a good backup: a restore is for a node that lost its own.
    """
    held = open_held(envelope, node.demands)
    mine = local.held
    if mine is None or held.digest not in (mine.digest, *mine.keyset.ancestors):
        accept(envelope, node.demands._replace(held=mine, floor=local.floor))
    key = held.keyset.active
    private = crypto.load_private(key.material, key.alg, validate=True)
    if not crypto.verify(key.public.spki, key.alg, _REHEARSAL, crypto.sign(private, key.alg, _REHEARSAL)):
        raise TamperedError("the backup's signing key does not fit its public key", fix="take another backup")
    return held


def _held(local: Local) -> Held:
    if local.held is None:
        raise local.damage or CorruptError(
            "this node holds no keyset", expected="a verified keyset on disk", fix="get one with: keydist bootstrap"
        )
    return local.held


async def _observe(node: Node, local: Local) -> Observation:
    seen = await node.observe(local, from_leader=True)
    if seen.found in (InStore.UNREACHABLE, InStore.FORBIDDEN):
        raise seen.error or UnreachableError("the store cannot be reached")
    return seen


def _refused(seen: Observation) -> KeydistError:
    if seen.found is InStore.ACCEPTABLE:
        return RefusedOverwriteError(
            "the store holds a later epoch of this node's history",
            expected="an earlier epoch, or none",
            found=f"epoch {seen.accepted.held.keyset.epoch}" if seen.accepted else "a later epoch",
            fix="take it with: keydist bootstrap",
        )
    if seen.found in LOST:
        return RefusedOverwriteError(
            "there is no fork: the store lost the keyset",
            found=seen.found.value,
            fix="put it back: keydist store republish",
        )
    reason = seen.error
    if reason is None:  # nothing is there, and only that is known
        return RefusedOverwriteError(
            "the store may never have had this keyset, or lost it: this user may not ask",
            found=seen.found.value,
            fix="allow it $JS.API.STREAM.INFO of the bucket's stream: see docs/nats.md",
        )
    is_other = isinstance(reason, ForeignClusterError | UnsupportedError)
    return RefusedOverwriteError(
        f"the store holds something that is never overwritten unasked: {reason.message}",
        expected="this node's keyset, an ancestor of it, or nothing",
        found=reason.found or seen.found.value,
        fix=reason.fix if is_other else RESOLVE,
    )


def _obstacle(theirs: Held, node: Node, local: Local) -> KeydistError | None:
    """Return why a node that took the store's side could not go on with it."""
    pinned = node.demands.lineage
    if pinned is not None and theirs.keyset.lineage != pinned:
        return ForkError(
            "the store's side is of another lineage than the configured one",
            expected=f"lineage {pinned}",
            found=f"lineage {theirs.keyset.lineage}",
            fix="correct lineage: in the configuration first",
        )
    if local.floor is not None and theirs.token_id in local.floor.superseded:
        return RefusedOverwriteError(
            "the store's side is sealed under a token that this node has seen replaced: whoever still has it may forge",
            expected="a token that was not replaced",
            found=theirs.token_id,
            fix="keep local; where the store's side is the right one after all: keydist reset, then keydist bootstrap",
        )
    revoked = local.floor.revoked if local.floor else frozenset[str]()
    revived = [key.kid for key in theirs.keyset.keys if key.kid in revoked]
    if revived:
        return RefusedOverwriteError(
            "the store's side accepts keys that this node has seen revoked",
            expected="a revoked key stays revoked",
            found=", ".join(revived),
            fix="keep local; or revoke them on a node of the store's side, then here: keydist reset",
        )
    return None


def _side(held: Held, other: Held | None) -> Side:
    keyset = held.keyset
    theirs = {key.kid for key in other.keyset.signing_keys()} if other else set()
    return Side(
        lineage=keyset.lineage,
        epoch=keyset.epoch,
        issued=keyset.issued,
        kid=keyset.active.kid,
        token_id=held.token_id,
        digest=b64url_encode(held.digest),
        only_here=tuple(key.kid for key in keyset.signing_keys() if key.kid not in theirs),
    )
