"""A bucket that remembers what it held when, and one node's view of it: late answers, partitions, crashes."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Final

from keydist.core.entry import Absent, Stored
from tests.fakes.memory_store import Fault, MemoryBucket, MemoryKeysetStore, error_of
from tests.properties.cluster_model.stops import Stops
from tests.properties.cluster_model.time import TrueTime

CALLS: Final = ("read", "write", "create_bucket")
_MOST_STATES: Final = 40


@dataclass(frozen=True, slots=True)
class _Past:
    at: int
    state: MemoryBucket


class RememberingBucket(MemoryBucket):
    """A bucket that can answer as it was, and be put back to what it was. `written` hears of each write of a node."""

    def __init__(self, time: TrueTime) -> None:
        super().__init__()
        self._time = time
        self._past: list[_Past] = []
        self.written: Callable[[bytes, int], None] = lambda _data, _last_sequence: None
        self.remember()

    def remember(self) -> None:
        """Keep what the bucket holds from now on."""
        state = copy(self)
        state._past, state._watchers = [], []
        self._past = [*self._past, _Past(self._time.passed, state)][-_MOST_STATES:]

    def as_of(self, lag: int) -> MemoryBucket:
        """Return the bucket as one who is `lag` seconds behind still has it; what happens at a moment comes first."""
        if lag <= 0:
            return self
        moment = self._time.passed - lag
        return next((past.state for past in reversed(self._past) if past.at < moment), self._past[0].state)

    def roll_back(self, states: int) -> None:
        """Be as some states ago, the sequence included."""
        past = self._past[max(0, len(self._past) - 1 - states)].state
        self.exists, self.last_sequence = past.exists, past.last_sequence
        self._entry, self._before = past._entry, past._before
        self.remember()

    def write(self, data: bytes, *, stream_at: int | None = None, entry_at: int | None = None) -> int:
        before = self.last_sequence
        revision = super().write(data, stream_at=stream_at, entry_at=entry_at)
        self.remember()
        self.written(data, before)
        return revision


class NodeStore(MemoryKeysetStore):
    """One node's view. `late_leader` and `late_replica` are by how many seconds who answers is behind."""

    bucket: RememberingBucket

    def __init__(self, bucket: RememberingBucket, time: TrueTime, stops: Stops) -> None:
        super().__init__(bucket)
        self._time = time
        self._stops = stops
        self.late_leader = self.late_replica = 0
        self.confirming_since = 0
        """When (true time) the last question to the stream's leader was sent."""

    def cut_off(self) -> None:
        for call in CALLS:
            self.fail_always(call, Fault.UNREACHABLE)

    async def read(self, *, from_leader: bool) -> Stored | Absent:
        self._stops.point()
        sent = self._time.passed
        fault = self._fault("read_leader" if from_leader else "read_direct", "read")
        if fault is not None:
            raise error_of(fault)
        if from_leader:
            self.confirming_since = sent
        found = self.bucket.as_of(self.late_leader if from_leader else self.late_replica).read()
        self._stops.point()
        return found

    def _write(self, name: str, write: Callable[[], int]) -> int:
        self._stops.point()
        revision = super()._write(name, write)
        self._stops.point()
        return revision
