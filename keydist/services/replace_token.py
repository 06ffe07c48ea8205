"""Replacing the bootstrap token without an outage: every node gets both, the keyset is sealed again, the old one goes.

The new token must be with every live node before: a node without it keeps serving but cannot follow. Where the old
token is lost, a node that keeps its keyset in plain seals it again, and only where the store holds exactly its bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keydist.core.restart import InStore, Role
from keydist.core.successor import resealed
from keydist.errors import (
    ForbiddenError,
    KeydistError,
    NotYetError,
    RefusedOverwriteError,
    WrongRoleError,
    WrongTokenError,
)
from keydist.services.advance import Advanced, advance
from keydist.services.command import Command, check_nobody_ahead, until, up_to_date

if TYPE_CHECKING:
    from keydist.core.accept import Held
    from keydist.core.local import Local
    from keydist.core.record import Record
    from keydist.core.token import BootstrapToken
    from keydist.services.fleet import FleetReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a replacement does: the token before and after, and the live nodes that do not hold the new one."""

    held: Held
    old_id: str
    new_id: str
    lacking: tuple[str, ...]
    is_done: bool
    blind: KeydistError | None = None


async def plan(
    command: Command, local: Local, new: BootstrapToken, *, from_disk: bool, without: frozenset[str]
) -> tuple[Local, Plan]:
    """Return the node brought up to date and what a replacement would do. `command`'s node demands `new` too.

    Raises `WrongTokenError` for a token that this node has seen replaced, `RefusedOverwriteError` where `from_disk`
    and the store does not hold exactly this node's bytes.
    """
    local = await (_exactly_mine(command, local) if from_disk else up_to_date(command, local))
    held = local.held
    if held is None:  # pragma: no cover - it is up to date
        raise AssertionError
    if local.floor is not None and new.token_id in local.floor.superseded:
        raise WrongTokenError(
            "the new token was replaced before: whoever still has it could open the keyset",
            have=(new.token_id,),
            need="a token never used here",
            fix="make one with: keydist token generate",
        )
    reader, blind = command.reader(), None
    try:
        await reader.refresh()
    except KeydistError as exc:
        if not from_disk:
            raise
        blind = exc
    check_nobody_ahead(held, reader.live())
    return local, Plan(
        held=held,
        old_id=held.token_id,
        new_id=new.token_id,
        lacking=_lacking(reader, new.token_id, without),
        is_done=held.token_id == new.token_id,
        blind=blind,
    )


async def replace_token(command: Command, local: Local, found: Plan, new: BootstrapToken) -> Advanced:
    """Seal the keyset again, under `new`. Raises `NotYetError` where live nodes do not hold it yet."""
    if found.lacking:
        raise NotYetError(
            f"live nodes do not hold token {found.new_id}: {', '.join(found.lacking)}",
            expected="it as the second line of every node's token file",
            found=f"{len(found.lacking)} without it",
            fix="add the line there, then reload (systemctl reload keydist); or leave a node behind: --without NODE",
        )
    return await advance(
        command.node, local, lambda held, now: resealed(held, now=now), entropy=command.entropy, token=new
    )


async def _exactly_mine(command: Command, local: Local) -> Local:
    """Return the node where the store holds exactly its live bytes: neither needs the lost token."""
    if command.node.role is not Role.LEADER:
        raise WrongRoleError(
            "a follower writes no epoch", expected="role leader", found="role follower", fix="run it on a leader node"
        )
    if local.held is None:
        raise local.damage or RefusedOverwriteError("this node holds no keyset", fix="run it on a node that has it")
    seen = await command.node.observe(local, from_leader=True)
    if seen.found is InStore.SAME:
        return local
    if seen.found in (InStore.UNREACHABLE, InStore.FORBIDDEN) and seen.error is not None:
        raise seen.error
    raise RefusedOverwriteError(
        "the store does not hold exactly this node's keyset: nothing is sealed again from disk",
        expected=f"epoch {local.held.keyset.epoch}, byte for byte",
        found=seen.found.value,
        fix="run it on the node whose keyset the store holds: keydist status on each",
    )


def _lacking(reader: FleetReader, token_id: str, without: frozenset[str]) -> tuple[str, ...]:
    asked = [record for record in reader.live() if record.node not in without]
    return tuple(sorted({record.node for record in asked if token_id not in record.tokens}))


async def moved(command: Command, held: Held, *, seconds: float) -> tuple[str, ...]:
    """Wait until no live node uses another token than that of `held`; return who does after `seconds`."""
    reader = command.reader()
    return await until(
        command,
        reader,
        lambda: _on_another(reader.live(), held.token_id),
        what=f"waiting for token {held.token_id} at",
        seconds=seconds,
    )


def _on_another(records: tuple[Record, ...], token_id: str) -> tuple[str, ...]:
    return tuple(sorted({record.node for record in records if record.token != token_id}))


async def check_retirable(command: Command, local: Local, token_id: str) -> KeydistError | None:
    """Raise `NotYetError` while this or any live node needs a token; return why the others could not be asked."""
    held = local.held
    if held is not None and held.token_id == token_id:
        raise NotYetError(
            f"this node's keyset is sealed under token {token_id}",
            expected="another token in use",
            found=token_id,
            fix="replace it first: keydist token rotate --new-token-file FILE",
        )
    if command.node.role is not Role.LEADER:
        return ForbiddenError("a follower does not see the fleet: only this node was looked at")
    reader = command.reader()
    await reader.refresh()
    users = tuple(sorted({record.node for record in reader.live() if record.token == token_id}))
    if users:
        raise NotYetError(
            f"nodes still open the keyset with token {token_id}: {', '.join(users)}",
            expected="every live node on another token",
            found=f"{len(users)} on it",
            fix="see keydist status --fleet; give them the new token as second line, and reload them",
        )
    return None
