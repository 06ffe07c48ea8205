"""Time as this machine has it: the one place that reads the clocks."""

from __future__ import annotations

import time


class SystemClock:
    """The machine's clocks; see `keydist.ports.Clock`."""

    def now(self) -> int:
        """Return unix seconds."""
        return int(time.time())

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()
