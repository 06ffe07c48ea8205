"""The audit trail's stream in memory, seen by any number of nodes, each with its faults; and an `Auditor` that keeps.

What it imitates, measured on a real server: sequences count over all subjects and are never given twice; a publish
behind another last record of the subject is refused; an acknowledgement can be lost after the record was stored.
"""

from __future__ import annotations

from keydist.core.audit import Event
from keydist.core.entry import Shipped
from keydist.errors import BucketMissingError, ConflictError
from tests.fakes.memory_store import Fault, error_of

_AFTER = frozenset({Fault.LOST_ACKNOWLEDGEMENT, Fault.CONNECTION_LOST})


class MemoryTrail:
    """What the servers keep. Tests may take things away from it, as administrators do."""

    def __init__(self, *, exists: bool = True) -> None:
        self.exists = exists
        self.records: list[Shipped] = []
        self._sequence = 0

    def put(self, node: str, record: bytes) -> int:
        """Store a record, whoever sent it."""
        self._sequence += 1
        self.records.append(Shipped(node, record, self._sequence))
        return self._sequence

    def of(self, node: str) -> list[bytes]:
        """Return a node's records."""
        return [found.record for found in self.records if found.node == node]

    def drop(self) -> None:
        """Remove the stream with all records."""
        self.exists = False
        self.records.clear()
        self._sequence = 0


class MemoryTrailStream:
    """A `TrailStream` as one node sees it. `fail` injects faults by method name, or "any"."""

    def __init__(self, trail: MemoryTrail) -> None:
        self.trail = trail
        self.calls: list[str] = []
        self._faults: dict[str, list[Fault]] = {}
        self._always: dict[str, Fault] = {}

    def fail(self, call: str, *faults: Fault) -> None:
        """Let the next calls fail, one for each fault."""
        self._faults.setdefault(call, []).extend(faults)

    def fail_always(self, call: str, fault: Fault) -> None:
        """Let every call fail until `heal`."""
        self._always[call] = fault

    def heal(self) -> None:
        """End all faults."""
        self._faults.clear()
        self._always.clear()

    def _fault(self, name: str) -> Fault | None:
        self.calls.append(name)
        for key in (name, "any"):
            if self._faults.get(key):
                return self._faults[key].pop(0)
            if key in self._always:
                return self._always[key]
        return None

    def _begin(self, name: str) -> None:
        fault = self._fault(name)
        if fault is not None:
            raise error_of(fault)
        if not self.trail.exists:
            raise BucketMissingError("there is no stream", fix="make it with: keydist store init")

    async def last(self, node: str) -> Shipped | None:
        self._begin("last")
        return next((found for found in reversed(self.trail.records) if found.node == node), None)

    async def read(self, *, after: int, node: str | None) -> Shipped | None:
        self._begin("read")
        found = (one for one in self.trail.records if one.sequence > after and node in (None, one.node))
        return next(found, None)

    async def publish(self, node: str, record: bytes, *, after: int) -> int:
        fault = self._fault("publish")
        if fault is not None and fault not in _AFTER:
            raise error_of(fault)
        if not self.trail.exists:
            raise BucketMissingError("there is no stream", fix="make it with: keydist store init")
        last = next((found.sequence for found in reversed(self.trail.records) if found.node == node), 0)
        if last != after:
            raise ConflictError("the last record is another", fix="it is read again")
        sequence = self.trail.put(node, record)
        if fault is not None:
            raise error_of(fault)
        return sequence

    async def create(self) -> None:
        fault = self._fault("create")
        if fault is not None:
            raise error_of(fault)
        self.trail.exists = True


class RecordingAuditor:
    """An `Auditor` that keeps each event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def note(self, event: Event) -> None:
        self.events.append(event)

    def retry(self) -> bool:
        """Everything is kept at once."""
        return True

    def told(self) -> list[tuple[str, str, int]]:
        """Return what, how and the epoch of each event."""
        return [(event.what.value, event.how, event.held.keyset.epoch) for event in self.events]
