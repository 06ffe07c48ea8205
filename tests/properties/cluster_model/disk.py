"""One node's state directory: what was ever durable on it, crashes and failures within an installation, backups."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import NamedTuple

from keydist.core.accept import Held
from keydist.core.local import Confirmation, Local
from keydist.errors import DiskFullError
from tests.fakes.faulty_system import Crash
from tests.fakes.memory_disk import MemoryFolder, MemoryKeysetDisk
from tests.properties.cluster_model.stops import Stops


class Confirmed(NamedTuple):
    """What was confirmed, and when (true time) the question was sent."""

    epoch: int
    sent: int


class Backup(NamedTuple):
    """A copy of everything on a disk."""

    folder: MemoryFolder
    confirmed: Confirmed | None


class NodeDisk(MemoryKeysetDisk):
    """A disk whose process may end at any point. `installed` hears of each keyset that became durable."""

    def __init__(self, stops: Stops, sent: Callable[[], int]) -> None:
        super().__init__()
        self._stops = stops
        self._sent = sent
        self._fails_behind = 0
        self.confirmed: Confirmed | None = None
        self.durable: set[bytes] = set()
        """The digests of every keyset that was ever live here."""
        self.signed_with: set[str] = set()
        """The signing kids that were ever active here."""
        self.installed: Callable[[Held | None, Held], None] = lambda _before, _new: None

    def fail_behind(self) -> None:
        """Let the next installation fail after the link was swung and before the floor was raised."""
        self._fails_behind += 1

    def heal(self) -> None:
        """Let nothing fail any more."""
        self._failures.clear()
        self._fails_behind = 0

    def install(self, new: Held, *, based_on: Local, now: int) -> None:
        self._stops.point()
        before, floor, notes = self.folder.live, self.folder.floor, self.folder.notes
        super().install(new, based_on=based_on, now=now)
        self.durable.add(new.digest)
        self.signed_with.add(new.keyset.active.kid)
        self.installed(before, new)
        try:
            self._raise_behind()
            self._stops.point()
        except (Crash, DiskFullError):
            self.folder.floor, self.folder.notes = floor, notes
            raise
        self._stops.point()

    def _raise_behind(self) -> None:
        if self._fails_behind:
            self._fails_behind -= 1
            raise DiskFullError("no space is left for the floor")

    def settle(self, local: Local, *, now: int) -> None:
        self._stops.point()
        super().settle(local, now=now)

    def confirm(self, confirmation: Confirmation) -> None:
        self._stops.point()
        super().confirm(confirmation)
        self.confirmed = Confirmed(confirmation.epoch, self._sent())
        self._stops.point()

    def back_up(self) -> Backup:
        return Backup(copy(self.folder), self.confirmed)

    def put_back(self, backup: Backup) -> None:
        """Hold again what a backup holds; other processes see that something changed."""
        changes, confirmations = self.folder.changes, self.folder.confirmations
        self.folder, self.confirmed = copy(backup.folder), backup.confirmed
        self.folder.changes, self.folder.confirmations = changes + 1, confirmations + 1
