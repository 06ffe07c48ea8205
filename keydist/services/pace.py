"""How long to wait: jittered around a mean, so that a fleet does not act at once, and longer after each failure."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keydist.ports import Entropy

_BITS: Final = 32


def uniform(entropy: Entropy) -> float:
    """Return a random number, at least 0 and less than 1."""
    return int.from_bytes(entropy.random(_BITS // 8), "big") / float(1 << _BITS)


def jittered(entropy: Entropy, mean: float, *, spread: float) -> float:
    """Return seconds between `mean` less and more the part `spread` of it."""
    return mean * (1 + spread * (2 * uniform(entropy) - 1))


async def woken(event: asyncio.Event, *, within: float | None) -> bool:
    """Return once an event is set, or after so many seconds (None: never); tell whether it is set.

    Not `asyncio.wait_for`: before Python 3.12 that loses a cancellation which comes with the event.
    """
    try:
        async with asyncio.timeout(within):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Backoff:
    """Exponential backoff with full jitter, from `first` to at most `most` seconds; `reset` at each progress."""

    def __init__(self, entropy: Entropy, *, first: float, most: float) -> None:
        self._entropy = entropy
        self._first = first
        self._most = most
        self._tries = 0

    def reset(self) -> None:
        """Begin anew with the shortest pause."""
        self._tries = 0

    def pause(self) -> float:
        """Return the seconds to wait after one more failure."""
        longest: float = min(self._most, self._first * 2.0 ** float(min(self._tries, _BITS)))
        self._tries += 1
        return self._first / 2 + (longest - self._first / 2) * uniform(self._entropy)
