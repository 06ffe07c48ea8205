"""Reading the fleet: records from the store or as they are written, opened, and kept by who wrote them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keydist.core.fleet import HEARTBEATS, Sighting, ahead, forgotten, is_news, live, who_of
from keydist.core.record import open_record
from keydist.errors import ForkError, KeydistError, OutdatedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from keydist.core.accept import Held
    from keydist.core.envelope import Place
    from keydist.core.fleet import Fleet, Who
    from keydist.core.record import Record
    from keydist.core.token import BootstrapToken
    from keydist.ports import Clock, NodeRecords

_KEPT_SECONDS = 7 * 86_400.0
_FORGETS_SECONDS = 600.0
_MOST_REFUSED = 1000
_DEAF_HEARTBEATS = 1.5


class FleetReader:
    """The fleet as this process sees it; nothing is kept on disk, so that a node must be heard to count."""

    def __init__(
        self,
        records: NodeRecords,
        clock: Clock,
        *,
        place: Place,
        tokens: tuple[BootstrapToken, ...],
        superseded: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        """`superseded` tells the ids of the tokens that this node has seen replaced."""
        self._records = records
        self._clock = clock
        self._place = place
        self._tokens = tokens
        self.superseded = superseded
        self._seen: dict[Who, Sighting] = {}
        self._forgets_at = 0.0
        self.refused: dict[str, KeydistError] = {}
        """Why the last record of a name could not be opened."""
        self._rose = clock.monotonic()

    @property
    def fleet(self) -> Fleet:
        """Every instance that was seen lately; it changes with each record."""
        return self._seen

    async def refresh(self) -> None:
        """Read every record. Raises the errors of `NodeRecords`."""
        found = await self._records.read_all()
        for name, raw in found.items():
            self.hear(name, raw)
        self.refused = {name: why for name, why in self.refused.items() if name in found}

    def hear(self, name: str, raw: bytes) -> None:
        """Take in a record that was read or heard; one that cannot be opened is noted."""
        try:
            record = open_record(raw, node=name, place=self._place, tokens=self._tokens)
        except KeydistError as exc:
            if len(self.refused) < _MOST_REFUSED:
                self.refused[name] = exc
            return
        self.refused.pop(name, None)
        self.see(record)

    def see(self, record: Record) -> None:
        """Take in a record that was opened."""
        now = self._clock.monotonic()
        if now >= self._forgets_at:
            self._seen = dict(forgotten(self._seen, now=now, after=_KEPT_SECONDS))
            self._forgets_at = now + _FORGETS_SECONDS
        # In place: with ten thousand nodes a copy takes longer than all else that is done with a record.
        if is_news(self._seen, record, superseded=self.superseded()):
            self._seen[who_of(record)] = Sighting(record=record, rose=now)
            self._rose = now

    def live(self) -> tuple[Record, ...]:
        """Return the records of the nodes that live."""
        return live(self.fleet, now=self._clock.monotonic())

    def ahead(self, held: Held) -> tuple[Record, ...]:
        """Return the records of the living that show a later epoch than `held`, or another lineage."""
        return ahead(held, self.live(), superseded=self.superseded())

    def records(self) -> tuple[Record, ...]:
        """Return the last record of every instance that was seen."""
        return tuple(seen.record for seen in self.fleet.values())

    def is_deaf(self, heartbeat: int) -> bool:
        """Tell whether no counter rose lately, not even that of this node: the records, not the nodes, are silent.

        It shows before any node that was heard until then stops counting as live.
        """
        return self._clock.monotonic() > self._rose + _DEAF_HEARTBEATS * heartbeat

    def settles_in(self, heartbeat: int, *, since: float) -> float:
        """Return in how many seconds every node that lives has had the time to be heard, reading since `since`."""
        return max(0.0, since + HEARTBEATS * heartbeat - self._clock.monotonic())


def is_ahead(record: Record, held: Held) -> KeydistError:
    """Return what is wrong where a node holds a later keyset than the store, or another one."""
    if record.lineage != held.keyset.lineage:
        return ForkError(
            f"node {record.node} holds a keyset of another lineage",
            expected=f"lineage {held.keyset.lineage}",
            found=f"lineage {record.lineage}",
            fix="decide which side is right; on the node that must change: keydist store resolve --keep store",
        )
    return OutdatedError(
        f"node {record.node} holds a later epoch than the store: no epoch is written until that is settled",
        expected=f"epoch {held.keyset.epoch}",
        found=f"epoch {record.epoch}",
        fix=f"on {record.node}: keydist store backup FILE; here: keydist store restore FILE, keydist store republish;"
        f" where that node is gone: keydist node forget {record.node} --force",
    )
