"""A bucket in memory that behaves as JetStream does, seen by any number of nodes, each with faults of its own.

What it imitates, measured on a real server: the stream's sequence survives a purge and restarts at 1 after a wipe;
a deletion leaves a marker that has a revision; the expectation on the stream is not that on the entry; a replica may
answer late, the stream's leader never does; an acknowledgement can be lost before or after the write took effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto

from keydist.core.entry import Absence, Absent, Stored
from keydist.errors import (
    ConflictError,
    CredentialsRefusedError,
    ForbiddenError,
    KeydistError,
    StoreTimeoutError,
    UnreachableError,
)
from tests.fakes.clock import VirtualClock


class Fault(Enum):
    """What goes wrong with one call."""

    UNREACHABLE = auto()
    TIMEOUT = auto()
    """No answer, and nothing happened."""
    LOST_ACKNOWLEDGEMENT = auto()
    """No answer, but the write took effect."""
    CONNECTION_LOST = auto()
    """The connection broke, but the write took effect."""
    FORBIDDEN = auto()
    REFUSED = auto()


_AFTER = frozenset({Fault.LOST_ACKNOWLEDGEMENT, Fault.CONNECTION_LOST})


def error_of(fault: Fault) -> KeydistError:
    """Return the error by which a store tells a fault."""
    match fault:
        case Fault.UNREACHABLE:
            return UnreachableError(
                "NATS cannot be reached", found="connection refused", fix="check that nats-server runs"
            )
        case Fault.CONNECTION_LOST:
            return UnreachableError("the connection to NATS was lost", fix="check that nats-server runs")
        case Fault.TIMEOUT | Fault.LOST_ACKNOWLEDGEMENT:
            return StoreTimeoutError("NATS did not answer in time", fix="try again")
        case Fault.FORBIDDEN:
            return ForbiddenError("NATS does not allow this node to use the subject", fix="compare the permissions")
        case Fault.REFUSED:
            return CredentialsRefusedError("NATS refuses the credentials of this node", fix="check nats.creds_file")


@dataclass(frozen=True, slots=True)
class _Message:
    revision: int
    data: bytes = field(repr=False)
    is_marker: bool = False


class MemoryBucket:
    """What the servers keep: a stream that may be missing, its last sequence, one message of the entry."""

    def __init__(self, *, exists: bool = True) -> None:
        self.exists = exists
        self.last_sequence = 0
        self.writes = 0
        """How many writes ever took effect."""
        self._entry: _Message | None = None
        self._before: _Message | None = None
        self._watchers: list[asyncio.Event] = []

    # --- what an administrator or an accident does ---------------------------------------------

    def put(self, data: bytes) -> int:
        """Write without any condition."""
        return self._store(data)

    def delete(self) -> None:
        """Leave a deletion marker, which is a message."""
        self._store(b"", is_marker=True)

    def purge(self) -> None:
        """Remove every message; the sequence stays."""
        self._before, self._entry = self._entry, None

    def drop(self) -> None:
        """Remove the bucket: what is made anew begins at 1."""
        self.exists, self.last_sequence, self._entry, self._before = False, 0, None, None

    def wipe(self) -> None:
        """Lose everything, but find an empty bucket again."""
        self.drop()
        self.exists = True

    # --- what a server does --------------------------------------------------------------------

    def content(self) -> bytes | None:
        """Return the envelope that is there, or None."""
        return None if self._entry is None or self._entry.is_marker else self._entry.data

    def read(self, *, is_late: bool = False) -> Stored | Absent:
        """Answer as the stream's leader, or as a replica that is one write behind."""
        if not self.exists:
            return Absent(why=Absence.BUCKET_MISSING)
        entry = self._before if is_late else self._entry
        if entry is None:
            never = self.last_sequence == 0 or (is_late and self.last_sequence == 1)
            return Absent(why=Absence.NEVER_WRITTEN if never else Absence.EMPTIED)
        if entry.is_marker:
            return Absent(why=Absence.DELETED, revision=entry.revision)
        return Stored(envelope=entry.data, revision=entry.revision)

    def write(self, data: bytes, *, stream_at: int | None = None, entry_at: int | None = None) -> int:
        """Write under an expectation on the stream or on the entry. Raises `ConflictError`."""
        if not self.exists:
            raise UnreachableError("no JetStream stream takes writes", fix="make it with: keydist store init")
        revision = self._entry.revision if self._entry else 0
        if stream_at not in (None, self.last_sequence) or entry_at not in (None, revision):
            raise ConflictError("somebody else wrote first")
        return self._store(data)

    def watch(self, event: asyncio.Event) -> None:
        self._watchers.append(event)

    def _store(self, data: bytes, *, is_marker: bool = False) -> int:
        self.last_sequence += 1
        self.writes += 1
        self._before, self._entry = self._entry, _Message(self.last_sequence, data, is_marker)
        for watcher in self._watchers:
            watcher.set()
        return self.last_sequence


class MemoryKeysetStore:
    """A `KeysetStore` as one node sees it. With a `clock`, waiting costs virtual time only.

    `fail` injects faults by method name ("read", "read_leader", "read_direct", "write_first", "replace", "write",
    "create_bucket"); `between` runs before each call, as other nodes would. `calls` lists what was asked.
    """

    def __init__(self, bucket: MemoryBucket, clock: VirtualClock | None = None, *, may_ask_why: bool = True) -> None:
        self.bucket = bucket
        self.calls: list[str] = []
        self.between: Callable[[str], None] | None = None
        self.stale_reads = 0
        self.mirror: MemoryBucket | None = None
        """What answers direct reads, where that is another bucket."""
        self.is_closed = False
        self._clock = clock
        self._may_ask_why = may_ask_why
        self._faults: dict[str, list[Fault]] = {}
        self._always: dict[str, Fault] = {}
        self._changed = asyncio.Event()
        bucket.watch(self._changed)

    # --- faults --------------------------------------------------------------------------------

    def fail(self, call: str, *faults: Fault) -> None:
        """Let the next calls fail, one for each fault."""
        self._faults.setdefault(call, []).extend(faults)

    def fail_always(self, call: str, fault: Fault) -> None:
        """Let every call fail until `heal`."""
        self._always[call] = fault

    def heal(self) -> None:
        """End all faults."""
        self._faults.clear()
        self._always.clear()

    def _fault(self, *names: str) -> Fault | None:
        self.calls.append(names[0])
        if self.between is not None:
            self.between(names[0])
        for name in names:
            if self._faults.get(name):
                return self._faults[name].pop(0)
            if name in self._always:
                return self._always[name]
        return None

    # --- the port ------------------------------------------------------------------------------

    async def read(self, *, from_leader: bool) -> Stored | Absent:
        fault = self._fault("read_leader" if from_leader else "read_direct", "read")
        if fault is not None:
            raise error_of(fault)
        is_late = not from_leader and self.stale_reads > 0
        self.stale_reads -= is_late
        bucket = self.bucket if from_leader or self.mirror is None else self.mirror
        found = bucket.read(is_late=is_late)
        if isinstance(found, Absent) and found.why is not Absence.DELETED and not self._may_ask_why:
            return Absent(why=Absence.UNKNOWN)
        return found

    async def write_first(self, envelope: bytes) -> int:
        return self._write("write_first", lambda: self.bucket.write(envelope, stream_at=0))

    async def replace(self, envelope: bytes, *, revision: int) -> int:
        return self._write("replace", lambda: self.bucket.write(envelope, entry_at=revision))

    def _write(self, name: str, write: Callable[[], int]) -> int:
        fault = self._fault(name, "write")
        if fault is None:
            return write()
        if fault in _AFTER:
            with suppress(KeydistError):  # nobody hears about the conflict either
                write()
        raise error_of(fault)

    async def create_bucket(self) -> None:
        fault = self._fault("create_bucket")
        if fault is None or fault in _AFTER:
            self.bucket.exists = True
        if fault is not None:
            raise error_of(fault)

    async def wait_for_notice(self, seconds: float) -> None:
        if self._clock is not None:
            self._clock.advance(seconds)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._changed.wait()
        self._changed.clear()

    async def close(self) -> None:
        self.is_closed = True
