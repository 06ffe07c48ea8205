"""How a node stands: its keyset, what its disk and its notes say against it, and how the store compares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from keydist.core.restart import InStore
from keydist.core.rotation import Situation, activation, due, overdue
from keydist.errors import ClockBehindError, KeydistError, OutdatedError, OverdueError, UnreachableError
from keydist.services.from_disk import with_following
from keydist.services.observe import lost, unconfirmed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keydist.core.accept import Held
    from keydist.core.local import Local
    from keydist.core.notes import Notes
    from keydist.core.record import Record
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
        return worst(alarm.exit_code for alarm in self.alarms)


_WORST_FIRST = (65, 77, 73, 78, 75)


def worst(codes: Iterable[int]) -> int:
    """Return the exit code of the worst of several, 0 where there is none."""
    found = set(codes) - {0}
    return next((code for code in _WORST_FIRST if code in found), max(found, default=0))


async def told_by_any(node: Node, local: Local, seen: Observation) -> Observation:
    """Return what the stream's leader showed; where it does not answer and a replica tells the same keyset, that."""
    nobody = isinstance(seen.error, UnreachableError) and not seen.error.is_there
    if seen.found is not InStore.UNREACHABLE or local.held is None or nobody:
        return seen
    replica = await node.observe(local, from_leader=False)
    return replace(seen, error=unconfirmed(seen)) if replica.found is InStore.SAME else seen


async def standing(node: Node, local: Local, *alarms: KeydistError) -> Standing:
    """Compare a node with the store, by a read from the stream leader. Raises nothing of the store's."""
    seen = await node.observe(local, from_leader=True)
    found = difference(local, await told_by_any(node, local, seen))
    alarms = (*local.alarms, *alarms, *((found,) if found else ()))
    return Standing(found=seen.found, alarms=with_following(alarms, local, node.demands))


def by_time(
    local: Local,
    notes: Notes,
    *,
    now: int,
    rehearse_every: int,
    leads: bool,
    live: tuple[Record, ...] = (),
    records: tuple[Record, ...] = (),
) -> tuple[KeydistError, ...]:
    """Return what only time brings about: a clock that is behind, overdue phases, a rehearsal too long ago.

    With the fleet's records, what is overdue names the nodes that it waits for.
    """
    late: tuple[KeydistError, ...] = ()
    if local.held is not None:
        situation = Situation(held=local.held, notes=notes, now=now, live=live, records=records)
        late = overdue(situation, leads=leads)
    return (*clock_behind(local, now), *late, *rehearsal_alarm(notes, now=now, every=rehearse_every))


def rehearsal_alarm(notes: Notes, *, now: int, every: int) -> tuple[KeydistError, ...]:
    """Return an alarm where this node once tried a backup out, and not again for `every` seconds (0: no matter)."""
    if not every or notes.rehearsed is None or now <= notes.rehearsed + every:
        return ()
    return (
        OverdueError(
            "the last rehearsal of a backup is too long ago",
            phase="rehearsal",
            expected=f"one since unix time {now - every}",
            found=f"unix time {notes.rehearsed}",
            fix="keydist store backup FILE, then: keydist store restore --verify FILE",
        ),
    )


class Schedule(NamedTuple):
    """When a rotation is due and why (None: the policy asks for none), and from when the next keys may sign."""

    due: int | None
    why: str | None
    opens: int


def schedule(held: Held, notes: Notes, *, now: int) -> Schedule:
    """Return when this node expects the next rotation (unix seconds)."""
    situation = Situation(held=held, notes=notes, now=now)
    wanted = due(situation)
    opens = activation(situation).opens
    return Schedule(due=wanted.at if wanted else None, why=wanted.why if wanted else None, opens=opens)


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


def difference(local: Local, seen: Observation) -> KeydistError | None:
    """Return what is wrong where the store does not hold what this node holds, or nothing."""
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
    return seen.error or lost(seen)
