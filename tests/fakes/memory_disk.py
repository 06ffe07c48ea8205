"""A state directory in memory: what survives is what an installation made durable, and nothing else is kept.

It passes the contract suite of `KeysetDisk` beside the real one. `fail` lets the next calls fail; a failed call
changes nothing. Other processes are other `MemoryKeysetDisk`s on the same `MemoryFolder`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from keydist.core.accept import Floor, Held
from keydist.core.floor import not_on_floor, raised_floor
from keydist.core.jwk import public_jwk
from keydist.core.local import Confirmation, Local, Start
from keydist.core.notes import Notes, noted
from keydist.core.strict import serialise
from keydist.core.token import BootstrapToken
from keydist.errors import ConflictError, CorruptError, KeydistError, RebuiltFloorError, WrongTokenError

QUARANTINED = 8


@dataclass(slots=True)
class MemoryFolder:
    """What is on the disk. Tests may take things away from it, as accidents do."""

    live: Held | None = None
    floor: Floor | None = None
    notes: Notes = field(default_factory=Notes)
    public: dict[str, bytes] = field(default_factory=dict)
    marks: frozenset[str] = frozenset()
    confirmation: Confirmation | None = None
    start: Start | None = None
    refused: list[bytes] = field(default_factory=list)
    is_damaged: bool = False
    """The live keyset does not match its checksums."""
    changes: int = 0
    """How often something was installed or forgotten: what a stamp is made of."""
    confirmations: int = 0


class MemoryKeysetDisk:
    """A `KeysetDisk` on a `MemoryFolder`."""

    def __init__(self, folder: MemoryFolder | None = None, *, sealed: bool = False) -> None:
        self.folder = folder or MemoryFolder()
        self._sealed = sealed
        self._failures: list[KeydistError] = []

    def fail(self, *failures: KeydistError) -> None:
        """Let the next calls that write fail, one for each."""
        self._failures.extend(failures)

    def load(self, tokens: tuple[BootstrapToken, ...]) -> Local:
        folder, floor, stamp = self.folder, self.folder.floor, self._stamp()
        held = folder.live
        if held is None:
            if floor is None:
                return Local(stamp=stamp)
            return Local(floor=floor, damage=CorruptError("there was a keyset, and it is gone"), stamp=stamp)
        if folder.is_damaged:
            damage = CorruptError("the keyset is damaged")
            return Local(floor=floor, damage=damage, quarantine=True, stamp=stamp)
        have = tuple(token.token_id for token in tokens)
        if self._sealed and held.token_id not in have:
            wrong = WrongTokenError("no token opens the keyset", have=have, need=held.token_id, fix="hold it")
            return Local(floor=floor, damage=wrong, stamp=stamp)
        damage_below = not_on_floor(floor, held) if floor is not None else None
        if damage_below is not None:
            return Local(floor=floor, damage=damage_below, stamp=stamp)
        return Local(
            held=held,
            floor=raised_floor(floor, held),
            alarms=() if floor is not None else (RebuiltFloorError("the floor is missing"),),
            confirmation=folder.confirmation,
            stamp=stamp,
        )

    def mark(self) -> object:
        return self.folder.changes, self.folder.confirmations

    def install(self, new: Held, *, based_on: Local, now: int) -> None:
        self._fail_or_go_on()
        self._check_unmoved(based_on)
        folder = self.folder
        if folder.is_damaged and based_on.quarantine and folder.live is not None:
            self._refuse(folder.live.envelope)
        folder.live, folder.floor, folder.is_damaged = new, raised_floor(based_on.floor, new), False
        folder.marks |= folder.floor.revoked
        folder.public |= {key.kid: serialise(public_jwk(key)) + b"\n" for key in new.keyset.signing_keys()}
        folder.changes += 1
        self._note(new, now)

    def override(self, new: Held, *, based_on: Local, now: int) -> None:
        self.install(new, based_on=based_on, now=now)

    def settle(self, local: Local, *, now: int) -> None:
        self._fail_or_go_on()
        if local.held is None or local.floor is None:
            return
        if self.folder.floor != local.floor:
            self._check_unmoved(local)
            self.folder.floor = local.floor
            self.folder.changes += 1
        self._note(local.held, now)

    def confirm(self, confirmation: Confirmation) -> None:
        self._fail_or_go_on()
        self.folder.confirmation = confirmation
        self.folder.confirmations += 1

    def notes(self) -> Notes:
        return self.folder.notes

    def public_jwk(self, kid: str) -> bytes | None:
        return self.folder.public.get(kid)

    def was_revoked(self, kid: str) -> bool:
        return kid in self.folder.marks

    def note_done(self, *, republished: int | None = None, rehearsed: int | None = None) -> None:
        self._fail_or_go_on()
        notes = self.folder.notes
        self.folder.notes = notes._replace(
            republished=notes.republished if republished is None else republished,
            rehearsed=notes.rehearsed if rehearsed is None else rehearsed,
        )

    def quarantine(self, envelope: bytes) -> None:
        self._fail_or_go_on()
        self._refuse(envelope)

    def count_start(self, fresh: str, *, now: int) -> Start:
        self._fail_or_go_on()
        earlier = self.folder.start or Start(instance=fresh, number=0)
        self.folder.start = earlier._replace(number=max(earlier.number + 1, now))
        return self.folder.start

    def last_start(self) -> Start | None:
        return self.folder.start

    def reset(self) -> bool:
        self._fail_or_go_on()
        folder, empty = self.folder, MemoryFolder()
        was_anything = (folder.live, folder.floor, folder.confirmation, folder.refused) != (None, None, None, [])
        for name in ("live", "floor", "notes", "public", "marks", "confirmation", "start", "refused", "is_damaged"):
            setattr(folder, name, getattr(empty, name))
        folder.changes += was_anything
        return was_anything

    # --- steps ---------------------------------------------------------------------------------

    def _stamp(self) -> bytes | None:
        return str(self.folder.changes).encode() if self.folder.changes else None

    def _fail_or_go_on(self) -> None:
        if self._failures:
            raise self._failures.pop(0)

    def _check_unmoved(self, based_on: Local) -> None:
        if based_on.stamp != self._stamp():
            raise ConflictError("another process installed a keyset meanwhile")

    def _note(self, held: Held, now: int) -> None:
        self.folder.notes = noted(self.folder.notes, held, now=now)

    def _refuse(self, envelope: bytes) -> None:
        if envelope not in self.folder.refused:
            self.folder.refused = [*self.folder.refused, envelope][-QUARANTINED:]
