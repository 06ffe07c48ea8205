"""Holding a fresh, short-lived JWT in a file: renewed ahead of its end, and when another key signs.

Where none can be made the one before stays until it expires, and goes then: whoever reads the file finds a JWT that can
be used, or sees at once that there is none. One of a revoked key goes as soon as that is known. A file that somebody
removed or changed is made anew.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from keydist.errors import ConfigError, KeydistError, UnavailableError, UsageError
from keydist.services.dates import date
from keydist.services.defect import defect
from keydist.services.pace import Backoff, woken

if TYPE_CHECKING:
    from keydist.core.own_jwt import OwnJwt
    from keydist.ports import Clock, Entropy, Journal, Manager

T = TypeVar("T")
_LOOK_SECONDS: Final = 1.0
_STEP_SECONDS: Final = 5.0
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_QUIET_SECONDS: Final = 60.0
"""A file that somebody takes away again within so long is made anew later and later: it may be another sink's."""
_BEHIND_SECONDS: Final = 30
"""A JWT that is dated so far ahead of the clock, which was put back, is refused elsewhere: it is made anew."""


class Signing(NamedTuple):
    """The kid that signs now, None where that cannot be told, and the kids that must not be used."""

    kid: str | None
    revoked: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """What it takes to hold a JWT. Each of the first five may raise a `KeydistError`, and works off the event loop.

    `keep` replaces the file whole and returns its mark, as `there` does: another one once somebody changed the file,
    None where there is none. `renew_after` is in seconds from when a JWT was made.
    """

    mint: Callable[[], Awaitable[OwnJwt]]
    signing: Callable[[], Awaitable[Signing]]
    keep: Callable[[str], Awaitable[object]]
    there: Callable[[], Awaitable[object]]
    remove: Callable[[], Awaitable[None]]
    renew_after: int
    clock: Clock
    entropy: Entropy
    journal: Journal
    manager: Manager


async def run_sink(sink: Sink, left: OwnJwt | None, *, stop: asyncio.Event) -> None:
    """Hold a JWT until `stop` is set; `left` is what an earlier run left in the file.

    The file stays behind: it is of use to who reads it until this begins again. Raises `UsageError` and `ConfigError`
    where there was never a first one.
    """
    holding = _Holding(sink, left)
    while not stop.is_set():
        if sink.manager.watchdog_seconds is not None:
            sink.manager.watchdog()
        await holding.look()
        await woken(stop, within=_LOOK_SECONDS)


class _Holding:
    """What is in the file, and when it is to be looked after again."""

    def __init__(self, sink: Sink, left: OwnJwt | None) -> None:
        self._sink = sink
        self._held = left
        self._is_first = True
        self._mark: object = None
        self._is_marked = False
        self._is_lost = False
        self._lost_at = -math.inf
        self._losses = Backoff(sink.entropy, first=_FIRST_PAUSE, most=_LONGEST_PAUSE)
        self._signing = Signing(None)
        self._backoff = Backoff(sink.entropy, first=_FIRST_PAUSE, most=_LONGEST_PAUSE)
        self._again_at = 0.0

    async def look(self) -> None:
        """Renew what is due, and take away what is of no use."""
        clock = self._sink.clock
        await self._look_who_signs()
        await self._look_at_the_file()
        if self._is_due(clock.now()) and clock.monotonic() >= self._again_at:
            await self._renew()
        why = self._useless(clock.now())
        if why is not None and self._held is not None:
            await self._remove(self._held, why)

    async def _look_who_signs(self) -> None:
        try:
            self._signing = await _within(self._sink.signing())
        except KeydistError:  # who cannot read it cannot mint either, and says so
            self._signing = self._signing._replace(kid=None)

    async def _look_at_the_file(self) -> None:
        """See whether the file is still the one that was kept."""
        if not self._is_marked:
            return
        try:
            there = await _within(self._sink.there())
        except KeydistError:  # a disk that does not answer has lost nothing yet
            return
        if there is None or there != self._mark:
            self._tell_lost(is_gone=there is None)

    def _tell_lost(self, *, is_gone: bool) -> None:
        held, now = self._held, self._sink.clock.monotonic()
        if now - self._lost_at > _QUIET_SECONDS:
            self._losses.reset()
            self._again_at = now
        else:
            self._again_at = now + self._losses.pause()
        self._lost_at, self._is_lost, self._is_marked = now, True, False
        why = "somebody removed the file" if is_gone else "somebody changed the file"
        self._sink.journal.event("jwt-lost", level="warning", kid=held.kid if held is not None else None, why=why)
        if is_gone:
            self._held = None

    def _is_due(self, now: int) -> bool:
        held, signing = self._held, self._signing
        if held is None or self._is_first or self._is_lost:
            return True
        is_other = signing.kid is not None and signing.kid != held.kid
        return is_other or not held.issued - _BEHIND_SECONDS <= now < held.issued + self._sink.renew_after

    def _useless(self, now: int) -> str | None:
        """Return why what is in the file helps nobody, None where it does."""
        held = self._held
        if held is not None and held.kid in self._signing.revoked:
            return "its key was revoked"
        return "it has expired" if held is not None and now >= held.expires else None

    async def _renew(self) -> None:
        try:
            fresh = await _within(self._sink.mint())
            self._is_marked = False  # what is late may still be written, and nobody else did it
            self._mark = await _within(self._sink.keep(fresh.text))
        except (UsageError, ConfigError) as exc:
            if self._is_first:
                raise
            self._tell_failure(exc)
        except KeydistError as exc:
            self._tell_failure(exc)
        except Exception as exc:  # noqa: BLE001 - a defect, whoever provokes it, does not end what others wait for
            self._tell_failure(defect(exc, while_="a JWT was renewed"))
        else:
            self._tell_kept(fresh)

    def _tell_kept(self, fresh: OwnJwt) -> None:
        manager, status = self._sink.manager, f"a JWT of key {fresh.kid[:8]} until {date(fresh.expires)}"
        if self._is_first:
            manager.ready(status)
        else:
            manager.status(status)
        self._held, self._is_first = fresh, False
        self._is_marked, self._is_lost = True, False
        self._backoff.reset()
        self._again_at = 0.0
        self._sink.journal.event("jwt-kept", kid=fresh.kid, expires=date(fresh.expires))

    def _tell_failure(self, reason: KeydistError) -> None:
        pause = self._backoff.pause()
        self._again_at = self._sink.clock.monotonic() + pause
        held = self._held
        until = "nothing" if held is None else f"what is there, until {date(held.expires)}"
        self._sink.journal.event(
            "jwt-not-renewed",
            level="error" if held is None else "warning",
            reason=reason,
            again_in=round(pause, 1),
            keeps=until,
        )
        if self._is_first:
            self._sink.manager.waiting(f"a JWT: {reason.message}", seconds_left=pause)
        else:
            self._sink.manager.status(f"not renewed: {reason.message}")

    async def _remove(self, held: OwnJwt, why: str) -> None:
        try:
            await _within(self._sink.remove())
        except KeydistError as exc:
            self._sink.journal.event("jwt-not-removed", level="error", reason=exc)
            return
        self._held, self._is_marked = None, False
        self._sink.journal.event("jwt-removed", level="error", kid=held.kid, why=why)


async def _within(step: Awaitable[T]) -> T:
    """Return what a step gives in its time. Raises `UnavailableError` where it does not end."""
    try:
        async with asyncio.timeout(_STEP_SECONDS):
            return await step
    except TimeoutError:
        raise UnavailableError(
            "the disk does not answer", expected=f"an answer within {_STEP_SECONDS:g} s", fix="look at the disk"
        ) from None
