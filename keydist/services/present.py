"""What a long-running node is at this moment: the keyset in use, its alarms, and who wants to know of a change.

Memory follows the disk: a keyset is taken in only after it was loaded from there.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from keydist.core.local import Local
from keydist.core.notes import Notes
from keydist.core.restart import InStore
from keydist.errors import KeydistError
from keydist.services.from_disk import told_once

if TYPE_CHECKING:
    from keydist.core.accept import Held
    from keydist.ports import Clock, Journal, KeysetDisk, Listener


class Present:
    """The state that the parts of an agent share. Whoever writes to store or disk holds `writing`."""

    def __init__(
        self, *, clock: Clock, disk: KeysetDisk, journal: Journal, listeners: tuple[Listener, ...] = ()
    ) -> None:
        self._clock = clock
        self._disk = disk
        self._notes = Notes()
        self._journal = journal
        self._listeners = listeners
        self._alarms: dict[str, tuple[KeydistError, ...]] = {}
        self._wakes: list[asyncio.Event] = []
        self._republished: int | None = None
        self.local = Local()
        self.found: InStore | None = None
        self.same_since: float | None = None
        """Since when (monotonic seconds) every look found this node's keyset; None where the last one did not."""
        self.loaded = 0
        """When the keyset in use was taken in (unix seconds)."""
        self.taken = clock.monotonic()
        """The same in monotonic seconds."""
        self.turned = clock.monotonic()
        """When the store was last looked at (monotonic seconds), whatever came of it."""
        self.writing = asyncio.Lock()

    @property
    def held(self) -> Held | None:
        """The keyset in use."""
        return self.local.held

    @property
    def alarms(self) -> tuple[KeydistError, ...]:
        """Every alarm that stands, each once."""
        return told_once(tuple(alarm for source in self._alarms.values() for alarm in source))

    def notes(self) -> Notes:
        """Return what this node noted by its own clock; where that cannot be read now, what it said before."""
        with suppress(KeydistError):
            self._notes = self._disk.notes()
        known = [at for at in (self._notes.republished, self._republished) if at is not None]
        return self._notes._replace(republished=max(known, default=None))

    def change(self) -> asyncio.Event:
        """Return an event that is set at each change from now on; who waits for it clears it."""
        wake = asyncio.Event()
        self._wakes.append(wake)
        return wake

    def take(self, local: Local, *, found: InStore | None, how: str) -> None:
        """Take in what the disk holds, and tell whoever wants to know where that is another keyset."""
        before, self.local, self.found = self.held, local, found
        if found is not InStore.SAME:
            self.same_since = None
        elif self.same_since is None:
            self.same_since = self._clock.monotonic()
        held = local.held
        if how == "republished":  # counts even where the disk could take no note of it
            self._republished = self._clock.now()
        if held is None:
            if before is not None:
                self._journal.event("keyset-gone", level="error", epoch=before.keyset.epoch)
                self._wake()
            return
        if before is not None and before.digest == held.digest:
            return
        self.loaded, self.taken = self._clock.now(), self._clock.monotonic()
        keyset = held.keyset
        self._journal.event(
            "keyset-taken",
            how=how,
            epoch=keyset.epoch,
            kid=keyset.active.kid,
            lineage=keyset.lineage,
            token_id=held.token_id,
            was=before.keyset.epoch if before else None,
        )
        for listener in self._listeners:
            try:
                listener.changed(held)
            except Exception as exc:  # noqa: BLE001 - a defect in telling must not stop what is told about
                self._journal.event("not-told", level="error", found=type(exc).__name__)
        self._wake()

    def alarm(self, source: str, *alarms: KeydistError) -> None:
        """Set what `source` has to alarm about, in place of what it had; tell what is new and what is over."""
        before = {(alarm.code, alarm.message) for alarm in self._alarms.get(source, ())}
        now = {(alarm.code, alarm.message): alarm for alarm in alarms}
        self._alarms[source] = tuple(now.values())
        for key, alarm in now.items():
            if key not in before:
                self._journal.event("alarm", level="warning", alarm=alarm)
        over = [code for code, message in before if (code, message) not in now]
        for code in over:
            self._journal.event("alarm-over", code=code)
        if over or set(now) - before:
            self._wake()

    def _wake(self) -> None:
        for wake in self._wakes:
            wake.set()
