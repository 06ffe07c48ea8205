"""Revoking keys, in an emergency: one epoch, at once, whoever has acknowledged what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from keydist.core.fleet import lacking
from keydist.core.keyset import State
from keydist.core.rotation import Situation, droppable
from keydist.core.successor import check_reason, revoked
from keydist.errors import KeydistError, UsageError
from keydist.services.advance import Advanced, advance
from keydist.services.command import Command, Current, look, on_top
from keydist.services.genesis import fresh_keys
from keydist.services.lead import next_kind
from keydist.services.waiting import check_nobody_ahead, hear_the_living, read_fleet

if TYPE_CHECKING:
    from keydist.core.accept import Held
    from keydist.core.keyset import Key
    from keydist.core.local import Local
    from keydist.core.notes import Notes
    from keydist.core.record import Record
    from keydist.services.fleet import FleetReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """What a revoked key takes with it, as far as the fleet's records tell.

    `use` is sig or enc. `jwts` were minted with it, the last of them expires at `last_expiry` (unix seconds, 0 where
    none is known).
    """

    kid: str
    use: str
    state: State
    jwts: int
    last_expiry: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a revocation breaks: its keys, the key that signs afterwards (None: a new one), nodes without it.

    `behind`: the epoch of this node where the store holds another. `broken` is empty where everything that was named
    is revoked already. `signs_anew`: another key signs than before. `drop` leaves with it, to make room. `blind`: why
    the fleet could not be seen. `token_may_be_known`: the keys go because somebody may know them, and the token that
    they were sealed under still is the cluster's.
    """

    held: Held
    behind: int | None
    kids: tuple[str, ...]
    broken: tuple[Broken, ...]
    successor: str | None
    signs_anew: bool
    lacking: tuple[str, ...]
    drop: tuple[str, ...]
    blind: KeydistError | None
    token_may_be_known: bool


class Revoked(NamedTuple):
    """What a revocation left: `done` is None where everything was revoked already."""

    held: Held
    plan: Plan
    done: Advanced | None


async def plan(command: Command, local: Local, *, kids: frozenset[str] | None) -> Plan:
    """Return what revoking `kids` (None: all) breaks. Changes nothing in the store or on the disk.

    Raises `UsageError` for a kid that this node does not list, and what the revocation would. A fleet that cannot be
    seen stops nothing.
    """
    return await _plan(command, await look(command, local), kids, in_haste=False)


async def revoke(command: Command, local: Local, *, kids: frozenset[str] | None, reason: str) -> Revoked:
    """Revoke keys (None: all), on top of what others write meanwhile. Raises as `advance`, and `UsageError`.

    `UsageError` is for a kid or a reason; a race is raised that was lost five times.
    """
    check_reason(reason)
    return await on_top(command, local, lambda current: _revoke(command, current, kids, reason))


async def _revoke(command: Command, current: Current, kids: frozenset[str] | None, reason: str) -> Revoked:
    found = await _plan(command, current, kids, in_haste=True)
    if not found.broken:
        return Revoked(current.held, found, None)
    alg, bits = next_kind(current.held)
    fresh = (await fresh_keys(alg, bits, command.entropy), await fresh_keys(alg, bits, command.entropy))
    going = tuple(broken.kid for broken in found.broken)
    done = await advance(
        command.node,
        current.local,
        lambda held, now: revoked(held, now=now, kids=going, reason=reason, alg=alg, fresh=fresh, drop=found.drop),
        entropy=command.entropy,
    )
    return Revoked(done.held, found, done)


async def _plan(command: Command, current: Current, kids: frozenset[str] | None, *, in_haste: bool) -> Plan:
    held, floor = current.held, current.local.floor
    gone = frozenset(entry.kid for entry in held.keyset.revoked) | (floor.revoked if floor else frozenset())
    unknown = (kids or frozenset()) - {key.kid for key in held.keyset.keys} - gone
    if unknown:
        raise UsageError(
            f"this cluster has no key {min(unknown)[:64]!a} to revoke",
            expected="a kid of the keyset",
            fix="see the keys with: keydist key list",
        )
    reader, blind = command.reader(), None
    try:
        await read_fleet(command, reader)
        if not in_haste:
            await hear_the_living(command, reader)  # what was minted since the last heartbeat breaks too
    except KeydistError as exc:
        blind = exc
    await check_nobody_ahead(command, held, reader)
    chosen = [key for key in held.keyset.keys if kids is None or key.kid in kids]
    return _broken_plan(command, current, chosen, reader, kids=kids, blind=blind)


def _broken_plan(
    command: Command,
    current: Current,
    chosen: list[Key],
    reader: FleetReader,
    *,
    kids: frozenset[str] | None,
    blind: KeydistError | None,
) -> Plan:
    held, names = current.held, {key.kid for key in chosen}
    notes, now = command.node.disk.notes(), command.node.clock.now()
    successor = _successor(held, names)
    live = reader.live()
    # A key that is made only now is with nobody yet, whatever they have acknowledged.
    without = lacking(held, live) if successor is not None else tuple(sorted({record.node for record in live}))
    signs_anew = successor != held.keyset.active.kid
    return Plan(
        held=held,
        behind=current.behind,
        kids=tuple(sorted(kids)) if kids is not None else tuple(key.kid for key in chosen),
        broken=tuple(_broken(key, reader.records()) for key in chosen),
        successor=successor,
        signs_anew=signs_anew,
        lacking=without if signs_anew else (),
        drop=tuple(kid for kid in droppable(Situation(held=held, notes=notes, now=now)) if kid not in names),
        blind=blind,
        token_may_be_known=kids is None and not _was_replaced_since(held, notes),
    )


def _successor(held: Held, revoked_kids: set[str]) -> str | None:
    """Return the signing key that signs afterwards; None where a new one must."""
    keys = {key.state: key.kid for key in held.keyset.signing_keys() if key.kid not in revoked_kids}
    return keys.get(State.ACTIVE) or keys.get(State.NEXT)


def _broken(key: Key, records: tuple[Record, ...]) -> Broken:
    minted = [record.minted[key.kid] for record in records if key.kid in record.minted]
    return Broken(
        kid=key.kid,
        use=key.use,
        state=key.state,
        jwts=sum(found.jwts for found in minted),
        last_expiry=max((found.last_expiry for found in minted), default=0),
    )


def _was_replaced_since(held: Held, notes: Notes) -> bool:
    """Tell whether the current token came after the active key was first held: who knew the old one knows the key."""
    states = notes.keys.get(held.keyset.active.kid, {})
    token_since = notes.tokens.get(held.token_id)
    return token_since is not None and token_since > min(states.values(), default=token_since)
