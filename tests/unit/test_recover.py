"""Recovery that a person asks for: republish, take a side of a fork, restore a backup, rehearse it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from keydist.core import crypto
from keydist.core.accept import Held
from keydist.core.envelope import Place
from keydist.core.keyset import State
from keydist.core.local import Local
from keydist.core.restart import InStore, Role
from keydist.errors import (
    ConflictError,
    CorruptError,
    ForbiddenError,
    ForkError,
    KeydistError,
    MalformedError,
    RefusedOverwriteError,
    RollbackError,
    StoreTimeoutError,
    TamperedError,
    UnreachableError,
    WrongTokenError,
)
from keydist.services.node import Node
from keydist.services.observe import Observation
from keydist.services.recover import inspect_fork, keep_local, keep_store, rehearse, republish, restore
from tests.fakes.clock import VirtualClock
from tests.fakes.memory_store import Fault, MemoryBucket, MemoryKeysetStore
from tests.material import (
    IMPOSTOR,
    OTHER_LINEAGE,
    OTHER_TOKEN,
    PLACE,
    TOKEN,
    Change,
    altered,
    chain,
    demands,
    extend,
    first,
    hold,
    seal_plaintext,
)
from tests.unit.cli_node import disk_in, install

MINE = chain(3)[-1]
OTHER_SIDE = extend(chain(2)[-1], Change.ROTATE, name="other ")
"""Epoch 3 as well, but not mine: both descend from epoch 2."""
LATER = extend(MINE, Change.ROTATE)
STRANGER = first("stranger ", lineage=OTHER_LINEAGE)
FOREIGN = hold(chain(3)[-1].keyset, place=Place(cluster="prod-eu2", location=PLACE.location)).envelope
NEWER_FORMAT = MINE.envelope.replace(
    MINE.envelope.split(b".")[0],
    b"eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwidHlwIjoia2V5ZGlzdC1rZXlzZXQrandlIiwidiI6Mn0",  # v: 2
)


class World:
    """A node with a real disk that holds `MINE`, and a bucket in memory."""

    def __init__(self, directory: Path) -> None:
        self.bucket = MemoryBucket()
        self.store = MemoryKeysetStore(self.bucket)
        self.directory = directory
        self.disk = disk_in(directory)
        self.clock = VirtualClock()
        self.demands = demands()

    @property
    def node(self) -> Node:
        return Node(store=self.store, disk=self.disk, clock=self.clock, demands=self.demands, role=Role.LEADER)

    def install(self, *history: Held) -> Local:
        install(self.directory, *history)
        return self.load()

    def load(self) -> Local:
        return self.disk.load(self.demands.tokens)


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    found.install(*chain(3))
    return found


# --- republish ----------------------------------------------------------------------------------


def deleted(bucket: MemoryBucket) -> None:
    bucket.put(MINE.envelope)
    bucket.delete()


def emptied(bucket: MemoryBucket) -> None:
    bucket.put(MINE.envelope)
    bucket.purge()


def ancestor(bucket: MemoryBucket) -> None:
    bucket.put(chain(1)[-1].envelope)


LOST: dict[str, Callable[[MemoryBucket], None]] = {
    "the bucket is missing": MemoryBucket.drop,
    "nothing was ever written": MemoryBucket.wipe,
    "the entry was deleted": deleted,
    "the bucket was emptied": emptied,
    "it went back to an ancestor": ancestor,
}


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST)
async def test_a_lost_keyset_is_put_back_byte_for_byte(world: World, lose: Callable[[MemoryBucket], None]) -> None:
    lose(world.bucket)
    before = world.load()
    done = await republish(world.node, before)
    assert world.bucket.content() == MINE.envelope
    assert (done.changed, done.held, done.revision) == (True, MINE, world.bucket.last_sequence)
    assert world.load() == before
    asked = [call for call in world.store.calls if call != "create_bucket"]
    assert asked in (["read_leader", "write_first", "read_leader"], ["read_leader", "replace", "read_leader"])
    again = await republish(world.node, before)
    assert (again.changed, again.revision) == (False, done.revision)


KEPT = {
    "a later epoch": (LATER.envelope, "a later epoch of this node's history", "keydist bootstrap"),
    "another side": (OTHER_SIDE.envelope, "another history", "store resolve"),
    "another lineage": (STRANGER.envelope, "another lineage", "store resolve"),
    "another token": (
        hold(MINE.keyset, token=OTHER_TOKEN).envelope,
        "does not hold",
        "store resolve",
    ),
    "the secret of another token": (hold(MINE.keyset, token=IMPOSTOR).envelope, "commit", "store resolve"),
    "altered bytes": (altered(MINE.envelope, -30), "authenticate", "store resolve"),
    "nonsense": (b"a.b", "not a compact JWE", "store resolve"),
    "another cluster's": (FOREIGN, "another cluster", "check cluster"),
    "a newer format": (NEWER_FORMAT, "not one that this release knows", "run the release"),
}


@pytest.mark.parametrize(("stored", "message", "fix"), KEPT.values(), ids=KEPT)
async def test_nothing_else_is_overwritten(world: World, stored: bytes, message: str, fix: str) -> None:
    world.bucket.put(stored)
    with pytest.raises(RefusedOverwriteError) as refused:
        await republish(world.node, world.load())
    assert message in refused.value.message
    assert fix in refused.value.fix
    assert world.bucket.content() == stored
    assert world.bucket.writes == 1


FOUND = {
    "a later epoch": (LATER.envelope, "epoch 4"),
    "another lineage": (STRANGER.envelope, f"lineage {OTHER_LINEAGE}"),
    "nonsense": (b"a.b", "something that must not be used"),
}


@pytest.mark.parametrize(("stored", "found"), FOUND.values(), ids=FOUND)
async def test_a_refusal_says_what_is_there(world: World, stored: bytes, found: str) -> None:
    world.bucket.put(stored)
    with pytest.raises(RefusedOverwriteError) as refused:
        await republish(world.node, world.load())
    assert refused.value.found == found


async def test_who_may_not_ask_why_nothing_is_there_writes_nothing(world: World) -> None:
    world.store = MemoryKeysetStore(world.bucket, may_ask_why=False)
    for recover in (republish, inspect_fork):
        with pytest.raises(RefusedOverwriteError, match="may not ask") as refused:
            await recover(world.node, world.load())
        assert "STREAM.INFO" in refused.value.fix
    assert world.bucket.writes == 0


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.UNREACHABLE, UnreachableError),
        (Fault.TIMEOUT, StoreTimeoutError),
        (Fault.FORBIDDEN, ForbiddenError),
    ],
)
async def test_a_store_that_does_not_answer_is_told_as_such(
    world: World, fault: Fault, error: type[KeydistError]
) -> None:
    world.store.fail_always("read", fault)
    for recover in (republish, inspect_fork):
        with pytest.raises(error):
            await recover(world.node, world.load())


async def test_an_observation_without_an_error_is_still_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def observe(self: Node, local: Local, *, from_leader: bool) -> Observation:
        return Observation(found=InStore.UNREACHABLE, sent=0)

    monkeypatch.setattr(Node, "observe", observe)
    with pytest.raises(UnreachableError, match="cannot be reached"):
        await republish(world.node, world.load())


@pytest.mark.parametrize("fault", [None, Fault.LOST_ACKNOWLEDGEMENT, Fault.TIMEOUT])
async def test_that_the_store_lost_it_is_noted_before_it_is_put_back(world: World, fault: Fault | None) -> None:
    noted: list[int | None] = []
    world.store.between = lambda call: noted.append(world.disk.notes().republished) if call == "write_first" else None
    if fault is not None:
        world.store.fail("write_first", fault)
    with suppress(UnreachableError):
        await republish(world.node, world.load())
    assert noted == [world.clock.now()]


async def test_a_lost_acknowledgement_is_no_failure(world: World) -> None:
    world.store.fail("write_first", Fault.LOST_ACKNOWLEDGEMENT)
    assert (await republish(world.node, world.load())).changed
    assert world.bucket.writes == 1


async def test_a_write_that_did_not_happen_is_a_failure(world: World) -> None:
    world.store.fail("write_first", Fault.TIMEOUT)
    with pytest.raises(UnreachableError, match="cannot be read back"):
        await republish(world.node, world.load())
    assert world.bucket.writes == 0


async def test_an_answer_that_is_lost_after_the_write_is_the_reason(world: World) -> None:
    def break_after(call: str) -> None:
        if call == "write_first":
            world.store.fail_always("read", Fault.UNREACHABLE)

    world.store.between = break_after
    with pytest.raises(UnreachableError, match="NATS cannot be reached"):
        await republish(world.node, world.load())


async def test_of_two_that_put_back_one_wins(world: World) -> None:
    newer = extend(MINE, Change.ROTATE).envelope

    def other_writes(call: str) -> None:
        if call == "write_first":
            world.bucket.put(newer)

    world.store.between = other_writes
    with pytest.raises(ConflictError):
        await republish(world.node, world.load())
    assert world.bucket.content() == newer


NO_KEYSET = pytest.mark.parametrize("damage", [None, MalformedError("damaged")], ids=["nothing", "damage"])


@NO_KEYSET
def test_a_node_without_a_keyset_has_nothing_to_recover_with(world: World, damage: KeydistError | None) -> None:
    local = Local(damage=damage)
    expected = type(damage) if damage else CorruptError
    for recover in (republish, inspect_fork):
        with pytest.raises(expected):
            asyncio.run(recover(world.node, local))


# --- forks --------------------------------------------------------------------------------------


async def test_the_same_bytes_are_no_fork(world: World) -> None:
    world.bucket.put(MINE.envelope)
    assert await inspect_fork(world.node, world.load()) is None


NO_FORK: dict[str, tuple[Callable[[MemoryBucket], object], str, str]] = {
    **{name: (lose, "lost the keyset", "store republish") for name, lose in LOST.items()},
    "a later epoch": (
        lambda bucket: bucket.put(extend(MINE, Change.ROTATE).envelope),
        "a later epoch",
        "keydist bootstrap",
    ),
    "another cluster's": (lambda bucket: bucket.put(FOREIGN), "not a fork", "overwrites neither"),
    "a newer format": (lambda bucket: bucket.put(NEWER_FORMAT), "not a fork", "overwrites neither"),
}


@pytest.mark.parametrize(("befall", "message", "fix"), NO_FORK.values(), ids=NO_FORK)
async def test_what_is_no_fork_is_not_resolved(
    world: World, befall: Callable[[MemoryBucket], object], message: str, fix: str
) -> None:
    befall(world.bucket)
    writes = world.bucket.writes
    with pytest.raises(RefusedOverwriteError, match=message) as refused:
        await inspect_fork(world.node, world.load())
    assert fix in refused.value.fix
    assert world.bucket.writes == writes


async def test_both_sides_are_shown_with_the_keys_that_only_one_has(world: World) -> None:
    world.bucket.put(OTHER_SIDE.envelope)
    fork = await inspect_fork(world.node, world.load())
    assert fork is not None
    assert fork.store is not None
    assert isinstance(fork.reason, ForkError)
    assert fork.obstacle is None
    assert (fork.local.epoch, fork.store.epoch) == (3, 3)
    assert fork.local.kid == fork.store.kid == MINE.keyset.active.kid
    assert fork.local.digest != fork.store.digest
    (only_mine,), (only_theirs,) = fork.local.only_here, fork.store.only_here
    assert only_mine in {key.kid for key in MINE.keyset.keys if key.state is State.NEXT}
    assert only_theirs in {key.kid for key in OTHER_SIDE.keyset.keys if key.state is State.NEXT}
    assert fork.local.token_id == TOKEN.token_id


async def test_keeping_local_overwrites_the_store_only(world: World) -> None:
    world.bucket.put(OTHER_SIDE.envelope)
    before = world.load()
    fork = await inspect_fork(world.node, before)
    assert fork is not None
    done = await keep_local(world.node, before, fork)
    assert (done.held, done.changed, done.revision) == (MINE, True, 2)
    assert world.bucket.content() == MINE.envelope
    assert world.load() == before


@pytest.mark.parametrize("theirs", [OTHER_SIDE, STRANGER], ids=["of my lineage", "of another"])
async def test_keeping_store_overwrites_the_disk_only(world: World, theirs: Held) -> None:
    world.bucket.put(theirs.envelope)
    fork = await inspect_fork(world.node, world.load())
    assert fork is not None
    done = keep_store(world.node, world.load(), fork)
    assert (done.held, done.changed, done.revision) == (theirs, True, 1)
    assert world.load().held == theirs
    assert world.load().damage is None
    assert world.bucket.writes == 1
    assert await inspect_fork(world.node, world.load()) is None


UNOPENABLE = {
    "altered": (altered(MINE.envelope, -30), TamperedError),
    "nonsense": (b"nonsense", MalformedError),
    "another token": (hold(MINE.keyset, token=OTHER_TOKEN).envelope, WrongTokenError),
    "no keyset": (seal_plaintext(b"{}"), MalformedError),
}


@pytest.mark.parametrize(("stored", "reason"), UNOPENABLE.values(), ids=UNOPENABLE)
async def test_a_side_that_cannot_be_opened_cannot_be_kept_but_can_be_overwritten(
    world: World, stored: bytes, reason: type[KeydistError]
) -> None:
    world.bucket.put(stored)
    before = world.load()
    fork = await inspect_fork(world.node, before)
    assert fork is not None
    assert (fork.store, fork.store_held) == (None, None)
    assert isinstance(fork.reason, reason)
    assert fork.local.only_here == tuple(key.kid for key in MINE.keyset.signing_keys())
    with pytest.raises(reason):
        keep_store(world.node, before, fork)
    with pytest.raises(reason):  # whatever else is known
        keep_store(world.node, before, replace(fork, obstacle=None))
    assert world.load() == before
    assert (await keep_local(world.node, before, fork)).changed


async def test_a_pinned_lineage_is_not_given_up(world: World) -> None:
    world.demands = demands(lineage=MINE.keyset.lineage)
    world.bucket.put(STRANGER.envelope)
    before = world.load()
    fork = await inspect_fork(world.node, before)
    assert fork is not None
    assert fork.store is not None
    with pytest.raises(ForkError, match="configured") as refused:
        keep_store(world.node, before, fork)
    assert "lineage:" in refused.value.fix
    assert world.load() == before


async def test_a_revoked_key_does_not_come_back_with_the_stores_side(tmp_path: Path) -> None:
    world = World(tmp_path)
    base = chain(2)
    mine = extend(base[-1], Change.REVOKE_ACTIVE)
    world.install(*base, mine)
    world.bucket.put(OTHER_SIDE.envelope)
    before = world.load()
    fork = await inspect_fork(world.node, before)
    assert fork is not None
    with pytest.raises(RefusedOverwriteError, match="seen revoked") as refused:
        keep_store(world.node, before, fork)
    assert base[-1].keyset.active.kid in refused.value.found
    assert world.load() == before


async def test_a_side_under_a_replaced_token_is_not_taken(tmp_path: Path) -> None:
    world = World(tmp_path)
    base = chain(2)
    mine = extend(base[-1], Change.RESEAL, token=OTHER_TOKEN)
    world.demands = demands(tokens=(OTHER_TOKEN, TOKEN))
    world.install(*base, mine)
    forged = extend(extend(base[-1], Change.ROTATE, name="forged "), Change.ROTATE, name="forged again ")
    world.bucket.put(forged.envelope)
    before = world.load()
    fork = await inspect_fork(world.node, before)
    assert fork is not None
    with pytest.raises(RefusedOverwriteError, match="seen replaced") as refused:
        keep_store(world.node, before, fork)
    assert TOKEN.token_id in refused.value.found
    assert world.load() == before


async def test_keeping_local_is_refused_where_the_store_moved_on_meanwhile(world: World) -> None:
    world.bucket.put(OTHER_SIDE.envelope)
    before = world.load()
    fork = await inspect_fork(world.node, before)
    assert fork is not None
    later = extend(OTHER_SIDE, Change.ROTATE).envelope
    world.bucket.put(later)
    with pytest.raises(ConflictError):
        await keep_local(world.node, before, fork)
    assert world.bucket.content() == later


@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.LOST_ACKNOWLEDGEMENT])
async def test_keeping_local_reads_back(world: World, fault: Fault) -> None:
    world.bucket.put(OTHER_SIDE.envelope)
    before = world.load()
    fork = await inspect_fork(world.node, before)
    assert fork is not None
    world.store.fail("replace", fault)
    if fault is Fault.LOST_ACKNOWLEDGEMENT:
        assert (await keep_local(world.node, before, fork)).changed
    else:
        with pytest.raises(ForkError):
            await keep_local(world.node, before, fork)


async def test_keeping_store_is_refused_where_the_disk_moved_on_meanwhile(world: World) -> None:
    world.bucket.put(OTHER_SIDE.envelope)
    before = world.load()
    fork = await inspect_fork(world.node, before)
    assert fork is not None
    world.install(extend(MINE, Change.ROTATE))
    with pytest.raises(ConflictError):
        keep_store(world.node, before, fork)


# --- restore and its rehearsal ------------------------------------------------------------------


def test_a_backup_restores_a_node_that_lost_everything(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert rehearse(world.node, world.load(), MINE.envelope) == MINE
    assert world.load() == Local()
    assert restore(world.node, world.load(), MINE.envelope).changed
    assert world.load().held == MINE
    again = restore(world.node, world.load(), MINE.envelope)
    assert (again.changed, again.held) == (False, MINE)


def test_an_earlier_epoch_of_this_history_is_a_good_backup_but_is_not_restored(world: World) -> None:
    local = world.load()
    for held in chain(3):
        assert rehearse(world.node, local, held.envelope) == held
    with pytest.raises(RollbackError):
        restore(world.node, local, chain(2)[-1].envelope)
    assert world.load() == local


def test_a_later_epoch_restores(world: World) -> None:
    later = extend(MINE, Change.ROTATE)
    assert rehearse(world.node, world.load(), later.envelope) == later
    assert restore(world.node, world.load(), later.envelope).held == later
    assert world.load().held == later


BAD = {
    "tampered": (altered(MINE.envelope, -30), TamperedError),
    "another token": (hold(MINE.keyset, token=OTHER_TOKEN).envelope, WrongTokenError),
    "another side": (OTHER_SIDE.envelope, ForkError),
    "another lineage": (STRANGER.envelope, ForkError),
    "nothing": (b"", MalformedError),
}


@pytest.mark.parametrize(("envelope", "error"), BAD.values(), ids=BAD)
def test_a_rehearsal_refuses_what_a_restore_refuses(world: World, envelope: bytes, error: type[KeydistError]) -> None:
    local = world.load()
    for attempt in (rehearse, restore):
        with pytest.raises(error):
            attempt(world.node, local, envelope)
    assert world.load() == local


@pytest.mark.parametrize(("epoch", "error"), [(3, None), (2, RollbackError)])
def test_a_floor_holds_without_a_keyset(
    world: World, tmp_path: Path, epoch: int, error: type[KeydistError] | None
) -> None:
    (tmp_path / "state" / "live").unlink()
    local = world.load()
    assert local.held is None
    envelope = chain(epoch)[-1].envelope
    if error is None:
        assert rehearse(world.node, local, envelope) == MINE
        assert restore(world.node, local, envelope).changed
        assert world.load().held == MINE
        return
    for attempt in (rehearse, restore):
        with pytest.raises(error):
            attempt(world.node, local, envelope)


def test_a_key_that_does_not_sign_is_found_by_the_rehearsal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crypto, "sign", lambda *_: bytes(64))
    with pytest.raises(TamperedError, match="does not fit"):
        rehearse(world.node, world.load(), MINE.envelope)
