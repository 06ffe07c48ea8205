"""A planned rotation that a person asks for: gated by the wait and the acknowledgements, both, always.

With a next key of the wanted kind it is one epoch. Another algorithm or size is two: the next key is replaced, and
after a propagation and the acknowledgements a second change, or a leader-role agent by itself, activates it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.core.crypto import RSA_ALGS
from keydist.core.fleet import holds
from keydist.core.jwk import bits_of
from keydist.core.keyset import State
from keydist.core.rotation import Situation, activation, droppable, outlives, publication, room
from keydist.core.successor import republished_next, rotated
from keydist.errors import ConflictError, NotYetError, OutdatedError, UsageError
from keydist.services.advance import Advanced, advance
from keydist.services.command import Command, Current, look, up_to_date
from keydist.services.dates import date
from keydist.services.fleet import is_ahead
from keydist.services.genesis import fresh_keys
from keydist.services.lead import next_kind
from keydist.services.waiting import check_nobody_ahead, read_fleet, until

if TYPE_CHECKING:
    from keydist.core.accept import Held
    from keydist.core.keyset import Key
    from keydist.core.local import Local
    from keydist.services.fleet import FleetReader

DEFAULT_BITS: Final = 3072
_PAUSE: Final = 1.0

Kind = tuple[str, int]
"""An algorithm, and the size of an RSA key in bits (0 for others)."""


class Wish(NamedTuple):
    """The kind of key that a person wants to sign, as far as it is said, and the nodes that are not waited for."""

    alg: str | None = None
    bits: int | None = None
    without: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a rotation does, and when it may (unix seconds).

    `behind`: the epoch of this node where the store holds another. `replaces_next`: the first of two epochs. `opens`:
    when the next key may sign. `lacking`: live nodes that have not acknowledged it; `left_out`: those of them that are
    not waited for; `by`: those that have. `unreadable`: nodes whose records cannot be opened. `room_at`: when there is
    room for one more retired key, None where there is. `drop`: what leaves with it. `drops_at`: when the key that
    retires may leave.
    """

    held: Held
    behind: int | None
    kind: Kind
    replaces_next: bool
    opens: int
    lacking: tuple[str, ...]
    left_out: tuple[str, ...]
    by: tuple[str, ...]
    unreadable: tuple[str, ...]
    room_at: int | None
    drop: tuple[str, ...]
    drops_at: int

    @property
    def wait(self) -> int:
        """For how many seconds a next key is published before it may sign."""
        return publication(self.held.keyset.policy)

    @property
    def following(self) -> str | None:
        """The kid that signs after the rotation; None where it is yet to be made."""
        key = next_key(self.held)
        return None if key is None or self.replaces_next else key.kid


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """What a rotation left: `previous_kid` signed before; not `complete` where a second epoch is to come.

    `opens`: when that may come (unix seconds). `plan` is what it was decided on.
    """

    done: Advanced
    previous_kid: str
    complete: bool
    opens: int
    plan: Plan


async def plan(command: Command, local: Local, wish: Wish) -> Plan:
    """Return what a rotation would do. Changes nothing in the store or on the disk; raises what the rotation would."""
    current = await look(command, local)
    return _plan(command, current, await _seen(command, current), wish)


async def rotate(command: Command, local: Local, wish: Wish, *, seconds: float) -> Rotated:
    """Rotate, waiting at most `seconds` for the gate; an epoch that leaves its keys alone does not end that.

    Raises `NotYetError` where the gate does not open in time, naming the nodes or the time, `OutdatedError` or
    `ForkError` where a node holds something else, and the errors of `advance`.
    """
    clock = command.node.clock
    end, current = clock.monotonic() + seconds, await up_to_date(command, local)
    while True:
        try:
            reader = await _seen(command, current)
            found = _plan(command, current, reader, wish)
            if found.replaces_next:
                return await _replace_next(command, current, found)
            return await _activate(command, current, found, reader, wish, seconds=end - clock.monotonic())
        except (OutdatedError, ConflictError):
            before, current = current.held, await up_to_date(command, current.local)
            if current.held.digest == before.digest or _keys(current.held) != _keys(before):
                raise  # nobody wrote what was seen, or somebody rotated


def _keys(held: Held) -> tuple[str | None, str]:
    """Return the kids that a rotation is about: what is to sign and what signs."""
    following = next_key(held)
    return following.kid if following else None, held.keyset.active.kid


async def carry_through(command: Command, first: Rotated, wish: Wish, *, seconds: float) -> Rotated:
    """Wait for the gate of the key that `first` published as next, and let it sign: the second of two epochs.

    A leader's agent may do so first, which is as good. Raises as `rotate`, and `ConflictError` where somebody replaced
    that key: the first epoch stands in any case.
    """
    clock, local = command.node.clock, first.done.local
    published = next_key(first.done.held)
    if published is None:  # pragma: no cover - it was just published
        raise AssertionError
    end = clock.monotonic() + seconds
    while True:
        current = await up_to_date(command, local)
        local, state = current.local, current.held.keyset.state_of(published.kid)
        if state is State.ACTIVE:
            return replace(first, done=Advanced(local, current.held, first.done.alarms), complete=True)
        if state is not State.NEXT:
            raise ConflictError(
                "somebody replaced or revoked the key that was to sign",
                expected=f"{published.kid} next",
                found=state.value,
                fix="look at keydist key list, then decide again",
            )
        try:
            reader = await _seen(command, current)
            found = _plan(command, current, reader, wish)
            done = await _activate(command, current, found, reader, wish, seconds=end - clock.monotonic())
        except (OutdatedError, ConflictError):  # another leader was faster, at this or at something else
            if clock.monotonic() >= end:
                raise
            await clock.sleep(_PAUSE)
        else:
            return replace(done, done=done.done._replace(alarms=(*first.done.alarms, *done.done.alarms)))


def kind_of(held: Held, wish: Wish) -> Kind:
    """Return the kind of key that a wish means: what it does not say stays as it is. Raises `UsageError`."""
    wanted = wish.alg or next_kind(held)[0]
    if wanted not in RSA_ALGS:
        if wish.bits is not None:
            raise UsageError(f"{wanted} has one size of key", fix="leave out --bits, or name --alg RS256 or PS256")
        return wanted, 0
    active = held.keyset.active
    return wanted, wish.bits or next_kind(held)[1] or bits_of(active) or DEFAULT_BITS


def next_key(held: Held) -> Key | None:
    """Return the signing key that stands next."""
    return next((key for key in held.keyset.signing_keys() if key.state is State.NEXT), None)


async def _seen(command: Command, current: Current) -> FleetReader:
    """Return a reader that has read the fleet, in which nobody is ahead."""
    reader = command.reader()
    await read_fleet(command, reader)
    await check_nobody_ahead(command, current.held, reader)
    return reader


def _situation(command: Command, current: Current, reader: FleetReader, wish: Wish) -> Situation:
    return Situation(
        held=current.held,
        notes=command.node.disk.notes(),
        now=command.node.clock.now(),
        live=reader.live(),
        records=reader.records(),
        without=wish.without,
    )


def _plan(command: Command, current: Current, reader: FleetReader, wish: Wish) -> Plan:
    situation = _situation(command, current, reader, wish)
    held, gate = situation.held, activation(situation)
    everybody = activation(replace(situation, without=frozenset()))
    wanted = kind_of(held, wish)
    kept_until = held.keyset.active.verify_until or 0
    return Plan(
        held=held,
        behind=current.behind,
        kind=wanted,
        replaces_next=wanted != next_kind(held) or next_key(held) is None,
        opens=gate.opens,
        lacking=gate.lacking,
        left_out=tuple(name for name in everybody.lacking if name not in gate.lacking),
        by=tuple(sorted({record.node for record in situation.live if holds(record, held)})),
        unreadable=tuple(sorted(reader.refused)),
        room_at=room(situation),
        drop=droppable(situation),
        drops_at=max(situation.now + outlives(situation.policy), kept_until),
    )


async def _replace_next(command: Command, current: Current, found: Plan) -> Rotated:
    alg, bits = found.kind
    fresh = await fresh_keys(alg, bits, command.entropy)
    done = await advance(
        command.node,
        current.local,
        lambda held, now: republished_next(held, now=now, alg=alg, fresh=fresh),
        entropy=command.entropy,
    )
    gate = activation(Situation(held=done.held, notes=command.node.disk.notes(), now=command.node.clock.now()))
    return Rotated(done=done, previous_kid=found.held.keyset.active.kid, complete=False, opens=gate.opens, plan=found)


async def _activate(
    command: Command, current: Current, found: Plan, reader: FleetReader, wish: Wish, *, seconds: float
) -> Rotated:
    """Let the next key sign, once it may."""
    clock = command.node.clock
    end = clock.monotonic() + seconds
    await _until_opens(command, found, seconds)
    fresh = await fresh_keys(*found.kind, command.entropy)  # before the last look at who has acknowledged
    await _until_acknowledged(command, current, reader, wish, seconds=end - clock.monotonic())
    found = _plan(command, current, reader, wish)  # while it waited, more may have become due
    done = await advance(
        command.node,
        current.local,
        lambda held, now: rotated(held, now=now, alg=found.kind[0], fresh=fresh, drop=found.drop),
        entropy=command.entropy,
    )
    previous = found.held.keyset.active.kid
    return Rotated(done=done, previous_kid=previous, complete=True, opens=found.opens, plan=found)


async def _until_opens(command: Command, found: Plan, seconds: float) -> None:
    """Wait for the time at which the next key may sign. Raises `NotYetError` where that is too far off."""
    clock = command.node.clock
    if found.room_at is not None:
        raise NotYetError(
            "the keyset has no room for one more retired key",
            expected=f"{date(found.room_at)} or later",
            found=date(clock.now()),
            fix="wait until then: JWTs of every retired key may still be valid",
        )
    left = found.opens - clock.now()
    if left > seconds:
        lacking = f"; not acknowledged by {', '.join(found.lacking)}" if found.lacking else ""
        raise NotYetError(
            "the next key was published too recently: a JWK Set that somebody fetched may not have it yet",
            expected=f"{date(found.opens)} or later",
            found=date(clock.now()) + lacking,
            fix=f"run it again in {left} s, or let it wait: --timeout {left + 60}s",
        )
    while (left := found.opens - clock.now()) > 0:
        command.told("waiting until the next key may sign", float(left))
        await clock.sleep(min(_PAUSE, float(left)))


async def _until_acknowledged(
    command: Command, current: Current, reader: FleetReader, wish: Wish, *, seconds: float
) -> None:
    """Wait until every live node has the next key. Raises `NotYetError`, naming them, and where one is ahead."""

    def missing() -> tuple[str, ...]:
        for record in reader.ahead(current.held):
            raise is_ahead(record, current.held)  # somebody wrote an epoch meanwhile
        return activation(_situation(command, current, reader, wish)).lacking

    lacking = await until(
        command, reader, missing, what="waiting for nodes that do not have the next key yet", seconds=seconds
    )
    if lacking:
        raise NotYetError(
            f"nodes have not acknowledged the next key: {', '.join(lacking)}",
            expected="every live node",
            found=f"{len(lacking)} without it",
            fix="see keydist status --fleet; to go on without a node, which may then refuse JWTs: --without NODE",
        )
