"""A node is stopped before every system call of its work: it has the old keyset or the new one, whole (P4, P5).

After each stop the state directory is read as the next start reads it; then the real bootstrap runs again and ends
where an undisturbed one would have ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from keydist.adapters.disk.installing import QUARANTINE
from keydist.adapters.disk.records import format_floor, parse_notes
from keydist.adapters.disk.system import System
from keydist.core.accept import Held
from keydist.core.restart import Role
from keydist.errors import CorruptError, RebuiltFloorError
from tests.crash.state import Machine, StateDirectory
from tests.crash.stops import Stop, every_stop
from tests.fakes.faulty_system import LossySystem
from tests.fakes.memory_store import MemoryBucket
from tests.material import NOW, OTHER_LINEAGE, Change, chain, extend, first, floor_of

ONE, TWO, THREE = chain(3)
OTHER_SIDE = extend(ONE, Change.REPLACE_NEXT, name="other side ")
LATER_OTHER_SIDE = extend(OTHER_SIDE, Change.ROTATE, name="other side ")
OTHER_HISTORY = first("other ", lineage=OTHER_LINEAGE)
LATER = NOW + 1000

every_kind_of_stop = pytest.mark.parametrize("stop", Stop)
both_layouts = pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])


def bucket_with(held: Held | None) -> MemoryBucket:
    bucket = MemoryBucket(exists=held is not None)
    if held is not None:
        bucket.put(held.envelope)
    return bucket


def assert_settled(state: StateDirectory, held: Held, *, stop: Stop = Stop.KILLED) -> None:
    """Nothing remains to be done: `held` is live, its floor and times are written, nothing lies about.

    After a power cut the runtime directory is empty.
    """
    local = state.load()
    assert local.held == held
    assert (local.damage, local.alarms) == (None, ())
    assert state.path.joinpath("floor.json").read_bytes() == format_floor(floor_of(held))
    notes = parse_notes(state.path.joinpath("seen.json").read_bytes())
    assert {key.kid for key in held.keyset.keys if key.state in notes.keys.get(key.kid, {})} == set(notes.keys)
    assert {f"{key.kid}.jwk" for key in held.keyset.signing_keys()} <= set(state.names("public"))
    assert state.leftovers() == []
    assert len(state.names("archive")) <= 2
    if state.layout.sealed:
        assert state.plaintext(held.keyset) == []
        if stop is Stop.KILLED:
            assert b"PRIVATE KEY" in state.runtime.joinpath("signing-key.pem").read_bytes()


# --- a first key, and a later epoch -------------------------------------------------------------


@every_kind_of_stop
@both_layouts
@pytest.mark.parametrize("role", Role)
def test_a_node_without_a_keyset_has_none_or_the_first_and_a_restart_ends_with_the_first(
    folder: Path, stop: Stop, *, sealed: bool, role: Role
) -> None:
    buckets: dict[Path, MemoryBucket] = {}

    def machine(base: Path) -> Machine:
        return Machine(StateDirectory(base, sealed=sealed), buckets[base])

    def prepare(base: Path) -> None:
        base.mkdir()
        buckets[base] = bucket_with(None if role is Role.LEADER else ONE)

    def work(base: Path, system: System) -> None:
        machine(base).start(system=system, genesis=ONE, role=role)

    for left in every_stop(folder, stop, prepare, work, lambda base: (buckets[base].exists, buckets[base].writes)):
        node = machine(left.base)
        assert node.state.load().held in ([ONE] if left.finished else [None, ONE]), left.where
        if left.finished:
            assert_settled(node.state, ONE, stop=stop)
        is_lost = node.bucket.content() is None
        node.start(genesis=OTHER_HISTORY if is_lost else None, role=role)
        assert_settled(node.state, OTHER_HISTORY if is_lost else ONE)
        assert node.bucket.writes == 1, f"{left.where}: two first keys"


@every_kind_of_stop
@both_layouts
def test_a_later_epoch_replaces_the_one_before_or_does_not(folder: Path, stop: Stop, *, sealed: bool) -> None:
    before = StateDirectory(folder / "before", sealed=sealed).install(ONE)

    def machine(base: Path) -> Machine:
        return Machine(StateDirectory(base, sealed=sealed), bucket_with(TWO))

    for left in every_stop(folder, stop, before.copy, lambda base, sys: machine(base).start(system=sys)):
        node = machine(left.base)
        local = node.state.load()
        assert local.held in ([TWO] if left.finished else [ONE, TWO]), left.where
        assert local.damage is None
        assert local.floor == floor_of(local.held), left.where
        assert local.alarms == ()
        if left.finished:
            assert_settled(node.state, TWO, stop=stop)
        node.start()
        assert_settled(node.state, TWO)


@every_kind_of_stop
@both_layouts
def test_what_a_stop_left_is_finished_with_the_store_down_too(folder: Path, stop: Stop, *, sealed: bool) -> None:
    before = StateDirectory(folder / "before", sealed=sealed).install(ONE)

    for left in every_stop(
        folder, stop, before.copy, lambda base, sys: install(StateDirectory(base, sealed=sealed), TWO, sys)
    ):
        state = StateDirectory(left.base, sealed=sealed)
        held = state.load().held
        assert held in (ONE, TWO), left.where
        state.settle()
        assert_settled(state, held)


def install(state: StateDirectory, held: Held, system: System) -> None:
    state.disk(system).install(held, based_on=state.load(), now=NOW)


# --- on top of damage ---------------------------------------------------------------------------


@every_kind_of_stop
@both_layouts
def test_a_damaged_keyset_gives_way_to_the_store_s_and_is_not_lost(folder: Path, stop: Stop, *, sealed: bool) -> None:
    before = StateDirectory(folder / "before", sealed=sealed).install(ONE, TWO)
    damaged = before.live / "keyset.jwe"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")

    def machine(base: Path) -> Machine:
        return Machine(StateDirectory(base, sealed=sealed), bucket_with(THREE))

    for left in every_stop(folder, stop, before.copy, lambda base, sys: machine(base).start(system=sys)):
        node = machine(left.base)
        local = node.state.load()
        assert local.held in ([THREE] if left.finished else [None, THREE]), left.where
        assert local.held is not None or isinstance(local.damage, CorruptError)
        node.start()
        assert_settled(node.state, THREE)
        kept = [name for name, data in node.state.files().items() if name.endswith("keyset.jwe") and data[-1:] == b"!"]
        assert len(kept) == 1, f"{left.where}: {kept}"
        assert not left.finished or f"/{QUARANTINE}/" in kept[0]


# --- finishing, laying out anew -----------------------------------------------------------------


def without_floor(state: StateDirectory) -> None:
    (state.path / "floor.json").unlink()


def floor_behind(state: StateDirectory) -> None:
    (state.path / "floor.json").write_bytes(format_floor(floor_of(ONE)))


def without_times(state: StateDirectory) -> None:
    (state.path / "seen.json").unlink()


def with_litter(state: StateDirectory) -> None:
    for name in (".floor.json.new", ".live.new", "public/.x.jwk.new", "archive/.000003.new", "archive/000003"):
        path = state.path / name
        if name.startswith("archive"):
            path.mkdir(mode=0o700)
            path = path / "keyset.json"
        path.touch(mode=0o600)


@every_kind_of_stop
@pytest.mark.parametrize("undone", [without_floor, floor_behind, without_times, with_litter])
def test_finishing_may_be_stopped_and_finished_again(
    folder: Path, stop: Stop, undone: Callable[[StateDirectory], None]
) -> None:
    before = StateDirectory(folder / "before").install(ONE, TWO)
    undone(before)

    def work(base: Path, system: System) -> None:
        state = StateDirectory(base)
        state.disk(system).settle(state.load(), now=LATER)

    for left in every_stop(folder, stop, before.copy, work):
        state = StateDirectory(left.base)
        assert state.load().held == TWO, left.where
        if left.finished:
            assert_settled(state, TWO, stop=stop)
        state.settle()
        assert_settled(state, TWO)


@every_kind_of_stop
@pytest.mark.parametrize("to_sealed", [True, False], ids=["plain to sealed", "sealed to plain"])
def test_a_change_of_at_rest_keeps_the_keyset_and_leaves_nothing_of_the_old_layout(
    folder: Path, stop: Stop, *, to_sealed: bool
) -> None:
    before = StateDirectory(folder / "before", sealed=not to_sealed).install(ONE, TWO)
    if not to_sealed:
        assert b"PRIVATE KEY" in before.runtime.joinpath("signing-key.pem").read_bytes()

    def machine(base: Path) -> Machine:
        return Machine(StateDirectory(base, sealed=to_sealed), bucket_with(TWO))

    for left in every_stop(folder, stop, before.copy, lambda base, sys: machine(base).start(system=sys)):
        node = machine(left.base)
        local = node.state.load()
        assert local.held == TWO, left.where
        if left.finished:
            assert_settled(node.state, TWO, stop=stop)
        node.start()
        assert_settled(node.state, TWO)
        for held in (ONE, TWO):
            assert not to_sealed or node.state.plaintext(held.keyset) == [], left.where
        assert to_sealed or node.state.plaintext(TWO.keyset) != []
        assert node.state.runtime.joinpath("signing-key.pem").exists() is to_sealed, left.where


# --- what a person asks for ---------------------------------------------------------------------

OVERRIDES = {
    "a later epoch of this lineage": (TWO, extend(LATER_OTHER_SIDE, Change.ROTATE)),
    "the same epoch of another side": (TWO, OTHER_SIDE),
    "an earlier epoch of this lineage": (THREE, OTHER_SIDE),
    "another lineage": (THREE, OTHER_HISTORY),
}


@every_kind_of_stop
@pytest.mark.parametrize("which", OVERRIDES)
def test_taking_a_side_gives_the_old_keyset_or_the_chosen_one(folder: Path, stop: Stop, which: str) -> None:
    old, chosen = OVERRIDES[which]
    before = StateDirectory(folder / "before").install(ONE, TWO)
    if old is THREE:
        before.install(THREE)

    def override(base: Path, system: System | None = None) -> None:
        state = StateDirectory(base)
        state.disk(system).override(chosen, based_on=state.load(), now=LATER)

    for left in every_stop(folder, stop, before.copy, override):
        state = StateDirectory(left.base)
        local = state.load()
        assert local.damage is None, left.where
        assert local.held in ([chosen] if left.finished else [old, chosen]), left.where
        if left.finished:
            assert_settled(state, chosen, stop=stop)
        state.settle()
        assert_settled(state, old if local.held == old else chosen)
        override(left.base)
        assert_settled(state, chosen)


@every_kind_of_stop
@both_layouts
def test_forgetting_leaves_everything_or_a_sign_and_can_be_asked_again(
    folder: Path, stop: Stop, *, sealed: bool
) -> None:
    before = StateDirectory(folder / "before", sealed=sealed).install(ONE, TWO)
    before.disk().quarantine(b"refused")

    for left in every_stop(
        folder, stop, before.copy, lambda base, sys: StateDirectory(base, sealed=sealed).disk(sys).reset()
    ):
        state = StateDirectory(left.base, sealed=sealed)
        local = state.load()
        assert local.held in (None, TWO), left.where
        assert {type(alarm) for alarm in local.alarms} <= {RebuiltFloorError}, left.where
        assert not local.quarantine, f"{left.where}: half a keyset"
        if state.names("archive"):
            assert local.held == TWO or local.damage is not None, f"{left.where}: keys lie about unnoticed"
        assert not left.finished or (local.held, local.damage) == (None, None)
        state.disk().reset()
        assert state.names() == ["lock"]
        assert not state.runtime.joinpath("signing-key.pem").exists()
        assert state.load().damage is None


# --- the double itself --------------------------------------------------------------------------


def test_the_lossy_disk_loses_what_was_not_synced_and_only_that(folder: Path) -> None:
    def write(system: LossySystem, fd: int, name: str, *, sync: bool) -> None:
        file = system.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=fd)
        system.write(file, b"content")
        if sync:
            system.fsync(file)
        system.close(file)

    for entries in (True, False):
        root = folder / f"root-{entries}"
        root.mkdir()
        fd = os.open(root, os.O_RDONLY)
        system = LossySystem(folder / f"attic-{entries}")
        for name in ("kept", "empty", "stays"):
            write(system, fd, name, sync=name != "empty")
        system.fsync(fd)
        write(system, fd, "young", sync=True)
        system.rename("young", "renamed", src_dir_fd=fd, dst_dir_fd=fd)
        system.rename("kept", "empty", src_dir_fd=fd, dst_dir_fd=fd)
        system.unlink("stays", dir_fd=fd)
        system.mkdir("folder", 0o700, dir_fd=fd)
        os.close(fd)
        system.cut_power(entries=entries)
        found = {path.name: path.read_bytes() if path.is_file() else None for path in root.iterdir()}
        if entries:
            assert found == {"kept": b"content", "empty": b"", "stays": b"content"}
        else:
            assert found == {"empty": b"content", "renamed": b"content", "folder": None}
