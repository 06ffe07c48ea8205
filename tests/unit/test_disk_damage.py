"""What a state directory says when something in it is missing, altered, put back, or not meant for this node."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keydist.adapters.disk.reading import MOST
from keydist.adapters.disk.records import format_floor, format_override, format_sums
from keydist.adapters.disk.system import System
from keydist.core.accept import Floor, Held
from keydist.core.envelope import MAX_ENVELOPE, Place
from keydist.core.genesis import signing_key
from keydist.core.keyset import State
from keydist.core.lease import lease_of
from keydist.core.local import Confirmation
from keydist.core.strict import b64url_decode, b64url_encode
from keydist.core.token import BootstrapToken
from keydist.errors import (
    CommitmentError,
    ConflictError,
    CorruptError,
    DiskError,
    ForeignClusterError,
    ForkError,
    KeydistError,
    MalformedError,
    RebuiltFloorError,
    RollbackError,
    UnsupportedError,
    WrongTokenError,
)
from tests.crash.state import StateDirectory
from tests.fakes.faulty_system import Call, FaultySystem
from tests.material import (
    IMPOSTOR,
    NOW,
    OTHER_LINEAGE,
    OTHER_TOKEN,
    PLACE,
    TOKEN,
    Change,
    chain,
    enc_key,
    extend,
    first,
    floor_of,
    hold,
    make_keyset,
    rsa_key,
)

ONE, TWO, THREE = chain(3)
OTHER_SIDE = extend(ONE, Change.REPLACE_NEXT, name="other side ")
PLAIN_FILES = ("keyset.jwe", "keyset.json", "signing-key.pem", "jwks.json", "sums")
SEALED_FILES = ("keyset.jwe", "jwks.json", "sums")
ALL_FILES = [(False, name) for name in PLAIN_FILES] + [(True, name) for name in SEALED_FILES]

NAMES = [f"{'sealed' if sealed else 'plain'} {name}" for sealed, name in ALL_FILES]
each_file = pytest.mark.parametrize(("sealed", "name"), ALL_FILES, ids=NAMES)
each_layout = pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path).install(ONE, TWO)


def assert_damaged(
    state: StateDirectory, error: type[KeydistError] = CorruptError, *, may_move: bool = True
) -> KeydistError:
    """The state directory gives no keyset, for this reason, and loading it changed nothing."""
    before = state.files()
    local = state.load()
    assert local.held is None
    assert type(local.damage) is error
    assert local.quarantine is may_move
    assert local.floor == floor_of(TWO)
    assert state.files() == before
    return local.damage


def vouch(directory: Path) -> None:
    """Write the checksums of what is there."""
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "sums"}
    directory.joinpath("sums").write_bytes(format_sums(files))


# --- altered and missing ------------------------------------------------------------------------


def emptied(data: bytes) -> bytes:
    return b""


def cut(data: bytes) -> bytes:
    return data[:-1]


def first_bit(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def last_bit(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def longer(data: bytes) -> bytes:
    return data + b"\n"


def far_too_large(data: bytes) -> bytes:
    return data.ljust(2 * MAX_ENVELOPE + 1, b"\n")


@pytest.mark.parametrize("altered", [emptied, cut, first_bit, last_bit, longer, far_too_large])
@each_file
def test_an_altered_file_is_corruption(
    tmp_path: Path, name: str, altered: Callable[[bytes], bytes], *, sealed: bool
) -> None:
    state = StateDirectory(tmp_path, sealed=sealed).install(ONE, TWO)
    path = state.live / name
    path.write_bytes(altered(path.read_bytes()))
    error = assert_damaged(state)
    assert str(state.path) in error.message


@each_file
def test_a_missing_file_is_corruption_unless_it_is_the_checksums(tmp_path: Path, name: str, *, sealed: bool) -> None:
    state = StateDirectory(tmp_path, sealed=sealed).install(ONE, TWO)
    state.live.joinpath(name).unlink()
    if name == "sums":
        assert state.load().held == TWO
    else:
        assert_damaged(state)


@each_layout
def test_what_was_loaded_before_hides_no_damage_and_is_not_parsed_again(tmp_path: Path, *, sealed: bool) -> None:
    state = StateDirectory(tmp_path, sealed=sealed).install(ONE, TWO)
    disk = state.disk()
    loaded = disk.load((TOKEN,)).held
    assert loaded == TWO
    assert sealed or disk.load((TOKEN,)).held is loaded
    path = state.live / "keyset.jwe"
    good = path.read_bytes()
    path.write_bytes(last_bit(good))
    for _ in range(2):
        assert isinstance(disk.load((TOKEN,)).damage, CorruptError)
    path.write_bytes(good)
    assert disk.load((TOKEN,)).held == TWO
    state.install(THREE)
    assert disk.load((TOKEN,)).held == THREE


def test_an_added_file_is_corruption_unless_it_is_hidden(state: StateDirectory) -> None:
    state.live.joinpath(".of-an-editor").touch(mode=0o600)
    assert state.load().held == TWO
    state.live.joinpath("notes.txt").touch(mode=0o600)
    assert_damaged(state)


# --- without checksums everything is looked at --------------------------------------------------


def other_files(state: StateDirectory, held: Held) -> StateDirectory:
    return StateDirectory(state.base / "other", sealed=state.layout.sealed).install(held)


@pytest.mark.parametrize("altered", [emptied, cut, first_bit, longer])
@each_file
def test_without_checksums_each_file_must_fit_the_others(
    tmp_path: Path, name: str, altered: Callable[[bytes], bytes], *, sealed: bool
) -> None:
    state = StateDirectory(tmp_path, sealed=sealed).install(ONE, TWO)
    state.live.joinpath("sums").unlink()
    if name == "sums":
        return
    path = state.live / name
    path.write_bytes(altered(path.read_bytes()))
    assert_damaged(state)


@each_layout
@pytest.mark.parametrize("name", ["keyset.jwe", "keyset.json", "signing-key.pem", "jwks.json"])
def test_without_checksums_a_file_of_another_keyset_is_noticed(tmp_path: Path, name: str, *, sealed: bool) -> None:
    state = StateDirectory(tmp_path, sealed=sealed).install(ONE, TWO)
    other = other_files(state, OTHER_SIDE).live / name
    if not other.exists():
        return
    state.live.joinpath("sums").unlink()
    is_the_same = other.read_bytes() == state.live.joinpath(name).read_bytes()
    state.live.joinpath(name).write_bytes(other.read_bytes())
    assert state.load().held == TWO if is_the_same else assert_damaged(state)


def test_without_checksums_and_token_what_can_be_compared_is_compared(state: StateDirectory) -> None:
    state.live.joinpath("sums").unlink()
    assert state.load(OTHER_TOKEN).held == TWO
    state.live.joinpath("jwks.json").write_bytes(b"{}\n")
    assert type(state.load(OTHER_TOKEN).damage) is CorruptError


def test_without_checksums_the_primes_are_tested(tmp_path: Path) -> None:
    """What a tag or a checksum vouches for is not tested again: that costs more than everything else."""
    weak = rsa_key((3 << 1022) + 3, (3 << 1022) + 9)  # both divisible by 3
    pkcs8 = weak.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    key = signing_key(pkcs8, alg="RS256", state=State.ACTIVE, now=NOW, activated=NOW)
    keyset = make_keyset(keys=(key, enc_key("A")))
    state = StateDirectory(tmp_path).install(hold(keyset))
    assert state.load().held == hold(keyset)
    state.live.joinpath("sums").unlink()
    assert type(state.load().damage) is CorruptError


# --- not damage ---------------------------------------------------------------------------------


def with_header(envelope: bytes, **members: object) -> bytes:
    head, rest = envelope.split(b".", 1)
    header = json.loads(b64url_decode(head, "header")) | members
    return b64url_encode(json.dumps(header, separators=(",", ":")).encode()).encode() + b"." + rest


@each_layout
def test_a_later_version_is_left_alone(tmp_path: Path, *, sealed: bool) -> None:
    state = StateDirectory(tmp_path, sealed=sealed).install(ONE, TWO)
    state.live.joinpath("keyset.jwe").write_bytes(with_header(TWO.envelope, v=2))
    vouch(state.live)
    assert_damaged(state, UnsupportedError, may_move=False)
    state.install(THREE)
    assert state.names("archive") == ["000002", "000003"]
    assert state.names("quarantine") == []


@pytest.mark.parametrize("tokens", [(), (OTHER_TOKEN,)], ids=["no token", "another token"])
def test_a_sealed_keyset_without_its_token_is_left_alone(tmp_path: Path, tokens: tuple[BootstrapToken, ...]) -> None:
    state = StateDirectory(tmp_path, sealed=True).install(ONE, TWO)
    local = state.disk().load(tokens)
    assert (local.held, local.quarantine, local.floor) == (None, False, floor_of(TWO))
    assert isinstance(local.damage, WrongTokenError)
    assert (local.damage.need, len(local.damage.have)) == (TOKEN.token_id, len(tokens))
    state.disk().install(THREE, based_on=local, now=NOW)
    assert state.load().held == THREE
    assert state.names("archive") == ["000002", "000003"]
    assert state.names("quarantine") == []


def test_a_sealed_keyset_and_another_secret_under_its_id_show_a_wrong_token_not_damage(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path, sealed=True).install(ONE, TWO)
    local = state.load(IMPOSTOR)
    assert (local.held, local.quarantine) == (None, False)
    assert type(local.damage) is CommitmentError
    assert state.load(TOKEN).held == TWO


def test_a_plain_keyset_needs_no_token(state: StateDirectory) -> None:
    for tokens in ((), (OTHER_TOKEN,), (IMPOSTOR,)):
        local = state.disk().load(tokens)
        assert (local.held, local.alarms) == (TWO, ())


@each_layout
@pytest.mark.parametrize(
    "place",
    [PLACE._replace(cluster="prod-us1"), PLACE._replace(location="KV/another/signing-key")],
    ids=["cluster", "place"],
)
def test_the_state_of_another_cluster_is_refused(tmp_path: Path, place: Place, *, sealed: bool) -> None:
    state = StateDirectory(tmp_path, sealed=sealed).install(ONE, TWO)
    before = state.files()
    with pytest.raises(ForeignClusterError) as caught:
        StateDirectory(tmp_path, sealed=sealed, place=place).load()
    assert place.cluster in caught.value.expected
    assert place.location in caught.value.expected
    assert state.files() == before


# --- quarantine ---------------------------------------------------------------------------------


@each_layout
def test_a_corrupt_keyset_is_moved_aside_by_the_next_installation(tmp_path: Path, *, sealed: bool) -> None:
    state = StateDirectory(tmp_path, sealed=sealed).install(ONE, TWO)
    damaged = last_bit(TWO.envelope)
    state.live.joinpath("keyset.jwe").write_bytes(damaged)
    state.install(THREE)
    assert state.load().held == THREE
    assert state.names("archive") == ["000003"]
    assert state.path.joinpath("quarantine", "000002", "keyset.jwe").read_bytes() == damaged
    assert state.names("quarantine/000002") == sorted(SEALED_FILES if sealed else PLAIN_FILES)


def test_of_what_was_moved_aside_and_what_was_refused_eight_are_kept_in_all(state: StateDirectory) -> None:
    for number in range(10):
        state.disk().quarantine(f"refused {number}".encode())
    state.live.joinpath("keyset.jwe").write_bytes(b"x")
    state.install(THREE)
    assert len(state.names("quarantine")) == 8


def test_an_epoch_that_is_corrupt_twice_is_kept_as_it_was_last(state: StateDirectory) -> None:
    for content in (b"x", b"y"):
        state.live.joinpath("keyset.jwe").write_bytes(content)
        state.disk().override(TWO, based_on=state.load(), now=NOW)
    assert state.load().held == TWO
    kept = state.path.joinpath("quarantine")
    assert {path.joinpath("keyset.jwe").read_bytes() for path in kept.iterdir()} <= {b"x", b"y"}
    assert len(list(kept.iterdir())) == 2


# --- the live link ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "archive/000009",
        "archive/../archive/000002",
        "/etc",
        "archive",
        "archive/000002/",
        "archive/2",
        "archive/0000x2",
    ],
)
def test_a_link_that_names_no_archived_keyset_is_corruption(state: StateDirectory, target: str) -> None:
    live = state.path / "live"
    live.unlink()
    live.symlink_to(target)
    assert_damaged(state)
    state.install(THREE)
    assert state.load().held == THREE


def test_a_link_without_an_archive_is_corruption(state: StateDirectory) -> None:
    state.path.joinpath("archive").rename(state.base / "gone")
    assert_damaged(state)
    state.install(THREE)
    assert state.load().held == THREE


@each_layout
def test_a_keyset_that_is_only_half_gone_shows_that_there_was_one(tmp_path: Path, *, sealed: bool) -> None:
    state = StateDirectory(tmp_path, sealed=sealed).install(ONE, TWO)
    state.path.joinpath("live").unlink()
    assert "shows that this node had a keyset" in assert_damaged(state, may_move=False).message
    state.path.joinpath("floor.json").unlink()
    local = state.load()
    assert (type(local.damage), [type(alarm) for alarm in local.alarms]) == (CorruptError, [RebuiltFloorError])
    assert local.floor == floor_of(TWO)._replace(superseded=frozenset(), revoked=frozenset())


SIGNS = {"archive", "public", "seen.json", "confirmed.json", "live", "floor.json"}


@pytest.mark.parametrize("sign", sorted(SIGNS))
def test_anything_of_an_earlier_keyset_is_a_sign_of_it(state: StateDirectory, sign: str) -> None:
    state.disk().confirm(Confirmation(epoch=2, digest=TWO.digest, at=NOW))
    for name in SIGNS - {sign}:
        path = state.path / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    local = state.load()
    assert local.held is None
    assert local.damage is not None


def test_what_is_only_built_aside_is_no_sign(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    (state.path / "archive" / ".000001.new").mkdir(parents=True, mode=0o700)
    for path in (state.path, state.path / "archive"):
        path.chmod(0o700)
    assert (state.load().held, state.load().damage) == (None, None)


def test_a_lost_floor_is_put_together_from_what_is_left(state: StateDirectory) -> None:
    gone = TWO.keyset.active.kid
    state.disk().confirm(Confirmation(epoch=7, digest=THREE.digest, at=NOW))
    state.path.joinpath("floor.json").unlink()
    state.path.joinpath("live").unlink()
    state.path.joinpath("seen.json").write_text(
        json.dumps({"keys": {gone: {"revoked": NOW}}, "tokens": {}, "lifetimes": {}}), encoding="ascii"
    )
    floor = state.load().floor
    assert floor is not None
    assert (floor.epoch, floor.digest, floor.revoked) == (7, THREE.digest, frozenset({gone}))
    assert floor.lineage == TWO.keyset.lineage
    shutil.rmtree(state.path / "archive")
    state.path.joinpath("seen.json").write_text("[", encoding="ascii")
    floor = state.load().floor
    assert floor == Floor(lineage=None, epoch=7, digest=THREE.digest, token_id=None)


@pytest.mark.parametrize("name", ["floor.json", "confirmed.json"])
def test_a_record_that_cannot_be_read_is_an_alarm_and_is_left_alone(state: StateDirectory, name: str) -> None:
    class Broken(System):
        @staticmethod
        def open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:  # noqa: ANN401 - os.open's
            if path == name:
                raise OSError(errno.EIO, "broken")
            return os.open(path, flags, mode, dir_fd=dir_fd)

    state.disk().confirm(Confirmation(epoch=2, digest=TWO.digest, at=NOW))
    before = state.files()
    local = state.disk(Broken()).load((TOKEN,))
    assert local.held == TWO
    assert [type(alarm) for alarm in local.alarms] == [DiskError]
    assert state.files() == before


def test_an_empty_state_directory_holds_nothing(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    for name in ("state", "state/archive", "state/public"):
        tmp_path.joinpath(name).mkdir(mode=0o700)
    local = state.load()
    assert (local.held, local.floor, local.damage, local.alarms) == (None, None, None, ())


# --- the floor ----------------------------------------------------------------------------------

UNREADABLE = {
    "empty": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "another member": b'{"lineage":"x"}',
    "far too large": b" " * (MOST + 1),
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_floor_is_rebuilt_with_an_alarm(state: StateDirectory, content: bytes) -> None:
    state.path.joinpath("floor.json").write_bytes(content)
    local = state.load()
    assert (local.held, local.floor, local.damage) == (TWO, floor_of(TWO), None)
    assert [type(alarm) for alarm in local.alarms] == [RebuiltFloorError]
    state.settle()
    assert state.load().alarms == ()
    assert state.path.joinpath("floor.json").read_bytes() == format_floor(floor_of(TWO))


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_floor_without_a_keyset_shows_that_there_was_one(tmp_path: Path, content: bytes) -> None:
    state = StateDirectory(tmp_path)
    state.path.mkdir(mode=0o700)
    state.path.joinpath("floor.json").touch(mode=0o600)
    state.path.joinpath("floor.json").write_bytes(content)
    local = state.load()
    assert (local.held, local.floor, type(local.damage)) == (None, None, CorruptError)


def test_a_missing_floor_is_rebuilt_with_an_alarm(state: StateDirectory) -> None:
    state.path.joinpath("floor.json").unlink()
    local = state.load()
    assert (local.held, local.floor) == (TWO, floor_of(TWO))
    assert [type(alarm) for alarm in local.alarms] == [RebuiltFloorError]
    state.settle()
    assert state.load().alarms == ()


REVOKING = extend(TWO, Change.REVOKE_ALL)
FORGETFUL = hold(replace(extend(REVOKING, Change.REPLACE_NEXT).keyset, revoked=()))
"""It descends from the revocation and lists it no more, as many revocations later."""


@pytest.mark.parametrize("left", ["the marks", "the notes", "both"])
@pytest.mark.parametrize("lost", ["missing", "unreadable"])
def test_a_floor_that_is_rebuilt_knows_what_was_ever_revoked(state: StateDirectory, lost: str, left: str) -> None:
    state.install(REVOKING)
    notes = state.path.joinpath("seen.json").read_bytes()
    state.install(FORGETFUL)
    gone = {entry.kid for entry in REVOKING.keyset.revoked}
    assert gone
    if left == "the notes":
        for mark in state.path.joinpath("public").glob("*.revoked"):
            mark.unlink()
    if left != "the marks":
        state.path.joinpath("seen.json").write_bytes(notes)
    floor = state.path / "floor.json"
    floor.unlink() if lost == "missing" else floor.write_bytes(b"{")
    local = state.load()
    assert (local.held, [type(alarm) for alarm in local.alarms]) == (FORGETFUL, [RebuiltFloorError])
    state.settle()
    local = state.load()
    assert local.alarms == ()
    assert local.floor is not None
    assert local.floor.revoked == gone
    assert {f"{kid}.revoked" for kid in gone} <= set(state.names("public"))


def test_a_keyset_that_lists_what_was_revoked_is_not_used_though_the_floor_is_lost(state: StateDirectory) -> None:
    kid = TWO.keyset.active.kid
    state.path.joinpath("public", f"{kid}.revoked").touch(mode=0o644)
    state.path.joinpath("floor.json").unlink()
    local = state.load()
    assert (local.held, type(local.damage)) == (None, ForkError)


def test_a_mark_of_no_kid_is_none(state: StateDirectory) -> None:
    for name in ("x.revoked", ".revoked", "x" * 43 + ".revoked.revoked", "a b.revoked"):
        state.path.joinpath("public", name).touch(mode=0o644)
    state.path.joinpath("floor.json").unlink()
    state.settle()
    assert (state.load().floor, state.load().alarms) == (floor_of(TWO), ())


FLOOR_MEMBERS: dict[str, list[object]] = {
    "lineage": ["", "00" * 15, "G" * 32, 1, None],
    "epoch": [0, -1, 1.5, "2", True, 2**53],
    "digest": ["", "AA", "!" * 22, 7],
    "token": ["", "0123", "012345678G", 5],
    "superseded": [{}, ["x"], [1]],
    "revoked": [{}, ["x"], [1]],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in FLOOR_MEMBERS.items() for value in values]
)
def test_a_floor_that_is_not_as_keydist_writes_it_is_unreadable(
    state: StateDirectory, name: str, value: object
) -> None:
    path = state.path / "floor.json"
    path.write_text(json.dumps(state.json("floor.json") | {name: value}))
    assert [type(alarm) for alarm in state.load().alarms] == [RebuiltFloorError]


def test_a_floor_behind_the_live_keyset_was_overtaken_by_a_stop(state: StateDirectory) -> None:
    gone = "A" * 43
    behind = floor_of(ONE)._replace(token_id=OTHER_TOKEN.token_id, revoked=frozenset({gone}))
    state.path.joinpath("floor.json").write_bytes(format_floor(behind))
    local = state.load()
    assert (local.held, local.alarms) == (TWO, ())
    assert local.floor == floor_of(TWO)._replace(
        superseded=frozenset({OTHER_TOKEN.token_id}), revoked=frozenset({gone})
    )


@each_layout
def test_a_floor_ahead_of_the_live_keyset_shows_that_the_directory_was_put_back(
    tmp_path: Path, *, sealed: bool
) -> None:
    state = StateDirectory(tmp_path, sealed=sealed).install(ONE)
    state.path.joinpath("floor.json").write_bytes(format_floor(floor_of(TWO)))
    error = assert_damaged(state, RollbackError, may_move=False)
    assert (error.expected, error.found) == ("epoch 2", "epoch 1")
    state.install(TWO)
    assert state.load().held == TWO


def test_a_keyset_that_does_not_stand_on_its_floor_is_not_used(state: StateDirectory) -> None:
    floors = {
        "another lineage": floor_of(first("other ", lineage=OTHER_LINEAGE)),
        "the epoch with other bytes": floor_of(TWO)._replace(digest=bytes(16)),
        "no ancestor": floor_of(ONE)._replace(digest=bytes(16)),
        "a key that was revoked": floor_of(TWO)._replace(revoked=frozenset({TWO.keyset.active.kid})),
    }
    for floor in floors.values():
        state.path.joinpath("floor.json").write_bytes(format_floor(floor))
        local = state.load()
        assert (local.held, type(local.damage), local.floor, local.quarantine) == (None, ForkError, floor, False)


def test_a_keyset_that_was_chosen_against_its_floor_is_used(state: StateDirectory) -> None:
    state.path.joinpath("floor.json").write_bytes(format_floor(floor_of(THREE)))
    for chosen, held in ((ONE, None), (TWO, TWO)):
        state.path.joinpath("override.json").write_bytes(format_override(chosen.digest))
        state.path.joinpath("override.json").chmod(0o600)
        assert state.load().held == held
    state.disk().settle(state.load(), now=NOW)
    assert not state.path.joinpath("override.json").exists()
    assert state.load().held == TWO
    state.path.joinpath("override.json").write_bytes(b"[")
    assert state.load().held == TWO


# --- the confirmation ---------------------------------------------------------------------------

CONFIRMATIONS = [b"", b"{", b"[]", b'{"epoch":1}', b'{"epoch":0,"digest":"","at":1}', b" " * (MOST + 1)]


@pytest.mark.parametrize("content", CONFIRMATIONS, ids=range(len(CONFIRMATIONS)))
def test_an_unreadable_confirmation_confirms_nothing_and_is_an_alarm(state: StateDirectory, content: bytes) -> None:
    path = state.path / "confirmed.json"
    path.touch(mode=0o600)
    path.write_bytes(content)
    local = state.load()
    assert (local.held, local.confirmation) == (TWO, None)
    assert [type(alarm) for alarm in local.alarms] == [MalformedError]


def test_times_that_are_far_too_large_begin_now(state: StateDirectory) -> None:
    state.path.joinpath("seen.json").write_bytes(b" " * (MOST + 1))
    state.settle(now=NOW + 5)
    assert set(state.json("seen.json")["keys"][TWO.keyset.active.kid].values()) == {NOW + 5}


# --- at the same time ---------------------------------------------------------------------------


def test_what_another_process_installs_while_this_one_reads_is_no_damage(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path).install(ONE)

    def meanwhile(call: Call) -> None:
        if call.argument == "archive" and state.live.name == "000001":
            state.install(TWO, THREE)

    assert state.disk(FaultySystem(meanwhile)).load((TOKEN,)).held == THREE


def test_whenever_it_is_overtaken_a_reader_finds_its_keyset_confirmed(tmp_path: Path) -> None:
    def confirm(state: StateDirectory, held: Held) -> None:
        state.disk().confirm(Confirmation(epoch=held.keyset.epoch, digest=held.digest, at=NOW))

    number, is_overtaken = 0, True
    while is_overtaken:
        number, is_overtaken = number + 1, False
        state = StateDirectory(tmp_path / str(number)).install(ONE)
        confirm(state, ONE)

        def meanwhile(call: Call, state: StateDirectory = state, stop: int = number) -> None:
            nonlocal is_overtaken
            if call.number == stop:
                is_overtaken = True
                state.install(TWO)
                confirm(state, TWO)

        found = state.disk(FaultySystem(meanwhile)).load((TOKEN,))
        assert found.held is not None
        assert lease_of(found.held, found.confirmation) is not None, number
    assert number > 10


def test_a_reader_that_is_overtaken_once_reads_the_keyset_before(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path).install(ONE)

    def meanwhile(call: Call) -> None:
        if call.argument == "archive" and state.live.name == "000001":
            state.install(TWO)

    overtaken = state.disk(FaultySystem(meanwhile)).load((TOKEN,))
    assert overtaken.held == ONE
    with pytest.raises(ConflictError):
        state.disk().install(THREE, based_on=overtaken, now=NOW)
