"""How fast the fleet takes an epoch, by one clock: from when this leader took it to when it hears that a node uses it.

Counted are the nodes that lived when this leader took the epoch: one that was down takes it when it comes back, which
says nothing about propagation. An epoch that was on disk at the start began at a moment that nobody here saw.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from keydist.core.fleet import holds
from keydist.core.report import Propagation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keydist.core.accept import Held
    from keydist.core.record import Record

BOUNDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
"""Seconds. A notice takes a fraction of one; without it a node looks again within a minute."""


class Acknowledged:
    """Measures each epoch that this leader takes in, over the life of its agent."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._total = 0.0
        self._held: Held | None = None
        self._taken = 0.0
        self._waiting: set[str] = set()

    def see(self, held: Held, live: Iterable[Record], *, taken: float, now: float) -> None:
        """Take in what the living say at `now`; `taken` is when this leader took `held` in (monotonic seconds both)."""
        records = tuple(live)
        if self._held is None or self._held.digest != held.digest:
            is_first = self._held is None
            self._held, self._taken = held, taken
            self._waiting = set() if is_first else {record.node for record in records}
        for record in records:
            if record.node in self._waiting and holds(record, held):
                self._waiting.discard(record.node)
                seconds = max(0.0, now - self._taken)
                self._counts[bisect_left(BOUNDS, seconds)] += 1
                self._total += seconds

    def so_far(self) -> Propagation:
        """Return what was measured."""
        return Propagation(bounds=BOUNDS, counts=tuple(self._counts), total=self._total, waiting=len(self._waiting))
