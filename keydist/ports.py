"""What services need from the outside: small protocols.

Adapters implement these; fakes in the tests pass the same contract suites. Every protocol states its errors,
what absence means, and what is true after a cancellation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from keydist.core.accept import Held
from keydist.core.audit import Event, Facts, Link, Mint
from keydist.core.entry import Absent, Shipped, Stored
from keydist.core.local import Confirmation, Local, Start
from keydist.core.notes import Notes
from keydist.core.token import BootstrapToken
from keydist.errors import KeydistError

T = TypeVar("T")


class KeysetStore(Protocol):
    """One entry of one bucket. Every method has a deadline of its own and may be cancelled at any await.

    Errors of all methods: `UnreachableError` (no server, or no JetStream), `StoreTimeoutError` (a server, but no
    answer), `ForbiddenError`, `CredentialsRefusedError`. Forbidden is never reported as absent.
    """

    async def read(self, *, from_leader: bool) -> Stored | Absent:
        """Return what the entry holds. `from_leader` asks the stream's leader; else any replica may answer, late."""
        ...

    async def write_first(self, envelope: bytes) -> int:
        """Write into a bucket that was never written and return the revision.

        Raises `ConflictError` where anything was ever written, even if it is gone. After `StoreTimeoutError` or a
        cancellation the write may or may not have happened, or happen yet: read back.
        """
        ...

    async def replace(self, envelope: bytes, *, revision: int) -> int:
        """Write where the entry is still at `revision` and return the new one. Errors as `write_first`."""
        ...

    async def create_bucket(self) -> None:
        """Make the bucket with the checked configuration; a bucket that is there is left as it is."""
        ...

    async def wait_for_notice(self, seconds: float) -> None:
        """Return after `seconds`, or sooner when the store says that something changed (a hint, nothing more)."""
        ...

    async def close(self) -> None:
        """Let go of the connection. Never raises."""
        ...


class NodeRecords(Protocol):
    """The bucket of node records, one entry a node, and the question to the living. Errors as `KeysetStore`.

    What is read and heard is sealed and not yet trusted.
    """

    async def publish(self, name: str, record: bytes) -> None:
        """Write a node's record over its last one. Raises `BucketMissingError` where there is no bucket."""
        ...

    async def read_all(self) -> dict[str, bytes]:
        """Return every record by the node's name; empty where there is no bucket."""
        ...

    async def forget(self, name: str) -> bool:
        """Remove a node's record; tell whether there was one."""
        ...

    async def create_bucket(self) -> None:
        """Make the bucket with the checked configuration; a bucket that is there is left as it is."""
        ...

    async def ask_living(self, seconds: float) -> tuple[bytes, ...]:
        """Ask `keydist.who` and return what came within `seconds`; soon and empty where nobody listens.

        What is too large, or more than is taken, is in it as an empty answer. Raises `StoreTimeoutError` where
        somebody listens and nobody answers: who listens holds a keyset, or has a sign of one.
        """
        ...

    def listen(self, *, heard: Callable[[str, bytes], None] | None, answer: Callable[[], bytes | None] | None) -> None:
        """Hear and answer from now on, over every reconnection; what an earlier call began, None leaves as it is.

        `heard` is called with each record that is written, `answer` for each `keydist.who`: only who holds a keyset,
        or has a sign of an earlier one, may have one, since its silence is a failure to who asks. Neither may raise.
        """
        ...


class KeysetDisk(Protocol):
    """The state directory. Calls are synchronous and short; each either happened whole or not at all.

    Errors of all methods: `UnsafeFileError`, `WrongUserError` (nothing was changed), `DiskError` (the keyset on disk
    is the one before or the new one, whole: load it); of those that write, `BusyError` (the lock is not given).
    """

    def load(self, tokens: tuple[BootstrapToken, ...]) -> Local:
        """Return what is there, without changing anything. `tokens` open a sealed keyset."""
        ...

    def mark(self) -> object:
        """Return what differs, by `==`, after every installation, confirmation or reset. Cheap; raises nothing."""
        ...

    def install(self, new: Held, *, based_on: Local, now: int) -> None:
        """Make `new` the live keyset, durably, then raise the floor.

        `based_on` is what the caller decided upon. Raises `ConflictError` where another process installed something
        since, `BusyError` where the lock is not given.
        """
        ...

    def override(self, new: Held, *, based_on: Local, now: int) -> None:
        """Make `new` live although it does not descend from what is there: a person chose it. Errors as `install`."""
        ...

    def settle(self, local: Local, *, now: int) -> None:
        """Finish what a crash left undone around a verified live keyset; nothing is written where nothing is due."""
        ...

    def confirm(self, confirmation: Confirmation) -> None:
        """Keep when the epoch was last confirmed."""
        ...

    def notes(self) -> Notes:
        """Return what this node noted by its own clock: since when it holds each key in each state."""
        ...

    def note_done(self, *, republished: int | None = None, rehearsed: int | None = None) -> None:
        """Keep when (unix seconds) this node put its keyset back into the store, or tried a backup out."""
        ...

    def quarantine(self, envelope: bytes) -> None:
        """Keep a refused envelope for inspection; of many, the newest eight."""
        ...

    def count_start(self, fresh: str, *, now: int) -> Start:
        """Count one more start of a long-running process; `fresh` (32 hex digits) becomes the instance at the first.

        Numbers rise: one more than the last, and `now` (unix seconds) at least, so that a restored directory counts on.
        """
        ...

    def last_start(self) -> Start | None:
        """Return the last start that was counted; None where there is none, or none that can be read."""
        ...

    def reset(self) -> bool:
        """Forget everything; tell whether there was anything."""
        ...


class PublicKeys(Protocol):
    """Every public signing key that this node ever accepted, by its kid."""

    def public_jwk(self, kid: str) -> bytes | None:
        """Return the JWK that was kept, None where there is none. `kid` is a thumbprint, and is used as a file's name.

        Raises `UnsafeFileError`, `WrongUserError`, `DiskError`, `CorruptError`.
        """
        ...

    def was_revoked(self, kid: str) -> bool:
        """Tell whether the key is marked as one that was revoked, by this node or by whoever its copy came from.

        Raises as `public_jwk`.
        """
        ...


class Auditor(Protocol):
    """Where the audit trail is written. Never raises, and stops nothing: what cannot be written is told elsewhere.

    Threads may share one.
    """

    def note(self, event: Event) -> None:
        """Write one record of this node's, durably; what cannot be written now waits for `retry`, but for JWTs."""
        ...

    def retry(self) -> bool:
        """Write what could not be written before; tell whether nothing waits any more."""
        ...


class TrailJournal(Protocol):
    """The trail as this node wrote it: chains of records, oldest first. Calls are synchronous and short.

    Errors of all methods: `DiskError`, `UnsafeFileError`, `WrongUserError`; of those that write, `BusyError`.
    """

    def append(self, event: Event, *, at: int, who: Facts) -> None:
        """Write the record of an event behind the last one; `at` in unix seconds."""
        ...

    def last(self) -> Link | None:
        """Return the last record's link; None where there is none that can be read, or it is another node's."""
        ...

    def read_after(self, shipped: Link | None, *, most: int) -> tuple[bytes, ...]:
        """Return the next records, at most `most`, behind a link by its chain and number; None: from the first on.

        Behind a link that is not in the journal, it is from the first on too.
        """
        ...

    def find(self, chain: str, seq: int) -> bytes | None:
        """Return a record, or None where it is not, or no longer, here."""
        ...

    def shipped(self) -> Link | None:
        """Return what is noted as the last record that the stream took."""
        ...

    def note_shipped(self, link: Link) -> None:
        """Note what the stream took last; records long before it may go."""
        ...

    def waiting(self) -> int:
        """Return about how many bytes of the journal the stream has not taken."""
        ...

    def mark(self) -> object:
        """Return what differs, by `==`, after every record. Cheap; raises nothing."""
        ...


class TrailStream(Protocol):
    """The trail of all nodes in a stream that denies delete. Errors as `KeysetStore`, and `BucketMissingError`."""

    async def last(self, node: str) -> Shipped | None:
        """Return the last record of a node; any replica may answer, late."""
        ...

    async def publish(self, node: str, record: bytes, *, after: int) -> int:
        """Store a node's next record behind its last one, at sequence `after` (0: none), and return its sequence.

        Raises `ConflictError` where the last one is another: what was not acknowledged may have been stored.
        """
        ...

    async def read(self, *, after: int, node: str | None) -> Shipped | None:
        """Return the next record behind a sequence, of one node or of any; None where there is none yet."""
        ...

    async def create(self) -> None:
        """Make the stream with the checked configuration; one that is there is left as it is."""
        ...


class MintTrail(Protocol):
    """Where it is written down what this process mints, record by record. Never raises: no JWT fails because of it."""

    def minted(self, mint: Mint) -> None:
        """Keep one JWT for the trail; without a user id it is this process's."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


class Mints(Protocol):
    """Where it is counted what this process minted. Never raises: no JWT fails because of it."""

    def minted(self, kid: str, expires: int) -> None:
        """Count one JWT under `kid` that expires at a unix second."""
        ...

    def close(self) -> None:
        """Keep what was counted."""
        ...


class Clock(Protocol):
    """Time as this node has it."""

    def now(self) -> int:
        """Return unix seconds."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        ...


class Entropy(Protocol):
    """Where randomness comes from."""

    def random(self, size: int) -> bytes:
        """Return `size` random bytes."""
        ...

    async def signing_key(self, alg: str, bits: int) -> bytes:
        """Return a new private key as unencrypted PKCS#8 (DER), made off the event loop."""
        ...


class Listener(Protocol):
    """Who wants to know which keyset is in use: change hooks, local subscribers."""

    def changed(self, held: Held) -> None:
        """Hear of a keyset that is verified and durable, of the same one again after a restart. Never raises."""
        ...


class Notifier(Protocol):
    """Where a long wait is told: the terminal, the service manager."""

    def waiting(self, what: str, *, seconds_left: float) -> None:
        """Say what is being waited for, and for how much longer."""
        ...


class Manager(Notifier, Protocol):
    """The service manager of a long-running process. Nothing here raises."""

    @property
    def watchdog_seconds(self) -> float | None:
        """Within how many seconds `watchdog` must be called again; None where nobody watches."""
        ...

    def ready(self, status: str) -> None:
        """Say that a verified key is on disk."""
        ...

    def status(self, text: str) -> None:
        """Show how the node stands."""
        ...

    def watchdog(self) -> None:
        """Say that the process works."""
        ...


class Journal(Protocol):
    """Where events are told: one line each, a name and fields."""

    def event(self, name: str, /, *, level: str = "info", **fields: object) -> None:
        """Tell one event; `level` is info, warning or error. A `KeydistError` among the fields is told by its own.

        Never raises, and waits for nobody: an event that cannot be told is lost.
        """
        ...


class Retry(Protocol):
    """The one retry policy: exponential, full jitter, capped, transient errors only."""

    async def __call__(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        deadline: float,
        pause: Callable[[float], Awaitable[None]],
        told: Callable[[KeydistError, float], None],
    ) -> T:
        """Return the first result of `attempt`, trying again after `pause(seconds)` until the monotonic `deadline`.

        `told` hears each transient failure and the seconds left. At the deadline the last failure is raised.
        """
        ...
