"""A genesis in a world where nobody lives that could be asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from keydist.services.reconcile import Genesis


async def nobody() -> None:
    """Answer that no live node holds a keyset."""


def genesis_of(first_envelope: Callable[[], Awaitable[bytes]]) -> Genesis:
    """Return a genesis that nobody forbids."""
    return Genesis(ask_living=nobody, first_envelope=first_envelope)
