"""A person's look at the fleet: one reading, then who is heard of, and how each node stands.

A first sight alone does not tell a node that lives from one that was killed. Who lives answers `keydist.who` at once,
and writes a record at each heartbeat: whose counter rises is heard. Who misses its heartbeat is unheard, and silent
after three, as for every reader. A node's own time stamp is shown, and decides nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.core.envelope import parse_envelope
from keydist.core.fleet import NodeState, NodeView, Who, view
from keydist.core.record import RECORD_TYPE
from keydist.errors import ForbiddenError, KeydistError, TransientError
from keydist.services.fleet import FleetReader
from keydist.services.living import living
from keydist.services.status import worst

if TYPE_CHECKING:
    from collections.abc import Callable

    from keydist.core.accept import Held
    from keydist.core.envelope import Place
    from keydist.core.record import Record
    from keydist.core.token import BootstrapToken
    from keydist.ports import Clock, NodeRecords
    from keydist.services.node import Node

UNHEARD: Final = "unheard"
UNREADABLE: Final = "unreadable"
WORST_FIRST: Final = (
    NodeState.FORKED.value,
    NodeState.DOUBLE.value,
    UNREADABLE,
    NodeState.SILENT.value,
    UNHEARD,
    NodeState.OLD_TOKEN.value,
    NodeState.AHEAD.value,
    NodeState.BEHIND.value,
    NodeState.ALARMED.value,
    NodeState.CURRENT.value,
    NodeState.LEAVING.value,
)
ABSENT: Final = frozenset({NodeState.LEAVING.value, NodeState.SILENT.value, UNHEARD, UNREADABLE})
"""States of nodes that are not known to live."""
_CODES: Final = {
    NodeState.FORKED.value: 65,
    NodeState.DOUBLE.value: 78,
    NodeState.SILENT.value: 75,
    UNHEARD: 75,
    NodeState.OLD_TOKEN.value: 77,
    NodeState.AHEAD.value: 65,
    NodeState.BEHIND.value: 75,
}
_UNKNOWN_ALARM: Final = 75
_NOBODY: Final = 75
_MISSED: Final = 1.2
"""So many heartbeats without a record are one missed: they are jittered by a tenth."""
_POLL_SECONDS: Final = 0.2
_READ_AGAIN: Final = 5.0


class Row(NamedTuple):
    """One instance of a node, or a name whose record cannot be opened (`why`, and no `record`).

    `seen`: unix seconds by this reader's clock when its counter was last seen to rise, None where it was not.
    `written`: when it wrote its last record, by its own clock.
    """

    name: str
    state: str
    record: Record | None = None
    seen: int | None = None
    written: int | None = None
    why: KeydistError | None = None

    @property
    def is_first_sight(self) -> bool:
        """Whether its record is all that speaks for this node's life."""
        return self.seen is None and self.state not in ABSENT

    @property
    def exit_code(self) -> int:
        """What this node's standing means for the exit code."""
        if self.why is not None:
            return self.why.exit_code
        said = self.record.alarms if self.record is not None and self.state not in ABSENT else ()
        return worst((_CODES.get(self.state, 0), *(_code_of(alarm) for alarm in said)))


class Look(NamedTuple):
    """The fleet at one moment, worst first; `pending` are the rows that may be heard yet."""

    rows: tuple[Row, ...]
    pending: tuple[str, ...]

    @property
    def living(self) -> tuple[Row, ...]:
        """The rows of nodes that live, as far as is known."""
        return tuple(row for row in self.rows if row.state not in ABSENT)

    def states(self) -> Counter[str]:
        """Return how many rows are in each state, worst first."""
        counts = Counter(row.state for row in self.rows)
        return Counter({state: counts[state] for state in WORST_FIRST if state in counts})

    @property
    def exit_code(self) -> int:
        """Return the code of the worst row; a fleet of which nobody lives is not healthy either."""
        return worst((*(row.exit_code for row in self.rows), 0 if self.living else _NOBODY))


class _StampReader(FleetReader):
    """A reader that keeps when each name's record says that it was written."""

    def __init__(self, records: NodeRecords, clock: Clock, *, place: Place, tokens: tuple[BootstrapToken, ...]) -> None:
        super().__init__(records, clock, place=place, tokens=tokens)
        self.stamps: dict[str, int] = {}

    def hear(self, name: str, raw: bytes) -> None:
        """Take in a record and its stamp; see `FleetReader`."""
        super().hear(name, raw)
        if name not in self.refused:
            with suppress(KeydistError):
                stamp = parse_envelope(raw, typ=RECORD_TYPE).header.issued
                self.stamps[name] = max(stamp, self.stamps.get(name, 0))


class Survey:
    """One reader of the fleet, from its first sight on."""

    def __init__(self, node: Node, records: NodeRecords) -> None:
        demands = node.demands
        self._clock = node.clock
        self._records = records
        self._place, self._tokens = demands.place, demands.tokens
        self._reader = _StampReader(records, node.clock, place=demands.place, tokens=demands.tokens)
        self._first: dict[Who, int] = {}

    async def begin(self) -> None:
        """Read every record. Raises the errors of `NodeRecords`; where that is forbidden, who may."""
        self._records.listen(heard=self._hear, answer=None)
        try:
            await self.again()
        except ForbiddenError as exc:
            raise ForbiddenError(
                "NATS does not allow this node to read the fleet's records",
                expected=exc.expected,
                found=exc.found,
                fix="run it on a leader, or with the operator's credentials: nats.creds_file or nats.nkey_file",
            ) from exc

    async def again(self) -> None:
        """Read every record once more. Raises the errors of `NodeRecords`."""
        await self._reader.refresh()
        self._note()

    async def ask(self) -> None:
        """Ask who lives; where that cannot be asked, heartbeats will tell. Raises nothing of the store's."""
        with suppress(KeydistError):
            for record in await living(self._records, place=self._place, tokens=self._tokens):
                self._reader.see(record)
                self._note()

    async def listen(self, held: Held, *, seconds: float, shown: Callable[[Look, float], None]) -> None:
        """Listen until nobody is pending, for `seconds` at most; `shown` is told the look and the seconds left."""
        end = self._clock.monotonic() + seconds
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(self.ask())
            read = self._clock.monotonic()
            while True:
                look, left = self.look(held), end - self._clock.monotonic()
                if not look.pending or left <= 0:
                    break
                shown(look, min(left, self.patience()))
                await self._clock.sleep(min(_POLL_SECONDS, left))
                if self._clock.monotonic() - read >= _READ_AGAIN:
                    with suppress(TransientError):
                        await self.again()
                    read = self._clock.monotonic()
            asking.cancel()

    def patience(self) -> float:
        """Return for how many seconds somebody who was not heard yet may only be between two heartbeats."""
        now = self._clock.monotonic()
        awaited = (seen for who, seen in self._reader.fleet.items() if self._awaits(who))
        return max((_MISSED * seen.record.heartbeat + seen.rose - now for seen in awaited), default=0.0)

    def look(self, held: Held) -> Look:
        """Return the fleet as it is known now, measured by the keyset `held`."""
        views = view(self._reader.fleet, held, now=self._clock.monotonic())
        rows = [self._row(one) for one in views]
        rows += [Row(name=name, state=UNREADABLE, why=why) for name, why in self._reader.refused.items()]
        rows.sort(key=lambda row: (WORST_FIRST.index(row.state), row.name))
        pending = (who[0] for who in self._reader.fleet if self._awaits(who))
        return Look(rows=tuple(rows), pending=tuple(sorted(pending)))

    def live(self) -> tuple[Record, ...]:
        """Return the records of the nodes that live by the rule for every reader: the first sight counts."""
        return self._reader.live()

    def records(self) -> tuple[Record, ...]:
        """Return the last record of every instance."""
        return self._reader.records()

    def _hear(self, name: str, raw: bytes) -> None:
        self._reader.hear(name, raw)
        self._note()

    def _note(self) -> None:
        for who, seen in self._reader.fleet.items():
            self._first.setdefault(who, seen.record.counter)

    def _has_risen(self, who: Who) -> bool:
        return self._reader.fleet[who].record.counter > self._first.get(who, 0)

    def _awaits(self, who: Who) -> bool:
        """Tell whether an instance was not heard yet, and may be."""
        record, rose = self._reader.fleet[who]
        is_late = self._clock.monotonic() - rose > _MISSED * record.heartbeat
        return not (record.leaving or is_late or self._has_risen(who))

    def _row(self, one: NodeView) -> Row:
        record = one.record
        who = (record.node, record.instance, record.machine)
        risen, state = self._has_risen(who), one.state.value
        if not (risen or record.leaving or state == NodeState.SILENT.value or self._awaits(who)):
            state = UNHEARD
        seen = self._clock.now() - int(one.age) if risen else None
        return Row(
            name=record.node, state=state, record=record, seen=seen, written=self._reader.stamps.get(record.node)
        )


def _code_of(alarm: str) -> int:
    """Return the exit code of an alarm that another node names, which may be of another release."""
    return _alarm_codes().get(alarm, _UNKNOWN_ALARM)


@cache
def _alarm_codes() -> dict[str, int]:
    found: dict[str, int] = {}
    rest: list[type[KeydistError]] = [KeydistError]
    while rest:
        error = rest.pop()
        found[error.code] = error.exit_code
        rest += error.__subclasses__()
    return found
