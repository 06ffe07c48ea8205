"""Revoking keys, in an emergency: one epoch, at once, whoever has acknowledged what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keydist.core.fleet import lacking
from keydist.core.keyset import State
from keydist.core.rotation import Situation, droppable
from keydist.core.successor import revoked
from keydist.errors import KeydistError, UsageError
from keydist.services.advance import Advanced, advance
from keydist.services.command import Command, check_nobody_ahead, up_to_date
from keydist.services.genesis import fresh_keys
from keydist.services.lead import next_kind

if TYPE_CHECKING:
    from keydist.core.accept import Held
    from keydist.core.local import Local
    from keydist.core.notes import Notes
    from keydist.core.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """What a revoked key takes with it, as far as the fleet's records tell.

    `jwts` were minted with it, the last of them expires at `last_expiry` (unix seconds, 0 where none is known).
    """

    kid: str
    state: State
    jwts: int
    last_expiry: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a revocation breaks: its keys, the key that signs afterwards (None: a new one), nodes without it.

    `drop` leaves with it, to make room. `blind`: why the fleet could not be seen. `token_may_be_known`: the keys go
    because somebody may know them, and the token that they were sealed under still is the cluster's.
    """

    held: Held
    broken: tuple[Broken, ...]
    successor: str | None
    lacking: tuple[str, ...]
    drop: tuple[str, ...]
    blind: KeydistError | None
    token_may_be_known: bool

    @property
    def kids(self) -> tuple[str, ...]:
        """The keys that are revoked."""
        return tuple(broken.kid for broken in self.broken)


async def plan(command: Command, local: Local, *, kids: frozenset[str] | None) -> tuple[Local, Plan]:
    """Return the node brought up to date, and what revoking `kids` (None: all) breaks. Changes nothing in the store.

    Raises `UsageError` for a kid that this node does not list. A fleet that cannot be seen stops nothing.
    """
    local = await up_to_date(command, local)
    held = local.held
    if held is None:  # pragma: no cover - it is up to date
        raise AssertionError
    reader, blind = command.reader(), None
    try:
        await reader.refresh()
    except KeydistError as exc:
        blind = exc
    check_nobody_ahead(held, reader.live())
    unknown = (kids or frozenset()) - {key.kid for key in held.keyset.keys}
    if unknown:
        raise UsageError(
            f"this node has no key {min(unknown)[:64]!a} to revoke", fix="see the keys with: keydist key list"
        )
    chosen = [key for key in held.keyset.keys if kids is None or key.kid in kids]
    names = {key.kid for key in chosen}
    successor = _successor(held, names)
    notes, now = command.node.disk.notes(), command.node.clock.now()
    situation = Situation(held=held, notes=notes, now=now)
    return local, Plan(
        held=held,
        broken=tuple(_broken(key.kid, key.state, reader.records()) for key in chosen),
        successor=successor,
        lacking=lacking(held, reader.live()),
        drop=tuple(kid for kid in droppable(situation) if kid not in names),
        blind=blind,
        token_may_be_known=kids is None and not _was_replaced_since(held, notes),
    )


async def revoke(command: Command, local: Local, found: Plan, *, reason: str) -> Advanced:
    """Revoke the keys of a plan. Raises `UsageError` for a reason that cannot be kept, and the errors of `advance`."""
    alg, bits = next_kind(found.held)
    fresh = (await fresh_keys(alg, bits, command.entropy), await fresh_keys(alg, bits, command.entropy))
    return await advance(
        command.node,
        local,
        lambda held, now: revoked(held, now=now, kids=found.kids, reason=reason, alg=alg, fresh=fresh, drop=found.drop),
        entropy=command.entropy,
    )


def _successor(held: Held, revoked_kids: set[str]) -> str | None:
    """Return the signing key that signs afterwards; None where a new one must."""
    keys = {key.state: key.kid for key in held.keyset.signing_keys() if key.kid not in revoked_kids}
    return keys.get(State.ACTIVE) or keys.get(State.NEXT)


def _broken(kid: str, state: State, records: tuple[Record, ...]) -> Broken:
    minted = [record.minted[kid] for record in records if kid in record.minted]
    return Broken(
        kid=kid,
        state=state,
        jwts=sum(found.jwts for found in minted),
        last_expiry=max((found.last_expiry for found in minted), default=0),
    )


def _was_replaced_since(held: Held, notes: Notes) -> bool:
    """Tell whether the current token came after the active key was first held: who knew the old one knows the key."""
    states = notes.keys.get(held.keyset.active.kid, {})
    token_since = notes.tokens.get(held.token_id)
    return token_since is not None and token_since > min(states.values(), default=token_since)
