"""JWTs: what is minted is what a strict reader takes, keydist's own and joserfc; what none would take is not minted."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from joserfc import jws as joserfc_jws
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet

from keydist.core import crypto
from keydist.core.jwk import public_jwk
from keydist.core.jws import (
    MAX_JWT,
    Claims,
    check_claims,
    check_signature,
    compose_claims,
    mint_compact,
    parse_compact,
)
from keydist.core.strict import b64url_encode, serialise
from keydist.errors import InvalidJwtError, UsageError
from tests.material import NOW, private_key, sig_key

ALGS = sorted(crypto.SIGNING_ALGS)
OWN: dict[str, Any] = {
    "scope": "read wríte 🗝",
    "roles": ["a", "b"],
    "n": 2**53 - 1,
    "zero": 0,
    "yes": True,
    "none": None,
    "deep": {"a": {"b": ["c", {"d": 1}]}},
    "empty": {},
}


def name_for(alg: str) -> str:
    return "rsa-a" if alg in crypto.RSA_ALGS else "A"


def composed(claims: Mapping[Any, Any] | None = None, audience: Any = "api") -> dict[str, object]:  # noqa: ANN401
    return compose_claims(
        OWN if claims is None else claims,
        issuer="https://issuer",
        subject="someone",
        audience=audience,
        issued=NOW,
        expires=NOW + 900,
    )


def minted(alg: str, claims: dict[str, object] | None = None, typ: str = "JWT") -> str:
    key = sig_key(name_for(alg), alg=alg)
    return mint_compact(key, private_key(name_for(alg), alg), composed() if claims is None else claims, typ)


def read(jwt: str, alg: str, *, audience: str = "api", typ: str = "JWT") -> Claims:
    parsed = parse_compact(jwt)
    public = crypto.load_public(sig_key(name_for(alg), alg=alg).public.spki)
    check_signature(parsed, public, alg=alg, typ=typ)
    return check_claims(parsed, issuer="https://issuer", audience=audience, now=NOW, leeway=60)


@pytest.mark.parametrize("alg", ALGS)
def test_what_was_minted_is_read_back_as_it_was_given(alg: str) -> None:
    claims = read(minted(alg), alg)
    assert (claims.issuer, claims.subject, claims.audience) == ("https://issuer", "someone", ("api",))
    assert (claims.issued, claims.expires, claims.kid) == (NOW, NOW + 900, sig_key(name_for(alg), alg=alg).kid)
    assert {name: claims.all[name] for name in OWN} == OWN
    with pytest.raises(TypeError):
        claims.all["sub"] = "another"  # type: ignore[index]


@pytest.mark.parametrize("alg", ALGS)
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # by RFC 9864, which gives it a new name
def test_joserfc_takes_what_was_minted(alg: str) -> None:
    jwt = minted(alg, composed(audience=["api", "other"]), typ="at+jwt")
    jwks: Any = {"keys": [public_jwk(sig_key(name_for(alg), alg=alg))]}
    keys = KeySet.import_key_set(jwks)
    registry = joserfc_jws.JWSRegistry(algorithms=ALGS)
    found = joserfc_jwt.decode(jwt, keys, registry=registry)
    assert found.header == {"alg": alg, "kid": sig_key(name_for(alg), alg=alg).kid, "typ": "at+jwt"}
    assert found.claims == composed(audience=["api", "other"])
    assert read(jwt, alg, audience="other", typ="at+jwt").audience == ("api", "other")


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp", "iat"])
def test_a_registered_claim_is_not_given_twice(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        composed({name: "x"})


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({"x": 1.5}, id="a float"),
        pytest.param({"x": float("nan")}, id="not a number"),
        pytest.param({"x": -1}, id="a negative integer"),
        pytest.param({"x": 2**53}, id="an integer too large"),
        pytest.param({"x": b"bytes"}, id="bytes"),
        pytest.param({"x": {1: "a"}}, id="a name that is no text"),
        pytest.param({1: "a"}, id="a claim's name that is no text"),
        pytest.param({"x": "\ud800"}, id="half a surrogate pair"),
        pytest.param({"\ud800": 1}, id="half a surrogate pair in a name"),
        pytest.param({"x": [{"y": [1.0]}]}, id="a float far inside"),
        pytest.param({"x": {"s"}}, id="a set"),
        pytest.param({"nbf": "soon"}, id="nbf that is no time"),
        pytest.param({"nbf": True}, id="nbf that is true"),
        pytest.param({"jti": 7}, id="jti that is a number"),
        pytest.param({"x": [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}, id="nested too deep"),
    ],
)
def test_what_a_strict_reader_refuses_is_not_minted(claims: dict[Any, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        composed(claims)
    assert caught.value.found == "" or caught.value.found in map(ascii, claims), "which claim it is"


def test_any_mapping_may_hold_the_claims() -> None:
    given = MappingProxyType({"x": (1, 2)})
    assert composed(given)["x"] == (1, 2)
    with pytest.raises(UsageError):
        composed(MappingProxyType({"x": 1.5}))


@pytest.mark.parametrize("name", ["issuer", "subject", "audience"])
def test_the_registered_claims_are_checked_too(name: str) -> None:
    texts = {"issuer": "i", "subject": "s", "audience": "a"} | {name: "\ud800"}
    with pytest.raises(UsageError):
        compose_claims({}, **texts, issued=NOW, expires=NOW + 1)


def test_what_contains_itself_is_not_minted() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(UsageError):
        composed({"x": endless})


@pytest.mark.parametrize("audience", ["", [], ["api", ""], [1], None], ids=repr)
def test_an_audience_is_text(audience: object) -> None:
    with pytest.raises((UsageError, TypeError)):
        composed(audience=audience)


@pytest.mark.parametrize("typ", ["", "é", "a\nb", "x" * 65], ids=ascii)
def test_a_type_is_short_printable_ascii(typ: str) -> None:
    with pytest.raises(UsageError):
        minted("EdDSA", typ=typ)


def test_a_jwt_is_bounded() -> None:
    room = (MAX_JWT - len(minted("EdDSA", composed({"x": ""})))) * 3 // 4 - 2
    assert read(minted("EdDSA", composed({"x": "a" * room})), "EdDSA").subject == "someone"
    with pytest.raises(UsageError, match="too long") as caught:
        minted("EdDSA", composed({"x": "b" * (room + 4)}))
    assert "bbb" not in str(caught.value)


@pytest.mark.parametrize(
    ("claim", "value", "reason"),
    [
        pytest.param("exp", NOW - 59, None, id="expired within the leeway"),
        pytest.param("exp", NOW - 60, "expired", id="expired exactly the leeway ago"),
        pytest.param("iat", NOW + 60, None, id="issued ahead by the leeway"),
        pytest.param("iat", NOW + 61, "not-yet", id="issued ahead by a second more"),
        pytest.param("nbf", NOW + 60, None, id="not before the leeway from now"),
        pytest.param("nbf", NOW + 61, "not-yet", id="not before a second more"),
        pytest.param("exp", NOW + 10**9, None, id="a lifetime beyond every policy"),
    ],
)
def test_times_have_the_leeway_and_no_second_more(claim: str, value: int, reason: str | None) -> None:
    jwt = minted("EdDSA", composed() | {claim: value})
    if reason is None:
        assert read(jwt, "EdDSA").subject == "someone"
    else:
        with pytest.raises(InvalidJwtError) as caught:
            read(jwt, "EdDSA")
        assert caught.value.reason == reason
        assert caught.value.as_json()["reason"] == reason


def test_a_signature_is_checked_before_a_claim_is_looked_at() -> None:
    head, _, _ = minted("EdDSA").split(".")
    forged = f"{head}.{b64url_encode(serialise({'exp': 1}))}.{b64url_encode(bytes(64))}"
    with pytest.raises(InvalidJwtError) as caught:
        read(forged, "EdDSA")
    assert caught.value.reason == "signature"
