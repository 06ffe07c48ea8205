"""A bucket of node records in memory and those who listen to it, seen by any number of nodes, each with its faults.

What it imitates, measured on a real server: a record written over is gone; one that is removed says nothing to who
listens; who asks the living is not among those who answer; a publish whose answer did not come may be applied later.
Nothing in it waits: `coroutine.send(None)` drives it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from keydist.errors import BucketMissingError, StoreTimeoutError
from tests.fakes.clock import VirtualClock
from tests.fakes.memory_store import Fault, error_of

_MOST_ANSWERS = 1000
_MOST_ANSWER_BYTES = 64 * 1024
_AFTER = frozenset({Fault.LOST_ACKNOWLEDGEMENT, Fault.CONNECTION_LOST})


class Fate(Enum):
    """What becomes of a publish that is acknowledged all the same, or of one that is late."""

    FORGOTTEN = auto()
    """Acknowledged, and then lost with the server that had it."""
    UNHEARD = auto()
    """Stored, but told to nobody."""
    LATE = auto()
    """Not answered in time; stored and told when `MemoryRecordBucket.arrive` is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listener:
    heard: Callable[[str, bytes], None] | None = None
    answer: Callable[[], bytes | None] | None = None


class MemoryRecordBucket:
    """What the servers keep, and who listens."""

    def __init__(self, *, exists: bool = True) -> None:
        self.exists = exists
        self.records: dict[str, bytes] = {}
        self.publishes: list[str] = []
        """The names of every record ever written, in order."""
        self._late: list[tuple[str, bytes]] = []
        self._views: list[MemoryRecords] = []

    def put(self, name: str, record: bytes, *, told: bool = True) -> None:
        """Write a record, and tell who listens."""
        if not self.exists:
            return
        self.records[name] = record
        self.publishes.append(name)
        for view in self._views if told else ():
            view.hear(name, record)

    def drop(self) -> None:
        """Remove the bucket with all records."""
        self.exists = False
        self.records.clear()

    def arrive(self) -> None:
        """Let what is late arrive, in the order in which it was sent."""
        late, self._late = self._late, []
        for name, record in late:
            self.put(name, record)

    def delay(self, name: str, record: bytes) -> None:
        self._late.append((name, record))

    def join(self, view: MemoryRecords) -> None:
        self._views.append(view)

    def ask(self, asker: MemoryRecords) -> tuple[bytes, ...] | None:
        """Return what everybody else answers, or None where nobody else listens."""
        listening = [view for view in self._views if view is not asker and view.is_listening]
        answers = [answer for view in listening if (answer := view.answer()) is not None]
        taken = [answer if len(answer) <= _MOST_ANSWER_BYTES else b"" for answer in answers[:_MOST_ANSWERS]]
        full = [b""] if len(answers) >= _MOST_ANSWERS else []
        return (*taken, *full) if listening else None


class MemoryRecords:
    """A `NodeRecords` as one node sees it. With a `clock`, collecting answers costs virtual time.

    `fail` injects faults by method name ("publish", "read_all", "forget", "create_bucket", "ask_living", or "any"),
    `befall` the fates of publishes; `is_deaf` cuts it off from what is told and asked. `calls` lists what was asked.
    """

    def __init__(self, bucket: MemoryRecordBucket, clock: VirtualClock | None = None) -> None:
        self.bucket = bucket
        self.calls: list[str] = []
        self.is_deaf = False
        self._clock = clock
        self._listener = _Listener()
        self._faults: dict[str, list[Fault]] = {}
        self._always: dict[str, Fault] = {}
        self._fates: list[Fate] = []
        bucket.join(self)

    # --- faults --------------------------------------------------------------------------------

    def fail(self, call: str, *faults: Fault) -> None:
        """Let the next calls fail, one for each fault."""
        self._faults.setdefault(call, []).extend(faults)

    def fail_always(self, call: str, fault: Fault) -> None:
        """Let every call fail until `heal`."""
        self._always[call] = fault

    def befall(self, *fates: Fate) -> None:
        """Let the next publishes meet a fate, one each."""
        self._fates.extend(fates)

    def heal(self) -> None:
        """End all faults, fates and deafness."""
        self._faults.clear()
        self._always.clear()
        self._fates.clear()
        self.is_deaf = False

    def _fault(self, name: str) -> Fault | None:
        self.calls.append(name)
        for key in (name, "any"):
            if self._faults.get(key):
                return self._faults[key].pop(0)
            if key in self._always:
                return self._always[key]
        return None

    def _raise_fault(self, name: str) -> None:
        fault = self._fault(name)
        if fault is not None:
            raise error_of(fault)

    # --- as others see it ----------------------------------------------------------------------

    @property
    def is_listening(self) -> bool:
        """Whether it hears `keydist.who`."""
        return self._listener.answer is not None and not self.is_deaf

    def hear(self, name: str, record: bytes) -> None:
        if self._listener.heard is not None and not self.is_deaf:
            self._listener.heard(name, record)

    def answer(self) -> bytes | None:
        return self._listener.answer() if self._listener.answer is not None else None

    def stop(self) -> None:
        """Listen no more, as when its process has ended."""
        self._listener = _Listener()

    # --- the port ------------------------------------------------------------------------------

    async def publish(self, name: str, record: bytes) -> None:
        fault = self._fault("publish")
        if fault is not None:
            if fault in _AFTER:
                self.bucket.put(name, record)
            raise error_of(fault)
        if not self.bucket.exists:
            raise BucketMissingError("no JetStream stream takes writes", fix="make it with: keydist store init")
        match self._fates.pop(0) if self._fates else None:
            case None:
                self.bucket.put(name, record)
            case Fate.UNHEARD:
                self.bucket.put(name, record, told=False)
            case Fate.LATE:
                self.bucket.delay(name, record)
                raise error_of(Fault.TIMEOUT)
            case Fate.FORGOTTEN:
                pass

    async def read_all(self) -> dict[str, bytes]:
        self._raise_fault("read_all")
        return dict(self.bucket.records)

    async def forget(self, name: str) -> bool:
        fault = self._fault("forget")
        is_done = fault is None or fault in _AFTER
        was_there = is_done and self.bucket.records.pop(name, None) is not None
        if fault is not None:
            raise error_of(fault)
        return was_there

    async def create_bucket(self) -> None:
        fault = self._fault("create_bucket")
        if fault is None or fault in _AFTER:
            self.bucket.exists = True
        if fault is not None:
            raise error_of(fault)

    async def ask_living(self, seconds: float) -> tuple[bytes, ...]:
        self._raise_fault("ask_living")
        answers = self.bucket.ask(self)
        if answers is None:
            return ()
        if self._clock is not None:
            self._clock.advance(seconds)
        if not answers:
            raise StoreTimeoutError("a node listens to keydist.who, but does not answer", fix="try again")
        return answers

    def listen(self, *, heard: Callable[[str, bytes], None] | None, answer: Callable[[], bytes | None] | None) -> None:
        before = self._listener
        self._listener = _Listener(heard=heard or before.heard, answer=answer or before.answer)
