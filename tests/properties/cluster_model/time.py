"""True time, and clocks whose readings differ from it by at most the skew."""

from __future__ import annotations

from tests.fakes.clock import START, VirtualClock


class TrueTime:
    """Whole seconds of the world that nobody in it can read."""

    def __init__(self) -> None:
        self.passed = 0

    def advance(self, seconds: int) -> None:
        self.passed += seconds


class SkewedClock(VirtualClock):
    """What one machine reads: true time and an error that may change, `skew` seconds."""

    def __init__(self, time: TrueTime) -> None:
        super().__init__()
        self._time = time
        self.skew = 0

    def now(self) -> int:
        return START + self._time.passed + self.skew

    def monotonic(self) -> float:
        return float(self._time.passed)

    def advance(self, seconds: float) -> None:
        self._time.advance(int(seconds))
