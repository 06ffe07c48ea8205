"""Keeping the audit trail beside an agent: what no record tells of yet, what was minted, and the way to the stream.

Away for days, records wait on disk. A stream that never took one is told of once and is no alarm: the journal is the
trail then. One that did and no longer does is an alarm after an hour. Records of what happens to the keyset are never
dropped; JWTs are only counted while too much waits.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final

from keydist.core.audit import Event, What, change
from keydist.core.audit_record import told
from keydist.errors import AuditBehindError, KeydistError, TrustError
from keydist.services.defect import defect
from keydist.services.pace import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

    from keydist.core.accept import Held
    from keydist.core.audit import Facts, Mint
    from keydist.ports import Auditor, Clock, Entropy, Journal, TrailJournal
    from keydist.services.ship_trail import Shipper

ROUND_SECONDS: Final = 1.0
LATE_SECONDS: Final = 3600.0
LOOK_SECONDS: Final = 3600.0
"""So often an agent with nothing to ship sees whether the stream still has what it took."""
_LONGEST_PAUSE: Final = 300.0
_SHIP_SECONDS: Final = 60.0
MOST_WAITING: Final = 64 * 1024 * 1024
"""While more bytes than this wait for the stream, JWTs are counted and no longer recorded."""
_NEVER: Final = object()
_LOOKS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Minting:
    """What this machine's processes mint: `fold` hands it over, a file at a time, and removes what was kept."""

    fold: Callable[[Callable[[tuple[Mint, ...], int], bool]], None]
    batches: Callable[[tuple[Mint, ...]], Iterator[tuple[Mint, ...]]]


class Unrecorded:
    """What a keeper must not forget: JWTs that were counted only, and those of a file that is not kept whole yet.

    An agent has one over every reload. The keeper of before may still be at its last file: `lock` lets one go on.
    """

    def __init__(self) -> None:
        self.left_out = 0
        self.partly: set[bytes] = set()
        self.lock = Lock()


class Keeper:
    """The part of an agent that keeps the trail; a `Listener`.

    `auditor` makes what writes records, given who hears what keeps it from that; `unrecorded` outlives it.
    """

    def __init__(
        self,
        journal: TrailJournal,
        auditor: Callable[[Callable[[KeydistError | None], None]], Auditor],
        *,
        clock: Clock,
        entropy: Entropy,
        log: Journal,
        shipper: Shipper | None,
        minting: Minting | None,
        unrecorded: Unrecorded | None = None,
    ) -> None:
        self._journal = journal
        self.auditor = auditor(self._hear)
        self._clock = clock
        self._log = log
        self._shipper = shipper
        self._minting = minting
        self._pauses = Backoff(entropy, first=ROUND_SECONDS, most=_LONGEST_PAUSE)
        self._held: Held | None = None
        self._looks = 0
        self._unrecorded = unrecorded or Unrecorded()
        self._failure: KeydistError | None = None
        self._failing_since: float | None = None
        self._mark: object = _NEVER
        self._ship_at = 0.0
        self._trouble: KeydistError | None = None

    def changed(self, held: Held) -> None:
        """Take in the keyset in use; see `Listener`."""
        self._held, self._looks = held, _LOOKS

    def _hear(self, trouble: KeydistError | None) -> None:
        self._trouble = trouble

    def alarms(self) -> tuple[KeydistError, ...]:
        """Return what is wrong with the trail at the moment."""
        alarms = [self._trouble] if self._trouble is not None else []
        if self._unrecorded.left_out:
            alarms.append(
                AuditBehindError(
                    "the journal of the audit trail is full of what NATS has not taken: JWTs are counted, not recorded",
                    found=f"{self._unrecorded.left_out} left out",
                    fix="let the stream be reached again; see docs/audit.md",
                )
            )
        failure, since = self._failure, self._failing_since
        if isinstance(failure, TrustError):
            alarms.append(failure)
        elif failure is not None and since is not None and self._is_late(since):
            alarms.append(
                AuditBehindError(
                    f"the audit trail has not reached NATS for an hour: {failure.message}",
                    expected=failure.expected,
                    found=failure.found,
                    fix=f"{failure.fix}; nothing is lost: it waits in the state directory",
                )
            )
        return tuple(alarms)

    def _is_late(self, since: float) -> bool:
        with suppress(KeydistError):
            return self._clock.monotonic() - since >= LATE_SECONDS and self._journal.shipped() is not None
        return False

    async def run(self) -> NoReturn:
        """Keep the trail for ever. What fails is told, and tried again."""
        while True:
            await self.turn()
            await self._clock.sleep(ROUND_SECONDS)

    async def turn(self) -> None:
        """Do once what is due: note what no record tells of, fold what was minted, ship."""
        try:
            if self._looks or self._minting is not None or self._trouble is not None:
                await asyncio.to_thread(self._write)  # syncs; and a backlog takes a second
        except Exception as exc:  # noqa: BLE001 - a defect, whoever provokes it, does not end the trail
            self._hear(defect(exc, while_="the audit trail was written"))
        if self._shipper is not None and self._is_due():
            await self._ship(self._shipper)

    def _write(self) -> None:
        if self.auditor.retry():
            self._note_found()  # of what waits, a record tells once it is written
        if self._minting is not None and self._held is not None and not self._looks:
            self._minting.fold(self._keep)  # behind the record of the keyset that they are signed with

    def _is_due(self) -> bool:
        is_time = self._clock.monotonic() >= self._ship_at
        if self._failure is not None:
            return is_time
        mark, before = self._journal.mark(), self._mark
        return mark is not None and (is_time or mark != before)

    async def _ship(self, shipper: Shipper) -> None:
        mark = self._journal.mark()
        try:
            async with asyncio.timeout(_SHIP_SECONDS):
                await shipper.ship()
        except TimeoutError:
            return  # there is much to ship: it goes on at the next turn
        except Exception as exc:  # noqa: BLE001 - as above
            failure = defect(exc, while_="the audit trail was shipped")
            if self._failure is None or self._failure.code != failure.code:
                self._log.event("audit-not-shipped", level="warning", reason=failure)
            self._failure = failure
            if self._failing_since is None:
                self._failing_since = self._clock.monotonic()
            self._ship_at = self._clock.monotonic() + self._pauses.pause()
        else:
            if self._failure is not None:
                self._log.event("audit-shipped")
            self._failure, self._failing_since, self._mark = None, None, mark
            self._ship_at = self._clock.monotonic() + LOOK_SECONDS
            self._pauses.reset()

    def _note_found(self) -> None:
        """Note a keyset that no record tells of, at the second look: who installed it may be about to do so."""
        held = self._held
        if held is None or not self._looks:
            return
        last = self._journal.last()
        before = told(last, self._journal.find)  # JWTs may stand between, by the keyset of before
        if held.digest in {one.digest for one in (last, before) if one is not None}:
            self._looks = 0
            return
        self._looks -= 1
        if not self._looks:
            self.auditor.note(Event(what=What.FOUND, held=held, facts=change(None, held)))

    def _keep(self, mints: tuple[Mint, ...], left_out: int) -> bool:
        """Put minted JWTs into the journal; where too much waits there, only count them."""
        held, minting, so_far = self._held, self._minting, self._unrecorded
        if held is None or minting is None:
            return False
        with so_far.lock:
            if self._journal.waiting() > MOST_WAITING:
                so_far.left_out += len(mints) + left_out
                return True
            left_out += so_far.left_out
            rest = tuple(mint for mint in mints if mint.sha256 not in so_far.partly)
            if not self._record(held, minting, rest, left_out):
                return False
            so_far.left_out = 0
            so_far.partly.difference_update(mint.sha256 for mint in mints)
            return True

    def _record(self, held: Held, minting: Minting, mints: tuple[Mint, ...], left_out: int) -> bool:
        """Put minted JWTs into the journal; tell whether all of them are there."""
        facts: Facts = {"left_out": left_out} if left_out else {}
        groups = list(minting.batches(mints)) or [()]
        for number, group in enumerate(groups if mints or left_out else (), 1):
            said = facts if number == len(groups) else {}  # once: with what makes the file kept
            self.auditor.note(Event(what=What.MINTED, held=held, facts=said, minted=group))
            if self._trouble is not None:
                return False
            self._unrecorded.partly.update(mint.sha256 for mint in group)
        return True
