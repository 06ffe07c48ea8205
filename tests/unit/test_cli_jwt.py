"""`keydist jwt mint`, `verify` and `inspect`: what they say, to whom, and that a verdict is never an accident."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jwt as pyjwt
import pytest

from keydist import wiring
from keydist.core.jwk import jwk_set
from keydist.core.jws import MAX_JWT, parse_compact
from keydist.core.keyset import State
from keydist.core.strict import b64url_encode
from keydist.errors import UsageError
from keydist.services.past import verify_past
from tests.fakes.memory_store import Fault
from tests.material import Change, chain, extend, sig_key
from tests.unit.cli_node import Answer
from tests.unit.jwt_node import ISSUER, ROTATED, JwtNode, given, key_of, signed

FIRST, SECOND = chain(2)
OURS = key_of(SECOND)
STRANGER = sig_key("stranger")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> JwtNode:
    return JwtNode(tmp_path, monkeypatch, capsys)


def error_of(answer: Answer) -> dict[str, str]:
    error = answer.json["error"]
    assert isinstance(error, dict)
    return error


# --- mint ---------------------------------------------------------------------------------------


def test_what_is_minted_verifies_here_and_in_another_library(node: JwtNode) -> None:
    answer = node.run("jwt", "mint", "--sub", "alice", "--aud", "api")
    assert (answer.code, answer.err, answer.out.count("\n")) == (0, "", 1)
    claims = node.verify(answer.out).json
    assert (claims["iss"], claims["sub"], claims["aud"]) == (ISSUER, "alice", "api")
    assert claims["exp"] - claims["iat"] == 900
    jwks = pyjwt.PyJWKSet.from_dict(jwk_set(node.held.keyset))
    kid = pyjwt.get_unverified_header(answer.out.strip())["kid"]
    assert (
        pyjwt.decode(answer.out.strip(), jwks[kid].key, algorithms=["EdDSA"], audience="api", issuer=ISSUER) == claims
    )


def test_everything_about_it_can_be_said(node: JwtNode, tmp_path: Path) -> None:
    (tmp_path / "claims.json").write_text('{"scope":"read","n":1}', encoding="utf-8")
    more = ("--aud", "other", "--iss", "https://me", "--lifetime", "1h", "--typ", "at+jwt", "--json")
    answer = node.run("jwt", "mint", "--sub", "a", "--aud", "api", *more, "--claims", str(tmp_path / "claims.json"))
    assert answer.json.keys() == {"jwt", "kid", "exp"}
    claims = node.verify(answer.json["jwt"], "--iss", "https://me", "--typ", "at+jwt").json
    assert (claims["aud"], claims["scope"], claims["n"]) == (["api", "other"], "read", 1)
    assert (answer.json["kid"], answer.json["exp"]) == (key_of(node.held).kid, claims["iat"] + 3600)


def test_claims_may_come_by_standard_input(node: JwtNode) -> None:
    answer = node.run("jwt", "mint", "--sub", "a", "--aud", "api", "--claims", "-", stdin=given('{"x":[1]}\n'))
    assert node.verify(answer.out).json["x"] == [1]


MINT_MISTAKES: dict[str, tuple[tuple[str, ...], bytes]] = {
    "no audience": (("--sub", "a"), b""),
    "no subject": (("--aud", "api"), b""),
    "an empty subject": (("--sub", "", "--aud", "api"), b""),
    "an empty issuer": (("--sub", "a", "--aud", "api", "--iss", ""), b""),
    "an empty audience": (("--sub", "a", "--aud", ""), b""),
    "no lifetime": (("--sub", "a", "--aud", "api", "--lifetime", "0"), b""),
    "a lifetime beyond the policy": (("--sub", "a", "--aud", "api", "--lifetime", "2d"), b""),
    "a lifetime that is none": (("--sub", "a", "--aud", "api", "--lifetime", "soon"), b""),
    "claims that are an array": (("--sub", "a", "--aud", "api", "--claims", "-"), b"[]"),
    "claims with a name twice": (("--sub", "a", "--aud", "api", "--claims", "-"), b'{"a":1,"a":2}'),
    "claims with a fraction": (("--sub", "a", "--aud", "api", "--claims", "-"), b'{"a":1.5}'),
    "claims that are too long": (("--sub", "a", "--aud", "api", "--claims", "-"), b'{"a":"%s"}' % (b"x" * MAX_JWT)),
    "claims that are registered": (("--sub", "a", "--aud", "api", "--claims", "-"), b'{"exp":99}'),
    "claims without a name": (("--sub", "a", "--aud", "api", "--claims", ""), b""),
}


@pytest.mark.parametrize(("arguments", "claims"), MINT_MISTAKES.values(), ids=MINT_MISTAKES)
def test_what_cannot_be_minted_is_a_mistake_of_who_asks(
    node: JwtNode, arguments: tuple[str, ...], claims: bytes
) -> None:
    answer = node.run("jwt", "mint", *arguments, "--json", stdin=given(claims))
    assert (answer.code, error_of(answer)["code"]) == (2, "usage")


def test_claims_that_cannot_be_read(node: JwtNode) -> None:
    answer = node.run("jwt", "mint", "--sub", "a", "--aud", "api", "--claims", "/nowhere", "--json")
    assert (answer.code, error_of(answer)["code"]) == (78, "config")


def test_without_an_issuer_nothing_is_minted(node: JwtNode) -> None:
    node.configure()
    assert node.run("jwt", "mint", "--sub", "a", "--aud", "api").code == 2


def test_a_node_that_was_never_confirmed_does_not_mint(node: JwtNode) -> None:
    (node.state / "confirmed.json").unlink()
    answer = node.run("jwt", "mint", "--sub", "a", "--aud", "api", "--json")
    assert (answer.code, error_of(answer)["code"]) == (75, "lease-expired")


# --- verify: the verdict ------------------------------------------------------------------------

WHOLE: dict[str, Callable[[str], str | bytes]] = {
    "as it is": lambda jwt: jwt,
    "with the newline of the program that printed it": lambda jwt: f"{jwt}\n",
}
BROKEN: dict[str, Callable[[str], str | bytes]] = {
    "nothing": lambda _: "",
    "only a newline": lambda _: "\n",
    "two newlines": lambda jwt: f"{jwt}\n\n",
    "the newline of another system": lambda jwt: f"{jwt}\r\n",
    "a space before": lambda jwt: f" {jwt}",
    "a newline before": lambda jwt: f"\n{jwt}",
    "two of them": lambda jwt: f"{jwt}\n{jwt}",
    "a quote": lambda jwt: f"{jwt}'",
    "a NUL": lambda jwt: f"{jwt}\0",
    "no UTF-8": lambda jwt: jwt.encode() + b"\xff",
    "a signature cut": lambda jwt: jwt[:-4],
    "much more than any JWT": lambda jwt: jwt + "A" * 100_000,
    "by a stranger": lambda _: signed(STRANGER),
    "for others": lambda _: signed(OURS, aud="others"),
    "by another issuer": lambda _: signed(OURS, iss="https://other"),
    "of another type": lambda _: signed(OURS, typ="at+jwt"),
    "expired": lambda _: signed(OURS, exp=1_700_000_000),
    "of tomorrow": lambda _: signed(OURS, iat=4_000_000_000),
}


@pytest.mark.parametrize("made", WHOLE.values(), ids=WHOLE)
def test_a_valid_jwt_is_0_and_its_claims(node: JwtNode, tmp_path: Path, made: Callable[[str], str]) -> None:
    jwt = node.jwt
    (tmp_path / "jwt").write_text(made(jwt), encoding="ascii")
    for arguments in (("--json",), (), ("-",), (str(tmp_path / "jwt"),)):
        answer = node.verify(made(jwt), *arguments)
        assert (answer.code, answer.err) == (0, "")
        assert answer.json == json.loads(parse_compact(jwt).payload)
    quiet = node.verify(made(jwt), "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


@pytest.mark.parametrize("made", BROKEN.values(), ids=BROKEN)
def test_anything_else_is_65_and_no_claims(node: JwtNode, made: Callable[[str], str | bytes]) -> None:
    data = made(node.jwt)
    answer = node.verify(data, "--json")
    assert (answer.code, error_of(answer)["code"]) == (65, "invalid-jwt")
    assert error_of(answer)["reason"]
    quiet = node.verify(data, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (65, "", "")


def test_next_and_retired_keys_verify_too(node: JwtNode) -> None:
    assert node.verify(signed(key_of(FIRST))).code == 0
    assert node.verify(signed(key_of(node.held, State.NEXT))).code == 0


def test_the_leeway_and_the_type_can_be_said(node: JwtNode) -> None:
    late = json.loads(parse_compact(node.jwt).payload)["iat"]
    jwt = signed(key_of(node.held), typ="at+jwt", iat=late - 100, exp=late - 90)
    assert node.verify(jwt, "--typ", "at+jwt").code == 65
    assert node.verify(jwt, "--typ", "at+jwt", "--leeway", "5m").code == 0


def test_a_node_without_a_keyset_cannot_tell(node: JwtNode) -> None:
    jwt = node.jwt
    assert node.run("reset", "--yes").code == 0
    answer = node.verify(jwt, "--json")
    assert (answer.code, error_of(answer)["code"]) == (75, "unavailable")
    quiet = node.verify(jwt, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (75, "", "")


# --- verify: a kid that is not known here -------------------------------------------------------


def test_an_unknown_kid_is_looked_for_in_the_store_and_what_is_there_is_kept(node: JwtNode) -> None:
    node.bucket.put(ROTATED.envelope)
    assert node.verify(signed(key_of(ROTATED, State.NEXT)), "--quiet").code == 0
    assert node.load().held == ROTATED


def test_a_kid_that_the_store_does_not_know_either_is_invalid_once_that_is_confirmed(node: JwtNode) -> None:
    (node.state / "confirmed.json").unlink()
    answer = node.verify(signed(STRANGER), "--json")
    assert (answer.code, error_of(answer)["reason"]) == (65, "kid-unknown")


def test_where_the_store_does_not_answer_an_unknown_kid_cannot_be_told(node: JwtNode) -> None:
    (node.state / "confirmed.json").unlink()
    node.faults["read"] = Fault.UNREACHABLE
    answer = node.verify(signed(STRANGER), "--json")
    assert (answer.code, error_of(answer)["code"]) == (75, "unavailable")
    assert node.verify(node.jwt, "--quiet").code == 0


@pytest.mark.parametrize("jwt", ["known", "unknown"])
def test_who_only_verifies_writes_nothing_to_the_store(node: JwtNode, jwt: str) -> None:
    node.bucket.purge()
    assert node.verify(node.jwt if jwt == "known" else signed(STRANGER)).code == (0 if jwt == "known" else 65)
    assert not {"write_first", "replace", "create_bucket"}.intersection(
        call for store in node.stores for call in store.calls
    )


# --- verify: what is no verdict -----------------------------------------------------------------

MISTAKES: dict[str, tuple[str, ...]] = {
    "no audience": (),
    "an empty audience": ("--aud", ""),
    "an empty issuer": ("--aud", "api", "--iss", ""),
    "an empty file name": ("--aud", "api", ""),
    "two files": ("--aud", "api", "a", "b"),
    "a leeway that is none": ("--aud", "api", "--leeway", "x"),
    "a time that is none": ("--aud", "api", "--at", "yesterday"),
    "a time without its offset": ("--aud", "api", "--at", "2026-01-01T00:00:00"),
    "a time to come": ("--aud", "api", "--at", "+1d"),
    "an unknown option": ("--aud", "api", "--audience", "x"),
}


@pytest.mark.parametrize("quiet", [(), ("--quiet",)], ids=["aloud", "quiet"])
@pytest.mark.parametrize("arguments", MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_command_line_is_2_and_told(node: JwtNode, arguments: tuple[str, ...], quiet: tuple[str, ...]) -> None:
    answer = node.run("jwt", "verify", *arguments, *quiet, stdin=given(node.jwt))
    assert (answer.code, answer.out) == (2, "")
    assert answer.err


def test_without_an_issuer_nothing_is_measured(node: JwtNode) -> None:
    node.configure()
    assert node.verify(node.jwt).code == 2
    assert node.verify(node.jwt, "--iss", ISSUER).code == 0


def test_a_refused_configuration_is_78(node: JwtNode) -> None:
    jwt = node.jwt
    node.configure(nonsense=1)
    assert node.verify(jwt).code == 78
    quiet = node.verify(jwt, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (78, "", "")


@pytest.mark.parametrize("name", ["nowhere", ".", "x" * 5000, "a\0b"], ids=["absent", "directory", "long", "NUL"])
def test_a_file_that_cannot_be_read_is_78(
    node: JwtNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = node.verify("", name, "--json")
    assert (answer.code, error_of(answer)["code"]) == (78, "config")
    assert len(answer.err) < 300


def test_a_defect_is_no_verdict(node: JwtNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(wiring.Machine, "load", broken)
    monkeypatch.setattr("keydist.signing.verifier.parse_compact", broken)
    answer = node.verify(node.jwt, "--json")
    assert (answer.code, error_of(answer)["code"]) == (70, "internal")
    assert "a secret" not in answer.err + answer.out
    quiet = node.verify(node.jwt, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (70, "", "")


ANOTHERS = b64url_encode(b'{ "alg" : "none"}')
PLACES: dict[str, Callable[[str], tuple[str, ...]]] = {
    "as the file": lambda jwt: ("jwt", "verify", "--aud", "api", jwt),
    "as one file too many": lambda jwt: ("jwt", "verify", "--aud", "api", "-", jwt),
    "as a value": lambda jwt: ("jwt", "verify", f"--aud={jwt}"),
    "as a command": lambda jwt: ("jwt", jwt),
    "as a command of all": lambda jwt: (jwt,),
    "with a quote and more": lambda jwt: ("jwt", "verify", "--aud", "api", f"'{jwt}\n$(id)"),
    "without its signature": lambda jwt: ("jwt", "inspect", f"{jwt.rpartition('.')[0]}."),
    "quietly": lambda jwt: ("jwt", "verify", "--aud", "api", "--quiet", jwt),
    "to be decrypted": lambda jwt: ("jwe", "decrypt", jwt),
    "another tool's": lambda jwt: ("jwt", "inspect", f"{ANOTHERS}.{jwt.split('.')[1]}."),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_jwt_as_an_argument_is_refused_and_not_repeated(
    node: JwtNode, place: Callable[[str], tuple[str, ...]]
) -> None:
    jwt = node.jwt
    for more in ((), ("--json",)):
        answer = node.run(*place(jwt), *more, stdin=given(""))
        assert answer.code == 2
        assert "looks like a JWT" in answer.err
        assert not [part for part in jwt.split(".") if part in answer.out + answer.err]


def test_a_file_whose_name_has_dots_is_no_jwt(node: JwtNode, tmp_path: Path) -> None:
    for name in ("eyewitness.report.jwt", "eyJhbGciOiJ.x.y", "a.b.c"):
        (tmp_path / name).write_text(node.jwt, encoding="ascii")
        assert node.run("jwt", "verify", "--aud", "api", str(tmp_path / name)).code == 0


# --- verify --at --------------------------------------------------------------------------------

THEN = 1_750_000_000


def of_then(node: JwtNode) -> str:
    """Return a JWT that was valid at `THEN`, by a key that has left the keyset since."""
    dropped = extend(node.held, Change.DROP)
    assert key_of(FIRST).kid not in {key.kid for key in dropped.keyset.keys}
    node.install(dropped)
    node.bucket.put(dropped.envelope)
    return signed(key_of(FIRST), iat=THEN, exp=THEN + 600)


def kept(node: JwtNode) -> Path:
    return node.state / "public" / f"{key_of(FIRST).kid}.jwk"


@pytest.mark.parametrize(
    ("at", "code"),
    [
        (str(THEN), 0),
        ("2025-06-15T15:06:40Z", 0),
        (str(THEN + 659), 0),
        (str(THEN + 660), 65),
        (str(THEN - 60), 0),
        (str(THEN - 61), 65),
    ],
)
def test_a_key_that_left_the_keyset_verifies_as_of_its_time(node: JwtNode, at: str, code: int) -> None:
    jwt = of_then(node)
    assert node.verify(jwt, "--at", at, "--quiet").code == code
    assert node.verify(jwt).code == 65
    if code == 0:
        assert node.verify(jwt, "--at", at).json["sub"] == "alice"


def altered_key(path: Path) -> None:
    jwk = json.loads(path.read_bytes())
    other = json.loads(path.with_name(f"{key_of(SECOND).kid}.jwk").read_bytes())
    path.write_text(json.dumps(jwk | {"x": other["x"]}, separators=(",", ":")), encoding="ascii")


def respelt(path: Path, **members: object) -> None:
    jwk = json.loads(path.read_bytes()) | members
    path.write_text(json.dumps({name: value for name, value in jwk.items() if value is not None}), encoding="ascii")


def linked(path: Path) -> None:
    path.rename(path.with_name("x"))
    path.symlink_to("x")


def made_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARM: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "another key": altered_key,
    "another key's whole file": lambda path: path.write_bytes(path.with_name(f"{key_of(SECOND).kid}.jwk").read_bytes()),
    "no JSON": lambda path: path.write_bytes(b"{"),
    "empty": lambda path: path.write_bytes(b""),
    "large": lambda path: path.write_bytes(b" " * 5000),
    "another alg": lambda path: respelt(path, alg="RS256"),
    "another use": lambda path: respelt(path, use="enc"),
    "a member more": lambda path: respelt(path, d="AAAA"),
    "a member less": lambda path: respelt(path, x=None),
    "a member that is no text": lambda path: respelt(path, x=1),
    "of another kid": lambda path: respelt(path, kid="A" * 43),
    "written by others": lambda path: path.chmod(0o666),
    "a link": linked,
    "a directory": made_a_directory,
    "in a folder of others": lambda path: path.parent.chmod(0o777),
    "all of them gone": lambda path: path.parent.rename(path.parent.with_name("elsewhere")),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_where_the_key_that_was_kept_is_missing_or_altered_nothing_is_taken_for_valid(
    node: JwtNode, harm: Callable[[Path], object]
) -> None:
    jwt = of_then(node)
    harm(kept(node))
    answer = node.verify(jwt, "--at", str(THEN), "--json")
    assert (answer.code, error_of(answer)["code"]) == (75, "unavailable")
    quiet = node.verify(jwt, "--at", str(THEN), "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (75, "", "")


@pytest.mark.parametrize("kid", ["../../keydist", "", "x" * 44, "A" * 42 + "B", "/" * 43, "A" * 22])
def test_a_kid_that_is_no_thumbprint_is_never_a_file_name(node: JwtNode, kid: str) -> None:
    head = b64url_encode(json.dumps({"alg": "EdDSA", "kid": kid, "typ": "JWT"}).encode())
    _, body, signature = of_then(node).split(".")
    answer = node.verify(f"{head}.{body}.{signature}", "--at", str(THEN), "--json")
    assert (answer.code, error_of(answer)["reason"]) == (65, "kid-unknown")


def test_a_revoked_key_is_refused_for_every_time_and_its_revocation_is_named(node: JwtNode) -> None:
    jwt = signed(key_of(node.held), iat=THEN, exp=THEN + 600)
    assert node.verify(jwt, "--at", str(THEN)).code == 0
    node.install(extend(node.held, Change.REVOKE_ACTIVE))
    answer = node.verify(jwt, "--at", str(THEN), "--json")
    assert (answer.code, error_of(answer)["reason"]) == (65, "kid-revoked")
    assert "was revoked 2027-01-17T08:00:00Z" in error_of(answer)["message"]


def test_a_revocation_that_only_the_floor_remembers_counts_too(node: JwtNode) -> None:
    jwt = signed(key_of(node.held), iat=THEN, exp=THEN + 600)
    revoked = extend(node.held, Change.REVOKE_ACTIVE)
    node.install(revoked, *[extend(revoked, Change.FORGET)])
    answer = node.verify(jwt, "--at", str(THEN), "--json")
    assert (answer.code, error_of(answer)["reason"]) == (65, "kid-revoked")
    assert "no longer lists" in error_of(answer)["message"]


def test_a_mark_that_was_copied_with_its_key_counts_too(node: JwtNode) -> None:
    jwt = of_then(node)
    kid = parse_compact(jwt).header.kid
    (node.state / "public" / f"{kid}.revoked").touch(mode=0o644)
    answer = node.verify(jwt, "--at", str(THEN), "--json")
    assert (answer.code, error_of(answer)["reason"]) == (65, "kid-revoked")


def test_a_node_that_forgot_what_was_revoked_cannot_tell(node: JwtNode) -> None:
    jwt = of_then(node)
    (node.state / "floor.json").unlink()
    assert node.verify(jwt, "--at", str(THEN), "--quiet").code == 75
    assert node.run("reset", "--yes").code == 0
    assert node.verify(jwt, "--at", str(THEN), "--quiet").code == 75


def test_state_that_others_may_write_tells_nothing(node: JwtNode) -> None:
    jwt = of_then(node)
    node.state.chmod(0o777)
    assert node.verify(jwt, "--at", str(THEN), "--quiet").code == 75


def test_the_leeway_counts_as_of_any_time(node: JwtNode) -> None:
    jwt = of_then(node)
    assert node.verify(jwt, "--at", str(THEN + 601), "--leeway", "0", "--quiet").code == 65
    assert node.verify(jwt, "--at", str(THEN + 900), "--leeway", "10m", "--quiet").code == 0


@pytest.mark.parametrize("empty", ["audience", "issuer"])
def test_a_jwt_is_never_measured_by_nothing(node: JwtNode, empty: str) -> None:
    disk = node.disk()
    audience, issuer = ("" if name == empty else "x" for name in ("audience", "issuer"))
    with pytest.raises(UsageError):
        verify_past(node.jwt, keys=disk, load=node.load, at=THEN, audience=audience, issuer=issuer)


def test_a_signature_is_checked_as_of_any_time(node: JwtNode) -> None:
    head, body, _ = of_then(node).split(".")
    answer = node.verify(f"{head}.{body}.{b64url_encode(bytes(64))}", "--at", str(THEN), "--json")
    assert (answer.code, error_of(answer)["reason"]) == (65, "signature")


# --- inspect ------------------------------------------------------------------------------------


def inspect(node: JwtNode, data: str | bytes, *options: str) -> Answer:
    return node.run("jwt", "inspect", *options, stdin=given(data))


def test_inspect_shows_what_is_said_and_that_nobody_vouches_for_it(node: JwtNode) -> None:
    node.config.unlink()  # it needs none
    jwt = signed(STRANGER)
    answer = inspect(node, jwt, "--json")
    assert answer.code == 0
    assert answer.json["verified"] is False
    assert (answer.json["header"]["kid"], answer.json["claims"]["sub"]) == (STRANGER.kid, "alice")
    assert answer.json["refused"] is None
    assert "NOT VERIFIED" in answer.err
    lines = inspect(node, f"{jwt}\n").out.splitlines()
    assert json.loads(lines[0].removeprefix("header")) == answer.json["header"]
    assert [line.split()[0] for line in lines] == ["header", "claims", "iat", "exp"]


def bare(header: object, claims: object) -> str:
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    return ".".join([*(b64url_encode(part) for part in parts), "AAAA"])


GOOD = {"alg": "EdDSA", "kid": "x", "typ": "JWT"}
SAID = {"iss": "i", "sub": "s", "aud": "a", "iat": 1, "exp": 4_000_000_000}
SHAPES: dict[str, tuple[str | bytes, int, str]] = {
    "alg none": (bare(GOOD | {"alg": "none"}, SAID), 0, "alg"),
    "crit": (bare(GOOD | {"crit": ["x"]}, SAID), 0, "header"),
    "no exp": (bare(GOOD, {"iss": "i"}), 0, "claims"),
    "an audience that is empty": (bare(GOOD, SAID | {"aud": []}), 0, "claims"),
    "a name twice": (bare(GOOD, b'{"iss":"i","iss":"j"}'), 0, "claims"),
    "a fraction": (bare(GOOD, SAID | {"x": 1.5}), 0, "claims"),
    "no number": (bare(GOOD, b'{"x":NaN}'), 0, "claims"),
    "a number beyond every float": (bare(GOOD, b'{"x":-1e999}'), 0, "claims"),
    "expired": (bare(GOOD, SAID | {"exp": 2}), 0, "expired"),
    "of a time to come": (bare(GOOD, SAID | {"iat": 3_900_000_000}), 0, "not-yet"),
    "control characters": (bare(GOOD | {"kid": "\x1b]0;owned\x07"}, SAID | {"exp": 2}), 0, "expired"),
    "claims that are an array": (bare(GOOD, []), 65, "claims"),
    "two segments": (bare(GOOD, SAID).rpartition(".")[0], 0, "shape"),
    "five segments": (bare(GOOD, SAID) + ".a.b", 0, "shape"),
    "nothing": ("", 65, "shape"),
    "no base64url": ("a.b.c", 65, "encoding"),
    "no ASCII": (b"\xff\xfe", 65, "encoding"),
    "a space around": (f" {bare(GOOD, SAID)}", 0, "encoding"),
    "too long": (bare(GOOD, SAID) + "A" * MAX_JWT, 0, "size"),
    "deep": (bare(GOOD, b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}"), 65, "claims"),
    "a little too deep": (bare(GOOD, b'{"a":' + b"[" * 64 + b"]" * 64 + b"}"), 65, "claims"),
    "deep, and shown": (bare(GOOD, b'{"a":' + b"[" * 63 + b"]" * 63 + b"}"), 0, "claims"),
}


@pytest.mark.parametrize(("data", "code", "reason"), SHAPES.values(), ids=SHAPES)
def test_inspect_says_what_verify_would_refuse(node: JwtNode, data: str | bytes, code: int, reason: str) -> None:
    answer = inspect(node, data, "--json")
    assert (answer.code, answer.json["refused"]["reason"]) == (code, reason)
    people = inspect(node, data)
    assert people.code == code
    assert "Infinity" not in answer.out + people.out  # no JSON
    assert f"refuses it in any case: [{reason}]" in people.err
    assert "\x1b" not in people.out + people.err


# --- the gate, from a shell ---------------------------------------------------------------------

GATE = """
gate() { printf %s "$1" | "$PYTHON" -m keydist jwt verify --aud api --iss "$ISSUER" --quiet; }
while IFS= read -r -d '' token; do
    if gate "$token"; then echo authorized; else echo "refused $?"; fi
done
"""


def test_the_gate_in_a_real_shell_lets_in_only_what_is_valid_with_nats_down(node: JwtNode, tmp_path: Path) -> None:
    node.configure(issuer=ISSUER, nats={"servers": ["nats://127.0.0.1:1"]})
    jwt, bait = node.jwt, tmp_path / "bait"
    tokens = [jwt, f"{jwt}' || echo authorized #", f"$(touch {bait})\n{jwt}", f'"; touch {bait}; "']
    done = subprocess.run(
        ["bash", "-c", GATE],
        input="".join(f"{token}\0" for token in tokens),
        env=os.environ | {"PYTHON": sys.executable, "ISSUER": ISSUER},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n") == ["authorized", *["refused 65"] * 3, ""]
    assert not bait.exists()


def test_the_gate_stays_shut_where_it_cannot_ask(node: JwtNode) -> None:
    stranger = signed(STRANGER)
    (node.state / "confirmed.json").unlink()
    node.configure(issuer=ISSUER, nats={"servers": ["nats://127.0.0.1:1"]})
    environ = os.environ | {"PYTHON": sys.executable, "ISSUER": ISSUER}
    done = subprocess.run(
        ["bash", "-c", GATE], input=f"{stranger}\0", env=environ, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("refused 75\n", "")
