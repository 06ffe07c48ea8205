"""JWKs: thumbprints as the RFCs have them, and a JWK Set that never holds what must not be published."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from keydist.core import crypto
from keydist.core.jwk import bits_of, jwk_set, parse_public_jwk, public_jwk, thumbprint
from keydist.core.keyset import State
from keydist.core.strict import b64url_encode, serialise
from keydist.errors import MalformedError
from tests.material import Change, enc_key, history, make_keyset, sig_key


def test_the_thumbprint_of_rfc_7638() -> None:
    members = {
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCi"
        "FV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb"
        "9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls"
        "1jF44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB",
    }
    assert thumbprint(members) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_the_thumbprint_of_rfc_8037() -> None:
    members = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    assert thumbprint(members) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_the_key_of_rfc_8037_has_that_thumbprint() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    raw = bytes.fromhex("302e020100300506032b657004220420") + seed
    members = crypto.public_of_private(raw, "EdDSA", validate=False).members
    assert thumbprint(members) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize(
    ("name", "alg", "members"),
    [
        ("rsa-a", "RS256", ["kty", "use", "alg", "kid", "e", "n"]),
        ("rsa-a", "PS256", ["kty", "use", "alg", "kid", "e", "n"]),
        ("A", "ES256", ["kty", "use", "alg", "kid", "crv", "x", "y"]),
        ("A", "EdDSA", ["kty", "use", "alg", "kid", "crv", "x"]),
    ],
)
def test_a_jwk_has_its_public_members_and_no_other(name: str, alg: str, members: list[str]) -> None:
    key = sig_key(name, alg=alg)
    jwk = public_jwk(key)
    assert list(jwk) == members
    assert (jwk["use"], jwk["alg"], jwk["kid"]) == ("sig", alg, key.kid)
    assert thumbprint({member: jwk[member] for member in jwk if member not in ("use", "alg", "kid")}) == key.kid


def test_the_jwk_set_holds_every_key_that_verifies() -> None:
    keys = (sig_key("A"), enc_key("A"), sig_key("B", State.NEXT), sig_key("C", State.RETIRED))
    kids = [jwk["kid"] for jwk in jwk_set(make_keyset(keys=keys))["keys"]]
    assert kids == [key.kid for key in keys if key.use == "sig"]


def test_the_jwk_set_holds_no_symmetric_and_no_revoked_key() -> None:
    for epoch in history(list(Change)):
        published = jwk_set(epoch.keyset)["keys"]
        assert {jwk["kty"] for jwk in published} == {"OKP"}
        assert not {jwk["kid"] for jwk in published} & {entry.kid for entry in epoch.keyset.revoked}
        assert not {"k", "d"} & {member for jwk in published for member in jwk}


def test_a_symmetric_key_has_no_jwk() -> None:
    with pytest.raises(MalformedError, match="no public part"):
        public_jwk(enc_key("A"))


@pytest.mark.parametrize(
    ("name", "alg", "bits"),
    [("rsa-a", "RS256", 2048), ("rsa-b", "PS256", 2048), ("A", "ES256", 0), ("A", "EdDSA", 0)],
)
def test_the_size_of_an_rsa_key_is_that_of_its_modulus(name: str, alg: str, bits: int) -> None:
    assert bits_of(sig_key(name, alg=alg)) == bits
    assert bits_of(sig_key(name, State.RETIRED, alg=alg)) == bits


@pytest.mark.parametrize("bits", [2047, 2048, 2049, 3072, 4096])
def test_the_size_is_told_to_the_bit(bits: int) -> None:
    key = sig_key("rsa-a", alg="RS256")
    modulus = b64url_encode((1 << (bits - 1)).to_bytes((bits + 7) // 8, "big"))
    public = key.public._replace(members=key.public.members | {"n": modulus})
    assert bits_of(replace(key, public_part=public)) == bits


def test_a_symmetric_key_has_no_modulus() -> None:
    with pytest.raises(MalformedError, match="no public part"):
        bits_of(enc_key("A"))


# --- reading one back ---------------------------------------------------------------------------

KINDS = [("rsa-a", "RS256"), ("rsa-a", "PS256"), ("A", "ES256"), ("A", "EdDSA")]


@pytest.mark.parametrize(("name", "alg"), KINDS)
def test_a_jwk_is_read_back_as_the_key_that_it_was_made_from(name: str, alg: str) -> None:
    key = sig_key(name, alg=alg)
    assert parse_public_jwk(serialise(public_jwk(key)), key.kid) == (alg, key.public)


def jwk_of(name: str, alg: str) -> dict[str, Any]:
    return dict(public_jwk(sig_key(name, alg=alg)))


RSA, EC, OKP = (jwk_of(name, alg) for name, alg in (KINDS[0], KINDS[2], KINDS[3]))
REFUSED: dict[str, dict[str, Any]] = {
    "no kty": {name: value for name, value in OKP.items() if name != "kty"},
    "no alg": {name: value for name, value in OKP.items() if name != "alg"},
    "no use": {name: value for name, value in OKP.items() if name != "use"},
    "no kid": {name: value for name, value in OKP.items() if name != "kid"},
    "no key": {name: OKP[name] for name in ("kty", "use", "alg", "kid")},
    "nothing": {},
    "another kty": OKP | {"kty": "EC"},
    "another crv": OKP | {"crv": "X25519"},
    "another alg": RSA | {"alg": "ES256"},
    "an unsupported alg": RSA | {"alg": "RS512"},
    "another use": OKP | {"use": "enc"},
    "another kid": OKP | {"kid": EC["kid"]},
    "another key": OKP | {"x": b64url_encode(bytes(31) + b"\x01")},
    "a key that is too short": OKP | {"x": b64url_encode(bytes(31))},
    "no base64url": OKP | {"x": OKP["x"] + "="},
    "a private member": OKP | {"d": OKP["x"]},
    "a member that is no text": RSA | {"e": 65537},
    "a point that is not on the curve": EC | {"y": EC["x"]},
    "a coordinate with a zero before": EC | {"x": b64url_encode(bytes(1) + b"\x01" * 32)},
    "a modulus of one": RSA | {"n": b64url_encode(b"\x01")},
    "a modulus of nothing": RSA | {"n": ""},
    "another exponent": RSA | {"e": b64url_encode(b"\x03")},
    "an exponent with a zero before": RSA | {"e": b64url_encode(b"\x00\x01\x00\x01")},
}


@pytest.mark.parametrize("jwk", REFUSED.values(), ids=REFUSED)
def test_a_jwk_of_another_spelling_or_another_key_is_refused(jwk: dict[str, Any]) -> None:
    kid = next(known["kid"] for known in (RSA, EC, OKP) if known["kty"] == jwk.get("kty") or known is OKP)
    with pytest.raises(MalformedError):
        parse_public_jwk(json.dumps(jwk).encode(), kid)
