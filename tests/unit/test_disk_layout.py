"""The state directory as other programs and operators see it: names, modes, what is kept and for how long."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from keydist.core.accept import Held
from keydist.core.jwk import jwk_set
from keydist.core.keyset import State
from keydist.core.local import Confirmation
from keydist.errors import DiskError, WrongUserError
from tests.crash.state import StateDirectory
from tests.fakes.faulty_system import Call, FaultySystem
from tests.material import NOW, OTHER_TOKEN, TOKEN, Change, chain, extend

ONE, TWO, THREE = chain(3)
GROUP = os.getgid()


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o027], ids=lambda mask: f"umask {mask:03o}")
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --- names and content --------------------------------------------------------------------------


def test_a_first_installation_makes_this_and_nothing_else(state: StateDirectory) -> None:
    state.install(ONE)
    public = {f"state/public/{key.kid}.jwk" for key in ONE.keyset.signing_keys()}
    archive = {
        f"state/archive/000001/{name}" for name in ("keyset.jwe", "keyset.json", "signing-key.pem", "jwks.json", "sums")
    }
    assert set(state.files()) == {"state/lock", "state/live", "state/floor.json", "state/seen.json"} | archive | public


def test_each_file_of_a_keyset_holds_what_its_name_says(state: StateDirectory) -> None:
    state.install(ONE)
    live = state.live
    assert (live / "keyset.jwe").read_bytes() == ONE.envelope
    assert (live / "keyset.json").read_bytes() == ONE.plaintext
    assert json.loads((live / "jwks.json").read_bytes()) == jwk_set(ONE.keyset)
    pem = load_pem_private_key((live / "signing-key.pem").read_bytes(), None)
    assert pem.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()) == ONE.keyset.active.material
    names = ("jwks.json", "keyset.json", "keyset.jwe", "signing-key.pem")
    lines = [f"{hashlib.sha256((live / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    assert (live / "sums").read_text() == "".join(lines)


def test_every_other_epoch_comes_in_by_one_link_on_one_directory(state: StateDirectory) -> None:
    state.install(ONE)
    system = FaultySystem()
    state.disk(system).install(TWO, based_on=state.load(), now=NOW)
    live = [
        call for call in system.calls if call.name in ("symlink", "rename", "unlink") and "live" in str(call.argument)
    ]
    assert [call.name for call in live] == ["unlink", "rename"], (
        "the old link is never removed before the new one is there"
    )
    assert state.path.joinpath("live").readlink() == Path("archive/000002")


def test_the_checksums_are_those_of_sha256sum(state: StateDirectory) -> None:
    state.install(ONE)
    subprocess.run(["sha256sum", "--check", "--strict", "sums"], cwd=state.live, check=True, capture_output=True)


# --- modes --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("any_umask")
def test_modes_do_not_depend_on_the_umask(state: StateDirectory) -> None:
    state.install(ONE, TWO)
    state.disk().confirm(Confirmation(epoch=2, digest=TWO.digest, at=NOW))
    state.disk().quarantine(b"refused")
    found = {str(path.relative_to(state.path)): mode(path) for path in state.path.rglob("*") if not path.is_symlink()}
    expected = {name: 0o600 for name, path in ((name, state.path / name) for name in found) if path.is_file()}
    expected |= {name: 0o644 for name in found if name.endswith(("jwks.json", ".jwk"))}
    expected |= {name: 0o700 for name in found if (state.path / name).is_dir()}
    assert found == expected
    assert mode(state.path) == 0o700


@pytest.mark.usefixtures("any_umask")
def test_a_group_may_reach_and_read_the_signing_key_and_no_other_secret(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path, gid=GROUP).install(ONE, TWO)
    for directory in (state.path, state.path / "archive", state.live):
        assert (mode(directory), directory.stat().st_gid) == (0o750, GROUP)
    pem = state.live / "signing-key.pem"
    assert (mode(pem), pem.stat().st_gid) == (0o640, GROUP)
    for name in ("keyset.jwe", "keyset.json", "sums"):
        assert mode(state.live / name) == 0o600
    assert mode(state.path / "floor.json") == 0o600
    assert state.load().held == TWO


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_a_group_that_is_configured_later_is_let_in_at_the_next_start(tmp_path: Path, *, sealed: bool) -> None:
    StateDirectory(tmp_path, sealed=sealed).install(ONE, TWO)
    state = StateDirectory(tmp_path, sealed=sealed, gid=GROUP)
    state.settle()
    for directory in (state.path, state.path / "archive", state.live):
        assert mode(directory) == 0o750
    if not sealed:
        assert mode(state.live / "signing-key.pem") == 0o640
    before = state.files()
    state.settle()
    assert state.files() == before


def test_a_group_that_this_user_is_not_in_is_named(tmp_path: Path) -> None:
    def not_a_member(call: Call) -> BaseException | None:
        return PermissionError(errno.EPERM, "not permitted") if call.name == "fchown" else None

    state = StateDirectory(tmp_path, gid=GROUP)
    with pytest.raises(WrongUserError, match="cannot be given to the configured group") as caught:
        state.disk(FaultySystem(not_a_member)).install(ONE, based_on=state.load(), now=NOW)
    assert caught.value.expected.endswith(f"a member of group {GROUP}")


# --- what is kept -------------------------------------------------------------------------------


def test_only_the_live_keyset_and_its_predecessor_are_kept(state: StateDirectory) -> None:
    for held, names in ((ONE, ["000001"]), (TWO, ["000001", "000002"]), (THREE, ["000002", "000003"])):
        state.install(held)
        assert state.names("archive") == names
        assert state.live.name == names[-1]


def test_an_epoch_that_is_installed_twice_gets_a_directory_beside_the_live_one(state: StateDirectory) -> None:
    state.install(ONE)
    for name in ("000001-1", "000001", "000001-1"):
        state.disk().override(ONE, based_on=state.load(), now=NOW)
        assert state.live.name == name
        assert state.load().held == ONE
    assert state.names("archive") == ["000001", "000001-1"]


def test_public_keys_are_kept_for_ever(state: StateDirectory) -> None:
    epochs = [*chain(4), extend(chain(4)[-1], Change.REVOKE_ALL)]
    ever, revoked = set[str](), set[str]()
    for held in epochs:
        state.install(held)
        ever |= {f"{key.kid}.jwk" for key in held.keyset.signing_keys()}
        revoked = {f"{entry.kid}.revoked" for entry in held.keyset.revoked}
        assert set(state.names("public")) == ever | revoked
    assert revoked
    for key in ONE.keyset.signing_keys():
        jwk = json.loads(state.path.joinpath("public", f"{key.kid}.jwk").read_bytes())
        assert jwk == {**key.public.members, "use": "sig", "alg": key.alg, "kid": key.kid}
    assert len(ever) > len(list(epochs[-1].keyset.signing_keys()))


def test_a_public_key_that_is_there_is_not_written_again(state: StateDirectory) -> None:
    state.install(ONE)
    path = state.path / "public" / f"{ONE.keyset.active.kid}.jwk"
    before = path.stat().st_ino
    state.install(TWO)
    assert path.stat().st_ino == before


def refused(number: int) -> bytes:
    return f"refused {number}".encode()


def test_of_what_is_refused_the_newest_eight_are_kept(state: StateDirectory) -> None:
    def age(name: str, *, dir_fd: int, follow_symlinks: bool) -> os.stat_result:
        """Tell the times of two files apart, however quickly they were made."""
        found = os.stat(name, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=dir_fd), "rb") as file:
            number = int(file.read().split()[1])
        return os.stat_result(list(found), {"st_ctime_ns": number})

    state.install(ONE)
    for number in range(12):
        state.disk(FaultySystem(instead={"stat": age})).quarantine(refused(number))
    found = {path.read_bytes() for path in state.path.joinpath("quarantine").iterdir()}
    assert found == {refused(number) for number in range(4, 12)}
    assert {mode(path) for path in state.path.joinpath("quarantine").iterdir()} == {0o600}


def test_what_is_refused_twice_is_kept_once(state: StateDirectory) -> None:
    state.install(ONE)
    for _ in range(2):
        state.disk().quarantine(refused(1))
    assert len(state.names("quarantine")) == 1


def test_a_node_without_a_state_directory_keeps_nothing_that_it_refuses(state: StateDirectory) -> None:
    state.disk().quarantine(refused(1))
    assert not state.path.exists()


# --- seen.json ----------------------------------------------------------------------------------


def states(held: Held, at: int) -> dict[str, dict[str, int]]:
    return {key.kid: {key.state.value: at} for key in held.keyset.keys}


def test_a_key_is_seen_in_a_state_when_it_was_first_held_in_it(state: StateDirectory) -> None:
    state.install(ONE, now=NOW)
    assert state.json("seen.json")["keys"] == states(ONE, NOW)
    state.install(TWO, now=NOW + 10)
    seen = state.json("seen.json")["keys"]
    for key in TWO.keyset.keys:
        before = ONE.keyset.state_of(key.kid)
        expected = {key.state.value: NOW + 10} | ({before.value: NOW} if before is not State.ABSENT else {})
        assert seen[key.kid] == expected
    state.settle(now=NOW + 20)
    assert state.json("seen.json")["keys"] == seen


def test_a_key_that_is_gone_is_forgotten_and_a_revoked_one_is_not(state: StateDirectory) -> None:
    revoking = extend(ONE, Change.REVOKE_ACTIVE)
    dropping = extend(TWO, Change.DROP)
    state.install(ONE, TWO, now=NOW).install(dropping, now=NOW + 1)
    assert ONE.keyset.active.kid not in state.json("seen.json")["keys"]
    state.disk().reset()
    state.install(ONE, now=NOW).install(revoking, now=NOW + 1)
    assert state.json("seen.json")["keys"][ONE.keyset.active.kid] == {"active": NOW, "revoked": NOW + 1}


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"keys":[],"tokens":{},"lifetimes":{}}',
        b'{"keys":{"x":{"next":1}},"tokens":{},"lifetimes":{}}',
        b'{"keys":{"%s":{"absurd":1}},"tokens":{},"lifetimes":{}}',
        b'{"keys":{"%s":1},"tokens":{},"lifetimes":{}}',
        b'{"keys":{"%s":{"active":1.5}},"tokens":{},"lifetimes":{}}',
        b'{"keys":{"%s":{"active":1}},"tokens":{"0123":1},"lifetimes":{}}',
        b'{"keys":{"%s":{"active":1}},"tokens":{},"lifetimes":{"-1":1}}',
        b'{"keys":{"%s":{"active":1}},"tokens":{},"lifetimes":{"99999999999999999":1}}',
        b'{"keys":{"%s":{"active":1}},"tokens":{},"lifetimes":{},"rehearsed":"x"}',
        b'{"keys":{"%s":{"active":1}},"tokens":{},"lifetimes":{},"more":1}',
    ],
)
def test_times_that_are_missing_or_unreadable_begin_now(state: StateDirectory, content: bytes | None) -> None:
    state.install(ONE, now=NOW)
    path = state.path / "seen.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content.replace(b"%s", ONE.keyset.active.kid.encode()))
    state.settle(now=NOW + 99)
    assert state.json("seen.json")["keys"] == states(ONE, NOW + 99)


# --- confirmed.json, floor.json -----------------------------------------------------------------


def test_what_was_done_is_noted_and_survives_the_next_installation(state: StateDirectory) -> None:
    state.install(ONE, now=NOW)
    disk = state.disk()
    assert (disk.notes().republished, disk.notes().rehearsed) == (None, None)
    disk.note_done(republished=NOW + 1)
    disk.note_done(rehearsed=NOW + 2)
    state.install(TWO, now=NOW + 3)
    notes = disk.notes()
    assert (notes.republished, notes.rehearsed) == (NOW + 1, NOW + 2)
    assert notes.tokens == {ONE.token_id: NOW}
    assert notes.lifetimes == {ONE.keyset.policy.max_lifetime: NOW}


def test_a_confirmation_is_kept_as_json(state: StateDirectory) -> None:
    state.install(ONE)
    state.disk().confirm(Confirmation(epoch=1, digest=ONE.digest, at=NOW))
    found = state.json("confirmed.json")
    assert (found["epoch"], found["at"]) == (1, NOW)
    assert state.load().confirmation == Confirmation(epoch=1, digest=ONE.digest, at=NOW)


def test_the_floor_is_written_after_the_swing(state: StateDirectory) -> None:
    system = FaultySystem()
    state.disk(system).install(ONE, based_on=state.load(), now=NOW)
    renamed = [call.argument for call in system.calls if call.name == "rename"]
    assert renamed.index(".live.new") < renamed.index(".floor.json.new") < renamed.index(".seen.json.new")


def test_a_new_token_supersedes_the_one_before_in_the_floor(state: StateDirectory) -> None:
    state.install(ONE)
    resealed = extend(ONE, Change.RESEAL, token=OTHER_TOKEN)
    state.install(resealed)
    floor = state.json("floor.json")
    assert (floor["token"], floor["superseded"]) == (OTHER_TOKEN.token_id, [TOKEN.token_id])


# --- settling, forgetting, parents --------------------------------------------------------------


def test_settling_what_is_settled_writes_nothing(state: StateDirectory) -> None:
    state.install(ONE, TWO)
    system = FaultySystem()
    state.disk(system).settle(state.load(), now=NOW)
    assert not {"write", "rename", "unlink", "mkdir", "symlink", "flock"} & {call.name for call in system.calls}


def test_settling_nothing_makes_no_directory(state: StateDirectory) -> None:
    state.disk().settle(state.load(), now=NOW)
    loaded = StateDirectory(state.base / "other").install(ONE).load()
    state.disk().settle(loaded, now=NOW)
    assert not state.path.exists()


def test_forgetting_leaves_what_is_not_keydist_s(state: StateDirectory) -> None:
    state.install(ONE, TWO)
    state.disk().quarantine(b"refused")
    state.path.joinpath(".floor.json.new").touch()
    state.path.joinpath("notes.txt").write_text("of the operator")
    assert state.disk().reset()
    assert state.names() == ["lock", "notes.txt"]
    assert not state.disk().reset()


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.path = tmp_path / "no" / "such"
    with pytest.raises(DiskError, match="its parent is missing") as caught:
        state.disk().install(ONE, based_on=state.load(), now=NOW)
    assert str(state.path) in caught.value.fix


def test_a_first_installation_makes_the_directory_itself_durable(state: StateDirectory) -> None:
    synced: list[str] = []

    def note(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))

    watched = FaultySystem(instead={"fsync": note})
    state.disk(watched).install(ONE, based_on=state.load(), now=NOW)
    assert str(state.base) in synced
    synced.clear()
    state.disk(watched).install(TWO, based_on=state.load(), now=NOW)
    assert synced
    assert str(state.base) not in synced
