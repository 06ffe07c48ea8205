"""Time that passes only when told to, with events that happen when their time comes."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

START = 1_800_000_000


class VirtualClock:
    """A `Clock` at unix second `START`; `advance` makes time pass, `at` schedules what happens meanwhile."""

    def __init__(self, start: int = START) -> None:
        self._start = start
        self._passed = 0.0
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], object]]] = []

    def now(self) -> int:
        return int(self._start + self._passed)

    def monotonic(self) -> float:
        return self._passed

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def at(self, seconds: float, event: Callable[[], object]) -> None:
        """Let `event` happen once so many seconds after the start have passed."""
        heapq.heappush(self._events, (seconds, next(self._order), event))

    def advance(self, seconds: float) -> None:
        end = self._passed + seconds
        while self._events and self._events[0][0] <= end:
            moment, _, event = heapq.heappop(self._events)
            self._passed = max(self._passed, moment)
            event()
        self._passed = end
