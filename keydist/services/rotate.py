"""A planned rotation that a person asks for: gated by the wait and the acknowledgements, both, always.

With a next key of the wanted kind it is one epoch. Another algorithm or size is two: the next key is replaced, and
after a propagation and the acknowledgements a second run, or a leader-role agent by itself, activates it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keydist.core.rotation import Situation, activation, droppable, outlives, room
from keydist.core.successor import republished_next, rotated
from keydist.errors import NotYetError
from keydist.services.advance import Advanced, advance
from keydist.services.command import Command, check_nobody_ahead, until, up_to_date
from keydist.services.genesis import fresh_keys
from keydist.services.lead import next_kind

if TYPE_CHECKING:
    from keydist.core.accept import Held
    from keydist.core.local import Local
    from keydist.services.fleet import FleetReader

Kind = tuple[str, int]
"""An algorithm, and the size of an RSA key in bits (0 for others)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a rotation does, and when it may (unix seconds).

    `replaces_next`: the first of two epochs. `opens`: when the next key may sign. `lacking`: the nodes that have not
    acknowledged it. `room_at`: when there is room for one more retired key, None where there is. `drop`: what leaves
    with it. `drops_at`: when the key that retires may leave.
    """

    held: Held
    kind: Kind
    replaces_next: bool
    opens: int
    lacking: tuple[str, ...]
    room_at: int | None
    drop: tuple[str, ...]
    drops_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """What a rotation left: `previous_kid` signed before; `plan` says whether a second epoch is to come."""

    done: Advanced
    previous_kid: str
    plan: Plan


async def plan(command: Command, local: Local, *, kind: Kind | None, without: frozenset[str]) -> Plan:
    """Return what a rotation would do. Changes nothing in the store."""
    local = await up_to_date(command, local)
    reader = command.reader()
    await reader.refresh()
    return _plan(command, local, reader, kind=kind, without=without)


async def rotate(
    command: Command, local: Local, *, kind: Kind | None, without: frozenset[str], seconds: float
) -> Rotated:
    """Rotate, waiting at most `seconds` for the gate. `kind` is another algorithm and size, or None.

    Raises `NotYetError` where the gate does not open in time, naming the nodes or the time, `OutdatedError` or
    `ForkError` where a node holds something else, and the errors of `advance`.
    """
    local = await up_to_date(command, local)
    reader, clock = command.reader(), command.node.clock
    await reader.refresh()
    found = _plan(command, local, reader, kind=kind, without=without)
    check_nobody_ahead(found.held, reader.live())
    if not found.replaces_next:
        end = clock.monotonic() + seconds
        await _until_opens(command, found, seconds)
        await _until_acknowledged(command, local, reader, without=without, seconds=end - clock.monotonic())
        check_nobody_ahead(found.held, reader.live())
    fresh = await fresh_keys(*found.kind, command.entropy)
    previous = found.held.keyset.active.kid
    done = await advance(
        command.node,
        local,
        lambda held, now: (
            republished_next(held, now=now, alg=found.kind[0], fresh=fresh)
            if found.replaces_next
            else rotated(held, now=now, alg=found.kind[0], fresh=fresh, drop=found.drop)
        ),
        entropy=command.entropy,
    )
    return Rotated(done=done, previous_kid=previous, plan=found)


def _situation(command: Command, local: Local, reader: FleetReader, without: frozenset[str]) -> Situation:
    if local.held is None:  # pragma: no cover - the caller brought the node up to date
        raise AssertionError
    return Situation(
        held=local.held,
        notes=command.node.disk.notes(),
        now=command.node.clock.now(),
        live=reader.live(),
        records=reader.records(),
        without=without,
    )


def _plan(command: Command, local: Local, reader: FleetReader, *, kind: Kind | None, without: frozenset[str]) -> Plan:
    situation = _situation(command, local, reader, without)
    held, gate = situation.held, activation(situation)
    wanted = kind or next_kind(held)
    kept_until = held.keyset.active.verify_until or 0
    return Plan(
        held=held,
        kind=wanted,
        replaces_next=wanted != next_kind(held),
        opens=gate.opens,
        lacking=gate.lacking,
        room_at=room(situation),
        drop=droppable(situation),
        drops_at=max(situation.now + outlives(situation.policy), kept_until),
    )


async def _until_opens(command: Command, found: Plan, seconds: float) -> None:
    """Wait for the time at which the next key may sign. Raises `NotYetError` where that is too far off."""
    clock = command.node.clock
    if found.room_at is not None:
        raise NotYetError(
            "the keyset has no room for one more retired key",
            expected=f"unix time {found.room_at}",
            found=f"unix time {clock.now()}",
            fix="wait until then: JWTs of every retired key may still be valid",
        )
    left = found.opens - clock.now()
    if left > seconds:
        raise NotYetError(
            "the next key was published too recently: somebody's JWK Set may not have it yet",
            expected=f"unix time {found.opens}",
            found=f"unix time {clock.now()}",
            fix=f"run it again in {left} s, or wait for it: --timeout {left + 60}s",
        )
    while (left := found.opens - clock.now()) > 0:
        command.told("waiting until the next key may sign", float(left))
        await clock.sleep(min(1.0, float(left)))


async def _until_acknowledged(
    command: Command, local: Local, reader: FleetReader, *, without: frozenset[str], seconds: float
) -> None:
    lacking = await until(
        command,
        reader,
        lambda: activation(_situation(command, local, reader, without)).lacking,
        what="waiting for nodes that do not have the next key yet",
        seconds=seconds,
    )
    if lacking:
        raise NotYetError(
            f"nodes have not acknowledged the next key: {', '.join(lacking)}",
            expected="every live node",
            found=f"{len(lacking)} without it",
            fix="see keydist status --fleet; to go on without a node, which may then refuse JWTs: --without NODE",
        )
