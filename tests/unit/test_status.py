"""How a node stands: every state of the store, and the exit code that the worst alarm gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keydist.core.local import Confirmation, Local
from keydist.core.restart import InStore, Role
from keydist.core.rotation import SCHEDULE
from keydist.errors import (
    ClockBehindError,
    ConfigError,
    CorruptError,
    DiskError,
    ForkError,
    KeydistError,
    OutdatedError,
    OverdueError,
    RollbackError,
    StoreLostError,
    TransientError,
    UnreachableError,
    WrongTokenError,
)
from keydist.services.node import Node
from keydist.services.observe import Observation
from keydist.services.status import Schedule, Standing, by_time, schedule, standing, worst
from tests.fakes.clock import VirtualClock
from tests.fakes.memory_store import Fault, MemoryBucket, MemoryKeysetStore
from tests.material import DAY, NOW, OTHER_TOKEN, Change, chain, demands, extend, floor_of, hold, notes_of
from tests.unit.cli_node import disk_in

MINE = chain(2)[-1]
LOCAL = Local(held=MINE, floor=floor_of(MINE))


def node(store: MemoryKeysetStore, directory: Path) -> Node:
    return Node(store=store, disk=disk_in(directory), clock=VirtualClock(), demands=demands(), role=Role.FOLLOWER)


STORES: dict[str, tuple[bytes | None, InStore, type[KeydistError] | None]] = {
    "mine": (MINE.envelope, InStore.SAME, None),
    "a later epoch": (extend(MINE, Change.ROTATE).envelope, InStore.ACCEPTABLE, OutdatedError),
    "an ancestor": (chain(1)[-1].envelope, InStore.ANCESTOR, RollbackError),
    "another side": (extend(chain(1)[-1], Change.ROTATE, name="x").envelope, InStore.REFUSED, ForkError),
    "another token": (hold(MINE.keyset, token=OTHER_TOKEN).envelope, InStore.REFUSED, WrongTokenError),
    "nothing": (None, InStore.NEVER_WRITTEN, StoreLostError),
}


@pytest.mark.parametrize(("stored", "found", "alarm"), STORES.values(), ids=STORES)
async def test_the_store_is_compared_by_a_read_from_its_leader(
    tmp_path: Path, stored: bytes | None, found: InStore, alarm: type[KeydistError] | None
) -> None:
    bucket = MemoryBucket()
    if stored is not None:
        bucket.put(stored)
    store = MemoryKeysetStore(bucket)
    stands = await standing(node(store, tmp_path), LOCAL)
    assert stands.found is found
    assert [type(one) for one in stands.alarms] == ([alarm] if alarm else [])
    assert stands.exit_code == (alarm.exit_code if alarm else 0)
    assert store.calls == ["read_leader"]


@pytest.mark.parametrize(
    ("fault", "found", "code"),
    [
        (Fault.UNREACHABLE, InStore.UNREACHABLE, 75),
        (Fault.TIMEOUT, InStore.UNREACHABLE, 75),
        (Fault.FORBIDDEN, InStore.FORBIDDEN, 77),
        (Fault.REFUSED, InStore.FORBIDDEN, 77),
    ],
)
async def test_a_store_that_does_not_answer_is_an_alarm(
    tmp_path: Path, fault: Fault, found: InStore, code: int
) -> None:
    store = MemoryKeysetStore(MemoryBucket())
    store.fail("read", fault)
    stands = await standing(node(store, tmp_path), LOCAL)
    assert (stands.found, stands.exit_code) == (found, code)


@pytest.mark.parametrize(
    ("fault", "code", "asked"),
    [
        (Fault.TIMEOUT, "unconfirmed", ["read_leader", "read_direct"]),
        (Fault.UNREACHABLE, "unreachable", ["read_leader"]),
    ],
)
async def test_where_a_replica_answers_and_the_leader_does_not_the_epoch_is_unconfirmed(
    fault: Fault, code: str, asked: list[str], tmp_path: Path
) -> None:
    """Where no server is there, nobody waits for that twice."""
    bucket = MemoryBucket()
    bucket.put(MINE.envelope)
    store = MemoryKeysetStore(bucket)
    store.fail_always("read_leader", fault)
    found = await standing(node(store, tmp_path), LOCAL)
    assert ([alarm.code for alarm in found.alarms], store.calls) == ([code], asked)
    assert found.found is InStore.UNREACHABLE


async def test_the_disks_own_alarms_come_first(tmp_path: Path) -> None:
    disks, told = DiskError("the disk's"), ConfigError("the caller's")
    local = Local(held=MINE, floor=floor_of(MINE), alarms=(disks,))
    stands = await standing(node(MemoryKeysetStore(MemoryBucket()), tmp_path), local, told)
    assert stands.alarms[:2] == (disks, told)
    assert isinstance(stands.alarms[2], StoreLostError)


@pytest.mark.parametrize(("ahead", "alarms"), [(-1, 0), (30, 0), (31, 1)])
async def test_a_clock_behind_the_confirmation_is_an_alarm(tmp_path: Path, ahead: int, alarms: int) -> None:
    bucket = MemoryBucket()
    bucket.put(MINE.envelope)
    ports = node(MemoryKeysetStore(bucket), tmp_path)
    now = ports.clock.now()
    local = LOCAL._replace(confirmation=Confirmation(epoch=2, digest=MINE.digest, at=now + ahead))
    stands = await standing(ports, local, *by_time(local, notes_of(MINE), now=now, rehearse_every=0, leads=True))
    assert [type(alarm) for alarm in stands.alarms] == [ClockBehindError] * alarms
    assert stands.exit_code == (75 if alarms else 0)


FIRST = Local(held=chain(1)[0], floor=floor_of(chain(1)[0]))
NOTES = notes_of(chain(1)[0])._replace(rehearsed=NOW)
LATE: dict[str, tuple[int, int, list[str]]] = {  # seconds after everything was noted, how often a rehearsal is due
    "in time": (DAY, DAY, []),
    "a rehearsal too long ago": (DAY + 1, DAY, ["the last rehearsal of a backup is too long ago"]),
    "nobody asks for rehearsals": (DAY + 1, 0, []),
    "due": (30 * DAY + 900, 0, []),
    "overdue": (30 * DAY + 901, 0, ["a rotation is overdue: its time came"]),
}


@pytest.mark.parametrize(("passed", "every", "messages"), LATE.values(), ids=LATE)
def test_what_time_brings_about(passed: int, every: int, messages: list[str]) -> None:
    late = by_time(FIRST, NOTES, now=NOW + passed, rehearse_every=every, leads=True)
    assert [alarm.message for alarm in late] == messages
    assert {type(alarm) for alarm in late} <= {OverdueError}


def test_a_node_that_never_rehearsed_is_not_alarmed() -> None:
    assert by_time(LOCAL, notes_of(MINE), now=NOW + DAY, rehearse_every=1, leads=True) == ()


def test_a_node_without_a_keyset_is_late_with_its_rehearsal_only() -> None:
    assert len(by_time(Local(), NOTES, now=NOW + 60 * DAY, rehearse_every=DAY, leads=True)) == 1


def test_when_the_next_rotation_is_due() -> None:
    assert schedule(chain(1)[0], NOTES, now=NOW + 5) == Schedule(due=NOW + 30 * DAY, why=SCHEDULE, opens=NOW + 900)
    unscheduled = hold(replace(chain(1)[0].keyset, policy=replace(MINE.keyset.policy, rotate_every=0)))
    assert schedule(unscheduled, NOTES, now=NOW) == Schedule(due=None, why=None, opens=NOW + 900)


def test_the_worst_of_no_codes_is_none() -> None:
    assert (worst([]), worst([0]), worst([0, 75])) == (0, 0, 75)


async def test_a_node_without_a_keyset_is_behind(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    bucket.put(MINE.envelope)
    stands = await standing(node(MemoryKeysetStore(bucket), tmp_path), Local(damage=CorruptError("damaged")))
    (alarm,) = stands.alarms
    assert isinstance(alarm, OutdatedError)
    assert (alarm.expected, alarm.found) == ("epoch 2", "no keyset")


async def test_how_far_behind_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = MemoryBucket()
    bucket.put(chain(4)[-1].envelope)
    (alarm,) = (await standing(node(MemoryKeysetStore(bucket), tmp_path), LOCAL)).alarms
    assert (alarm.expected, alarm.found) == ("epoch 4", "epoch 2")

    async def observe(self: Node, local: Local, *, from_leader: bool) -> Observation:
        return Observation(found=InStore.ACCEPTABLE, sent=0)  # of which nothing else is known

    monkeypatch.setattr(Node, "observe", observe)
    (alarm,) = (await standing(node(MemoryKeysetStore(bucket), tmp_path), LOCAL)).alarms
    assert alarm.expected == "epoch 0"


TRUST, PERMISSION, DISK, CONFIG, TRANSIENT, UNKNOWN = (
    ForkError("x"),
    WrongTokenError("x", have=(), need="y", fix=""),
    DiskError("x"),
    ConfigError("x"),
    UnreachableError("x"),
    KeydistError("x"),
)


@pytest.mark.parametrize(
    ("alarms", "code"),
    [
        ((), 0),
        ((UNKNOWN,), 70),
        ((UNKNOWN, TRANSIENT), 75),
        ((TRANSIENT,), 75),
        ((TRANSIENT, CONFIG), 78),
        ((CONFIG, TRANSIENT, DISK), 73),
        ((DISK, PERMISSION, CONFIG), 77),
        ((PERMISSION, DISK, TRANSIENT, CONFIG, TRUST), 65),
    ],
)
def test_the_worst_alarm_gives_the_exit_code(alarms: tuple[KeydistError, ...], code: int) -> None:
    assert Standing(found=None, alarms=alarms).exit_code == code
    assert Standing(found=None, alarms=tuple(reversed(alarms))).exit_code == code
    assert issubclass(OutdatedError, TransientError)
