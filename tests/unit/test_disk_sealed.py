"""`at_rest: sealed`: no plaintext on persistent disk, the PEM in the runtime directory, a restart needs the token."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from keydist.adapters.disk.archive import render_pem
from keydist.errors import WrongTokenError
from tests.crash.state import StateDirectory
from tests.material import NOW, OTHER_TOKEN, TOKEN, Change, chain, extend

ONE, TWO, THREE = chain(3)


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path, sealed=True)


def pem(state: StateDirectory) -> Path:
    return state.runtime / "signing-key.pem"


def test_the_search_for_plaintext_finds_it_where_it_is(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path).install(ONE)
    live = f"state/{state.live.relative_to(state.path)}"
    assert state.plaintext(ONE.keyset) == [f"{live}/keyset.json", f"{live}/signing-key.pem"]


def test_no_plaintext_is_on_disk(state: StateDirectory) -> None:
    for held in (ONE, TWO, THREE, extend(THREE, Change.REVOKE_ALL)):
        state.install(held)
        assert state.plaintext(held.keyset) == []
        assert sorted(path.name for path in state.live.iterdir()) == ["jwks.json", "keyset.jwe", "sums"]


def test_the_runtime_directory_has_the_active_signing_key_and_nothing_else(state: StateDirectory) -> None:
    for held in (ONE, TWO):
        state.install(held)
        assert [path.name for path in state.runtime.iterdir()] == ["signing-key.pem"]
        assert pem(state).read_bytes() == render_pem(held)
    assert stat.S_IMODE(state.runtime.stat().st_mode) == 0o700
    assert stat.S_IMODE(pem(state).stat().st_mode) == 0o600


def test_a_group_reads_the_rendered_key(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path, sealed=True, gid=os.getgid()).install(ONE, TWO)
    assert stat.S_IMODE(state.runtime.stat().st_mode) == 0o750
    assert (stat.S_IMODE(pem(state).stat().st_mode), pem(state).stat().st_gid) == (0o640, os.getgid())
    before = state.files()
    state.settle()
    assert state.files() == before


def test_a_restart_needs_the_token(state: StateDirectory) -> None:
    state.install(ONE)
    assert state.load(TOKEN).held == ONE
    for tokens in ((), (OTHER_TOKEN,)):
        local = state.disk().load(tokens)
        assert local.held is None
        assert isinstance(local.damage, WrongTokenError)


@pytest.mark.parametrize("left", [None, b"", b"another key"])
def test_a_restart_of_the_machine_renders_the_key_again(state: StateDirectory, left: bytes | None) -> None:
    state.install(ONE)
    if left is None:
        pem(state).unlink()
        state.runtime.rmdir()
    else:
        pem(state).write_bytes(left)
    state.settle()
    assert pem(state).read_bytes() == render_pem(ONE)


def test_a_plain_node_renders_nothing(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path).install(ONE)
    state.settle()
    assert not state.runtime.exists()


# --- from one to the other ----------------------------------------------------------------------


def corrupt_and_replace(state: StateDirectory) -> None:
    """Let a plain keyset end in quarantine, with all its files."""
    state.live.joinpath("sums").write_bytes(b"")
    state.install(THREE)
    assert "keyset.json" in state.names("quarantine/000002")


def test_sealing_leaves_no_plaintext_behind(tmp_path: Path) -> None:
    plain = StateDirectory(tmp_path).install(ONE, TWO)
    corrupt_and_replace(plain)
    state = plain.sealed(sealed=True)
    state.settle()
    for held in (ONE, TWO, THREE):
        assert state.plaintext(held.keyset) == []
    assert state.load().held == THREE
    assert state.names("quarantine/000002") == ["jwks.json", "keyset.jwe", "sums"]
    assert pem(state).read_bytes() == render_pem(THREE)


def test_a_newer_epoch_that_arrives_with_the_change_leaves_no_plaintext_either(tmp_path: Path) -> None:
    plain = StateDirectory(tmp_path).install(ONE, TWO)
    state = plain.sealed(sealed=True).install(THREE)
    for held in (ONE, TWO, THREE):
        assert state.plaintext(held.keyset) == []
    assert state.names("archive") == ["000003"]


def test_a_corrupt_plain_keyset_is_sealed_in_quarantine_too(tmp_path: Path) -> None:
    plain = StateDirectory(tmp_path).install(ONE, TWO)
    plain.live.joinpath("jwks.json").write_bytes(b"{}")
    state = plain.sealed(sealed=True).install(THREE)
    for held in (ONE, TWO, THREE):
        assert state.plaintext(held.keyset) == []
    assert state.names("quarantine/000002") == ["jwks.json", "keyset.jwe", "sums"]


def test_what_could_not_be_opened_again_is_not_sealed(tmp_path: Path) -> None:
    """Without its token a sealed keyset is lost to this node."""
    plain = StateDirectory(tmp_path).install(ONE, TWO)
    state, before = plain.sealed(sealed=True), plain.files()
    for tokens in ((), (OTHER_TOKEN,)):
        local = state.disk().load(tokens)
        assert local.held == TWO
        assert [type(alarm) for alarm in local.alarms] == [WrongTokenError]
        assert "stays on disk in plain" in local.alarms[0].message
        state.disk().settle(local, now=NOW)
        kept = {name: data for name, data in state.files().items() if name in before}
        assert kept == {name: data for name, data in before.items() if "/000001/" not in name}
    state.settle(TOKEN)
    assert state.plaintext(TWO.keyset) == []


def test_unsealing_takes_the_rendered_key_away_before_it_grows_old(state: StateDirectory) -> None:
    state.install(ONE, TWO)
    plain = state.sealed(sealed=False)
    plain.settle()
    assert not pem(state).exists()
    assert plain.load().held == TWO
    assert plain.live.joinpath("signing-key.pem").read_bytes() == render_pem(TWO)
    assert plain.load(OTHER_TOKEN).held == TWO


def test_unsealing_by_a_newer_epoch_takes_the_rendered_key_away(state: StateDirectory) -> None:
    state.install(ONE, TWO)
    state.sealed(sealed=False).install(THREE)
    assert not pem(state).exists()


# --- forgetting ---------------------------------------------------------------------------------


def test_forgetting_takes_the_rendered_key_away(state: StateDirectory) -> None:
    state.install(ONE)
    assert state.disk().reset()
    assert not pem(state).exists()
    assert state.names() == ["lock"]


def test_forgetting_takes_a_rendered_key_away_that_is_all_that_is_left(state: StateDirectory) -> None:
    state.install(ONE)
    for path in sorted(state.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    state.path.rmdir()
    assert state.disk().reset()
    assert not pem(state).exists()
    assert not state.disk().reset()
