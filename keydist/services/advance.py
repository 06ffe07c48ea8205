"""Writing the next epoch: read from the stream leader, build, seal, open it again, compare-and-set, read back, install.

The next epoch is sealed under the token of the current envelope, unless the token itself is what changes. Before the
write it is accepted in memory by the follower's own rules; after it, whatever the acknowledgement said, what was read
back is installed by the follower's own path. Only then may it be used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from keydist.core.accept import Demands, Held, accept
from keydist.core.audit import Event, What, change
from keydist.core.crypto import IV_BYTES
from keydist.core.envelope import RND_BYTES, seal
from keydist.core.plaintext import serialise_keyset
from keydist.core.restart import InStore
from keydist.errors import (
    BusyError,
    ConflictError,
    CorruptError,
    DiskError,
    ForkError,
    KeydistError,
    OutdatedError,
    StoreTimeoutError,
    TransientError,
    WrongTokenError,
)
from keydist.services.from_disk import meet_demands
from keydist.services.observe import Observation, confirmation

if TYPE_CHECKING:
    from collections.abc import Callable

    from keydist.core.keyset import Keyset
    from keydist.core.local import Local
    from keydist.core.token import BootstrapToken
    from keydist.ports import Entropy
    from keydist.services.node import Node


class Advanced(NamedTuple):
    """What the disk holds after the new epoch was installed, and what is wrong although it is."""

    local: Local
    held: Held
    alarms: tuple[KeydistError, ...] = ()


async def advance(
    node: Node,
    local: Local,
    build: Callable[[Held, int], Keyset],
    *,
    entropy: Entropy,
    token: BootstrapToken | None = None,
) -> Advanced:
    """Write the keyset that `build(held, now)` makes of the current one, and install it.

    `token` is what it is sealed under where that is not the current envelope's. Raises `OutdatedError` or
    `ConflictError` where the store moved on, `StoreTimeoutError` where it is not known whether the write took effect,
    the errors of `accept` for a keyset that no node would accept, and those of the ports.
    """
    held = _held(local)
    seen = await node.observe(local, from_leader=True)
    if seen.found is not InStore.SAME:
        raise _not_current(seen)
    envelope = _sealed(build(held, node.clock.now()), held, node, entropy, token)
    _check_acceptable(envelope, local, node.demands)
    lost: TransientError | None = None
    try:
        await node.store.replace(envelope, revision=seen.revision)
    except TransientError as exc:  # an acknowledgement may be lost in more than one way
        lost = exc
    back = await node.observe(local, from_leader=True)
    if back.accepted is None or back.envelope != envelope:
        raise _not_written(back, lost)
    new = back.accepted.held
    # Every other node takes it from now on: who wrote it is told even where it cannot be installed here.
    node.audit.note(Event(what=What.EPOCH, held=new, how="written", facts=change(held, new)))
    return _installed(node, local, back, new)


def _sealed(keyset: Keyset, held: Held, node: Node, entropy: Entropy, token: BootstrapToken | None) -> bytes:
    return seal(
        serialise_keyset(keyset),
        token=token or current_token(held, node.demands),
        place=node.demands.place,
        lineage=keyset.lineage,
        epoch=keyset.epoch,
        issued=keyset.issued,
        rnd=entropy.random(RND_BYTES),
        iv=entropy.random(IV_BYTES),
    )


def current_token(held: Held, demands: Demands) -> BootstrapToken:
    """Return the token that the current envelope is sealed under. Raises `WrongTokenError` where it is not held."""
    for token in demands.tokens:
        if token.token_id == held.token_id:
            return token
    raise WrongTokenError(
        "this node does not hold the token that the keyset is sealed under: it can write no epoch",
        have=tuple(token.token_id for token in demands.tokens),
        need=held.token_id,
        fix=f"put token {held.token_id} into the token file; where it is lost: keydist token rotate --from-disk",
    )


def _check_acceptable(envelope: bytes, local: Local, demands: Demands) -> None:
    """Refuse what this node would not accept itself, before anybody sees it."""
    accept(envelope, demands._replace(held=local.held, floor=local.floor))


def _installed(node: Node, local: Local, back: Observation, new: Held) -> Advanced:
    alarms: tuple[KeydistError, ...] = ()
    try:
        node.disk.install(new, based_on=local, now=node.clock.now())
    except ConflictError:  # a keydist process beside this one was faster: it installed the same
        pass
    except DiskError as exc:  # it may have failed behind the swing: what is on disk decides
        alarms = (exc,)
    after = meet_demands(node.disk.load(node.demands.tokens), node.demands)
    if after.held is None or after.held.keyset.epoch < new.keyset.epoch:
        raise alarms[0] if alarms else CorruptError("the keyset that was just written is not on disk")
    found = confirmation(after, back.sent) if after.held.digest == new.digest else None
    if found is not None:
        try:
            node.disk.confirm(found)
        except (DiskError, BusyError) as exc:
            alarms += (exc,)
    return Advanced(local=after, held=new, alarms=alarms)


def _held(local: Local) -> Held:
    if local.held is None:
        raise local.damage or CorruptError(
            "this node holds no keyset", expected="a verified keyset on disk", fix="get one with: keydist bootstrap"
        )
    return local.held


def _not_current(seen: Observation) -> KeydistError:
    if seen.found is InStore.ACCEPTABLE and seen.accepted is not None:
        return OutdatedError(
            "the store holds a later epoch than this node",
            found=f"epoch {seen.accepted.held.keyset.epoch}",
            fix="take it with keydist bootstrap, then decide again",
        )
    if seen.error is not None:
        return seen.error
    return ConflictError(
        "the store does not hold this node's keyset: no new epoch is written on top of nothing",
        found=seen.found.value,
        fix="put it back first: keydist store republish",
    )


def _not_written(back: Observation, lost: TransientError | None) -> KeydistError:
    if back.found is InStore.SAME and (lost is None or isinstance(lost, ConflictError)):
        return ConflictError(
            "the new epoch is not in the store", fix="look at keydist status, then run the command again"
        )
    if back.accepted is not None or isinstance(back.error, ForkError):
        return ConflictError(
            "somebody else wrote the next epoch first",
            found=f"epoch {back.accepted.held.keyset.epoch}" if back.accepted else "another keyset",
            fix="nothing of this node's is lost: look at keydist status, then decide again",
        )
    return StoreTimeoutError(
        "it is not known whether the new epoch was written",
        found=back.error.message if back.error else back.found.value,
        fix="wait until the store answers, then look: keydist status",
    )
