"""What a node does at its start, row by row of the design's table: the service on a store in memory and a real disk.

Time is virtual, so waiting out a timeout of 30 seconds costs nothing. Every row also says what must not change: the
state directory where nothing is accepted, and the store where nothing is generated or put back.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from keydist.adapters.disk.archive import Layout
from keydist.adapters.disk.keyset_disk import PosixKeysetDisk
from keydist.adapters.disk.system import System
from keydist.adapters.retry import TenacityRetry
from keydist.core.accept import Demands, Held
from keydist.core.entry import Absence
from keydist.core.envelope import Place
from keydist.core.local import Confirmation, Local
from keydist.core.restart import Role
from keydist.core.token import BootstrapToken
from keydist.errors import (
    BusyError,
    CommitmentError,
    ConfigError,
    CredentialsRefusedError,
    DiskFullError,
    ForbiddenError,
    ForeignClusterError,
    ForkError,
    KeydistError,
    MalformedError,
    ReadOnlyDiskError,
    RefusedGenesisError,
    RollbackError,
    StoreTimeoutError,
    TamperedError,
    UnreachableError,
    UnsupportedError,
    WaitTimeoutError,
    WrongTokenError,
)
from keydist.services.bootstrap import bootstrap
from keydist.services.from_disk import Outcome, meet_demands, start_from_disk
from keydist.services.node import Node
from tests.fakes.clock import START, VirtualClock
from tests.fakes.genesis import genesis_of
from tests.fakes.memory_store import Fault, MemoryBucket, MemoryKeysetStore
from tests.fakes.notifier import RecordingNotifier
from tests.material import (
    IMPOSTOR,
    OTHER_LINEAGE,
    OTHER_TOKEN,
    PLACE,
    TOKEN,
    Change,
    altered,
    chain,
    extend,
    first,
    hold,
)

SECONDS = 30.0
EPOCH = 3
MINE = chain(EPOCH)[-1]
GENESIS = first("of this run ", lineage="a" * 32)
BOTH = (Role.LEADER, Role.FOLLOWER)

Snapshot = dict[str, tuple[int, bytes]]


def snapshot(directory: Path, *, without: tuple[str, ...] = ("lock", "quarantine")) -> Snapshot:
    """Return every file, link and directory below `directory` with its mode and what it holds."""
    found: Snapshot = {}
    for path in sorted(directory.rglob("*")):
        parts = path.relative_to(directory).parts
        if not set(parts) & set(without):
            held = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
            found["/".join(parts)] = (path.lstat().st_mode, held)
    return found


@dataclass(kw_only=True)
class Scene:
    """One node: its disk, its view of the store, the tokens and demands it has, and virtual time."""

    directory: Path
    clock: VirtualClock = field(default_factory=VirtualClock)
    bucket: MemoryBucket = field(default_factory=MemoryBucket)
    notifier: RecordingNotifier = field(default_factory=RecordingNotifier)
    tokens: tuple[BootstrapToken, ...] = (TOKEN,)
    place: Place = PLACE
    sealed: bool = False
    lineage: str | None = None
    min_epoch: int = 0
    genesis: Held = GENESIS
    generated: int = 0
    system: System | None = None

    def __post_init__(self) -> None:
        self.store = MemoryKeysetStore(self.bucket, self.clock)
        self.state = self.directory / "state"

    @property
    def disk(self) -> PosixKeysetDisk:
        layout = Layout(sealed=self.sealed, gid=None, place=self.place)
        return PosixKeysetDisk(str(self.state), str(self.directory / "run"), layout, self.system)

    def load(self) -> Local:
        return self.disk.load(self.tokens)

    def install(self, held: Held) -> None:
        """Bring the disk to `held`, as an earlier run did; its epochs are `chain`'s."""
        now, disk = self.clock.now() - 3600, self.disk
        for epoch in chain(held.keyset.epoch)[:-1]:
            disk.install(epoch, based_on=disk.load((TOKEN, OTHER_TOKEN)), now=now)
        disk.install(held, based_on=disk.load((TOKEN, OTHER_TOKEN)), now=now)

    async def _first_envelope(self) -> bytes:
        self.generated += 1
        return self.genesis.envelope

    def run(self, role: Role, *, seconds: float = SECONDS) -> Outcome | KeydistError:
        """Bootstrap the node; return its outcome, or the error that says why it has no keyset."""
        demands = _demands(self)
        disk = self.disk
        node = Node(store=self.store, disk=disk, clock=self.clock, demands=demands, role=role)

        async def work() -> Outcome:
            return await bootstrap(
                node,
                meet_demands(disk.load(self.tokens), demands),
                genesis=genesis_of(self._first_envelope),
                retry=TenacityRetry(self.clock),
                notifier=self.notifier,
                seconds=seconds,
            )

        try:
            return asyncio.run(work())
        except KeydistError as exc:
            return exc


def _demands(scene: Scene) -> Demands:
    return Demands(place=scene.place, tokens=scene.tokens, lineage=scene.lineage, min_epoch=scene.min_epoch)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(directory=tmp_path)


# --- what is on disk ----------------------------------------------------------------------------

Prepare = Callable[[Scene], None]


def nothing(scene: Scene) -> None:
    pass


def valid(scene: Scene) -> None:
    scene.install(MINE)


def corrupt(scene: Scene) -> None:
    scene.install(MINE)
    file = scene.state / "live" / "keyset.json"
    file.write_bytes(file.read_bytes()[:-1])


def floor_alone(scene: Scene) -> None:
    scene.install(MINE)
    (scene.state / "live").unlink()


def sealed_without_token(scene: Scene) -> None:
    scene.sealed = True
    scene.install(MINE)
    scene.tokens = (OTHER_TOKEN,)


def valid_without_token(scene: Scene) -> None:
    scene.install(MINE)
    scene.tokens = ()


def valid_but_older_than_demanded(scene: Scene) -> None:
    scene.install(MINE)
    scene.min_epoch = EPOCH + 1


DISKS: Mapping[str, Prepare] = {
    "nothing": nothing,
    "valid": valid,
    "corrupt": corrupt,
    "a floor alone": floor_alone,
    "sealed, no token": sealed_without_token,
    "valid, token absent": valid_without_token,
    "valid, below --min-epoch": valid_but_older_than_demanded,
}

# --- what is in the store -----------------------------------------------------------------------


def in_store(held: Held | bytes) -> Prepare:
    def prepare(scene: Scene) -> None:
        for earlier in range(3):  # so that its revision is none of the epochs
            scene.bucket.put(f"earlier {earlier}".encode())
        scene.bucket.put(held if isinstance(held, bytes) else held.envelope)

    return prepare


def deleted(scene: Scene) -> None:
    scene.bucket.put(MINE.envelope)
    scene.bucket.delete()


def emptied(scene: Scene) -> None:
    scene.bucket.put(MINE.envelope)
    scene.bucket.purge()


def failing(fault: Fault) -> Prepare:
    def prepare(scene: Scene) -> None:
        scene.bucket.put(MINE.envelope)
        for call in ("read", "write", "create_bucket"):
            scene.store.fail_always(call, fault)

    return prepare


def unasked(scene: Scene) -> None:
    scene.store = MemoryKeysetStore(scene.bucket, scene.clock, may_ask_why=False)


def unreadable_credentials(scene: Scene) -> None:
    """The store cannot even be asked: a file that the configuration names is not there."""

    async def read(*, from_leader: bool) -> NoReturn:
        raise ConfigError("nats.creds_file cannot be read: /nowhere", fix="put the credentials there")

    scene.store.read = read  # type: ignore[method-assign]


NEWER = extend(MINE, Change.ROTATE)
RESEALED = extend(MINE, Change.RESEAL, token=OTHER_TOKEN)
FORK = chain(EPOCH - 1)[-1]
FORKED = extend(FORK, Change.ROTATE, name="other ")
STRANGER = first("stranger ", lineage=OTHER_LINEAGE)
FOREIGN = hold(MINE.keyset, place=Place(cluster="prod-us1", location=PLACE.location))
LATER_VERSION = MINE.envelope.replace(
    MINE.envelope.split(b".")[0],
    __import__("base64")
    .urlsafe_b64encode(b'{"alg":"dir","enc":"A256GCM","typ":"keydist-keyset+jwe","v":2,"new":1}')
    .rstrip(b"="),
)

STORES: Mapping[str, Prepare] = {
    "never written": nothing,
    "bucket missing": lambda scene: scene.bucket.drop(),
    "deleted": deleted,
    "emptied": emptied,
    "absent, may not ask why": unasked,
    "newer": in_store(NEWER),
    "the same": in_store(MINE),
    "an ancestor": in_store(chain(EPOCH - 1)[-1]),
    "a fork": in_store(FORKED),
    "a fork ahead": in_store(extend(FORKED, Change.ROTATE, name="other ")),
    "another lineage": in_store(STRANGER),
    "wrong token": in_store(RESEALED),
    "foreign": in_store(FOREIGN),
    "malformed": in_store(b"not.an.envelope"),
    "empty": in_store(b""),
    "tampered": in_store(altered(NEWER.envelope, len(NEWER.envelope) - 30)),
    "same id, other secret": in_store(hold(NEWER.keyset, token=IMPOSTOR)),
    "unknown version": in_store(LATER_VERSION),
    "unreachable": failing(Fault.UNREACHABLE),
    "silent": failing(Fault.TIMEOUT),
    "forbidden": failing(Fault.FORBIDDEN),
    "credentials refused": failing(Fault.REFUSED),
    "credentials unreadable": unreadable_credentials,
}

# --- the table ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Starts:
    """The node has a keyset: how it got it, which alarms it tells, and whether it wrote to the store."""

    how: str
    alarms: tuple[str, ...] = ()
    epoch: int = EPOCH
    writes: bool = False


@dataclass(frozen=True, kw_only=True)
class Fails:
    """The node has none: the error, its exit code, words of its message, and whether the timeout was waited out."""

    error: type[KeydistError]
    exit_code: int
    says: str = ""
    waits: bool = False


Expected = Starts | Fails


def fails(error: type[KeydistError], exit_code: int, says: str = "") -> Fails:
    return Fails(error=error, exit_code=exit_code, says=says)


def waits(error: type[KeydistError], exit_code: int, says: str = "") -> Fails:
    return Fails(error=error, exit_code=exit_code, says=says, waits=True)


def from_disk(*alarms: str) -> Starts:
    return Starts(how="from-disk", alarms=alarms)


def republished(*alarms: str) -> Starts:
    return Starts(how="republished", alarms=alarms, writes=True)


GENERATED = Starts(how="generated", epoch=1, writes=True)
NO_KEY = waits(WaitTimeoutError, 75, "no key came within 30 s")
REFUSED = fails(RefusedGenesisError, 65, "no key is generated")

# on disk, in the store: (leader, follower)
TABLE: dict[tuple[str, str], tuple[Expected, Expected]] = {
    ("nothing", "never written"): (GENERATED, NO_KEY),
    ("nothing", "bucket missing"): (GENERATED, NO_KEY),
    ("nothing", "deleted"): (REFUSED, NO_KEY),
    ("nothing", "emptied"): (REFUSED, NO_KEY),
    ("nothing", "absent, may not ask why"): (REFUSED, NO_KEY),
    ("nothing", "newer"): (
        Starts(how="adopted", epoch=EPOCH + 1),
        Starts(how="retrieved", epoch=EPOCH + 1),
    ),
    ("nothing", "wrong token"): (fails(WrongTokenError, 77, "does not hold"),) * 2,
    ("nothing", "foreign"): (fails(ForeignClusterError, 65, "another cluster"),) * 2,
    ("nothing", "malformed"): (fails(MalformedError, 65, "not a compact JWE"),) * 2,
    ("nothing", "empty"): (fails(MalformedError, 65, "wrong size"),) * 2,
    ("nothing", "tampered"): (fails(TamperedError, 65, "does not authenticate"),) * 2,
    ("nothing", "same id, other secret"): (fails(KeydistError, 65, "does not commit"),) * 2,
    ("nothing", "unknown version"): (fails(UnsupportedError, 65, "not one that this release knows"),) * 2,
    ("nothing", "unreachable"): (waits(UnreachableError, 75, "cannot be reached"),) * 2,
    ("nothing", "silent"): (waits(StoreTimeoutError, 75, "did not answer"),) * 2,
    ("nothing", "forbidden"): (fails(ForbiddenError, 77, "does not allow"),) * 2,
    ("nothing", "credentials refused"): (fails(CredentialsRefusedError, 77, "refuses the credentials"),) * 2,
    ("nothing", "credentials unreadable"): (fails(ConfigError, 78, "cannot be read"),) * 2,
    ("valid", "unreachable"): (from_disk("unreachable"),) * 2,
    ("valid", "silent"): (from_disk("store-timeout"),) * 2,
    ("valid", "forbidden"): (from_disk("forbidden"),) * 2,
    ("valid", "credentials refused"): (from_disk("credentials-refused"),) * 2,
    ("valid", "credentials unreadable"): (from_disk("config"),) * 2,
    ("valid", "newer"): (Starts(how="retrieved", epoch=EPOCH + 1),) * 2,
    ("valid", "the same"): (Starts(how="unchanged"),) * 2,
    ("valid", "an ancestor"): (republished("rollback"), from_disk("rollback")),
    ("valid", "deleted"): (republished("store-lost"), from_disk("store-lost")),
    ("valid", "emptied"): (republished("store-lost"), from_disk("store-lost")),
    ("valid", "never written"): (republished("store-lost"), from_disk("store-lost")),
    ("valid", "bucket missing"): (republished("store-lost"), from_disk("store-lost")),
    ("valid", "absent, may not ask why"): (from_disk("store-lost"),) * 2,
    ("valid", "a fork"): (from_disk("fork"),) * 2,
    ("valid", "a fork ahead"): (from_disk("fork"),) * 2,
    ("valid", "another lineage"): (from_disk("fork"),) * 2,
    ("valid", "tampered"): (from_disk("tampered"),) * 2,
    ("valid", "foreign"): (from_disk("foreign-cluster"),) * 2,
    ("valid", "wrong token"): (from_disk("wrong-token"),) * 2,
    ("valid", "same id, other secret"): (from_disk("commitment"),) * 2,
    ("valid", "malformed"): (from_disk("malformed"),) * 2,
    ("valid", "empty"): (from_disk("malformed"),) * 2,
    ("valid", "unknown version"): (from_disk("unsupported"),) * 2,
    ("valid, token absent", "newer"): (from_disk("wrong-token"),) * 2,
    ("valid, token absent", "the same"): (Starts(how="unchanged", alarms=("wrong-token",)),) * 2,
    ("valid, token absent", "unreachable"): (from_disk("unreachable", "wrong-token"),) * 2,
    ("corrupt", "newer"): (Starts(how="retrieved", epoch=EPOCH + 1, alarms=("corrupt",)),) * 2,
    ("corrupt", "the same"): (Starts(how="retrieved", alarms=("corrupt",)),) * 2,
    ("corrupt", "an ancestor"): (
        fails(RollbackError, 65, "earlier epoch"),
        waits(RollbackError, 65, "earlier epoch"),
    ),
    ("corrupt", "never written"): (REFUSED, NO_KEY),
    ("corrupt", "bucket missing"): (REFUSED, NO_KEY),
    ("corrupt", "deleted"): (REFUSED, NO_KEY),
    ("corrupt", "emptied"): (REFUSED, NO_KEY),
    ("corrupt", "absent, may not ask why"): (REFUSED, NO_KEY),
    ("corrupt", "a fork"): (fails(ForkError, 65), waits(ForkError, 65)),
    ("corrupt", "another lineage"): (fails(ForkError, 65), waits(ForkError, 65)),
    ("corrupt", "wrong token"): (fails(WrongTokenError, 77), waits(WrongTokenError, 77)),
    ("corrupt", "tampered"): (fails(TamperedError, 65), waits(TamperedError, 65)),
    ("corrupt", "unknown version"): (fails(UnsupportedError, 65), waits(UnsupportedError, 65)),
    ("corrupt", "unreachable"): (waits(UnreachableError, 75),) * 2,
    ("corrupt", "forbidden"): (fails(ForbiddenError, 77),) * 2,
    ("a floor alone", "newer"): (Starts(how="retrieved", epoch=EPOCH + 1, alarms=("corrupt",)),) * 2,
    ("a floor alone", "the same"): (Starts(how="retrieved", alarms=("corrupt",)),) * 2,
    ("a floor alone", "an ancestor"): (fails(RollbackError, 65), waits(RollbackError, 65)),
    ("a floor alone", "never written"): (REFUSED, NO_KEY),
    ("a floor alone", "bucket missing"): (REFUSED, NO_KEY),
    ("a floor alone", "deleted"): (REFUSED, NO_KEY),
    ("a floor alone", "unreachable"): (waits(UnreachableError, 75),) * 2,
    ("sealed, no token", "wrong token"): (Starts(how="retrieved", epoch=EPOCH + 1, alarms=("wrong-token",)),)
    * 2,  # that token is held here
    ("sealed, no token", "the same"): (fails(WrongTokenError, 77), waits(WrongTokenError, 77)),
    ("sealed, no token", "never written"): (REFUSED, NO_KEY),
    ("sealed, no token", "deleted"): (REFUSED, NO_KEY),
    ("sealed, no token", "unreachable"): (waits(UnreachableError, 75),) * 2,
    ("valid, below --min-epoch", "newer"): (Starts(how="retrieved", epoch=EPOCH + 1, alarms=("rollback",)),) * 2,
    ("valid, below --min-epoch", "the same"): (fails(RollbackError, 65), waits(RollbackError, 65)),
    ("valid, below --min-epoch", "never written"): (REFUSED, NO_KEY),
    ("valid, below --min-epoch", "unreachable"): (waits(UnreachableError, 75),) * 2,
}

ROWS = [
    pytest.param(disk, store, role, expected, id=f"{disk} · {store} · {role}")
    for (disk, store), row in TABLE.items()
    for role, expected in zip(BOTH, row, strict=True)
]


@pytest.mark.parametrize(("disk", "store", "role", "expected"), ROWS)
def test_row(disk: str, store: str, role: Role, expected: Expected, scene: Scene) -> None:
    DISKS[disk](scene)
    STORES[store](scene)
    on_disk, stored, writes = snapshot(scene.directory), scene.bucket.content(), scene.bucket.writes
    result = scene.run(role)
    after = snapshot(scene.directory)
    if isinstance(expected, Starts):
        assert isinstance(result, Outcome), result
        assert (result.how, result.held.keyset.epoch) == (expected.how, expected.epoch)
        assert tuple(alarm.code for alarm in result.alarms) == expected.alarms
        assert all(alarm.fix for alarm in result.alarms)
        assert result.changed is (expected.how in ("generated", "adopted", "retrieved", "republished"))
        loaded = scene.load()
        assert loaded.held == result.held
        assert loaded.alarms == ()
        assert scene.clock.monotonic() == 0
        if expected.how == "republished":
            assert scene.disk.notes().republished == scene.clock.now()
            assert _without_confirmation(after, "state/seen.json") == _without_confirmation(on_disk, "state/seen.json")
        if expected.how in ("from-disk", "unchanged"):
            assert _without_confirmation(after) == _without_confirmation(on_disk)
        if not expected.writes:
            assert (scene.bucket.content(), scene.bucket.writes) == (stored, writes)
        else:
            assert scene.bucket.content() == result.held.envelope
            assert scene.bucket.writes == writes + 1
        confirmed = expected.how != "from-disk"
        assert (loaded.confirmation is not None) is confirmed
    else:
        assert isinstance(result, expected.error), result
        assert result.exit_code == expected.exit_code
        assert expected.says in result.message
        assert result.fix
        assert after == on_disk
        assert (scene.bucket.content(), scene.bucket.writes) == (stored, writes)
        if expected.waits:
            assert SECONDS <= scene.clock.monotonic() < SECONDS + 1
            assert scene.notifier.told
            assert all(0 <= left <= SECONDS for _, left in scene.notifier.told)
        else:
            assert scene.clock.monotonic() == 0
    assert scene.generated == (1 if expected == GENERATED else 0)


def _without_confirmation(found: Snapshot, *others: str) -> Snapshot:
    return {name: held for name, held in found.items() if name not in ("state/confirmed.json", *others)}


def test_the_table_names_every_disk_and_store() -> None:
    assert {disk for disk, _ in TABLE} == set(DISKS)
    assert {store for _, store in TABLE} == set(STORES)
    for disk in ("nothing", "valid"):
        missing = set(STORES) - {store for name, store in TABLE if name == disk}
        assert not missing & {"never written", "bucket missing", "deleted", "emptied", "unreachable", "forbidden"}


@pytest.mark.parametrize("store", ["deleted", "emptied", "never written", "bucket missing", "absent, may not ask why"])
def test_the_reason_for_the_wait_is_told_at_the_timeout(store: str, scene: Scene) -> None:
    STORES[store](scene)
    result = scene.run(Role.FOLLOWER)
    assert isinstance(result, WaitTimeoutError)
    reasons = {
        "deleted": "the key was deleted",
        "emptied": "the bucket was emptied",
        "never written": "nothing was ever written to it",
        "bucket missing": "the bucket does not exist",
        "absent, may not ask why": "there is no key, and this user may not ask why",
    }
    assert result.found == reasons[store]
    assert all(what.endswith(reasons[store]) for what, _ in scene.notifier.told)


# --- quarantine ---------------------------------------------------------------------------------


def quarantined(scene: Scene) -> list[str]:
    cell = scene.state / "quarantine"
    return sorted(path.name for path in cell.iterdir()) if cell.exists() else []


def test_a_corrupt_keyset_is_moved_aside_once_a_good_one_is_accepted(scene: Scene) -> None:
    corrupt(scene)
    in_store(NEWER)(scene)
    scene.run(Role.FOLLOWER)
    assert quarantined(scene) == ["000003"]


@pytest.mark.parametrize("store", ["tampered", "foreign", "malformed", "a fork"])
def test_what_was_refused_is_kept_for_inspection(store: str, scene: Scene) -> None:
    valid(scene)
    STORES[store](scene)
    for _ in range(2):
        scene.run(Role.FOLLOWER)
    (name,) = quarantined(scene)
    assert (scene.state / "quarantine" / name).read_bytes() == scene.bucket.content()


@pytest.mark.parametrize("store", ["unknown version", "wrong token"])
def test_a_later_version_or_another_token_is_never_quarantined(store: str, scene: Scene) -> None:
    valid(scene)
    STORES[store](scene)
    scene.run(Role.LEADER)
    assert quarantined(scene) == []


def test_a_sealed_keyset_without_its_token_is_never_quarantined(scene: Scene) -> None:
    sealed_without_token(scene)
    in_store(RESEALED)(scene)
    assert isinstance(scene.run(Role.FOLLOWER), Outcome)
    assert quarantined(scene) == []


# --- waiting ------------------------------------------------------------------------------------


def test_a_follower_takes_the_key_as_soon_as_it_is_there(scene: Scene) -> None:
    scene.clock.at(7.5, partial(scene.bucket.put, MINE.envelope))
    result = scene.run(Role.FOLLOWER)
    assert isinstance(result, Outcome)
    assert result.how == "retrieved"
    assert 7.5 <= scene.clock.monotonic() <= 7.5 + 2.0  # the longest pause


def test_a_node_waits_until_the_store_is_reachable(scene: Scene) -> None:
    in_store(MINE)(scene)
    scene.store.fail_always("read", Fault.UNREACHABLE)
    scene.clock.at(10, scene.store.heal)
    result = scene.run(Role.LEADER)
    assert isinstance(result, Outcome)
    assert result.how == "adopted"
    assert result.alarms == ()


def test_a_timeout_of_zero_tries_once(scene: Scene) -> None:
    result = scene.run(Role.FOLLOWER, seconds=0)
    assert isinstance(result, WaitTimeoutError)
    assert scene.store.calls == ["read_direct"]


def test_waiting_backs_off(scene: Scene) -> None:
    scene.run(Role.FOLLOWER, seconds=600)
    assert 300 < len(scene.store.calls) < 1500  # 1 s on average, once it has backed off


def test_a_follower_whose_floor_is_ahead_takes_the_healed_store(scene: Scene) -> None:
    floor_alone(scene)
    in_store(chain(1)[0])(scene)
    scene.clock.at(5, partial(scene.bucket.put, MINE.envelope))
    result = scene.run(Role.FOLLOWER)
    assert isinstance(result, Outcome)
    assert result.held == MINE


# --- genesis ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (Fault.LOST_ACKNOWLEDGEMENT, 0),  # read back at once: there is no time for another try
        (Fault.CONNECTION_LOST, 0),
        (Fault.TIMEOUT, SECONDS),
        (Fault.UNREACHABLE, SECONDS),
    ],
    ids=str,
)
def test_an_acknowledgement_that_is_lost_is_read_back(fault: Fault, seconds: float, scene: Scene) -> None:
    """Whether the write took effect or not: one keyset, generated once, and it is the one in the store."""
    scene.store.fail("write_first", fault)
    result = scene.run(Role.LEADER, seconds=seconds)
    assert isinstance(result, Outcome)
    assert (result.how, result.held.envelope) == ("generated", GENESIS.envelope)
    assert scene.bucket.content() == GENESIS.envelope
    assert scene.bucket.writes == 1
    assert scene.generated == 1


def test_a_lost_acknowledgement_and_a_read_back_that_fails(scene: Scene) -> None:
    scene.store.fail("write_first", Fault.LOST_ACKNOWLEDGEMENT)

    def fail_reads_after_the_write(call: str) -> None:
        if call == "write_first":
            scene.store.fail("read_leader", Fault.UNREACHABLE, Fault.TIMEOUT)

    scene.store.between = fail_reads_after_the_write
    result = scene.run(Role.LEADER)
    assert isinstance(result, Outcome)
    assert (result.how, scene.generated, scene.bucket.writes) == ("generated", 1, 1)


def test_nothing_is_on_disk_before_it_was_read_back(scene: Scene) -> None:
    scene.store.fail("write_first", Fault.LOST_ACKNOWLEDGEMENT)
    states = []
    scene.store.between = lambda call: states.append((call, scene.state.exists()))
    scene.run(Role.LEADER)
    assert states == [("read_leader", False), ("write_first", False), ("read_leader", False)]


def test_the_loser_of_a_race_adopts(scene: Scene) -> None:
    other = first("winner ", lineage="b" * 32)

    def race(call: str) -> None:
        if call == "write_first":
            scene.bucket.write(other.envelope, stream_at=0)

    scene.store.between = race
    result = scene.run(Role.LEADER, seconds=0)
    assert isinstance(result, Outcome)
    assert (result.how, result.held) == ("adopted", other)
    assert scene.bucket.content() == other.envelope
    assert scene.bucket.writes == 1


def test_the_loser_of_a_race_against_another_token_fails(scene: Scene) -> None:
    other = first("winner ", lineage="b" * 32, token=OTHER_TOKEN)

    def race(call: str) -> None:
        if call == "write_first":
            scene.bucket.write(other.envelope, stream_at=0)

    scene.store.between = race
    result = scene.run(Role.LEADER)
    assert isinstance(result, WrongTokenError)
    assert not scene.state.exists()


def test_a_bucket_that_may_not_be_made_is_forbidden(scene: Scene) -> None:
    scene.bucket.drop()
    scene.store.fail("create_bucket", Fault.FORBIDDEN)
    assert isinstance(scene.run(Role.LEADER), ForbiddenError)
    assert scene.bucket.writes == 0


def test_a_bucket_emptied_between_write_and_read_back_gets_no_second_key(scene: Scene) -> None:
    reads = []

    def empty_after_write(call: str) -> None:
        reads.append(call)
        if reads == ["read_leader", "write_first", "read_leader"]:
            scene.bucket.purge()

    scene.store.between = empty_after_write
    assert isinstance(scene.run(Role.LEADER), RefusedGenesisError)
    assert scene.bucket.content() is None
    assert scene.generated == 1


def test_a_pinned_lineage_forbids_genesis(scene: Scene) -> None:
    scene.lineage = GENESIS.keyset.lineage
    for prepare in (nothing, STORES["bucket missing"]):
        prepare(scene)
        result = scene.run(Role.LEADER)
        assert isinstance(result, RefusedGenesisError)
        assert "names the lineage" in result.message
    assert scene.generated == 0
    assert scene.bucket.writes == 0


def test_a_pinned_lineage_accepts_its_own_and_refuses_another(scene: Scene) -> None:
    scene.lineage = MINE.keyset.lineage
    in_store(STRANGER)(scene)
    assert isinstance(scene.run(Role.FOLLOWER), ForkError)
    in_store(MINE)(scene)
    assert isinstance(scene.run(Role.FOLLOWER), Outcome)


def test_a_pinned_lineage_refuses_another_on_disk(scene: Scene) -> None:
    valid(scene)
    scene.lineage = OTHER_LINEAGE
    before = snapshot(scene.directory)
    result = scene.run(Role.FOLLOWER)
    assert isinstance(result, ForkError)
    assert result.exit_code == 65
    assert snapshot(scene.directory) == before


def test_a_node_without_state_refuses_an_epoch_below_the_demanded_one(scene: Scene) -> None:
    scene.min_epoch = EPOCH + 1
    in_store(MINE)(scene)
    result = scene.run(Role.FOLLOWER)
    assert isinstance(result, RollbackError)
    assert result.expected == "epoch 4 or later"
    assert not scene.state.exists()
    scene.bucket.put(NEWER.envelope)
    assert isinstance(scene.run(Role.FOLLOWER), Outcome)


# --- putting back -------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["an ancestor", "deleted", "emptied", "never written", "bucket missing"])
@pytest.mark.parametrize(
    ("call", "fault", "code"),
    [
        ("write", Fault.FORBIDDEN, "forbidden"),
        ("write", Fault.UNREACHABLE, "unreachable"),
        ("write", Fault.REFUSED, "credentials-refused"),
    ],
    ids=str,
)
def test_what_cannot_be_put_back_is_an_alarm(store: str, call: str, fault: Fault, code: str, scene: Scene) -> None:
    valid(scene)
    STORES[store](scene)
    stored = scene.bucket.content()
    scene.store.fail_always(call, fault)
    result = scene.run(Role.LEADER)
    assert isinstance(result, Outcome)
    assert result.how == "from-disk"
    assert [alarm.code for alarm in result.alarms] == ["rollback" if store == "an ancestor" else "store-lost", code]
    assert scene.bucket.content() == stored


@pytest.mark.parametrize("fault", [Fault.LOST_ACKNOWLEDGEMENT, Fault.TIMEOUT])
def test_a_lost_acknowledgement_of_putting_back_is_read_back(fault: Fault, scene: Scene) -> None:
    valid(scene)
    deleted(scene)
    scene.store.fail("write", fault)
    result = scene.run(Role.LEADER)
    assert isinstance(result, Outcome)
    applied = fault is Fault.LOST_ACKNOWLEDGEMENT
    assert result.how == ("republished" if applied else "from-disk")
    assert scene.bucket.content() == (MINE.envelope if applied else None)


def test_nobody_is_overwritten_who_wrote_meanwhile(scene: Scene) -> None:
    valid(scene)
    STORES["an ancestor"](scene)

    def race(call: str) -> None:
        if call == "replace" and scene.bucket.content() != NEWER.envelope:
            scene.bucket.put(NEWER.envelope)

    scene.store.between = race
    result = scene.run(Role.LEADER)
    assert isinstance(result, Outcome)
    assert (result.how, result.held) == ("retrieved", NEWER)
    assert scene.bucket.content() == NEWER.envelope


# --- confirming ---------------------------------------------------------------------------------


def test_a_follower_confirms_by_a_leader_read_with_the_time_it_was_sent(scene: Scene) -> None:
    in_store(MINE)(scene)
    scene.store.between = lambda call: scene.clock.advance(11) if call == "read_leader" else None
    result = scene.run(Role.FOLLOWER)
    assert isinstance(result, Outcome)
    confirmation = scene.load().confirmation
    assert confirmation is not None
    assert confirmation.at == START  # not START + 11, when the answer came
    assert (confirmation.epoch, confirmation.digest) == (EPOCH, MINE.digest)
    assert scene.store.calls == ["read_direct", "read_leader"]


def test_a_leader_confirms_by_the_read_it_decided_on(scene: Scene) -> None:
    valid(scene)
    in_store(MINE)(scene)
    scene.run(Role.LEADER)
    assert scene.store.calls == ["read_leader"]
    assert scene.load().confirmation is not None


@pytest.mark.parametrize("disk", ["nothing", "valid"])
def test_what_a_late_replica_shows_is_caught_up_from_the_leader(disk: str, scene: Scene) -> None:
    DISKS[disk](scene)
    in_store(MINE)(scene)
    scene.bucket.put(NEWER.envelope)
    scene.store.stale_reads = 1
    result = scene.run(Role.FOLLOWER)
    assert isinstance(result, Outcome)
    assert result.held == NEWER
    confirmation = scene.load().confirmation
    assert confirmation is not None
    assert confirmation.epoch == EPOCH + 1


@pytest.mark.parametrize("disk", ["nothing", "valid"])
@pytest.mark.parametrize(("fault", "code"), [(Fault.FORBIDDEN, "forbidden"), (Fault.TIMEOUT, "unconfirmed")], ids=str)
def test_a_follower_that_cannot_confirm_has_its_keyset_and_an_alarm(
    disk: str, fault: Fault, code: str, scene: Scene
) -> None:
    DISKS[disk](scene)
    in_store(MINE)(scene)
    scene.store.fail_always("read_leader", fault)
    result = scene.run(Role.FOLLOWER)
    assert isinstance(result, Outcome)
    assert result.held == MINE
    assert [alarm.code for alarm in result.alarms] == [code]
    assert scene.load().confirmation is None


def test_a_keyset_far_ahead_is_accepted_with_an_alarm(scene: Scene) -> None:
    scene.install(chain(1)[0])
    in_store(chain(70)[-1])(scene)
    result = scene.run(Role.FOLLOWER)
    assert isinstance(result, Outcome)
    assert [alarm.code for alarm in result.alarms] == ["ancestry-unproven"]
    assert scene.load().held == chain(70)[-1]


# --- disks that refuse --------------------------------------------------------------------------


def _fail(code: int) -> Callable[..., NoReturn]:
    def call(*_: object, **__: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return call


class FullDisk(System):
    write = staticmethod(_fail(errno.ENOSPC))


class ReadOnlyDisk(System):
    mkdir = staticmethod(_fail(errno.EROFS))

    @staticmethod
    def open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:  # noqa: ANN401 - os.open's
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "read-only")
        return os.open(path, flags, mode, dir_fd=dir_fd)


@pytest.mark.parametrize("role", BOTH)
@pytest.mark.parametrize(
    ("system", "code"),
    [(FullDisk(), "disk-full"), (ReadOnlyDisk(), "disk-read-only")],
    ids=["full", "read-only"],
)
def test_a_disk_that_takes_no_more_starts_from_what_it_holds(
    role: Role, system: System, code: str, scene: Scene
) -> None:
    valid(scene)
    in_store(NEWER)(scene)
    before = snapshot(scene.directory)
    scene.system = system
    result = scene.run(role)
    assert isinstance(result, Outcome)
    assert (result.how, result.held) == ("from-disk", MINE)
    assert [alarm.code for alarm in result.alarms] == [code]
    scene.system = None
    assert scene.load().held == MINE
    assert {name for name in snapshot(scene.directory) if name not in before} <= {"state/archive/.000004.new"} | {
        name for name in snapshot(scene.directory) if name.startswith("state/archive/.000004.new/")
    }
    assert isinstance(scene.run(role), Outcome)
    assert scene.load().held == NEWER


@pytest.mark.parametrize("role", BOTH)
def test_a_full_disk_without_a_keyset_is_a_disk_error(role: Role, scene: Scene) -> None:
    in_store(MINE)(scene)
    scene.system = FullDisk()
    result = scene.run(role)
    assert isinstance(result, DiskFullError)
    assert result.exit_code == 73


def test_a_genesis_that_cannot_be_kept_here_is_not_lost(scene: Scene) -> None:
    scene.system = FullDisk()
    assert isinstance(scene.run(Role.LEADER), DiskFullError)
    scene.system = None
    result = scene.run(Role.LEADER)
    assert isinstance(result, Outcome)
    assert (result.how, result.held, scene.generated) == ("adopted", GENESIS, 1)


def test_a_disk_that_cannot_keep_the_confirmation_keeps_the_key(scene: Scene) -> None:
    valid(scene)
    in_store(MINE)(scene)
    scene.system = FullDisk()
    result = scene.run(Role.FOLLOWER)
    assert isinstance(result, Outcome)
    assert result.how == "unchanged"
    assert [alarm.code for alarm in result.alarms] == ["disk-full"]


@pytest.mark.parametrize("error", [DiskFullError, ReadOnlyDiskError, BusyError])
@pytest.mark.parametrize(
    ("disk", "store", "role", "how"),
    [
        ("nothing", "never written", Role.LEADER, "generated"),
        ("nothing", "newer", Role.LEADER, "adopted"),
        ("valid", "newer", Role.FOLLOWER, "retrieved"),
        ("valid", "the same", Role.FOLLOWER, "unchanged"),
        ("valid", "deleted", Role.LEADER, "republished"),
    ],
)
def test_a_confirmation_that_is_not_kept_is_told(
    *,
    disk: str,
    store: str,
    role: Role,
    how: str,
    error: type[KeydistError],
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    DISKS[disk](scene)
    STORES[store](scene)

    def confirm(self: PosixKeysetDisk, confirmation: Confirmation) -> NoReturn:
        raise error("not kept", fix="look at the disk")

    monkeypatch.setattr(PosixKeysetDisk, "confirm", confirm)
    result = scene.run(role)
    assert isinstance(result, Outcome)
    lost = ["store-lost"] if how == "republished" else []
    assert (result.how, [alarm.code for alarm in result.alarms]) == (how, [*lost, error.code])


@pytest.mark.parametrize("role", BOTH)
@pytest.mark.parametrize("fault", [Fault.UNREACHABLE, Fault.TIMEOUT])
@pytest.mark.parametrize(
    ("disk", "says"), [("corrupt", "damaged"), ("valid, below --min-epoch", "older than demanded")]
)
def test_a_store_that_does_not_answer_hides_no_damage(
    disk: str, says: str, fault: Fault, role: Role, scene: Scene
) -> None:
    failing(fault)(scene)
    bare = scene.run(role)
    assert isinstance(bare, KeydistError)
    DISKS[disk](scene)
    result = scene.run(role)
    assert isinstance(result, type(bare))
    damage = meet_demands(scene.load(), _demands(scene)).damage
    assert damage is not None
    assert says in damage.message
    assert result.message == f"{bare.message} ({damage.message})"
    assert (result.exit_code, result.expected, result.found, result.fix) == (75, bare.expected, bare.found, bare.fix)


class FullBehindTheSwing(System):
    """A disk that fills up right after the live link has swung."""

    def __init__(self) -> None:
        self._swung = False

    def rename(self, src: str, dst: str, **handles: int) -> None:  # type: ignore[override]
        System.rename(src, dst, **handles)
        self._swung = self._swung or dst == "live"

    def write(self, fd: int, data: bytes) -> int:  # type: ignore[override]
        return System.write(fd, data) if not self._swung else _fail(errno.ENOSPC)()


@pytest.mark.parametrize("role", BOTH)
@pytest.mark.parametrize("disk", [nothing, valid])
def test_a_disk_that_fills_up_behind_the_swing_uses_what_is_live(disk: Prepare, role: Role, scene: Scene) -> None:
    disk(scene)
    in_store(NEWER)(scene)
    scene.system = FullBehindTheSwing()
    result = scene.run(role)
    assert isinstance(result, Outcome)
    assert (result.held, result.changed) == (NEWER, True)
    assert result.how == ("adopted" if disk is nothing and role is Role.LEADER else "retrieved")
    assert "disk-full" in {alarm.code for alarm in result.alarms}
    told = [(alarm.code, alarm.message) for alarm in result.alarms]
    assert len(set(told)) == len(told)
    assert scene.load().held == NEWER


def test_a_first_key_on_a_disk_that_fills_up_behind_the_swing_was_generated(scene: Scene) -> None:
    scene.system = FullBehindTheSwing()
    result = scene.run(Role.LEADER)
    assert isinstance(result, Outcome)
    assert (result.how, result.held, result.changed) == ("generated", GENESIS, True)


@pytest.mark.parametrize("swings", [1, 2])
def test_a_disk_that_fails_at_the_second_of_two_epochs_tells_what_was_taken(
    swings: int, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_store(MINE)(scene)
    scene.bucket.put(NEWER.envelope)
    scene.store.stale_reads = 1
    done: list[Held] = []
    install = PosixKeysetDisk.install

    def failing_install(self: PosixKeysetDisk, new: Held, *, based_on: Local, now: int) -> None:
        done.append(new)
        if len(done) <= swings:
            install(self, new, based_on=based_on, now=now)
        if len(done) == 2:
            raise DiskFullError("full", fix="free some")

    monkeypatch.setattr(PosixKeysetDisk, "install", failing_install)
    result = scene.run(Role.FOLLOWER)
    assert isinstance(result, Outcome)
    assert (result.how, result.changed, done) == ("retrieved", True, [MINE, NEWER])
    assert result.held == done[swings - 1] == scene.load().held
    assert [alarm.code for alarm in result.alarms] == ["disk-full"]


class BusyDisk(System):
    """A state directory whose lock somebody else holds for ever."""

    def __init__(self) -> None:
        self._now = 0.0

    def flock(self, fd: int, operation: int) -> None:  # type: ignore[override]
        raise BlockingIOError

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:  # type: ignore[override]
        self._now += seconds


@pytest.mark.parametrize("role", BOTH)
def test_a_stuck_lock_hides_no_refusal_and_stops_no_start(role: Role, scene: Scene) -> None:
    scene.state.mkdir(mode=0o700)
    scene.system = BusyDisk()
    in_store(hold(NEWER.keyset, token=IMPOSTOR))(scene)
    refused = scene.run(role)
    assert isinstance(refused, CommitmentError)
    scene.system = None
    valid(scene)
    scene.system = BusyDisk()
    in_store(MINE)(scene)
    assert isinstance(scene.run(role), Outcome)


def test_two_processes_of_one_node_end_with_one_keyset(scene: Scene) -> None:
    """Another process installs between this one's reading and installing: read again, decide again."""
    in_store(NEWER)(scene)
    other = Scene(directory=scene.directory)
    done: list[str] = []

    def interfere(call: str) -> None:
        if not done:
            done.append(call)
            other.install(MINE)

    scene.store.between = interfere
    result = scene.run(Role.FOLLOWER)
    assert isinstance(result, Outcome)
    assert result.held == NEWER
    assert scene.load().held == NEWER


def test_a_crash_before_the_floor_is_finished_at_the_next_start(scene: Scene) -> None:
    valid(scene)
    (scene.state / "floor.json").unlink()
    (scene.state / "seen.json").unlink()
    in_store(MINE)(scene)
    result = scene.run(Role.FOLLOWER)
    assert isinstance(result, Outcome)
    assert [alarm.code for alarm in result.alarms] == ["floor-rebuilt"]
    again = scene.run(Role.FOLLOWER)
    assert isinstance(again, Outcome)
    assert again.alarms == ()


def test_an_outcome_needs_a_keyset() -> None:
    with pytest.raises(ValueError, match="no verified keyset"):
        start_from_disk(Scene(directory=Path("/nowhere")).disk, Local(), now=0)


def test_absences_all_have_words() -> None:
    from keydist.services import observe  # noqa: PLC0415

    assert set(observe._ABSENT) == set(Absence)
    assert set(observe.WHY_ABSENT) == set(observe._ABSENT.values())
