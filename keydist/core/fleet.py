"""The fleet as one reader sees it: which nodes live, what they hold, and what is wrong with them.

A node lives while its counter was seen to rise within three of its heartbeats, by the reader's own clock, and it does
not say that it leaves; the first sight counts. No time of another machine is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from keydist.core.accept import Held
    from keydist.core.record import Record

HEARTBEATS: Final = 3


class Sighting(NamedTuple):
    """The last record of one instance, and when its counter was last seen to rise (the reader's monotonic seconds)."""

    record: Record
    rose: float


Who = tuple[str, str, str]
"""A node's name, its instance and its machine."""

Fleet = Mapping[Who, Sighting]
"""Every instance that was seen, by who it is."""


class NodeState(StrEnum):
    """How a node stands, worst last."""

    CURRENT = "current"
    LEAVING = "left"
    BEHIND = "behind"
    AHEAD = "ahead"
    OLD_TOKEN = "old token"  # noqa: S105 - a state, not a secret
    ALARMED = "alarmed"
    SILENT = "silent"
    DOUBLE = "double"
    FORKED = "forked"


def is_news(fleet: Fleet, record: Record, *, superseded: frozenset[str] = frozenset()) -> bool:
    """Tell whether a record takes its place in a fleet: one that is repeated or late does not.

    A record under a `superseded` token takes no other's place, and gives way to any other whatever its counter says.
    """
    before = fleet.get(who_of(record))
    return before is None or _rank(record, superseded) > _rank(before.record, superseded)


def who_of(record: Record) -> Who:
    """Return who wrote a record."""
    return record.node, record.instance, record.machine


def _rank(record: Record, superseded: frozenset[str]) -> tuple[bool, int]:
    return record.sealed not in superseded, record.counter


def forgotten(fleet: Fleet, *, now: float, after: float) -> Fleet:
    """Return the fleet without who was not heard of for `after` seconds."""
    return {who: seen for who, seen in fleet.items() if now - seen.rose <= after}


def is_live(seen: Sighting, *, now: float) -> bool:
    """Tell whether a node lives."""
    return not seen.record.leaving and now - seen.rose <= HEARTBEATS * seen.record.heartbeat


def live(fleet: Fleet, *, now: float) -> tuple[Record, ...]:
    """Return the records of the nodes that live, by name; a name with two instances stands twice."""
    return tuple(seen.record for _, seen in sorted(fleet.items()) if is_live(seen, now=now))


def doubled(records: Collection[Record]) -> frozenset[str]:
    """Return the names under which more than one instance lives."""
    counts = Counter(record.node for record in records)
    return frozenset(name for name, count in counts.items() if count > 1)


def lacking(held: Held, records: Collection[Record]) -> tuple[str, ...]:
    """Return the names of the nodes that do not say that they hold exactly `held`, sorted."""
    return tuple(sorted({record.node for record in records if not holds(record, held)}))


def holds(record: Record, held: Held) -> bool:
    """Tell whether a node says that it uses exactly this keyset, under the token that the keyset is sealed under."""
    keyset = held.keyset
    if record.sealed not in ("", held.token_id):
        return False
    return (record.lineage, record.epoch, record.digest) == (keyset.lineage, keyset.epoch, held.digest)


def ahead(held: Held, records: Collection[Record], *, superseded: frozenset[str] = frozenset()) -> tuple[Record, ...]:
    """Return the records that show a later epoch than `held`, or another lineage.

    What is sealed under a `superseded` token counts for nothing here: whoever that token leaked to could stop every
    change, the revocation of what leaked among them.
    """
    keyset = held.keyset
    trusted = [record for record in records if record.sealed not in superseded]
    return tuple(record for record in trusted if record.epoch > keyset.epoch or record.lineage != keyset.lineage)


class NodeView(NamedTuple):
    """One row of the fleet: a node's last record, seconds since its counter rose, and how it stands."""

    record: Record
    age: float
    state: NodeState


def view(fleet: Fleet, held: Held, *, now: float) -> tuple[NodeView, ...]:
    """Return every instance that was seen, measured by the keyset `held`."""
    twice = doubled(live(fleet, now=now))
    return tuple(_views(fleet, held, twice, now=now))


def _views(fleet: Fleet, held: Held, twice: frozenset[str], *, now: float) -> Iterator[NodeView]:
    for _, seen in sorted(fleet.items()):
        state = _state(seen, held, twice, now=now)
        yield NodeView(record=seen.record, age=now - seen.rose, state=state)


def _of_one_history(record: Record, held: Held) -> bool:
    """Tell whether nothing shows that a record of this lineage is of another history than `held`."""
    behind = held.keyset.epoch - record.epoch
    known = (held.digest, *held.keyset.ancestors)  # the digest of the epoch that is so many behind
    return not 0 <= behind < len(known) or known[behind] == record.digest


def _state(seen: Sighting, held: Held, twice: frozenset[str], *, now: float) -> NodeState:  # noqa: PLR0911 - a table
    record, keyset = seen.record, held.keyset
    if record.leaving:
        return NodeState.LEAVING
    if not is_live(seen, now=now):
        return NodeState.SILENT
    if record.node in twice:
        return NodeState.DOUBLE
    if record.lineage != keyset.lineage or not _of_one_history(record, held):
        return NodeState.FORKED
    if record.epoch > keyset.epoch:
        return NodeState.AHEAD
    if record.token != held.token_id:
        return NodeState.OLD_TOKEN
    if record.epoch < keyset.epoch:
        return NodeState.BEHIND
    return NodeState.ALARMED if record.alarms else NodeState.CURRENT
