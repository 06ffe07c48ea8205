"""What runs beside an agent may see of it, and the one thing that it may ask of it: a look at the store, now."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import NoReturn

    from keydist.ports import Clock
    from keydist.services.present import Present

_SECONDS: Final = 1.0
_WAITING: Final = 32


class Insight:
    """A window into an agent. Looks that are asked for are a second apart, whoever asks."""

    def __init__(self) -> None:
        self.present: Present | None = None
        """What the agent is at this moment; None until it runs."""
        self._asked = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    async def run(self, present: Present, look: Callable[[], Awaitable[object]], clock: Clock) -> NoReturn:
        """Look whenever that was asked for."""
        self.present = present
        last = -math.inf
        while True:
            await self._asked.wait()
            await clock.sleep(max(0.0, last + _SECONDS - clock.monotonic()))
            self._asked.clear()
            waiting, self._waiting = self._waiting, []
            await look()
            last = clock.monotonic()
            for one in waiting:
                if not one.done():
                    one.set_result(None)

    async def look(self, within: float) -> bool:
        """Have the store looked at, and tell whether that was done within so many seconds.

        Where many wait already, nobody else does: who asks for a look must not hold up who needs none.
        """
        if len(self._waiting) >= _WAITING:
            return False
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._asked.set()
        try:
            async with asyncio.timeout(within):
                await done
        except TimeoutError:
            return False
        finally:
            if done in self._waiting:
                self._waiting.remove(done)
        return True
