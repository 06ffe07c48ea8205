"""What an agent says about itself at a moment, put together from what its parts know."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from keydist.core.fleet import view
from keydist.core.report import FleetReport, KeysetReport, Report, keyset_report
from keydist.core.rotation import Situation
from keydist.errors import KeydistError
from keydist.services.acknowledged import Acknowledged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keydist.core.accept import Held
    from keydist.core.notes import Notes
    from keydist.core.record import Minted
    from keydist.core.restart import Role
    from keydist.ports import Clock
    from keydist.services.announce import Self
    from keydist.services.fleet import FleetReader
    from keydist.services.present import Present


class Reporter:
    """Reports on one agent. What is on disk is read once a second at most, however often somebody asks."""

    def __init__(
        self,
        self_: Self,
        clock: Clock,
        *,
        cluster: str,
        role: Role,
        issuer: str | None = None,
        failures: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """`failures` tells how many JWTs were not believed, by reason."""
        self._self = self_
        self._clock = clock
        self._cluster = cluster
        self._role = role
        self._issuer = issuer
        self._failures = failures
        self._started = clock.now()
        self._minted: Mapping[str, Minted] = {}
        self._notes: Notes | None = None
        self._read: int | None = None
        self._acknowledged = Acknowledged()
        self.present: Present | None = None
        """What the agent is; None until it runs."""
        self.reader: FleetReader | None = None
        """The fleet, on a leader; None until it leads."""

    def heard(self) -> None:
        """Note that something was heard of the fleet."""
        present, reader = self.present, self.reader
        if present is not None and reader is not None and present.held is not None:
            self._acknowledged.see(present.held, reader.live(), taken=present.taken, now=self._clock.monotonic())

    def report(self) -> Report | None:
        """Return how the node stands now; None where its agent does not run yet. Raises nothing."""
        present, own, now = self.present, self._self, self._clock.now()
        if present is None:
            return None
        notes, held = self._from_disk(present, now=now), present.held
        return Report(
            now=now,
            node=own.name,
            cluster=self._cluster,
            role=self._role,
            version=own.version,
            issuer=self._issuer,
            started=self._started,
            keyset=None if held is None else self._keyset(present, held, notes, now=now),
            alarms=present.alarms,
            store=present.found,
            looked=now - int(self._clock.monotonic() - present.turned),
            rehearsed=notes.rehearsed,
            republished=notes.republished,
            failures=dict(self._failures()),
            fleet=None if held is None else self._fleet(held),
        )

    def _from_disk(self, present: Present, *, now: int) -> Notes:
        """Return this node's notes, and count what was minted; where that cannot be read, what it was before."""
        if self._notes is None or self._read != now:
            self._notes, self._read = present.notes(), now
            with suppress(KeydistError):
                self._minted = self._self.minted()
        return self._notes

    def _keyset(self, present: Present, held: Held, notes: Notes, *, now: int) -> KeysetReport:
        reader = self.reader
        live, records = ((), ()) if reader is None else (reader.live(), reader.records())
        situation = Situation(held=held, notes=notes, now=now, live=live, records=records)
        return keyset_report(
            situation, confirmation=present.local.confirmation, loaded=present.loaded, minted=self._minted
        )

    def _fleet(self, held: Held) -> FleetReport | None:
        if self.reader is None:
            return None
        self.heard()
        return FleetReport(
            nodes=view(self.reader.fleet, held, now=self._clock.monotonic()),
            unreadable=tuple(sorted(self.reader.refused)),
            propagation=self._acknowledged.so_far(),
        )
