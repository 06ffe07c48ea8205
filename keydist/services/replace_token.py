"""Replacing the bootstrap token without an outage: every node gets both, the keyset is sealed again, the old one goes.

The new token must be with every live node before: a node without it keeps serving but cannot follow. Where the old
token is lost, a node that keeps its keyset in plain seals it again, and only where the store holds exactly its bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from keydist.core.restart import InStore, Role
from keydist.core.successor import resealed
from keydist.errors import (
    ForbiddenError,
    KeydistError,
    NotYetError,
    RefusedOverwriteError,
    WrongTokenError,
)
from keydist.services.advance import Advanced, advance, current_token
from keydist.services.command import Command, Current, check_role, look, on_top
from keydist.services.waiting import check_nobody_ahead, read_fleet, surely

if TYPE_CHECKING:
    from collections.abc import Callable

    from keydist.core.accept import Held
    from keydist.core.local import Local
    from keydist.core.record import Record
    from keydist.core.token import BootstrapToken
    from keydist.services.fleet import FleetReader


class Wish(NamedTuple):
    """The new token, whether the old one is lost (`from_disk`), and the nodes that are left behind."""

    new: BootstrapToken
    from_disk: bool = False
    without: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a replacement does: the token before and after, and the live nodes that do not hold the new one.

    `behind`: the epoch of this node where the store holds another. `left_out`: nodes without it that are not waited
    for. `unreadable`: nodes whose records cannot be opened. `blind`: why nobody can be seen.
    """

    held: Held
    behind: int | None
    old_id: str
    new_id: str
    lacking: tuple[str, ...]
    left_out: tuple[str, ...]
    unreadable: tuple[str, ...]
    is_done: bool
    blind: KeydistError | None = None


class Replaced(NamedTuple):
    """What a replacement left: `done` is None where the keyset was sealed under the token already."""

    held: Held
    plan: Plan
    done: Advanced | None


async def plan(command: Command, local: Local, wish: Wish) -> Plan:
    """Return what a replacement would do. Changes nothing. `command`'s node demands the new token too.

    Raises `WrongTokenError` for a token that this node has seen replaced and where the old one is not held although
    it is not said to be lost, `RefusedOverwriteError` where `from_disk`
    and the store does not hold exactly this node's bytes.
    """
    current = await (_exactly_mine(command, local) if wish.from_disk else look(command, local))
    return (await _plan(command, current, wish))[0]


async def replace_token(command: Command, local: Local, wish: Wish) -> Replaced:
    """Seal the keyset again, under the new token, unless it is already.

    Raises `NotYetError` where nodes that surely live do not hold it yet, and as `plan` and `advance`.
    """
    if wish.from_disk:  # it stands on exactly what is there: whoever wrote meanwhile must be looked at
        return await _replace(command, await _exactly_mine(command, local), wish)
    return await on_top(command, local, lambda current: _replace(command, current, wish))


async def _replace(command: Command, current: Current, wish: Wish) -> Replaced:
    found, reader = await _plan(command, current, wish)
    if found.is_done:
        return Replaced(current.held, found, None)
    late = await surely(command, reader, lambda: _without_it(reader, wish))
    if late:
        names = tuple(sorted({record.node for record in late}))
        raise NotYetError(
            f"live nodes do not hold token {found.new_id}: {', '.join(names)}",
            expected="it as the second line of every node's token file",
            found=f"{len(names)} without it",
            fix="add the line there, then reload (systemctl reload keydist); or leave a node behind: --without NODE",
        )
    done = await advance(
        command.node, current.local, lambda held, now: resealed(held, now=now), entropy=command.entropy, token=wish.new
    )
    return Replaced(done.held, found, done)


async def _plan(command: Command, current: Current, wish: Wish) -> tuple[Plan, FleetReader]:
    held, floor, new_id = current.held, current.local.floor, wish.new.token_id
    if floor is not None and new_id in floor.superseded:
        raise WrongTokenError(
            "the new token was replaced before: whoever still has it could open the keyset",
            have=(new_id,),
            need="that was never in use",
            fix="make one with: keydist token generate --out FILE",
        )
    if not wish.from_disk:
        current_token(held, command.node.demands)  # without it no record can be opened: nobody would be seen
    reader, blind = command.reader(), None
    try:
        await read_fleet(command, reader)
    except KeydistError as exc:
        if not wish.from_disk:
            raise
        blind = exc
    await check_nobody_ahead(command, held, reader)
    lacking = _names(_without_it(reader, wish))
    everybody = _names(_without_it(reader, wish._replace(without=frozenset())))
    found = Plan(
        held=held,
        behind=current.behind,
        old_id=held.token_id,
        new_id=new_id,
        lacking=lacking,
        left_out=tuple(name for name in everybody if name not in lacking),
        unreadable=tuple(sorted(reader.refused)),
        is_done=held.token_id == new_id,
        blind=blind,
    )
    return found, reader


async def _exactly_mine(command: Command, local: Local) -> Current:
    """Return the node where the store holds exactly its live bytes: neither needs the lost token."""
    check_role(command.node)
    if local.held is None:
        if isinstance(local.damage, WrongTokenError):
            raise WrongTokenError(
                "this node keeps its keyset sealed: without the old token nothing here can be sealed again",
                have=local.damage.have,
                need=local.damage.need,
                fix="run it on a leader-role node with at_rest: plain, or find the old token",
            )
        raise local.damage or RefusedOverwriteError(
            "this node holds no keyset", expected="a verified keyset on disk", fix="run it on a node that has it"
        )
    seen = await command.node.observe(local, from_leader=True)
    if seen.found is InStore.SAME:
        return Current(local, local.held)
    if seen.found in (InStore.UNREACHABLE, InStore.FORBIDDEN) and seen.error is not None:
        raise seen.error
    raise RefusedOverwriteError(
        "the store does not hold exactly this node's keyset: nothing is sealed again from disk",
        expected=f"epoch {local.held.keyset.epoch}, byte for byte",
        found=seen.found.value,
        fix="run it on the node whose keyset the store holds: keydist status on each",
    )


def _names(records: tuple[Record, ...]) -> tuple[str, ...]:
    return tuple(sorted({record.node for record in records}))


def _without_it(reader: FleetReader, wish: Wish) -> tuple[Record, ...]:
    asked = (record for record in reader.live() if record.node not in wish.without)
    return tuple(record for record in asked if wish.new.token_id not in record.tokens)


# --- retiring the old one ----------------------------------------------------------------------


class Retirable(NamedTuple):
    """That a token may go from this node; whose records could not be opened, and why the others were not asked."""

    unreadable: tuple[str, ...] = ()
    unseen: KeydistError | None = None


async def check_retirable(command: Command, local: Local, token_id: str) -> Retirable:
    """Raise `NotYetError` while this or any live node opens the keyset with a token, and where that is not known.

    A leader looks at the store and at the fleet; a follower, which may not, goes by what it has seen replaced itself.
    """
    held = local.held
    if held is None:
        raise local.damage or NotYetError(
            "this node holds no keyset yet: whether it needs the token is not known",
            expected="a verified keyset on disk",
            found="nothing",
            fix="get one with: keydist bootstrap",
        )
    if held.token_id == token_id:
        raise NotYetError(
            f"this node's keyset is sealed under token {token_id}",
            expected="another token in use",
            found=token_id,
            fix="replace it: keydist token rotate --new-token-file FILE; if that was done elsewhere: keydist bootstrap",
        )
    if command.node.role is Role.LEADER:
        return await _check_fleet(command, local, token_id)
    if local.floor is None or token_id not in local.floor.superseded:
        raise NotYetError(
            f"this node has not seen token {token_id} replaced",
            expected=f"a keyset that was sealed again, after one under token {token_id}",
            found=f"only token {held.token_id}",
            fix=(
                "on a leader: keydist token retire says who still needs it; where nobody does, and it is not one to"
                " come, remove its line from this node's token file by hand"
            ),
        )
    return Retirable(unseen=ForbiddenError("a follower does not see the fleet: only this node was looked at"))


async def _check_fleet(command: Command, local: Local, token_id: str) -> Retirable:
    current = await look(command, local)
    if current.held.token_id == token_id:
        raise NotYetError(
            f"the store's keyset is sealed under token {token_id}: it is the new one",
            expected="another token in use",
            found=f"epoch {current.held.keyset.epoch} under {token_id}",
            fix="take it: keydist bootstrap; then retire the other token",
        )
    reader = command.reader()
    await read_fleet(command, reader)
    users = _names(await surely(command, reader, _on(reader, token_id)))
    if users:
        raise NotYetError(
            f"nodes still open the keyset with token {token_id}: {', '.join(users)}",
            expected="every live node on another token",
            found=f"{len(users)} on it",
            fix="see keydist status --fleet; give them the new token as second line, and reload them",
        )
    return Retirable(unreadable=tuple(sorted(reader.refused)))


def _on(reader: FleetReader, token_id: str) -> Callable[[], tuple[Record, ...]]:
    return lambda: tuple(record for record in reader.live() if record.token == token_id)
