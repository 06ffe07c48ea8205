"""Writing what happens on this node into its journal, whatever else goes wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keydist.core.audit import What, parse_entry
from keydist.errors import InternalError, KeydistError

if TYPE_CHECKING:
    from collections.abc import Callable

    from keydist.core.audit import Event, Facts
    from keydist.ports import Clock, TrailJournal


class JournalAuditor:
    """An `Auditor` on a journal; `told` hears what kept a record from being written, None once one is written."""

    def __init__(
        self,
        journal: TrailJournal,
        clock: Clock,
        who: Callable[[], Facts],
        told: Callable[[KeydistError | None], None],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._who = who
        self._told = told

    def note(self, event: Event) -> None:
        """Write one record; see `Auditor`."""
        try:
            if event.what is What.REFUSED and self._is_told(event):
                return
            self._journal.append(event, at=self._clock.now(), who=self._who())
        except KeydistError as exc:
            self._told(exc)
        except Exception as exc:  # noqa: BLE001 - a defect here must not stop what it would tell of
            self._told(
                InternalError(
                    "the audit trail could not be written: a defect in keydist",
                    found=type(exc).__name__,
                    fix="report it with what the node was doing",
                )
            )
        else:
            self._told(None)

    def _is_told(self, event: Event) -> bool:
        """Tell whether the last record says the same: a node that is started over and over says it once."""
        link = self._journal.last()
        raw = self._journal.find(link.chain, link.seq) if link is not None else None
        entry = parse_entry(raw) if raw is not None else None
        return entry is not None and entry.what == event.what.value and entry.facts == event.facts
