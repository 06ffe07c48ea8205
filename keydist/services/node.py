"""One node: its ports, what it demands of a keyset, and what it does with both together."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keydist.core.audit import Event, What
from keydist.core.envelope import digest
from keydist.core.restart import InStore
from keydist.core.strict import b64url_encode
from keydist.errors import BusyError, DiskError
from keydist.services.observe import Observation, observe
from keydist.services.put_back import put_back

if TYPE_CHECKING:
    from keydist.core.accept import Demands, Held
    from keydist.core.audit import Fact
    from keydist.core.local import Local
    from keydist.core.restart import Role
    from keydist.ports import Auditor, Clock, KeysetDisk, KeysetStore


class _Unaudited:
    """An `Auditor` that keeps nothing."""

    def note(self, event: Event) -> None:
        pass

    def retry(self) -> bool:
        return True


_UNAUDITED: Final = _Unaudited()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The ports and settings of one node."""

    store: KeysetStore
    disk: KeysetDisk
    clock: Clock
    demands: Demands
    role: Role
    audit: Auditor = _UNAUDITED

    async def observe(self, local: Local, *, from_leader: bool) -> Observation:
        """Read the store and judge what is there; see `observe`."""
        return await observe(self.store, self.clock, self.demands, local, from_leader=from_leader)

    async def put_back(self, seen: Observation, held: Held, local: Local) -> Observation:
        """Put an envelope back where the store lost it; see `put_back`.

        That it was lost is noted before: whatever happens now, this node writes no epoch for a while.
        """
        with suppress(DiskError, BusyError):
            self.disk.note_done(republished=self.clock.now())
        back = await put_back(seen, held, store=self.store, clock=self.clock, demands=self.demands, local=local)
        if back.found is InStore.SAME:
            self.audit.note(_written_over(seen, held))
        return back


def _written_over(seen: Observation, held: Held) -> Event:
    """Return that this node's keyset was put over what the store held."""
    facts: dict[str, Fact] = {"found": seen.found.value}
    if seen.envelope is not None:
        facts["over"] = b64url_encode(digest(seen.envelope))
    if seen.found is InStore.REFUSED:  # only a person overwrites another history
        return Event(what=What.RESOLVED, held=held, how="keep local", facts=facts)
    return Event(what=What.PUT_BACK, held=held, facts=facts)
