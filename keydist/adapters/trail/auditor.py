"""Writing what happens on this node into its journal, whatever else goes wrong."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Final

from keydist.core.audit import What
from keydist.core.audit_record import told
from keydist.errors import InternalError, KeydistError, MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from keydist.core.audit import Event, Facts
    from keydist.ports import Clock, TrailJournal

_MOST_WAITING: Final = 256


class WaitingRoom:
    """Records that could not be written yet, oldest first, and the lock of who writes them.

    An agent has one over every reload: what waits must not go with the configuration that it began to wait under.
    """

    def __init__(self) -> None:
        self.records: deque[tuple[Event, int]] = deque()
        self.lock = Lock()

    def add(self, event: Event, *, at: int) -> None:
        """Let a record wait; in a full room it takes the place of the first refusal, and else of the oldest."""
        if len(self.records) >= _MOST_WAITING:
            refused = (place for place, (waits, _) in enumerate(self.records) if waits.what is What.REFUSED)
            place = next(refused, None)
            if place is None and event.what is What.REFUSED:
                return  # a store can be made to provoke these without end
            del self.records[place or 0]
        self.records.append((event, at))


class JournalAuditor:
    """An `Auditor` on a journal; `told` hears what kept a record from being written, None once all are.

    What a full disk or a held lock kept back waits in memory (`waiting`), with its time, and goes first.
    """

    def __init__(
        self,
        journal: TrailJournal,
        clock: Clock,
        who: Callable[[], Facts],
        told: Callable[[KeydistError | None], None],
        waiting: WaitingRoom | None = None,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._who = who
        self._told = told
        self._room = waiting or WaitingRoom()
        self._waiting, self._lock = self._room.records, self._room.lock

    def note(self, event: Event) -> None:
        """Write one record; see `Auditor`."""
        with self._lock:
            is_minted = event.what is What.MINTED  # JWTs wait where they came from, and push nothing out
            if is_minted and self._waiting:
                self._write_all()
            if is_minted and self._waiting:
                return
            self._room.add(event, at=self._clock.now())
            self._write_all()
            if is_minted:
                self._waiting.clear()

    def retry(self) -> bool:
        """Write what could not be written before; see `Auditor`."""
        with self._lock:
            if self._waiting:
                self._write_all()
            return not self._waiting

    def _write_all(self) -> None:
        trouble: KeydistError | None = None
        while self._waiting:
            event, at = self._waiting[0]
            try:
                if not (event.what is What.REFUSED and self._is_told(event)):
                    self._journal.append(event, at=at, who=self._who())
            except KeydistError as exc:
                trouble = exc
                if isinstance(exc, MalformedError):
                    self._waiting.popleft()  # no reader would take it, now or later
                break
            except Exception as exc:  # noqa: BLE001 - a defect here must not stop what it would tell of
                trouble = InternalError(
                    "the audit trail could not be written: a defect in keydist",
                    found=type(exc).__name__,
                    fix="report it with what the node was doing",
                )
                self._waiting.popleft()  # it would fail again
                break
            self._waiting.popleft()
        self._told(trouble)

    def _is_told(self, event: Event) -> bool:
        """Tell whether the last record but for JWTs says the same: a node that starts over and over says it once."""
        entry = told(self._journal.last(), self._journal.find)
        return entry is not None and entry.what == event.what.value and entry.facts == event.facts
