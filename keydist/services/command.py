"""What the commands of a person share: the node as it stands, or brought up to date, and reasons to write nothing now.

A plan only looks: it changes neither the store nor the disk. A change first takes what the store holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from keydist.core.fleet import HEARTBEATS
from keydist.core.floor import raised_floor
from keydist.core.restart import InStore, Role
from keydist.errors import ConflictError, NotYetError, OutdatedError, RefusedGenesisError, WrongRoleError
from keydist.services.fleet import FleetReader
from keydist.services.observe import lost
from keydist.services.put_back import LOST
from keydist.services.reconcile import Genesis, Reconciler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keydist.core.accept import Held
    from keydist.core.local import Local
    from keydist.ports import Entropy, NodeRecords
    from keydist.services.from_disk import Outcome
    from keydist.services.node import Node
    from keydist.services.observe import Observation

_TRIES: Final = 3
_EPOCHS_LOST: Final = 5
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A person's command on one node: its ports, and how a wait is told; `heartbeat` in seconds."""

    node: Node
    records: NodeRecords
    entropy: Entropy
    heartbeat: int
    told: Callable[[str, float], None]

    def reader(self) -> FleetReader:
        """Return a reader that has not seen anybody yet."""
        demands, floor = self.node.demands, self.node.disk.load(self.node.demands.tokens).floor
        superseded = floor.superseded if floor else frozenset[str]()
        return FleetReader(
            self.records,
            self.node.clock,
            place=demands.place,
            tokens=demands.tokens,
            superseded=lambda: superseded,
        )


class Current(NamedTuple):
    """The keyset that the store holds, on this node's disk or, after a look alone, in memory.

    `behind` is the epoch on this node's disk (0 for none) where that is another one.
    """

    local: Local
    held: Held
    behind: int | None = None


async def look(command: Command, local: Local) -> Current:
    """Return what the store holds, and change nothing: for a plan.

    Raises what `up_to_date` would, and `NotYetError` for a store that lost the keyset, which that would put back.
    """
    node = command.node
    check_role(node)
    seen = await node.observe(local, from_leader=True)
    if seen.found is InStore.SAME and local.held is not None:
        _check_settled(command)
        return Current(local, local.held)
    if seen.accepted is not None:
        held = seen.accepted.held
        taken = local._replace(held=held, damage=None, floor=raised_floor(local.floor, held))
        return Current(taken, held, behind=local.held.keyset.epoch if local.held else 0)
    if local.held is None:
        raise local.damage or seen.error or _nothing()
    if seen.found in LOST:
        raise _would_put_back(command, seen)
    raise seen.error or lost(seen)


async def up_to_date(command: Command, local: Local) -> Current:
    """Return the node after it took what the store holds; it must then be what this node holds, and may be written.

    Raises `WrongRoleError` for a follower, what is wrong with the store, and `NotYetError` for three heartbeats after
    this node put its keyset back into a store that lost it.
    """
    node = command.node
    check_role(node)
    reconciler = Reconciler(node, local, Genesis(ask_living=_no_genesis, first_envelope=_no_envelope))
    outcome = await _attempt(reconciler, tries=_TRIES)
    if outcome.found is not InStore.SAME:
        raise outcome.alarms[0] if outcome.alarms else ConflictError("the store does not hold this node's keyset")
    _check_settled(command)
    return Current(reconciler.local, outcome.held)


async def on_top(command: Command, local: Local, write: Callable[[Current], Awaitable[T]]) -> T:
    """Return what `write` returns of the node brought up to date; again where another epoch came first meanwhile.

    For what a person wants whoever wrote, an agent that dropped a key for example. Raises as `up_to_date` and as
    `write`, a race only once it was lost five times.
    """
    current = await up_to_date(command, local)
    for _ in range(_EPOCHS_LOST - 1):
        try:
            return await write(current)
        except (ConflictError, OutdatedError) as exc:
            before, current = current.held, await up_to_date(command, current.local)
            if isinstance(exc, OutdatedError) and current.held.digest == before.digest:
                raise  # a node is ahead of the store
    return await write(current)


async def _attempt(reconciler: Reconciler, *, tries: int) -> Outcome:
    """Look and do once; again where an agent beside this command installed or wrote something meanwhile."""
    try:
        return await reconciler.attempt()
    except ConflictError:
        if tries <= 1:
            raise
    return await _attempt(reconciler, tries=tries - 1)


def check_role(node: Node) -> None:
    """Refuse a follower. Raises `WrongRoleError`."""
    if node.role is not Role.LEADER:
        raise WrongRoleError(
            "a follower writes no epoch", expected="role leader", found="role follower", fix="run it on a leader node"
        )


def _check_settled(command: Command) -> None:
    """Refuse to write for three heartbeats after this node put its keyset back."""
    node, pause = command.node, HEARTBEATS * command.heartbeat
    republished = node.disk.notes().republished
    passed = node.clock.now() - (republished or 0)
    if republished is not None and abs(passed) < pause:  # a time far ahead is of a clock that was wrong then
        raise NotYetError(
            "the store had lost the keyset, and this node put it back: a node with a later one may yet be heard",
            expected=f"{pause} s since then",
            found=f"{max(0, passed)} s",
            fix=f"wait {pause - passed} s, look at keydist status --fleet, then run the command again",
        )


def _would_put_back(command: Command, seen: Observation) -> NotYetError:
    return NotYetError(
        "the store lost the keyset: the command would put this node's back first, and then write no new epoch yet",
        expected="the keyset of this node in the store",
        found=lost(seen).found,
        fix=f"put it back: keydist store republish; {HEARTBEATS * command.heartbeat} s later, run the command",
    )


def _nothing() -> RefusedGenesisError:
    return RefusedGenesisError(
        "there is no keyset yet, here or in the store: this command makes no first key",
        expected="a keyset",
        found="nothing",
        fix="make one with: keydist bootstrap --role leader",
    )


async def _no_genesis() -> None:
    raise _nothing()


async def _no_envelope() -> bytes:
    raise AssertionError  # pragma: no cover - refused before
