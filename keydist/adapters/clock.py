"""Time as this machine has it: the one place that reads the clocks."""

from __future__ import annotations

import time


class SystemClock:
    """The machine's clocks; see `keydist.ports.Clock`."""

    def now(self) -> int:
        """Return unix seconds."""
        return int(time.time())

    def stamp(self) -> float:
        """Return unix seconds with their fraction, for logs."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        import asyncio  # noqa: PLC0415 - 37 ms, not needed from disk

        await asyncio.sleep(seconds)
