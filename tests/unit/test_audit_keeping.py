"""The part of an agent that keeps the trail: what it notes, folds, ships, and when it alarms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keydist.adapters.trail.auditor import JournalAuditor, WaitingRoom
from keydist.adapters.trail.journal import FileJournal
from keydist.adapters.trail.spool import MintSpool, batches, fold_spools
from keydist.core.accept import Held
from keydist.core.audit_record import Entry, parse_entry
from keydist.core.restart import Role
from keydist.errors import AuditBehindError, BrokenTrailError, DiskError, InternalError, KeydistError, UnsafeFileError
from keydist.services import keep_trail
from keydist.services.keep_trail import LATE_SECONDS, LOOK_SECONDS, ROUND_SECONDS, Keeper, Minting, Unrecorded
from keydist.services.ship_trail import Shipper
from tests.fakes.clock import VirtualClock
from tests.fakes.entropy import NumberedEntropy
from tests.fakes.faulty_system import FaultySystem
from tests.fakes.journal import RecordingJournal
from tests.fakes.memory_store import Fault
from tests.fakes.memory_trail import MemoryTrail, MemoryTrailStream
from tests.unit.audit_material import NODE, THREE, WHO, event_of, mint

ONE, TWO, THIRD = THREE


class World:
    def __init__(self, folder: Path, *, ships: bool = True, mints: bool = True) -> None:
        self.state, self.runtime = folder / "state", folder / "run"
        self.state.mkdir(mode=0o700, exist_ok=True)
        self.clock, self.log = VirtualClock(), RecordingJournal()
        self.journal = FileJournal(str(self.state), NODE, NumberedEntropy("x"), system=FaultySystem())
        self.trail = MemoryTrail()
        self.stream = MemoryTrailStream(self.trail)
        shipper = Shipper(self.journal, self.stream, node=NODE.node, role=Role.FOLLOWER)

        def fold(keep: Callable[..., bool]) -> None:
            fold_spools(str(self.runtime), keep)

        waiting, unrecorded = WaitingRoom(), Unrecorded()

        def keeper() -> Keeper:
            return Keeper(
                self.journal,
                lambda told: JournalAuditor(self.journal, self.clock, lambda: WHO, told, waiting),
                clock=self.clock,
                entropy=NumberedEntropy("y"),
                log=self.log,
                shipper=shipper if ships else None,
                minting=Minting(fold=fold, batches=batches) if mints else None,
                unrecorded=unrecorded,
            )

        self._another, self.keeper = keeper, keeper()

    def reload(self, held: Held) -> None:
        """Go on with another keeper, as an agent does that reads its configuration again."""
        self.keeper = self._another()
        self.keeper.changed(held)

    async def turns(self, count: int, *, each: float = ROUND_SECONDS) -> None:
        for _ in range(count):
            await self.keeper.turn()
            self.clock.advance(each)

    def entries(self) -> list[Entry]:
        return [parse_entry(raw) for raw in self.journal.read_after(None, most=1000)]

    def whats(self) -> list[tuple[str, int]]:
        return [(entry.what, entry.epoch) for entry in self.entries()]

    def codes(self) -> list[str]:
        return [alarm.code for alarm in self.keeper.alarms()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_without_a_keyset_nothing_is_done(world: World) -> None:
    await world.turns(5)
    assert (world.whats(), world.stream.calls, world.codes()) == ([], [], [])


async def test_a_keyset_that_no_record_tells_of_is_noted_at_the_second_look(world: World) -> None:
    world.keeper.changed(ONE)
    await world.turns(1)
    assert world.whats() == []
    await world.turns(5)
    assert world.whats() == [("found", 1)]
    world.keeper.changed(TWO)
    await world.turns(1)
    world.keeper.auditor.note(event_of(TWO))  # who installed it was about to say so
    await world.turns(5)
    assert world.whats() == [("found", 1), ("epoch", 2)]
    assert world.trail.of(NODE.node) == list(world.journal.read_after(None, most=9))


async def test_an_agent_that_is_behind_a_command_notes_nothing(world: World) -> None:
    world.keeper.changed(ONE)
    await world.turns(5)
    world.keeper.auditor.note(event_of(TWO))
    await world.turns(5)
    assert world.whats() == [("found", 1), ("epoch", 2)]


async def test_nothing_is_asked_while_nothing_changes(world: World) -> None:
    world.keeper.changed(ONE)
    await world.turns(5)
    asked = len(world.stream.calls)
    await world.turns(50)
    assert len(world.stream.calls) == asked


async def test_what_was_minted_is_recorded(world: World) -> None:
    world.keeper.changed(ONE)
    spool = MintSpool(str(world.runtime))
    for number in range(3):
        spool.minted(mint(number))
    await world.turns(4)
    (minted,) = [entry for entry in world.entries() if entry.what == "minted"]
    assert [one.jti for one in minted.minted] == ["0", "1", "2"]
    assert minted.facts == {}


async def test_without_the_option_nothing_that_was_minted_is_looked_for(tmp_path: Path) -> None:
    world = World(tmp_path, ships=False, mints=False)
    world.keeper.changed(ONE)
    MintSpool(str(world.runtime)).minted(mint(1))
    await world.turns(4)
    assert world.whats() == [("found", 1)]
    assert world.stream.calls == []


async def test_what_cannot_be_written_is_an_alarm_and_what_was_minted_stays(world: World) -> None:
    world.keeper.changed(ONE)
    await world.turns(3)
    MintSpool(str(world.runtime)).minted(mint(1))
    (world.state / "audit").chmod(0o777)
    await world.turns(3)
    assert world.codes() == [UnsafeFileError.code]
    (world.state / "audit").chmod(0o700)
    await world.turns(3)
    assert world.codes() == []
    assert world.whats() == [("found", 1), ("minted", 1)]


async def test_a_lock_that_is_not_given_keeps_what_was_minted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.keeper.changed(ONE)
    await world.turns(3)
    MintSpool(str(world.runtime)).minted(mint(1))
    with monkeypatch.context() as patch:
        patch.setattr(FileJournal, "append", lambda *_args, **_options: 1 / 0)
        await world.turns(1)
        assert world.codes() == [InternalError.code]
    await world.turns(1)
    assert world.codes() == []
    assert world.whats()[-1] == ("minted", 1)


async def test_while_too_much_waits_jwts_are_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_trail, "MOST_WAITING", 0)
    world.stream.fail_always("any", Fault.UNREACHABLE)
    world.keeper.changed(ONE)
    await world.turns(3)
    spool = MintSpool(str(world.runtime))
    spool.minted(mint(1))
    spool.minted(mint(2))
    await world.turns(3)
    assert world.whats() == [("found", 1)]  # what happens to the keyset is recorded all the same
    world.keeper.auditor.note(event_of(TWO))
    assert [alarm.found for alarm in world.keeper.alarms()] == ["2 left out"]
    monkeypatch.setattr(keep_trail, "MOST_WAITING", 1 << 30)
    spool.minted(mint(3))
    await world.turns(1)
    last = world.entries()[-1]
    assert (last.facts, [one.jti for one in last.minted]) == ({"left_out": 2}, ["3"])
    assert world.codes() == []


async def test_what_a_process_left_out_is_recorded_by_its_number(world: World) -> None:
    world.keeper.changed(ONE)
    spool = MintSpool(str(world.runtime))
    spool.minted(mint(1))
    (file,) = (world.runtime / "audit-mints").iterdir()
    file.write_bytes(b'{"left_out":5}\n')
    await world.turns(3)
    assert [(entry.facts, entry.minted) for entry in world.entries()[1:]] == [({"left_out": 5}, ())]


async def test_a_stream_that_never_took_a_record_is_told_once_and_is_no_alarm(world: World) -> None:
    world.trail.exists = False
    world.keeper.changed(ONE)
    await world.turns(300, each=3 * LATE_SECONDS / 300)
    assert world.codes() == []
    assert len(world.log.named("audit-not-shipped")) == 1
    assert 10 < len(world.stream.calls) < 100  # it is looked for now and then
    world.trail.exists = True
    await world.turns(40, each=10)
    assert len(world.trail.of(NODE.node)) == 1
    assert len(world.log.named("audit-shipped")) == 1


async def test_a_stream_that_takes_no_more_is_an_alarm_after_an_hour(world: World) -> None:
    world.keeper.changed(ONE)
    await world.turns(4)
    world.keeper.auditor.note(event_of(TWO))
    world.stream.fail_always("any", Fault.FORBIDDEN)
    await world.turns(300, each=(LATE_SECONDS - 1) / 300)
    assert world.codes() == []
    await world.turns(3)
    (alarm,) = world.keeper.alarms()
    assert isinstance(alarm, AuditBehindError)
    assert "does not allow" in alarm.message
    world.stream.heal()
    await world.turns(40, each=10)
    assert world.codes() == []
    assert len(world.trail.of(NODE.node)) == 2


async def test_another_record_in_the_stream_is_an_alarm_at_once(world: World) -> None:
    world.keeper.changed(ONE)
    await world.turns(4)
    world.keeper.auditor.note(event_of(TWO))
    record = world.journal.read_after(None, most=9)[-1]
    world.trail.put(NODE.node, record.replace(b'"at":18', b'"at":17'))
    await world.turns(1)
    assert world.codes() == [BrokenTrailError.code]


async def test_a_defect_ends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.keeper.changed(ONE)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryTrailStream, "last", lambda *_: 1 / 0)
        await world.turns(4)
        (told,) = world.log.named("audit-not-shipped")
        assert isinstance(told["reason"], KeydistError)
        assert told["reason"].found.startswith("ZeroDivisionError")
    await world.turns(40, each=10)
    assert len(world.trail.of(NODE.node)) == 1


async def test_what_takes_too_long_goes_on_at_the_next_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_trail, "_SHIP_SECONDS", 0.01)
    world.keeper.changed(ONE)
    real = world.stream.publish

    async def slow(node: str, record: bytes, *, after: int) -> int:
        await asyncio.get_running_loop().create_future()
        return await real(node, record, after=after)

    world.stream.publish = slow  # type: ignore[method-assign]
    await world.turns(3)
    assert world.codes() == []
    world.stream.publish = real  # type: ignore[method-assign]
    await world.turns(1)
    assert len(world.trail.of(NODE.node)) == 1


async def test_it_runs_until_it_is_cancelled(world: World) -> None:
    world.keeper.changed(ONE)
    slept = world.clock.sleep

    async def sleep(seconds: float) -> None:
        await slept(seconds)
        if world.clock.monotonic() > 10:
            raise asyncio.CancelledError

    world.clock.sleep = sleep  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await world.keeper.run()
    assert len(world.trail.of(NODE.node)) == 1


async def test_what_an_agent_folds_before_it_sees_a_commands_keyset_hides_no_record(world: World) -> None:
    world.keeper.changed(ONE)
    await world.turns(3)
    spool = MintSpool(str(world.runtime))
    world.keeper.auditor.note(event_of(TWO))  # by a command beside it
    spool.minted(mint(1))
    await world.turns(1)
    world.keeper.changed(TWO)
    await world.turns(5)
    assert world.whats() == [("found", 1), ("epoch", 2), ("minted", 1)]


async def test_jwts_wait_for_the_record_of_the_keyset_that_signs_them(world: World) -> None:
    world.keeper.changed(ONE)  # a crash came before its record
    MintSpool(str(world.runtime)).minted(mint(1))
    await world.turns(3)
    assert world.whats() == [("found", 1), ("minted", 1)]
    world.keeper.changed(ONE)
    MintSpool(str(world.runtime)).minted(mint(2))
    await world.turns(1)  # and for nothing where there is one
    assert world.whats() == [("found", 1), ("minted", 1), ("minted", 1)]


async def test_what_was_recorded_of_a_file_that_was_not_kept_whole_is_not_recorded_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.keeper.changed(ONE)
    await world.turns(3)
    spool = MintSpool(str(world.runtime))
    for number in range(600):
        spool.minted(mint(number))
    append, room = FileJournal.append, [1, 0, 0, 1, 0]

    def filling(journal: FileJournal, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - of `append`
        if room and not room.pop(0):
            raise DiskError("the disk is full")
        append(journal, *arguments, **options)

    monkeypatch.setattr(FileJournal, "append", filling)
    for _ in range(3):
        await world.turns(1)
        assert world.codes() == [DiskError.code]
    await world.turns(1)
    assert world.codes() == []
    assert [one.jti for entry in world.entries() for one in entry.minted] == [str(number) for number in range(600)]
    assert not list((world.runtime / "audit-mints").iterdir())


async def test_a_stream_that_went_is_seen_within_an_hour_although_nothing_happens(world: World) -> None:
    world.keeper.changed(ONE)
    await world.turns(5)
    world.trail.records.clear()
    await world.turns(50)
    assert world.trail.of(NODE.node) == []
    world.clock.advance(LOOK_SECONDS)
    await world.turns(1)
    assert world.trail.of(NODE.node) == list(world.journal.read_after(None, most=9)) != []


async def test_a_reload_throws_away_no_record_that_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.keeper.changed(ONE)
    await world.turns(3)

    def full(*_: object, **__: object) -> None:
        raise DiskError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(FileJournal, "append", full)
        world.keeper.auditor.note(event_of(TWO))
        world.reload(TWO)
        world.keeper.auditor.note(event_of(THIRD))
        world.reload(THIRD)
        await world.turns(5)
        assert world.codes() == [DiskError.code]
    await world.turns(5)
    assert world.codes() == []
    assert world.whats() == [("found", 1), ("epoch", 2), ("epoch", 3)]


async def test_a_reload_forgets_no_jwt_that_was_only_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.keeper.changed(ONE)
    await world.turns(3)
    spool = MintSpool(str(world.runtime))
    with monkeypatch.context() as patch:
        patch.setattr(keep_trail, "MOST_WAITING", -1)
        spool.minted(mint(1))
        spool.minted(mint(2))
        await world.turns(1)
    world.reload(ONE)
    assert [alarm.found for alarm in world.keeper.alarms()] == ["2 left out"]
    await world.turns(3)
    spool.minted(mint(3))
    await world.turns(3)
    assert [(entry.facts, len(entry.minted)) for entry in world.entries()[1:]] == [({"left_out": 2}, 1)]
