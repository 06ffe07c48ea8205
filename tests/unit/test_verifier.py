"""Verifier: hostile JWTs and the reason each is refused for, rotation and revocation seen by itself, 'cannot tell'."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from typing import Any, Final

import pytest

from keydist.core import crypto
from keydist.core.accept import Held
from keydist.core.jws import MAX_JWT
from keydist.core.keyset import Key, Revocation, State
from keydist.core.local import Confirmation
from keydist.core.policy import Policy
from keydist.core.strict import b64url_encode
from keydist.errors import CorruptError, DiskError, InvalidJwtError, KeydistError, UnavailableError, UsageError
from keydist.signing import Claims, Verifier
from tests.fakes.clock import VirtualClock
from tests.fakes.memory_disk import MemoryKeysetDisk
from tests.material import DAY, NOW, Change, enc_key, extend, first, hold, make_keyset, moved, private_key, sig_key

ISSUER, AUDIENCE = "https://issuer", "api"
ACTIVE = sig_key("A")
NEXT = sig_key("B", State.NEXT, alg="ES256")
RETIRED = sig_key("rsa-a", State.RETIRED, alg="RS256")
REVOKED = sig_key("R")
ENC = enc_key("A")
HELD: Final = hold(
    make_keyset(
        keys=(ACTIVE, NEXT, RETIRED, ENC, enc_key("B", State.NEXT)),
        revoked=(Revocation(kid=REVOKED.kid, at=NOW, reason="stolen"),),
    )
)
CLAIMS: Final[dict[str, Any]] = {"iss": ISSUER, "sub": "someone", "aud": AUDIENCE, "exp": NOW + 900, "iat": NOW}
FRESH = Policy().freshness


class Node:
    """One node's disk, and a verifier in a process beside it."""

    def __init__(self, held: Held | None = HELD, *, confirmed: int | None = NOW) -> None:
        self.disk = MemoryKeysetDisk()
        self.clock = VirtualClock(NOW)
        if held is not None:
            self.install(held, confirmed=confirmed)
        self.refresh: Callable[[], None] = lambda: None
        self.verifier = Verifier(self.disk, self.clock, refresh=lambda: self.refresh())  # noqa: PLW0108 - a test may replace it later

    def install(self, held: Held, *, confirmed: int | None = None) -> None:
        self.disk.install(held, based_on=self.disk.load(()), now=NOW)
        if confirmed is not None:
            self.disk.confirm(Confirmation(epoch=held.keyset.epoch, digest=held.digest, at=confirmed))

    def verify(self, jwt: str, **options: Any) -> Claims:  # noqa: ANN401
        return self.verifier.verify(jwt, **({"audience": AUDIENCE, "issuer": ISSUER} | options))

    def takes(self, jwt: str, **options: Any) -> bool:  # noqa: ANN401
        return self.verify(jwt, **options).subject == "someone"

    def refusal(self, jwt: str, **options: Any) -> str:  # noqa: ANN401
        with pytest.raises(InvalidJwtError) as caught:
            self.verify(jwt, **options)
        shown = (
            "".join(traceback.format_exception(caught.value)) + repr(caught.value) + json.dumps(caught.value.as_json())
        )
        assert not any(segment in shown for segment in jwt.split(".") if len(segment) > 20)
        return caught.value.reason


def private_of(key: Key) -> crypto.PrivateKey:
    names = {ACTIVE.kid: "A", NEXT.kid: "B", RETIRED.kid: "rsa-a", REVOKED.kid: "R"}
    return private_key(names[key.kid], key.alg)


def sealed(header: bytes | dict[str, Any], payload: bytes | dict[str, Any], key: Key = ACTIVE, *, alg: str = "") -> str:
    """Sign anything at all; `alg` is how it is signed, the key's own unless given."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signed = ".".join(b64url_encode(part) for part in parts)
    return f"{signed}.{b64url_encode(crypto.sign(private_of(key), alg or key.alg, signed.encode()))}"


def header(key: Key = ACTIVE, **changed: object) -> dict[str, Any]:
    return {"alg": key.alg, "kid": key.kid, "typ": "JWT"} | changed


def jwt(key: Key = ACTIVE, **changed: object) -> str:
    return sealed(header(key), CLAIMS | changed, key)


def without(value: dict[str, Any], name: str) -> dict[str, Any]:
    return {member: value[member] for member in value if member != name}


GOOD = jwt()
HEAD, BODY, SIGNATURE = GOOD.split(".")
HOSTILE: dict[str, tuple[str, str]] = {
    # shape
    "nothing": ("", "shape"),
    "one segment": (HEAD, "shape"),
    "two segments": (f"{HEAD}.{BODY}", "shape"),
    "four segments": (f"{GOOD}.{SIGNATURE}", "shape"),
    "a JWE's five segments": (f"{GOOD}.{BODY}.{BODY}", "shape"),
    "too long": (f"{HEAD}.{'A' * MAX_JWT}.{SIGNATURE}", "size"),
    "a header too long": (sealed(header(typ="x" * 600), CLAIMS), "size"),
    "not ASCII": (f"{GOOD}é", "encoding"),
    "padding": (f"{HEAD}=.{BODY}.{SIGNATURE}", "encoding"),
    "padded signature": (f"{GOOD}==", "encoding"),
    "the other base64": (f"{HEAD}.{BODY[:-2]}+/.{SIGNATURE}", "encoding"),
    "a line break": (f"{HEAD}.{BODY}.{SIGNATURE}\n", "encoding"),
    "spare bits": (
        f"{HEAD}.{BODY}.{SIGNATURE[:-1]}{'B' if SIGNATURE[-1] == 'A' else chr(ord(SIGNATURE[-1]) + 1)}",
        "encoding",
    ),
    "an impossible length": (f"{HEAD}.{BODY}.{SIGNATURE}AAA", "encoding"),
    # header
    "a header that is no JSON": (sealed(b"{", CLAIMS), "header"),
    "a header that is an array": (sealed(b"[]", CLAIMS), "header"),
    "an empty header": (f".{BODY}.{SIGNATURE}", "header"),
    "no kid": (sealed(without(header(), "kid"), CLAIMS), "header"),
    "no typ": (sealed(without(header(), "typ"), CLAIMS), "header"),
    "no alg": (sealed(without(header(), "alg"), CLAIMS), "header"),
    "alg twice": (sealed(b'{"alg":"none","alg":"EdDSA","kid":"x","typ":"JWT"}', CLAIMS), "header"),
    "jku": (sealed(header(jku="https://evil"), CLAIMS), "header"),
    "jwk": (sealed(header(jwk={"kty": "OKP"}), CLAIMS), "header"),
    "x5u": (sealed(header(x5u="https://evil"), CLAIMS), "header"),
    "x5c": (sealed(header(x5c=["MII"]), CLAIMS), "header"),
    "crit": (sealed(header(crit=["exp"]), CLAIMS), "header"),
    "b64": (sealed(header(b64=False), CLAIMS), "header"),
    "zip": (sealed(header(zip="DEF"), CLAIMS), "header"),
    "cty": (sealed(header(cty="JWT"), CLAIMS), "header"),
    "a kid that is a number": (sealed(header(kid=1), CLAIMS), "header"),
    "an alg that is an array": (sealed(header(alg=["EdDSA"]), CLAIMS), "header"),
    # algorithm and key
    "alg none": (f"{sealed(header(alg='none'), CLAIMS).rpartition('.')[0]}.", "alg"),
    "alg none under an unknown kid": (sealed(header(alg="none", kid="x"), CLAIMS), "alg"),
    "alg None": (sealed(header(alg="None"), CLAIMS), "alg"),
    "HS256 with the public key": (sealed(header(alg="HS256"), CLAIMS), "alg"),
    "a signature of RSA with SHA-1": (sealed(header(RETIRED, alg="RS1"), CLAIMS, RETIRED), "alg"),
    "RS512": (sealed(header(RETIRED, alg="RS512"), CLAIMS, RETIRED), "alg"),
    "PS256 by a key of RS256": (sealed(header(RETIRED, alg="PS256"), CLAIMS, RETIRED, alg="PS256"), "alg"),
    "another supported alg": (sealed(header(alg="ES256"), CLAIMS), "alg"),
    "another type": (sealed(header(typ="at+jwt"), CLAIMS), "typ"),
    "the type in other letters": (sealed(header(typ="jwt"), CLAIMS), "typ"),
    "an unknown kid": (sealed(header(kid="A" * 43), CLAIMS), "kid-unknown"),
    "an empty kid": (sealed(header(kid=""), CLAIMS), "kid-unknown"),
    "a kid that is a path": (sealed(header(kid="../../dev/null"), CLAIMS), "kid-unknown"),
    "a kid in other letters": (sealed(header(kid=ACTIVE.kid.swapcase()), CLAIMS), "kid-unknown"),
    "the kid of an encryption key": (sealed(header(kid=ENC.kid), CLAIMS), "kid-unknown"),
    "a revoked key": (jwt(REVOKED), "kid-revoked"),
    "another key's kid": (sealed(header(), CLAIMS, REVOKED), "signature"),
    # signature
    "no signature": (f"{HEAD}.{BODY}.", "signature"),
    "a signature of zeros": (f"{HEAD}.{BODY}.{b64url_encode(bytes(64))}", "signature"),
    "a signature of zeros, P-256": (f"{jwt(NEXT).rpartition('.')[0]}.{b64url_encode(bytes(64))}", "signature"),
    "another JWT's signature": (f"{HEAD}.{BODY}.{jwt(sub='root').rpartition('.')[2]}", "signature"),
    "altered claims": (
        f"{HEAD}.{b64url_encode(json.dumps(CLAIMS | {'sub': 'root'}).encode())}.{SIGNATURE}",
        "signature",
    ),
    "nothing signed": (f"{HEAD}..{SIGNATURE}", "signature"),
    # claims
    "claims that are no JSON": (sealed(header(), b"exp"), "claims"),
    "no claims": (sealed(header(), b""), "claims"),
    "claims that are an array": (sealed(header(), b"[]"), "claims"),
    "a claim twice": (sealed(header(), json.dumps(CLAIMS)[:-1].encode() + b',"exp":9999999999}'), "claims"),
    "claims in UTF-16": (sealed(header(), json.dumps(CLAIMS).encode("utf-16")), "claims"),
    "a byte order mark": (sealed(header(), json.dumps(CLAIMS).encode("utf-8-sig")), "claims"),
    "a float anywhere": (jwt(x=[1.5]), "claims"),
    "exp as a float": (jwt(exp=NOW + 900.5), "claims"),
    "exp as text": (jwt(exp=str(NOW + 900)), "claims"),
    "exp as true": (jwt(exp=True), "claims"),
    "exp beyond 2^53": (jwt(exp=2**53), "claims"),
    "exp as 1e999": (sealed(header(), json.dumps(CLAIMS)[:-1].encode() + b',"x":1e999}'), "claims"),
    "NaN": (jwt(x=float("nan")), "claims"),
    "a negative iat": (jwt(iat=-1), "claims"),
    "a null nbf": (jwt(nbf=None), "claims"),
    "nested too deep": (sealed(header(), b'{"x":' + b"[" * 2500 + b"]" * 2500 + b"}"), "claims"),
    "aud as an object": (jwt(aud={"api": 1}), "claims"),
    "an empty aud": (jwt(aud=[]), "claims"),
    "a number in aud": (jwt(aud=["api", 1]), "claims"),
    "sub as a number": (jwt(sub=7), "claims"),
    **{f"no {name}": (sealed(header(), without(CLAIMS, name)), "claims") for name in CLAIMS},
    "another issuer": (jwt(iss="https://issuer/"), "issuer"),
    "another audience": (jwt(aud="api2"), "audience"),
    "an audience that contains ours": (jwt(aud=["xapi", "apix"]), "audience"),
    "expired": (jwt(exp=NOW - 60), "expired"),
    "expired long ago": (jwt(exp=0), "expired"),
    "issued in the future": (jwt(iat=NOW + 61), "not-yet"),
    "issued in the future, though valid before": (jwt(iat=NOW + 61, nbf=NOW), "not-yet"),
    "not yet valid": (jwt(nbf=NOW + 61), "not-yet"),
}


@pytest.mark.parametrize(("hostile", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_jwt_is_refused_for_its_reason(hostile: str, reason: str) -> None:
    assert Node().refusal(hostile) == reason


@pytest.mark.parametrize("key", [ACTIVE, NEXT, RETIRED], ids=["active", "next", "retired"])
def test_keys_that_are_yet_to_sign_sign_or_signed_verify(key: Key) -> None:
    claims = Node().verify(jwt(key, extra={"a": [1]}, aud=["x", AUDIENCE]))
    assert (claims.kid, claims.subject, claims.audience) == (key.kid, "someone", ("x", AUDIENCE))
    assert claims.all["extra"] == {"a": [1]}
    assert "extra" not in repr(claims)


def test_a_type_is_taken_where_it_is_asked_for() -> None:
    assert Node().takes(sealed(header(typ="at+jwt"), CLAIMS), typ="at+jwt")
    assert Node().refusal(GOOD, typ="at+jwt") == "typ"


def test_the_leeway_is_the_policys_unless_given() -> None:
    late = jwt(exp=NOW - 30)
    assert Node().takes(late)
    assert Node().refusal(late, leeway=30) == "expired"
    assert Node().takes(jwt(exp=NOW - 90), leeway=100)


@pytest.mark.parametrize("options", [{"audience": ""}, {"issuer": ""}, {"audience": None}], ids=str)
def test_what_is_expected_must_be_said(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Node().verify(GOOD, **options)


# --- following ----------------------------------------------------------------------------------

FIRST = first()
SECOND = extend(FIRST, Change.ROTATE)
NEW = next(key for key in SECOND.keyset.signing_keys() if key.state is State.NEXT)
OLD = FIRST.keyset.active


def by(held: Held, key: Key, issued: int = NOW) -> str:
    signing = next(one for one in held.keyset.signing_keys() if one.kid == key.kid)
    private = crypto.load_private(signing.material, signing.alg, validate=False)
    claims = CLAIMS | {"iat": issued, "exp": issued + 900}
    signed = ".".join(b64url_encode(json.dumps(part).encode()) for part in (header(signing), claims))
    return f"{signed}.{b64url_encode(crypto.sign(private, signing.alg, signed.encode()))}"


def test_a_rotation_is_seen_within_100_ms() -> None:
    node = Node(FIRST, confirmed=None)
    assert node.takes(by(FIRST, OLD))
    node.install(SECOND)
    node.clock.advance(0.1)
    assert {jwk["kid"] for jwk in node.verifier.jwks()["keys"]} == {key.kid for key in SECOND.keyset.signing_keys()}
    assert node.takes(by(SECOND, NEW))
    assert node.takes(by(FIRST, OLD))


def test_the_jwk_set_is_that_of_the_disk_at_this_very_moment() -> None:
    node = Node(FIRST)
    assert node.verifier.jwks()["keys"]
    node.install(SECOND)  # and confirmed in the same breath: whoever looks there takes this node for fresh
    assert {jwk["kid"] for jwk in node.verifier.jwks()["keys"]} == {key.kid for key in SECOND.keyset.signing_keys()}


def test_a_revoked_key_is_refused_within_100_ms_though_it_was_used_just_now() -> None:
    node = Node(FIRST, confirmed=None)
    good = by(FIRST, OLD)
    assert node.takes(good)
    node.install(extend(FIRST, Change.REVOKE_ACTIVE))
    node.clock.advance(0.1)
    assert node.refusal(good) == "kid-revoked"
    assert OLD.kid not in {jwk["kid"] for jwk in node.verifier.jwks()["keys"]}


def test_a_key_stays_revoked_that_only_the_floor_remembers() -> None:
    revoking = extend(FIRST, Change.REVOKE_ACTIVE)
    node = Node(FIRST)
    node.install(revoking)
    node.install(extend(revoking, Change.FORGET))
    assert node.refusal(by(FIRST, OLD)) == "kid-revoked"


def test_keys_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    load = crypto.load_public

    def counting(spki: bytes) -> crypto.PublicKey:
        parsed.append(spki)
        return load(spki)

    node = Node(FIRST, confirmed=None)
    monkeypatch.setattr(crypto, "load_public", counting)
    for _ in range(3):
        node.verify(by(FIRST, OLD))
    node.install(SECOND)
    node.clock.advance(0.1)
    node.verify(by(SECOND, NEW))
    assert len(parsed) == len(set(parsed)) == 3


# --- unknown ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("confirmed", "error"),
    [
        pytest.param(NOW, InvalidJwtError, id="just now"),
        pytest.param(NOW - FRESH, InvalidJwtError, id="exactly V ago"),
        pytest.param(NOW - FRESH - 1, UnavailableError, id="a second longer ago"),
        pytest.param(NOW + 31, UnavailableError, id="ahead of the clock by more than S"),
        pytest.param(None, UnavailableError, id="never"),
    ],
)
def test_an_unknown_kid_is_invalid_only_where_the_node_is_up_to_date(
    confirmed: int | None, error: type[KeydistError]
) -> None:
    with pytest.raises(error) as caught:
        Node(FIRST, confirmed=confirmed).verify(by(SECOND, NEW))
    assert caught.value.exit_code == (65 if error is InvalidJwtError else 75)


def test_an_unknown_kid_lets_the_disk_be_looked_at_once_more() -> None:
    node = Node(FIRST)
    assert node.takes(by(FIRST, OLD))
    node.install(SECOND)
    assert node.takes(by(SECOND, NEW)), "although the next look is due in 100 ms"


def test_an_unknown_kid_asks_for_news_at_most_once_a_second() -> None:
    asked: list[float] = []
    node = Node(FIRST)
    node.refresh = lambda: asked.append(node.clock.monotonic())
    for _ in range(31):
        assert node.refusal(by(SECOND, NEW)) == "kid-unknown"
        node.verify(by(FIRST, OLD))
        node.clock.advance(0.125)
    assert asked == [0.0, 1.0, 2.0, 3.0]


def test_what_the_question_brings_counts_at_once() -> None:
    node = Node(FIRST)
    node.refresh = lambda: node.install(SECOND)
    assert node.takes(by(FIRST, OLD))
    assert node.takes(by(SECOND, NEW))


def test_a_question_that_revokes_the_kid_is_heard() -> None:
    revoked = hold(
        make_keyset(
            epoch=2,
            ancestors=(FIRST.digest,),
            keys=FIRST.keyset.keys,
            revoked=(Revocation(kid=NEW.kid, at=NOW, reason="test"),),
        )
    )
    node = Node(FIRST)
    node.refresh = lambda: node.install(revoked)
    assert node.refusal(by(SECOND, NEW)) == "kid-revoked"


@pytest.mark.parametrize("failure", [DiskError("no"), ConnectionRefusedError()], ids=repr)
def test_a_question_that_fails_is_no_news(failure: Exception) -> None:
    def refresh() -> None:
        raise failure

    node = Node(FIRST)
    node.refresh = refresh
    assert node.refusal(by(SECOND, NEW)) == "kid-unknown"


# --- a disk that fails --------------------------------------------------------------------------


def test_without_a_keyset_nothing_can_be_told() -> None:
    node = Node(None)
    with pytest.raises(UnavailableError, match="keydist bootstrap"):
        node.verify(GOOD)
    with pytest.raises(UnavailableError):
        node.verifier.jwks()
    node.install(HELD)
    node.clock.advance(0.1)
    assert node.takes(GOOD)


def damage(node: Node) -> None:
    node.disk.folder.is_damaged = True
    node.disk.folder.changes += 1


def loses(node: Node) -> None:
    node.disk.folder.live = None
    node.disk.folder.changes += 1


@pytest.mark.parametrize("accident", [damage, loses])
def test_a_damaged_disk_does_not_stop_verifying(accident: Callable[[Node], None]) -> None:
    node = Node(FIRST)
    good = by(FIRST, OLD)
    assert node.takes(good)
    accident(node)
    node.clock.advance(60)
    assert node.takes(good)


def test_a_floor_that_says_revoked_counts_although_its_keyset_is_damaged() -> None:
    node = Node(FIRST)
    assert node.takes(by(FIRST, OLD))
    node.install(extend(FIRST, Change.REVOKE_ACTIVE))
    node.disk.folder.is_damaged = True
    node.clock.advance(0.1)
    assert node.refusal(by(FIRST, OLD)) == "kid-revoked"
    assert OLD.kid not in {jwk["kid"] for jwk in node.verifier.jwks()["keys"]}


def test_a_key_stays_revoked_whatever_happens_to_the_disk() -> None:
    node = Node(FIRST)
    node.install(extend(FIRST, Change.REVOKE_ACTIVE))
    assert node.refusal(by(FIRST, OLD)) == "kid-revoked"
    node.disk.folder.floor = None
    damage(node)
    node.clock.advance(0.1)
    assert node.refusal(by(FIRST, OLD)) == "kid-revoked"


def test_a_keyset_that_was_forgotten_on_purpose_is_not_used() -> None:
    node = Node(FIRST)
    assert node.takes(by(FIRST, OLD))
    node.disk.reset()
    node.clock.advance(0.1)
    with pytest.raises(UnavailableError):
        node.verify(by(FIRST, OLD))


def test_a_process_that_starts_on_a_damaged_disk_cannot_tell() -> None:
    node = Node(FIRST)
    damage(node)
    with pytest.raises(UnavailableError) as caught:
        node.verify(by(FIRST, OLD))
    assert isinstance(caught.value.__cause__, CorruptError)


def test_verifying_has_no_lease() -> None:
    node = Node(FIRST, confirmed=NOW)
    node.clock.advance(400 * DAY)
    assert node.takes(by(FIRST, OLD, NOW + 400 * DAY))


def test_moved_keys_are_the_keys_they_were() -> None:
    retired = moved(ACTIVE, State.RETIRED, now=NOW)
    other = sig_key("N")
    node = Node(HELD)
    assert node.takes(GOOD)
    node.install(hold(make_keyset(2, ancestors=(HELD.digest,), keys=(retired, other, ENC))))
    node.clock.advance(0.1)
    assert node.takes(GOOD)
