"""`keydist store nkey`: a seed that is made once, shown never, and whose public nkey `store config` takes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from keydist.adapters.nats.credentials import credential_options, public_nkey
from tests.unit.cli_node import CliNode


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CliNode:
    return CliNode(tmp_path, monkeypatch, capsys)


def test_a_seed_is_made_once_and_only_its_public_nkey_is_shown(node: CliNode, tmp_path: Path) -> None:
    path = tmp_path / "user.nk"
    answer = node.run("store", "nkey", "--out", str(path))
    seed = path.read_text("ascii")
    assert (answer.code, answer.out) == (0, f"{public_nkey(seed)}\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert seed not in answer.out + answer.err
    credential_options(creds_file=None, nkey_file=str(path))  # the adapter takes it
    again = node.run("store", "nkey", "--out", str(path), "--json")
    assert again.json == {"nkey": public_nkey(seed), "file": str(path), "changed": False}
    assert path.read_text("ascii") == seed


def test_store_config_takes_what_it_prints(node: CliNode, tmp_path: Path) -> None:
    nkeys = {name: node.run("store", "nkey", "--out", str(tmp_path / name)).out.strip() for name in ("op", "lead", "a")}
    named = ("--leader", f"lead-1={nkeys['lead']}", "--follower", f"a={nkeys['a']}", "--operator", f"op={nkeys['op']}")
    answer = node.run("store", "config", *named)
    assert answer.code == 0
    assert all(f'nkey: "{nkey}"' in answer.out for nkey in nkeys.values())


@pytest.mark.parametrize(("content", "mode", "code"), [("SUJUNK", 0o600, 78), ("", 0o600, 78), ("SUJUNK", 0o644, 77)])
def test_a_file_that_is_no_seed_of_this_user_is_refused_and_left(
    content: str, mode: int, code: int, node: CliNode, tmp_path: Path
) -> None:
    path = tmp_path / "user.nk"
    path.write_text(content, encoding="ascii")
    path.chmod(mode)
    answer = node.run("store", "nkey", "--out", str(path), "--json")
    assert answer.code == code
    assert "JUNK" not in answer.out + answer.err
    assert path.read_text("ascii") == content


def test_a_place_that_is_none_is_refused(node: CliNode, tmp_path: Path) -> None:
    assert node.run("store", "nkey", "--out", "").code == 2
    assert node.run("store", "nkey", "--out", str(tmp_path / "absent" / "user.nk"), "--json").code == 73
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert node.run("store", "nkey", "--out", str(tmp_path / "link"), "--json").code == 73
    assert not (tmp_path / "elsewhere").exists()
