"""Every system call fails once, or all from one on: the error is of the right family, and no key is lost.

What was on disk before is there afterwards byte for byte, but for the link and the floor once they moved on; the
message tells no secret; with the disk in order again, the same work is done.
"""

from __future__ import annotations

import base64
import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from keydist.adapters.disk.installing import newest_other
from keydist.adapters.disk.keyset_disk import PosixKeysetDisk
from keydist.adapters.disk.posix import Directory
from keydist.adapters.disk.system import System
from keydist.core.accept import Held
from keydist.core.local import Confirmation, Local
from keydist.core.strict import b64url_encode
from keydist.errors import DiskError, DiskFullError, KeydistError, ReadOnlyDiskError, WrongUserError
from tests.crash.state import Machine, StateDirectory, as_text
from tests.fakes.faulty_system import Call, Fault, FaultySystem, at
from tests.fakes.memory_store import MemoryBucket
from tests.material import NOW, TOKEN, chain, floor_of

ONE, TWO, THREE = chain(3)
MOVES_ON = ("state/live", "state/floor.json", "state/seen.json", "run/signing-key.pem")
WRITING = frozenset({"write", "fsync", "mkdir", "symlink", "rename", "unlink", "rmdir", "fchmod", "fchown"})
FAMILIES: dict[int, type[KeydistError]] = {
    errno.EIO: DiskError,
    errno.ENOSPC: DiskFullError,
    errno.EDQUOT: DiskFullError,
    errno.EROFS: ReadOnlyDiskError,
    errno.EACCES: WrongUserError,
}
SECRETS = [
    form
    for held in (ONE, TWO, THREE)
    for key in held.keyset.keys
    for form in (
        base64.b64encode(key.material)[:32].decode(),
        b64url_encode(key.material)[:32],
        repr(key.material)[2:40],
    )
] + [repr(TOKEN.secret)[2:40], TOKEN.secret.hex()[:32]]


def error_of(number: int) -> OSError:
    return OSError(number, "injected")


def told(disk: PosixKeysetDisk) -> Local:
    """Return what a disk holds; a record that cannot be read stops no start, and is told as an alarm."""
    local = disk.load((TOKEN,))
    for alarm in local.alarms:
        if isinstance(alarm, DiskError):
            raise alarm
    return local


def do_install(state: StateDirectory, system: System) -> None:
    disk = state.disk(system)
    disk.install(TWO, based_on=told(disk), now=NOW)


def do_override(state: StateDirectory, system: System) -> None:
    disk = state.disk(system)
    disk.override(TWO, based_on=told(disk), now=NOW)


def do_settle(state: StateDirectory, system: System) -> None:
    for name in ("floor.json", "seen.json"):
        state.path.joinpath(name).unlink(missing_ok=True)
    disk = state.disk(system)
    disk.settle(told(disk), now=NOW)


def do_relay(state: StateDirectory, system: System) -> None:
    do_settle(state.sealed(sealed=not state.layout.sealed), system)


def do_confirm(state: StateDirectory, system: System) -> None:
    state.disk(system).confirm(Confirmation(epoch=1, digest=ONE.digest, at=NOW))


def do_quarantine(state: StateDirectory, system: System) -> None:
    state.disk(system).quarantine(b"refused")


def do_load(state: StateDirectory, system: System) -> None:
    told(state.disk(system))


Work = Callable[[StateDirectory, System], None]
WORKS = [do_load, do_install, do_override, do_settle, do_relay, do_confirm, do_quarantine]


def calls_of(state: StateDirectory, work: Work, base: Path) -> list[Call]:
    system = FaultySystem()
    work(state.copy(base), system)
    return system.calls


def failure_of(work: Work, state: StateDirectory, system: System) -> KeydistError | None:
    try:
        work(state, system)
    except KeydistError as exc:
        return exc
    return None


def assert_nothing_lost(before: StateDirectory, after: StateDirectory, where: str) -> None:
    """The old keyset or the new one is there, and of the old files only the link and the floor may differ."""
    assert after.load().held in (ONE, TWO), where
    old, new = before.files(), after.files()
    for name in old:
        if name.startswith("state/archive/") and name not in new:
            assert after.live.name != "000001", where  # it was no longer live, nor its predecessor
        elif name not in MOVES_ON:
            assert new.get(name, old[name]) == old[name], f"{where}: {name}"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_a_call_that_fails_costs_no_key_and_is_told_by_its_family(
    folder: Path, work: Work, number: int, *, sealed: bool
) -> None:
    before = StateDirectory(folder / "before", sealed=sealed).install(ONE)
    expected = FAMILIES[number]
    told = 0
    for call in calls_of(before, work, folder / "0"):
        if number != errno.EIO and call.name not in WRITING:
            continue
        state = before.copy(folder / str(call.number))
        failure = failure_of(work, state, FaultySystem(at(call.number, error_of(number))))
        if failure is None:
            assert call.name == "close", f"{call} failed and nobody said so"
        else:
            assert type(failure) is expected, f"{call}: {failure}"
            assert failure.fix
            shown = as_text(failure)
            assert not [secret for secret in SECRETS if secret in shown], f"{call}: a secret in the message"
            told += 1
        assert_nothing_lost(before, state, str(call))
        work(state, FaultySystem())
        assert state.load().damage is None
    assert told or (work is do_load and number != errno.EIO)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_a_disk_that_stays_broken_never_stops_a_node_that_has_a_keyset(
    folder: Path, number: int, *, sealed: bool
) -> None:
    before = StateDirectory(folder / "before", sealed=sealed).install(ONE)

    def machine(base: Path) -> Machine:
        bucket = MemoryBucket()
        bucket.put(TWO.envelope)
        return Machine(before.copy(base), bucket)

    counted = FaultySystem()
    machine(folder / "0").start(system=counted)
    for call in [call for call in counted.calls if call.name in WRITING]:
        node = machine(folder / str(call.number))
        outcome = node.start(system=FaultySystem(from_then_on(call.number, number)))
        assert outcome.held in (ONE, TWO), call
        if outcome.held == ONE:
            assert FAMILIES[number] in {type(alarm) for alarm in outcome.alarms}, call
        assert node.start().held == TWO
        assert node.state.load().floor == floor_of(TWO)
        assert node.state.leftovers() == []


def from_then_on(first: int, number: int) -> Fault:
    return lambda call: error_of(number) if call.number >= first and call.name in WRITING else None


def once(number: int, error: int) -> Fault:
    return at(number, error_of(error))


@pytest.mark.parametrize("fault", [from_then_on, once], ids=["from then on", "once"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_a_node_without_a_keyset_says_so_and_goes_on_when_the_disk_is_in_order(
    folder: Path, number: int, fault: Callable[[int, int], Fault]
) -> None:
    def machine(base: Path) -> Machine:
        return Machine(StateDirectory(base), MemoryBucket(exists=False))

    counted = FaultySystem()
    machine(folder / "0").start(system=counted, genesis=ONE)
    for call in [call for call in counted.calls if call.name in WRITING or (fault is once and number == errno.EIO)]:
        node = machine(folder / str(call.number))
        with suppress(FAMILIES[number]):
            assert node.start(system=FaultySystem(fault(call.number, number)), genesis=ONE).held == ONE
        assert node.start(genesis=None if node.bucket.writes else ONE).held == ONE
        assert node.state.load().alarms == ()
        assert node.state.leftovers() == []
        assert node.bucket.writes == 1


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_writes_that_are_cut_short_are_continued(folder: Path, *, sealed: bool) -> None:
    state = StateDirectory(folder, sealed=sealed)
    for held in (ONE, TWO, THREE):
        state.disk(FaultySystem(short_writes=True)).install(held, based_on=state.load(), now=NOW)
        assert state.load().held == held
    whole = StateDirectory(folder / "whole", sealed=sealed).install(ONE, TWO, THREE)
    assert {name: data for name, data in state.files().items() if not name.startswith("whole/")} == whole.files()


@pytest.mark.parametrize(("number", "family"), FAMILIES.items(), ids=[errno.errorcode[number] for number in FAMILIES])
def test_each_reason_has_its_family_and_says_what_to_do(folder: Path, number: int, family: type[KeydistError]) -> None:
    state = StateDirectory(folder).install(ONE)
    disk, local = (
        state.disk(FaultySystem(lambda call: error_of(number) if call.name == "rename" else None)),
        state.load(),
    )
    with pytest.raises(family) as caught:
        disk.install(TWO, based_on=local, now=NOW)
    assert type(caught.value) is family
    assert caught.value.fix
    assert isinstance(caught.value.__cause__, OSError)


def test_an_unfinished_file_does_not_stay_on_a_full_disk(folder: Path) -> None:
    state = StateDirectory(folder).install(ONE)
    full = FaultySystem(lambda call: error_of(errno.ENOSPC) if call.name == "write" else None)
    with pytest.raises(DiskFullError):
        do_confirm(state, full)
    assert state.leftovers() == []


def test_a_floor_that_cannot_be_written_leaves_the_new_keyset_in_use(folder: Path) -> None:
    """Once the link has swung and was synced, the new keyset is the one that a restart uses."""
    state = StateDirectory(folder).install(ONE)

    def full(call: Call) -> BaseException | None:
        return error_of(errno.ENOSPC) if call.argument == ".floor.json.new" else None

    disk = state.disk(FaultySystem(full))
    with pytest.raises(DiskFullError):
        disk.install(TWO, based_on=state.load(), now=NOW)
    local = state.load()
    assert (local.held, local.floor, local.alarms) == (TWO, floor_of(TWO), ())


def installed(held: Held, folder: Path) -> StateDirectory:
    return StateDirectory(folder).install(held)


def test_forgetting_that_fails_can_be_asked_again(folder: Path) -> None:
    before = installed(ONE, folder / "before")
    system = FaultySystem()
    before.copy(folder / "0").disk(system).reset()
    for call in system.calls:
        state = before.copy(folder / str(call.number))
        try:
            state.disk(FaultySystem(at(call.number, error_of(errno.EIO)))).reset()
        except DiskError:
            local = state.load()
            assert local.held == ONE or local.damage is not None or state.names("archive") == [], call
        else:
            assert call.name == "close"
        state.disk().reset()
        assert state.names() == ["lock"]


def test_a_directory_that_another_process_removes_first_is_gone(folder: Path) -> None:
    state = StateDirectory(folder).install(ONE)
    litter = state.path / "archive" / ".000009.new"
    litter.mkdir(mode=0o700)

    def meanwhile(call: Call) -> None:
        if call.name == "open" and call.argument == litter.name:
            litter.rmdir()

    state.disk(FaultySystem(meanwhile)).settle(state.load(), now=NOW)
    assert state.leftovers() == []


def test_a_node_whose_archive_is_gone_has_no_predecessor(folder: Path) -> None:
    state = StateDirectory(folder)
    state.path.mkdir(mode=0o700)
    root = Directory.open_root(str(state.path), mode=0o700, system=FaultySystem())
    assert root is not None
    with root:
        assert newest_other(root, state.layout) is None


@pytest.mark.parametrize("name", ["state", "state/archive", "state/public"])
def test_a_directory_that_goes_away_while_it_is_made_is_told(folder: Path, name: str) -> None:
    state = StateDirectory(folder)

    def gone(path: str, mode: int, *, dir_fd: int | None = None) -> None:
        if path not in (str(folder / name), Path(name).name):
            Path(f"/proc/self/fd/{dir_fd}" if dir_fd else "/", path).mkdir(mode)

    with pytest.raises(DiskError, match="went away while it was made"):
        state.disk(FaultySystem(instead={"mkdir": gone})).install(ONE, based_on=state.load(), now=NOW)


def test_a_directory_that_another_process_makes_first_is_used(folder: Path) -> None:
    state = StateDirectory(folder)

    def meanwhile(call: Call) -> None:
        if call.name == "mkdir" and call.argument == str(state.path):
            state.path.mkdir(mode=0o700)

    state.disk(FaultySystem(meanwhile)).install(ONE, based_on=state.load(), now=NOW)
    assert state.load().held == ONE


def test_a_parent_that_may_not_be_read_is_not_needed(folder: Path) -> None:
    state = StateDirectory(folder)
    closed = FaultySystem(lambda call: PermissionError(errno.EACCES, "denied") if call.argument == ".." else None)
    state.disk(closed).install(ONE, based_on=state.load(), now=NOW)
    assert state.load().held == ONE
