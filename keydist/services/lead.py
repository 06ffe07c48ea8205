"""What a leader-role node does unasked: rotate on schedule, let old keys go, and hold back where it may be behind.

The decision is `core.rotation.decide`; any number of leaders may take it, and compare-and-set picks one. No new epoch
is written while this leader has not yet had the time to hear the whole fleet, for three heartbeats after it put its
keyset back into the store or found it there again (another leader may have put it back), while it hears nobody's
record, nor while a live node shows a later epoch or another lineage.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NoReturn

from keydist.core.fleet import HEARTBEATS, doubled
from keydist.core.jwk import bits_of
from keydist.core.keyset import State
from keydist.core.restart import InStore
from keydist.core.rotation import Drop, Publish, Situation, Step, Wait, decide, overdue
from keydist.core.successor import republished_next, rotated, without
from keydist.errors import (
    ConflictError,
    KeydistError,
    OutdatedError,
    TwoInstancesError,
    UnreadableRecordError,
)
from keydist.services.advance import Advanced, advance
from keydist.services.defect import defect
from keydist.services.fleet import is_ahead
from keydist.services.genesis import fresh_keys
from keydist.services.living import living
from keydist.services.pace import jittered, woken

if TYPE_CHECKING:
    from keydist.core.accept import Held
    from keydist.core.genesis import FreshKeys
    from keydist.core.keyset import Key, Keyset
    from keydist.core.notes import Notes
    from keydist.core.record import Record
    from keydist.ports import Entropy, NodeRecords
    from keydist.services.fleet import FleetReader
    from keydist.services.node import Node
    from keydist.services.present import Present
    from keydist.services.reconcile import Reconciler

_SPREAD: Final = 0.2
_LEAST_PAUSE: Final = 0.25
_TOLD: Final = 4
"""So many unreadable records are told one by one."""


class Leader:
    """One leader's view of the fleet, and what it has asked the living."""

    def __init__(
        self,
        node: Node,
        present: Present,
        reader: FleetReader,
        *,
        records: NodeRecords,
        reconciler: Reconciler,
        entropy: Entropy,
        heartbeat: int,
    ) -> None:
        self._node = node
        self._present = present
        self._reader = reader
        self._records = records
        self._reconciler = reconciler
        self._entropy = entropy
        self._heartbeat = heartbeat
        self._since = node.clock.monotonic()
        self._asked: int | None = None
        self._ahead: dict[str, float] = {}
        self._read_at: float | None = None
        self.is_waiting = False
        """Whether only acknowledgements are missing: what is heard may change the decision at once."""

    async def step(self) -> Advanced | None:
        """Decide once and do it; return what was written. Raises the errors of the ports and of `advance`."""
        held, notes = self._present.held, self._present.notes()
        if held is None or self._present.found is not InStore.SAME:
            return None
        if self._is_reading_due():
            await self._read()
        await self._ask_after_republication(notes)
        situation = self._situation(held, notes)
        if not self._acts(decide(situation)) or self._holds_back(situation):
            return None
        await self._read()  # what is done is decided on what is there now
        situation = self._situation(held, notes)
        step = decide(situation)
        if isinstance(step, Wait) or self._holds_back(situation) or self._reader.is_deaf(self._heartbeat):
            return None
        fresh = None if isinstance(step, Drop) else await fresh_keys(*next_kind(held), self._entropy)
        async with self._present.writing:
            return await self._write(step, held, fresh)

    async def _write(self, step: Step, basis: Held, fresh: FreshKeys | None) -> Advanced | None:
        """Write what was decided about `basis`, unless something changed while keys were made."""
        present, reconciler = self._present, self._reconciler
        reconciler.refresh()
        held = reconciler.local.held
        if held is None or held.digest != basis.digest or present.found is not InStore.SAME:
            return None  # somebody else was faster
        situation = self._situation(held, present.notes())
        again = decide(situation)
        if type(again) is not type(step) or self._holds_back(situation) or self._reader.is_deaf(self._heartbeat):
            return None  # it was put back, or a node was heard that is ahead or has not acknowledged
        done = await advance(
            self._node, reconciler.local, lambda held, now: _build(held, now, again, fresh), entropy=self._entropy
        )
        reconciler.local = done.local
        present.take(done.local, found=InStore.SAME, how=type(step).__name__.lower())
        return done

    def _is_reading_due(self) -> bool:
        """Tell whether records are read unasked: at first, and while one that was refused may be gone."""
        if self._read_at is None:
            return True
        return bool(self._reader.refused) and self._node.clock.monotonic() >= self._read_at + self._heartbeat

    async def _read(self) -> None:
        await self._reader.refresh()
        self._read_at = self._node.clock.monotonic()

    def _acts(self, step: Step) -> bool:
        self.is_waiting = isinstance(step, Wait) and bool(step.lacking)
        return not isinstance(step, Wait)

    async def _ask_after_republication(self, notes: Notes) -> None:
        """Ask the living once after this node put its keyset back: one may hold a later one."""
        if notes.republished is None or notes.republished == self._asked or not self._is_recent(notes):
            return
        node = self._node
        for record in await living(self._records, place=node.demands.place, tokens=node.demands.tokens):
            self._reader.see(record)
        self._asked = notes.republished

    def _situation(self, held: Held, notes: Notes) -> Situation:
        return Situation(
            held=held,
            notes=notes,
            now=self._node.clock.now(),
            live=self._reader.live(),
            records=self._reader.records(),
        )

    def _is_recent(self, notes: Notes) -> bool:
        return notes.republished is not None and (
            abs(self._node.clock.now() - notes.republished) < HEARTBEATS * self._heartbeat
        )  # a time far ahead is of a clock that was wrong then

    def _holds_back(self, situation: Situation) -> bool:
        """Tell whether no epoch may be written now, whatever is due."""
        found = self._present.same_since
        if found is None or self._is_recent(situation.notes):
            return True
        if self._reader.settles_in(self._heartbeat, since=max(self._since, found)) > 0:
            return True
        return bool(self._reader.ahead(situation.held))

    def _long_ahead(self, held: Held) -> list[Record]:
        """Return who has been ahead of the store for a heartbeat: who hears of a new epoch first is no matter."""
        now = self._node.clock.monotonic()
        found = self._reader.ahead(held) if self._present.found is InStore.SAME else ()
        self._ahead = {record.node: self._ahead.get(record.node, now) for record in found}
        return [record for record in found if now - self._ahead[record.node] >= self._heartbeat]

    def alarms(self) -> tuple[KeydistError, ...]:
        """Return what is wrong with the fleet as this leader sees it."""
        held, records = self._present.held, self._reader.live()
        found = [_two_instances(name) for name in sorted(doubled(records))]
        found += [_unreadable(name, why) for name, why in sorted(self._reader.refused.items())[:_TOLD]]
        if held is not None:
            found += overdue(self._situation(held, self._present.notes()), leads=True)
            found += [is_ahead(record, held) for record in self._long_ahead(held)]
        return tuple(found)


def next_kind(held: Held) -> tuple[str, int]:
    """Return the algorithm and the size (bits, 0 where there is none to choose) of the key that signs next."""
    key = _next(held) or held.keyset.active
    return key.alg, bits_of(key)


def _next(held: Held) -> Key | None:
    return next((key for key in held.keyset.signing_keys() if key.state is State.NEXT), None)


def _build(held: Held, now: int, step: Step, fresh: FreshKeys | None) -> Keyset:
    if isinstance(step, Drop):
        return without(held, now=now, drop=step.kids)
    if fresh is None or isinstance(step, Wait):  # pragma: no cover - the caller made them
        raise AssertionError
    alg = next_kind(held)[0]
    if isinstance(step, Publish):
        return republished_next(held, now=now, alg=alg, fresh=fresh, uses=step.uses)
    return rotated(held, now=now, alg=alg, fresh=fresh, drop=step.drop)


async def lead(
    leader: Leader, node: Node, present: Present, *, entropy: Entropy, heartbeat: int, wake: asyncio.Event
) -> NoReturn:
    """Decide whenever `wake` is set, and at each heartbeat, for ever."""
    while True:
        wake.clear()
        failure: tuple[KeydistError, ...] = ()
        try:
            done = await leader.step()
        except (ConflictError, OutdatedError):
            pass  # somebody else was faster: what they wrote is taken by the follower's path
        except Exception as exc:  # noqa: BLE001 - a defect must not stop a node
            failure = (defect(exc, while_="this leader looked for what is due"),)
        else:
            failure = done.alarms if done is not None else ()
        present.alarm("leading", *leader.alarms(), *failure)
        await node.clock.sleep(_LEAST_PAUSE)
        await woken(wake, within=jittered(entropy, heartbeat, spread=_SPREAD))


def _two_instances(name: str) -> KeydistError:
    return TwoInstancesError(
        f"two instances live under the name {name}",
        expected="one",
        fix="give each node a name of its own (node:); for a cloned machine: keydist reset on the clone",
    )


def _unreadable(name: str, why: KeydistError) -> KeydistError:
    return UnreadableRecordError(
        f"the record of {name[:64]} cannot be opened: whether that node acknowledges is not known",
        expected="a record sealed under this cluster's token",
        found=why.message,
        fix="compare the token files: keydist token inspect; where the node is gone: keydist node forget",
    )
