"""What really happened, told by the bytes that reached the store: epochs, lineages, forks, keys put to use in haste."""

from __future__ import annotations

from typing import NamedTuple

from keydist.core.accept import Demands, Held, open_held
from keydist.core.keyset import State
from tests.material import PLACE
from tests.properties.cluster_model.node import TOKENS
from tests.properties.cluster_model.time import TrueTime


class Written(NamedTuple):
    """An envelope that a node wrote for the first time, and when (true time)."""

    held: Held
    at: int


class History:
    """Every envelope that a node ever wrote into the store."""

    def __init__(self, time: TrueTime) -> None:
        self._time = time
        self.written: dict[bytes, Written] = {}
        self.revoked: set[str] = set()
        self.in_haste: dict[str, int] = {}
        """Keys that an emergency put to use, and since when."""
        self.published: dict[str, int] = {}
        self.has_forgotten = False
        """Whether the store, or a disk, ever lost something."""

    def add(self, envelope: bytes) -> Held | None:
        """Take in what was written; return it where it is new."""
        held = open_held(envelope, Demands(place=PLACE, tokens=TOKENS))
        if held.digest in self.written:
            return None
        self.written[held.digest] = Written(held, self._time.passed)
        self.revoked |= {entry.kid for entry in held.keyset.revoked}
        parent = self.parent(held)
        for key in held.keyset.signing_keys():
            self.published.setdefault(key.kid, self._time.passed)
            is_new = parent is None or parent.keyset.active.kid != key.kid
            if key.state is State.ACTIVE and is_new and self._is_emergency(parent, held):
                self.in_haste[key.kid] = self._time.passed
        return held

    def parent(self, held: Held) -> Held | None:
        """Return what an envelope was built on."""
        ancestors = held.keyset.ancestors
        found = self.written.get(ancestors[0]) if ancestors else None
        return found.held if found is not None else None

    def _is_emergency(self, parent: Held | None, held: Held) -> bool:
        return parent is None or len(held.keyset.revoked) > len(parent.keyset.revoked)

    @property
    def lineages(self) -> frozenset[str]:
        return frozenset(written.held.keyset.lineage for written in self.written.values())

    @property
    def is_forked(self) -> bool:
        """Tell whether one epoch has two envelopes, of one lineage or of two."""
        epochs = [written.held.keyset.epoch for written in self.written.values()]
        return len(set(epochs)) < len(epochs)

    def is_false(self, epoch: int, sent: int, stale_read: int) -> bool:
        """Tell whether a store that forgot confirmed an epoch (`sent` in true time) that had a successor by then."""
        return any(
            written.held.keyset.epoch > epoch and written.at < sent - stale_read for written in self.written.values()
        )
