"""How a node stands: its keyset, what its disk says against it, and how the store compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keydist.core.restart import InStore
from keydist.errors import ClockBehindError, KeydistError, OutdatedError, StoreLostError
from keydist.services.from_disk import with_following

if TYPE_CHECKING:
    from keydist.core.local import Local
    from keydist.services.node import Node
    from keydist.services.observe import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The store as this node judges it, and every alarm, the disk's own first."""

    found: InStore | None
    alarms: tuple[KeydistError, ...]

    @property
    def exit_code(self) -> int:
        """Return 0 where nothing is wrong, else the code of the worst alarm."""
        codes = {alarm.exit_code for alarm in self.alarms}
        return next((code for code in _WORST_FIRST if code in codes), max(codes, default=0))


_WORST_FIRST = (65, 77, 73, 78, 75)


async def standing(node: Node, local: Local, *alarms: KeydistError) -> Standing:
    """Compare a node with the store, by a read from the stream leader. Raises nothing of the store's."""
    seen = await node.observe(local, from_leader=True)
    found = _alarm(local, seen)
    alarms = (*local.alarms, *alarms, *clock_behind(local, node.clock.now()), *((found,) if found else ()))
    return Standing(found=seen.found, alarms=with_following(alarms, local, node.demands))


def clock_behind(local: Local, now: int) -> tuple[KeydistError, ...]:
    """Return an alarm where this node's epoch was confirmed later than its clock now shows, or nothing."""
    if local.held is None or local.confirmation is None:
        return ()
    ahead = local.confirmation.at - now
    if ahead <= local.held.keyset.policy.skew:
        return ()
    return (
        ClockBehindError(
            "this machine's clock is behind the last confirmation of its epoch",
            expected=f"unix time {local.confirmation.at} or later",
            found=str(now),
            fix="set the clock right, then confirm the epoch anew: keydist bootstrap",
        ),
    )


def _alarm(local: Local, seen: Observation) -> KeydistError | None:
    if seen.found is InStore.SAME:
        return None
    if seen.found is InStore.ACCEPTABLE:
        epoch = seen.accepted.held.keyset.epoch if seen.accepted else 0
        mine = local.held.keyset.epoch if local.held else 0
        return OutdatedError(
            "this node is behind the store",
            expected=f"epoch {epoch}",
            found=f"epoch {mine}" if mine else "no keyset",
            fix="take it with: keydist bootstrap",
        )
    return seen.error or StoreLostError(
        "the store does not hold this node's keyset",
        found=seen.found.value,
        fix="a leader that has it puts it back: keydist bootstrap, or keydist store republish",
    )
