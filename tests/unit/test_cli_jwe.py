"""`keydist jwe`: what one node encrypts another opens, over rotations, and not once its key was revoked or dropped."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from joserfc import jwe as joserfc_jwe
from joserfc.jwk import OctKey

from keydist.core.jwe import MAX_PLAINTEXT, encrypt_jwe, encryption_key_of
from keydist.core.keyset import Key, State
from keydist.core.strict import b64url_decode
from tests.fakes.memory_store import Fault
from tests.material import Change, enc_key, extend, noise
from tests.unit.cli_node import Answer
from tests.unit.jwt_node import ROTATED, JwtNode, given, key_of

SECRET = b'{"iban":"DE02 1203"}\n'
NOTHING: frozenset[str] = frozenset()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> JwtNode:
    return JwtNode(tmp_path, monkeypatch, capsys)


def of(key: Key) -> str:
    return encrypt_jwe(SECRET, key, iv=noise("iv", 12))


def opened(node: JwtNode, jwe: str | bytes, *options: str) -> Answer:
    return node.run("jwe", "decrypt", *options, stdin=given(jwe))


def encrypted(node: JwtNode) -> str:
    return node.run("jwe", "encrypt", stdin=given(SECRET)).out


def test_what_is_encrypted_comes_back_as_it_was(node: JwtNode) -> None:
    answer = node.run("jwe", "encrypt", stdin=given(SECRET))
    assert (answer.code, answer.err, answer.out.count("\n")) == (0, "", 1)
    back = opened(node, answer.out)
    assert (back.code, back.out.encode(), back.err) == (0, SECRET, "")
    assert "iban" not in answer.out


def test_by_file_and_into_a_file(node: JwtNode, tmp_path: Path) -> None:
    plain, sealed, back = (tmp_path / name for name in ("plain", "sealed", "back"))
    plain.write_bytes(noise("any bytes", MAX_PLAINTEXT))
    done = node.run("jwe", "encrypt", str(plain), "--out", str(sealed))
    assert (done.code, done.out, done.err) == (0, "", "")
    assert opened(node, "", str(sealed), "--out", str(back)).code == 0
    assert back.read_bytes() == plain.read_bytes()
    assert [stat.S_IMODE(file.stat().st_mode) for file in (sealed, back)] == [0o600] * 2
    kid = encryption_key_of(node.held.keyset, NOTHING).kid
    assert node.run("jwe", "encrypt", str(plain), "--out", str(sealed), "--json").json == {
        "kid": kid,
        "file": str(sealed),
    }


def test_with_json_the_plaintext_is_in_base64url(node: JwtNode) -> None:
    made = node.run("jwe", "encrypt", "--json", stdin=given(SECRET)).json
    assert made["kid"] == encryption_key_of(node.held.keyset, NOTHING).kid
    found = opened(node, made["jwe"], "--json").json
    assert (b64url_decode(found["plaintext"], "it"), found["kid"]) == (SECRET, made["kid"])


def test_joserfc_opens_it_and_makes_what_opens(node: JwtNode) -> None:
    active = encryption_key_of(node.held.keyset, NOTHING)
    key = OctKey.import_key(active.material)
    algorithms = ["dir", "A256GCM"]
    assert joserfc_jwe.decrypt_compact(encrypted(node).strip(), key, algorithms=algorithms).plaintext == SECRET
    header = {"alg": "dir", "enc": "A256GCM", "kid": active.kid, "typ": "JWE"}
    theirs = joserfc_jwe.encrypt_compact(header, SECRET, key, algorithms=algorithms)
    assert opened(node, theirs).out.encode() == SECRET


def test_no_iv_is_used_twice(node: JwtNode) -> None:
    assert len({encrypted(node).split(".")[2] for _ in range(3)}) == 3


def test_a_plaintext_is_bounded(node: JwtNode) -> None:
    answer = node.run("jwe", "encrypt", "--json", stdin=given(bytes(MAX_PLAINTEXT + 1)))
    assert (answer.code, answer.error["code"]) == (2, "usage")


@pytest.mark.parametrize("state", [State.NEXT, State.ACTIVE, State.RETIRED])
def test_what_a_key_encrypted_opens_before_and_after_its_time(node: JwtNode, state: State) -> None:
    assert opened(node, of(key_of(node.held, state, use="enc"))).out.encode() == SECRET


def test_a_revoked_key_opens_nothing_also_where_only_the_floor_remembers(node: JwtNode) -> None:
    jwe = encrypted(node)
    revoked = extend(node.held, Change.REVOKE_ACTIVE)
    for after in (revoked, extend(revoked, Change.FORGET)):
        node.install(after)
        answer = opened(node, jwe, "--json")
        assert (answer.code, answer.error["code"]) == (65, "invalid-jwe")
        assert "revoked" in answer.error["message"]


def test_a_key_that_left_the_keyset_opens_nothing_any_more(node: JwtNode) -> None:
    retired = key_of(node.held, State.RETIRED, use="enc")
    node.held = node.install(extend(node.held, Change.DROP))
    node.bucket.put(node.held.envelope)
    node.confirm()
    answer = opened(node, of(retired), "--json")
    assert (answer.code, answer.error["code"]) == (65, "invalid-jwe")
    assert "dropped" in answer.error["found"]


def test_a_key_that_is_not_known_here_is_looked_for_in_the_store(node: JwtNode) -> None:
    node.bucket.put(ROTATED.envelope)
    assert opened(node, of(key_of(ROTATED, State.NEXT, use="enc"))).out.encode() == SECRET
    assert node.load().held == ROTATED


def test_where_the_store_does_not_answer_an_unknown_key_cannot_be_told(node: JwtNode) -> None:
    (node.state / "confirmed.json").unlink()
    node.faults["read"] = Fault.UNREACHABLE
    answer = opened(node, of(enc_key("stranger")), "--json")
    assert (answer.code, answer.error["code"]) == (75, "unavailable")


def test_a_node_that_was_not_confirmed_does_not_encrypt_what_others_could_not_open(node: JwtNode) -> None:
    jwe = encrypted(node)
    (node.state / "confirmed.json").unlink()
    answer = node.run("jwe", "encrypt", "--json", stdin=given(SECRET))
    assert (answer.code, answer.error["code"]) == (75, "lease-expired")
    assert opened(node, jwe).code == 0


@pytest.mark.parametrize("command", ["encrypt", "decrypt"])
def test_a_node_without_a_keyset_says_so(node: JwtNode, command: str) -> None:
    jwe = encrypted(node)
    assert node.run("reset", "--yes").code == 0
    answer = node.run("jwe", command, "--json", stdin=given(jwe))
    assert (answer.code, answer.error["code"]) == (75, "not-yet")


@pytest.mark.parametrize("text", ["", "a.b.c", "{jwe}\n\n", " {jwe}", "{jwe}x"])
def test_what_is_no_jwe_is_65_and_prints_nothing(node: JwtNode, text: str) -> None:
    answer = opened(node, text.format(jwe=encrypted(node).strip()))
    assert (answer.code, answer.out) == (65, "")
    assert answer.err


@pytest.mark.parametrize(
    ("arguments", "code"), [(("",), 2), (("--out", ""), 2), (("/nowhere",), 78), (("--out", "/nowhere/x"), 73)]
)
def test_files_that_cannot_be(node: JwtNode, arguments: tuple[str, ...], code: int) -> None:
    for command, data in (("encrypt", "x"), ("decrypt", encrypted(node))):
        answer = node.run("jwe", command, *arguments, stdin=given(data))
        assert (answer.code, answer.out) == (code, "")
