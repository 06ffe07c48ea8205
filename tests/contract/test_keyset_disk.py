"""What every `KeysetDisk` does, the real one and the one in memory that other tests use."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import pytest

from keydist.core.accept import Held
from keydist.core.keyset import State
from keydist.core.local import Confirmation, Local, Start
from keydist.core.notes import Notes
from keydist.core.token import BootstrapToken
from keydist.errors import ConflictError
from keydist.ports import KeysetDisk, PublicKeys
from tests.crash.state import StateDirectory
from tests.fakes.memory_disk import MemoryFolder, MemoryKeysetDisk
from tests.material import (
    NOW,
    OTHER_LINEAGE,
    OTHER_TOKEN,
    TOKEN,
    Change,
    chain,
    extend,
    first,
    floor_of,
    history,
)

ONE, TWO, THREE = chain(3)
OTHER_SIDE = extend(ONE, Change.REPLACE_NEXT, name="other side ")
OTHER_HISTORY = first("other ", lineage=OTHER_LINEAGE)


class Disk(KeysetDisk, PublicKeys, Protocol):
    """Both that a node's disk is."""


Open = Callable[[], Disk]
"""Opens the same disk once more, as another process does."""


@pytest.fixture(params=["a directory", "memory"])
def open_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param == "a directory":
        return StateDirectory(tmp_path).disk
    folder = MemoryFolder()
    return lambda: MemoryKeysetDisk(folder)


def load(open_disk: Open, *tokens: BootstrapToken) -> Local:
    return open_disk().load(tokens or (TOKEN,))


def install(open_disk: Open, *epochs: Held, now: int = NOW) -> None:
    for held in epochs:
        open_disk().install(held, based_on=load(open_disk), now=now)


def test_a_new_node_holds_nothing(open_disk: Open) -> None:
    assert load(open_disk)[:6] == Local()[:6]


def test_what_was_installed_is_loaded(open_disk: Open) -> None:
    install(open_disk, ONE)
    local = load(open_disk)
    assert local.held == ONE
    assert local.floor == floor_of(ONE)
    assert (local.damage, local.quarantine, local.alarms, local.confirmation) == (None, False, (), None)


def test_a_later_epoch_takes_the_place_of_the_one_before(open_disk: Open) -> None:
    install(open_disk, ONE, TWO, THREE)
    assert load(open_disk).held == THREE
    assert load(open_disk).floor == floor_of(THREE)


def test_the_floor_remembers_what_was_revoked_and_which_token_was_superseded(open_disk: Open) -> None:
    revoking = extend(ONE, Change.REVOKE_ACTIVE)
    forgetting = extend(extend(revoking, Change.RESEAL, token=OTHER_TOKEN), Change.FORGET, token=OTHER_TOKEN)
    install(open_disk, ONE, revoking, forgetting)
    revoked = frozenset(entry.kid for entry in revoking.keyset.revoked)
    assert revoked
    floor = load(open_disk, TOKEN, OTHER_TOKEN).floor
    assert floor == floor_of(forgetting, superseded=frozenset({TOKEN.token_id}), revoked=revoked)
    keys = open_disk()
    assert {kid for kid in revoked | {key.kid for key in forgetting.keyset.keys} if keys.was_revoked(kid)} == revoked


def test_loading_changes_nothing(open_disk: Open) -> None:
    assert load(open_disk) == load(open_disk)
    install(open_disk, ONE)
    assert load(open_disk) == load(open_disk)


@pytest.mark.parametrize("epochs", [0, 1], ids=["nothing", "a keyset"])
@pytest.mark.parametrize("name", ["install", "override"])
def test_nothing_is_installed_over_what_another_process_installed(open_disk: Open, epochs: int, name: str) -> None:
    install(open_disk, *chain(2)[:epochs])
    before = load(open_disk)
    install(open_disk, chain(2)[epochs])
    between = load(open_disk)
    with pytest.raises(ConflictError):
        getattr(open_disk(), name)(THREE, based_on=before, now=NOW)
    assert load(open_disk) == between


def test_nothing_is_installed_over_what_another_process_forgot(open_disk: Open) -> None:
    install(open_disk, ONE)
    before = load(open_disk)
    open_disk().reset()
    with pytest.raises(ConflictError):
        open_disk().install(TWO, based_on=before, now=NOW)
    assert load(open_disk).held is None


def test_a_process_may_install_again_upon_what_it_loads_anew(open_disk: Open) -> None:
    disk = open_disk()
    for held in (ONE, TWO, THREE):
        disk.install(held, based_on=disk.load((TOKEN,)), now=NOW)
        assert disk.load((TOKEN,)).held == held


@pytest.mark.parametrize(
    ("before", "chosen"),
    [
        pytest.param([ONE, TWO, THREE], OTHER_SIDE, id="an earlier epoch"),
        pytest.param([ONE, TWO], OTHER_SIDE, id="the same epoch"),
        pytest.param([ONE], history([Change.RESEAL, Change.ROTATE, Change.ROTATE])[-1], id="a later epoch"),
        pytest.param([ONE, TWO], OTHER_HISTORY, id="another lineage"),
        pytest.param([], TWO, id="a backup on an empty disk"),
    ],
)
def test_a_person_may_choose_any_keyset(open_disk: Open, before: list[Held], chosen: Held) -> None:
    install(open_disk, *before)
    open_disk().override(chosen, based_on=load(open_disk), now=NOW)
    assert load(open_disk).held == chosen
    assert load(open_disk).floor == floor_of(chosen)
    assert load(open_disk).alarms == ()


def test_what_a_person_overrode_stays_revoked(open_disk: Open) -> None:
    revoking = extend(ONE, Change.REVOKE_ACTIVE)
    install(open_disk, ONE, revoking)
    open_disk().override(OTHER_HISTORY, based_on=load(open_disk), now=NOW)
    floor = load(open_disk).floor
    assert floor is not None
    assert floor.revoked == {entry.kid for entry in revoking.keyset.revoked}


def test_settling_what_is_settled_changes_nothing(open_disk: Open) -> None:
    open_disk().settle(load(open_disk), now=NOW)
    install(open_disk, ONE)
    before = load(open_disk)
    open_disk().settle(before, now=NOW)
    assert load(open_disk) == before
    open_disk().install(TWO, based_on=before, now=NOW)


def test_the_last_confirmation_is_kept(open_disk: Open) -> None:
    install(open_disk, ONE)
    for at in (NOW, NOW + 60):
        open_disk().confirm(Confirmation(epoch=1, digest=ONE.digest, at=at))
    assert load(open_disk).confirmation == Confirmation(epoch=1, digest=ONE.digest, at=NOW + 60)


def test_confirming_is_no_installation(open_disk: Open) -> None:
    install(open_disk, ONE)
    before = load(open_disk)
    open_disk().confirm(Confirmation(epoch=1, digest=ONE.digest, at=NOW))
    open_disk().install(TWO, based_on=before, now=NOW)
    assert load(open_disk).held == TWO


def test_the_mark_differs_after_every_change_and_only_then(open_disk: Open) -> None:
    marks = [open_disk().mark()]
    for held in (ONE, TWO):
        install(open_disk, held)
        marks.append(open_disk().mark())
        open_disk().confirm(Confirmation(epoch=held.keyset.epoch, digest=held.digest, at=NOW))
        marks.append(open_disk().mark())
        load(open_disk)
        assert open_disk().mark() == marks[-1]
    open_disk().override(OTHER_SIDE, based_on=load(open_disk), now=NOW)
    marks.append(open_disk().mark())
    open_disk().reset()
    marks.append(open_disk().mark())
    assert all(before != after for before, after in pairwise(marks))


def test_what_is_refused_disturbs_nothing(open_disk: Open) -> None:
    open_disk().quarantine(b"before there is anything")
    assert load(open_disk).held is None
    install(open_disk, ONE)
    before = load(open_disk)
    for number in range(10):
        open_disk().quarantine(f"refused {number}".encode())
    assert load(open_disk) == before


def test_forgetting_tells_whether_there_was_anything(open_disk: Open) -> None:
    assert not open_disk().reset()
    install(open_disk, ONE, TWO)
    open_disk().confirm(Confirmation(epoch=2, digest=TWO.digest, at=NOW))
    assert open_disk().reset()
    assert load(open_disk)[:6] == Local()[:6]
    assert not open_disk().reset()


def test_a_forgetful_node_may_begin_again_even_with_another_lineage(open_disk: Open) -> None:
    install(open_disk, ONE, TWO)
    open_disk().reset()
    install(open_disk, OTHER_HISTORY)
    assert load(open_disk).held == OTHER_HISTORY
    assert load(open_disk).floor == floor_of(OTHER_HISTORY)


# --- what an agent notes ------------------------------------------------------------------------

FRESH, OTHER_FRESH = "a" * 32, "b" * 32


def test_each_start_has_a_higher_number_under_the_instance_of_the_first(open_disk: Open) -> None:
    starts = [open_disk().count_start(fresh, now=NOW) for fresh in (FRESH, OTHER_FRESH, OTHER_FRESH)]
    assert starts == [Start(instance=FRESH, number=NOW + past) for past in range(3)]


def test_the_last_start_is_known_without_counting_another(open_disk: Open) -> None:
    assert open_disk().last_start() is None
    counted = open_disk().count_start(FRESH, now=NOW)
    assert [open_disk().last_start() for _ in range(2)] == [counted, counted]


@pytest.mark.parametrize(
    ("now", "number"),
    [(NOW + 500, NOW + 500), (NOW, NOW + 1), (NOW - 500, NOW + 1)],
    ids=["later", "at once", "the clock went back"],
)
def test_a_start_is_counted_by_the_clock_too_and_never_goes_back(open_disk: Open, now: int, number: int) -> None:
    open_disk().count_start(FRESH, now=NOW)
    assert open_disk().count_start(OTHER_FRESH, now=now) == Start(instance=FRESH, number=number)


def test_a_start_disturbs_no_keyset_and_a_reset_forgets_the_instance(open_disk: Open) -> None:
    install(open_disk, ONE)
    before, mark = load(open_disk), open_disk().mark()
    open_disk().count_start(FRESH, now=NOW)
    assert (load(open_disk), open_disk().mark()) == (before, mark)
    open_disk().install(TWO, based_on=before, now=NOW)
    open_disk().reset()
    assert open_disk().count_start(OTHER_FRESH, now=NOW).instance == OTHER_FRESH


def test_a_new_node_noted_nothing(open_disk: Open) -> None:
    assert open_disk().notes() == Notes()


def test_since_when_each_key_is_held_in_its_state_is_noted_and_kept(open_disk: Open) -> None:
    install(open_disk, ONE, now=NOW)
    following = next(key for key in ONE.keyset.signing_keys() if key.state is State.NEXT)
    install(open_disk, TWO, now=NOW + 60)
    notes = open_disk().notes()
    assert notes.keys[following.kid] == {"next": NOW, "active": NOW + 60}
    assert notes.keys[ONE.keyset.active.kid] == {"active": NOW, "retired": NOW + 60}
    assert notes.tokens == {TOKEN.token_id: NOW}


@pytest.mark.parametrize("epochs", [0, 1], ids=["nothing", "a keyset"])
def test_what_a_node_did_is_noted_each_for_itself(open_disk: Open, epochs: int) -> None:
    install(open_disk, *chain(2)[:epochs])
    keys = open_disk().notes().keys
    open_disk().note_done(republished=NOW)
    open_disk().note_done(rehearsed=NOW + 1)
    open_disk().note_done()
    open_disk().note_done(republished=NOW + 2)
    notes = open_disk().notes()
    assert (notes.republished, notes.rehearsed, notes.keys) == (NOW + 2, NOW + 1, keys)


def test_what_a_node_did_is_kept_over_installations_and_disturbs_none(open_disk: Open) -> None:
    install(open_disk, ONE)
    before = load(open_disk)
    open_disk().note_done(republished=NOW, rehearsed=NOW)
    open_disk().install(TWO, based_on=before, now=NOW)
    assert (open_disk().notes().republished, open_disk().notes().rehearsed) == (NOW, NOW)
    open_disk().reset()
    assert open_disk().notes() == Notes()
