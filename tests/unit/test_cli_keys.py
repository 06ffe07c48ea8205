"""`keydist key` and `keydist jwks`: what a node holds, from its disk alone; private parts only where asked for."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from keydist.core.accept import Held
from keydist.core.genesis import encryption_key, signing_key
from keydist.core.jwk import jwk_set, public_jwk
from keydist.core.keyset import Key, State
from tests.material import NOW, Change, chain, extend, hold, make_keyset, noise, pkcs8, private_key, sig_key
from tests.unit.cli_node import CliNode

ROTATED = chain(2)
"""An active, a next and a retired key of each use."""
REVOKED = extend(ROTATED[-1], Change.REVOKE_ACTIVE)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CliNode:
    found = CliNode(tmp_path, monkeypatch, capsys)
    found.install(*ROTATED)
    found.hold_tokens()  # a plain keyset is read without one
    return found


def of(state: State, *, use: str = "sig", held: Held = ROTATED[-1]) -> Key:
    return next(key for key in held.keyset.keys if (key.use, key.state) == (use, state))


# --- list and show ------------------------------------------------------------------------------


def test_list_shows_states_and_times_and_no_material(node: CliNode) -> None:
    answer = node.run("key", "list", "--json")
    assert (answer.code, answer.err) == (0, "")
    facts = answer.json
    assert (facts["epoch"], facts["revoked"]) == (2, [])
    assert [(key["kid"], key["use"], key["state"]) for key in facts["keys"]] == [
        (key.kid, key.use, key.state.value) for key in ROTATED[-1].keyset.keys
    ]
    times = {"created", "published", "activated", "retired", "verify_until"}
    assert all(key.keys() <= {"kid", "use", "alg", "state"} | times for key in facts["keys"])
    retired = next(key for key in facts["keys"] if key["kid"] == of(State.RETIRED).kid)
    assert retired["retired"] == of(State.RETIRED).retired


def test_list_shows_what_was_revoked_and_why(node: CliNode) -> None:
    node.install(REVOKED)
    (entry, *_) = REVOKED.keyset.revoked
    assert {"kid": entry.kid, "at": entry.at, "reason": "test"} in node.run("key", "list", "--json").json["revoked"]
    lines = node.run("key", "list").out.splitlines()
    assert len(lines) == len(REVOKED.keyset.keys) + len(REVOKED.keyset.revoked)
    assert any(line.startswith(entry.kid) and line.endswith("  test") for line in lines)


@pytest.mark.parametrize("state", [State.ACTIVE, State.NEXT, State.RETIRED])
@pytest.mark.parametrize("use", ["sig", "enc"])
def test_show_tells_all_of_one_key_but_its_material(node: CliNode, state: State, use: str) -> None:
    key = of(state, use=use)
    facts = node.run("key", "show", key.kid, "--json").json
    assert (facts["kid"], facts["use"], facts["alg"], facts["state"]) == (key.kid, use, key.alg, state.value)
    assert facts.get("jwk") == (public_jwk(key) if use == "sig" else None)
    answer = node.run("key", "show", key.kid)
    assert answer.code == 0
    lines = dict(line.split(None, 1) for line in answer.out.splitlines())
    assert lines["created"] == "2027-01-15T08:00:00Z" or state is State.NEXT
    assert lines["kid"] == key.kid
    if use == "sig":
        assert json.loads(lines["jwk"]) == public_jwk(key)


@pytest.mark.parametrize("command", ["show", "export"])
@pytest.mark.parametrize("kid", ["nope", "", "\x1b]0;owned\x07", "-" * 43, "é" * 100])
def test_a_kid_that_is_not_here(node: CliNode, command: str, kid: str) -> None:
    answer = node.run("key", command, "--json", "--", kid)
    assert (answer.code, answer.error["code"]) == (2, "usage")
    assert "keydist key list" in answer.err
    assert "\x1b" not in answer.err + answer.out


def dashed(private: bytes, *, alg: str = "EdDSA") -> Key | None:
    key = signing_key(private, alg=alg, state=State.ACTIVE, now=NOW, activated=NOW)
    return key if key.kid.startswith("-") and "h" in key.kid else None


def test_a_kid_that_begins_with_a_dash_is_no_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node = CliNode(tmp_path, monkeypatch, capsys)
    # One kid in 64 does, and most hold an h, which would be -h. The dash that leads the encryption key's is doubled.
    sig = next(key for number in range(10_000) if (key := dashed(pkcs8(f"dash {number}"))) is not None)
    enc = encryption_key(bytes(range(32)), b"\xfb\xef" + noise("kid", 14), state=State.ACTIVE, now=NOW, activated=NOW)
    assert enc.kid.startswith("--")
    node.install(hold(make_keyset(keys=(sig, enc))))
    for arguments in ((sig.kid, "--json"), ("--json", sig.kid), ("--json", "--", sig.kid)):
        assert node.run("key", "show", *arguments).json["kid"] == sig.kid
    assert node.run("key", "show", enc.kid, "--json").json["kid"] == enc.kid
    assert node.run("key", "export", sig.kid).out.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert node.run("key", "export", sig.kid, sig.kid).code == 2
    assert node.run("key", "show", f"{sig.kid}x").code == 2


# --- export -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.ACTIVE, State.NEXT, State.RETIRED])
def test_export_prints_the_public_key(node: CliNode, state: State) -> None:
    key = of(state)
    answer = node.run("key", "export", key.kid)
    assert (answer.code, answer.err) == (0, "")
    assert load_pem_public_key(answer.out.encode()).public_bytes_raw() == key.public.spki[-32:]  # type: ignore[union-attr]
    assert node.run("key", "export", key.kid, "--json").json == public_jwk(key)


@pytest.mark.parametrize("state", [State.ACTIVE, State.NEXT])
def test_export_prints_the_private_key_where_it_is_asked_for(node: CliNode, state: State) -> None:
    key = of(state)
    answer = node.run("key", "export", key.kid, "--private")
    assert (answer.code, answer.err) == (0, "")
    loaded = load_pem_private_key(answer.out.encode(), None)
    assert loaded.public_key() == load_pem_public_key(node.run("key", "export", key.kid).out.encode())


def test_openssl_reads_what_export_prints(node: CliNode, tmp_path: Path) -> None:
    key = sig_key("rsa-a", alg="RS256")
    enc = next(key for key in ROTATED[-1].keyset.keys if (key.use, key.state) == ("enc", State.ACTIVE))
    other = CliNode(tmp_path, node._monkeypatch, node._capsys)
    (tmp_path / "state").rename(tmp_path / "before")
    other.install(hold(make_keyset(keys=(key, enc))))
    for arguments, flags in ((("--private",), ()), ((), ("-pubin",))):
        pem = other.run("key", "export", key.kid, *arguments).out
        done = subprocess.run(
            ["openssl", "pkey", "-pubout", *flags], input=pem, capture_output=True, text=True, check=True
        )
        assert load_pem_public_key(done.stdout.encode()) == private_key("rsa-a", "RS256").public_key()


def test_the_private_part_of_a_retired_key_is_not_kept(node: CliNode) -> None:
    answer = node.run("key", "export", of(State.RETIRED).kid, "--private")
    assert (answer.code, answer.out) == (2, "")
    assert "is not kept" in answer.err


@pytest.mark.parametrize("arguments", [(), ("--private",), ("--json",)])
def test_an_encryption_key_is_never_exported(node: CliNode, arguments: tuple[str, ...]) -> None:
    answer = node.run("key", "export", of(State.ACTIVE, use="enc").kid, *arguments)
    assert answer.code == 2
    assert "encryption key" in answer.err


def test_a_private_key_is_not_json(node: CliNode) -> None:
    answer = node.run("key", "export", of(State.ACTIVE).kid, "--private", "--json")
    assert (answer.code, answer.error["code"]) == (2, "usage")


# --- jwks ---------------------------------------------------------------------------------------


def test_jwks_prints_every_key_that_verifies(node: CliNode) -> None:
    for arguments in ((), ("--json",), ("--out", "-")):
        answer = node.run("jwks", *arguments)
        assert (answer.code, answer.err, answer.json) == (0, "", jwk_set(ROTATED[-1].keyset))
        assert all("d" not in key and "k" not in key for key in answer.json["keys"])


def test_jwks_writes_a_file_whole_and_only_where_it_differs(node: CliNode, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    answer = node.run("jwks", "--out", str(file), "--json")
    assert answer.json == {"file": str(file), "changed": True}
    assert json.loads(file.read_bytes()) == jwk_set(ROTATED[-1].keyset)
    assert file.stat().st_mode & 0o7777 == 0o644
    inode = file.stat().st_ino
    assert node.run("jwks", "--out", str(file), "--json").json == {"file": str(file), "changed": False}
    assert file.stat().st_ino == inode
    node.install(extend(ROTATED[-1], Change.ROTATE))
    quiet = node.run("jwks", "--out", str(file))
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    assert len(json.loads(file.read_bytes())["keys"]) == 4
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".new")] == []


@pytest.mark.parametrize(("file", "code"), [("/nowhere/at/all", 73), ("", 2), ("fifo", 78), (".", 78)])
def test_jwks_where_no_file_can_be(
    node: CliNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    answer = node.run("jwks", "--out", file, "--json")
    assert answer.code == code
    assert answer.error["message"]
    assert Path("fifo").is_fifo()


# --- every one of them --------------------------------------------------------------------------

EACH = [("list",), ("show", "x"), ("export", "x"), ("export", "x", "--private")]


@pytest.mark.parametrize("arguments", [*(("key", *each) for each in EACH), ("jwks",)])
def test_without_a_keyset_the_reason_is_told(node: CliNode, arguments: tuple[str, ...]) -> None:
    node.lose_live()
    private = "--private" in arguments
    answer = node.run(*arguments, *(() if private else ("--json",)))
    assert answer.code == 65
    assert "holds none" in answer.err
    assert private or answer.error["code"] == "corrupt"
    assert node.run("reset", "--yes").code == 0
    answer = node.run(*arguments, *(() if private else ("--json",)))
    assert answer.code == 75
    assert private or answer.error["code"] == "not-yet"
