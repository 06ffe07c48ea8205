"""What a node is at a moment: one event a change, everybody woken, and nothing that a listener does stops it."""

from __future__ import annotations

import asyncio

import pytest

from keydist.core.accept import Held
from keydist.core.local import Local
from keydist.core.notes import Notes
from keydist.core.restart import InStore
from keydist.errors import DiskError, ForkError, KeydistError, StoreLostError, UnreachableError
from keydist.services.present import Present
from tests.fakes.clock import VirtualClock
from tests.fakes.journal import RecordingJournal
from tests.fakes.memory_disk import MemoryKeysetDisk
from tests.material import NOW, Change, chain, extend

ONE, TWO = chain(2)
DOWN, FORK = UnreachableError("no server answers"), ForkError("another history")


class Deaf:
    """A `Listener` with a defect."""

    def changed(self, held: Held) -> None:
        raise ZeroDivisionError


class Hearing:
    def __init__(self) -> None:
        self.heard: list[Held] = []

    def changed(self, held: Held) -> None:
        self.heard.append(held)


class Disk(MemoryKeysetDisk):
    """A disk whose notes cannot be read for a while."""

    is_broken = False

    def notes(self) -> Notes:
        if self.is_broken:
            raise DiskError("the disk cannot be read")
        return super().notes()


class Scene:
    def __init__(self) -> None:
        self.clock, self.journal, self.disk, self.hearing = VirtualClock(), RecordingJournal(), Disk(), Hearing()
        self.present = Present(clock=self.clock, disk=self.disk, journal=self.journal, listeners=(Deaf(), self.hearing))
        self.wakes = [self.present.change() for _ in range(2)]

    def take(self, held: Held | None, *, how: str = "retrieved") -> None:
        self.present.take(Local(held=held), found=InStore.SAME, how=how)

    def woken(self) -> list[bool]:
        """Tell who was woken since it was asked last."""
        found = [wake.is_set() for wake in self.wakes]
        for wake in self.wakes:
            wake.clear()
        return found


@pytest.fixture
def scene() -> Scene:
    return Scene()


NOBODY, EVERYBODY = [False, False], [True, True]


def test_each_change_of_the_keyset_is_one_event_and_wakes_everybody(scene: Scene) -> None:
    scene.take(ONE)
    assert scene.woken() == EVERYBODY
    scene.take(ONE)
    assert scene.woken() == NOBODY
    scene.take(TWO)
    assert scene.woken() == EVERYBODY
    told = scene.journal.named("keyset-taken")
    assert [(event["epoch"], event["was"]) for event in told] == [(1, None), (2, 1)]
    assert scene.hearing.heard == [ONE, TWO]
    assert scene.present.found is InStore.SAME


def test_another_keyset_of_the_same_epoch_is_a_change(scene: Scene) -> None:
    scene.take(TWO)
    scene.take(extend(ONE, Change.RESEAL))
    assert len(scene.hearing.heard) == 2


def test_a_listener_with_a_defect_stops_nothing_and_is_told(scene: Scene) -> None:
    scene.take(ONE)
    assert scene.hearing.heard == [ONE]
    assert scene.journal.named("not-told") == [{"found": "ZeroDivisionError"}]
    assert scene.woken() == EVERYBODY


def test_when_a_keyset_was_taken_in_is_known(scene: Scene) -> None:
    scene.clock.advance(7)
    scene.take(ONE)
    scene.clock.advance(7)
    scene.take(ONE)
    assert scene.present.loaded == NOW + 7


def test_a_keyset_that_another_process_forgot_is_gone_and_told(scene: Scene) -> None:
    scene.take(ONE)
    scene.woken()
    scene.take(None)
    assert scene.present.held is None
    assert scene.journal.named("keyset-gone") == [{"epoch": 1}]
    assert scene.woken() == EVERYBODY
    scene.take(None)
    assert len(scene.journal.named("keyset-gone")) == 1
    assert scene.woken() == NOBODY


@pytest.mark.parametrize(
    ("alarms", "told", "over"),
    [
        pytest.param([[DOWN], [DOWN]], ["unreachable"], [], id="the same alarm is told once"),
        pytest.param([[DOWN], []], ["unreachable"], ["unreachable"], id="its end is told once"),
        pytest.param([[DOWN], [FORK]], ["unreachable", "fork"], ["unreachable"], id="one in place of another"),
        pytest.param([[DOWN, DOWN]], ["unreachable"], [], id="twice at once is once"),
        pytest.param([[FORK], [FORK, DOWN], [DOWN]], ["fork", "unreachable"], ["fork"], id="one beside another"),
        pytest.param([[], []], [], [], id="nothing"),
    ],
)
def test_alarms_are_one_event_each(
    scene: Scene, alarms: list[list[KeydistError]], told: list[str], over: list[str]
) -> None:
    for standing in alarms:
        scene.present.alarm("store", *standing)
    assert [event["alarm"].code for event in scene.journal.named("alarm")] == told  # type: ignore[attr-defined]
    assert [event["code"] for event in scene.journal.named("alarm-over")] == over
    assert scene.present.alarms == tuple(dict.fromkeys(alarms[-1]))


def test_only_a_change_of_alarms_wakes(scene: Scene) -> None:
    woken = []
    for alarms in ((DOWN,), (DOWN,), (UnreachableError("no server answers", found="elsewhere"),), (), ()):
        scene.present.alarm("store", *alarms)
        woken.append(scene.woken())
    assert woken == [EVERYBODY, NOBODY, NOBODY, EVERYBODY, NOBODY]


def test_each_source_has_alarms_of_its_own_and_the_node_each_alarm_once(scene: Scene) -> None:
    scene.present.alarm("store", DOWN)
    scene.present.alarm("records", UnreachableError("no server answers"), StoreLostError("gone"))
    assert [alarm.code for alarm in scene.present.alarms] == ["unreachable", "store-lost"]
    scene.present.alarm("store")
    assert [alarm.code for alarm in scene.present.alarms] == ["unreachable", "store-lost"]


def test_notes_that_cannot_be_read_are_what_they_were(scene: Scene) -> None:
    assert scene.present.notes().republished is None
    scene.disk.note_done(republished=NOW)
    assert scene.present.notes().republished == NOW
    scene.disk.is_broken = True
    assert scene.present.notes().republished == NOW


def test_putting_back_counts_even_where_the_disk_took_no_note_of_it(scene: Scene) -> None:
    scene.take(ONE)
    scene.clock.advance(5)
    scene.take(ONE, how="republished")
    assert scene.present.notes().republished == NOW + 5
    scene.disk.note_done(republished=NOW + 9)  # by a command on this node
    assert scene.present.notes().republished == NOW + 9


async def test_whoever_writes_waits_for_who_writes(scene: Scene) -> None:
    order = []

    async def write(name: str) -> None:
        async with scene.present.writing:
            order.append(name)
            await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0)
            order.append(name)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write("a"))
        tasks.create_task(write("b"))
    assert order == ["a", "a", "b", "b"]
