"""What the commands of a person share: a node brought up to date, reasons to write no epoch now, acknowledgements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keydist.core.fleet import HEARTBEATS, ahead, lacking
from keydist.core.restart import InStore, Role
from keydist.errors import (
    ConflictError,
    ForkError,
    NotYetError,
    OutdatedError,
    RefusedGenesisError,
    WrongRoleError,
)
from keydist.services.fleet import FleetReader
from keydist.services.reconcile import Genesis, Reconciler

if TYPE_CHECKING:
    from collections.abc import Callable

    from keydist.core.accept import Held
    from keydist.core.local import Local
    from keydist.core.record import Record
    from keydist.ports import Entropy, NodeRecords
    from keydist.services.node import Node

_POLL_SECONDS: Final = 0.2
_READ_AGAIN: Final = 5


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
        demands = self.node.demands
        return FleetReader(self.records, self.node.clock, place=demands.place, tokens=demands.tokens)


async def up_to_date(command: Command, local: Local) -> Local:
    """Return the node after it took what the store holds; it must then be what this node holds, and may be written.

    Raises `WrongRoleError` for a follower, what is wrong with the store, and `NotYetError` for three heartbeats after
    this node put its keyset back into a store that lost it.
    """
    node = command.node
    if node.role is not Role.LEADER:
        raise WrongRoleError(
            "a follower writes no epoch", expected="role leader", found="role follower", fix="run it on a leader node"
        )
    reconciler = Reconciler(node, local, Genesis(ask_living=_no_genesis, first_envelope=_no_envelope))
    outcome = await reconciler.attempt()
    if outcome.found is not InStore.SAME:
        raise outcome.alarms[0] if outcome.alarms else ConflictError("the store does not hold this node's keyset")
    republished = node.disk.notes().republished
    if republished is not None and node.clock.now() < republished + HEARTBEATS * command.heartbeat:
        raise NotYetError(
            "the store had lost the keyset, and this node put it back: a node with a later one may yet be heard",
            expected=f"{HEARTBEATS * command.heartbeat} s since then",
            found=f"{node.clock.now() - republished} s",
            fix="look at keydist status --fleet, then run the command again",
        )
    return reconciler.local


async def _no_genesis() -> None:
    raise RefusedGenesisError(
        "this command makes no first key", expected="a keyset", fix="make one with: keydist bootstrap --role leader"
    )


async def _no_envelope() -> bytes:
    raise AssertionError  # pragma: no cover - refused before


def check_nobody_ahead(held: Held, records: tuple[Record, ...]) -> None:
    """Refuse to write while a node shows a later epoch or another lineage. Raises `OutdatedError`, `ForkError`."""
    for record in ahead(held, records):
        if record.lineage != held.keyset.lineage:
            raise ForkError(
                f"node {record.node} holds a keyset of another lineage",
                expected=f"lineage {held.keyset.lineage}",
                found=f"lineage {record.lineage}",
                fix="decide which side is right; on the node that must change: keydist store resolve --keep store",
            )
        raise OutdatedError(
            f"node {record.node} holds a later epoch than the store",
            expected=f"epoch {held.keyset.epoch}",
            found=f"epoch {record.epoch}",
            fix="there: keydist store backup FILE; here: keydist store restore FILE, keydist store republish",
        )


async def until(
    command: Command, reader: FleetReader, missing: Callable[[], tuple[str, ...]], *, what: str, seconds: float
) -> tuple[str, ...]:
    """Read the fleet until `missing()` names nobody, and return whom it names after `seconds`.

    A node that is not heard of for three of its heartbeats no longer counts: `missing` looks at the living.
    """
    clock = command.node.clock
    end, turn = clock.monotonic() + seconds, 0
    command.records.listen(heard=reader.hear, answer=lambda: None)
    while True:
        if turn % _READ_AGAIN == 0:
            await reader.refresh()
        names = missing()
        left = end - clock.monotonic()
        if not names or left <= 0:
            return names
        command.told(f"{what}: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}", left)  # noqa: PLR2004
        await clock.sleep(min(_POLL_SECONDS, max(0.01, left)))
        turn += 1


async def acknowledged(command: Command, held: Held, *, seconds: float) -> tuple[str, ...]:
    """Wait until every live node says that it uses `held`; return who has not after `seconds`."""
    reader = command.reader()
    return await until(
        command,
        reader,
        lambda: lacking(held, reader.live()),
        what=f"waiting for epoch {held.keyset.epoch} at",
        seconds=seconds,
    )
