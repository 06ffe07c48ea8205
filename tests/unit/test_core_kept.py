"""A public key that is kept for ever: what is read is what was written, and what was altered is told."""

from __future__ import annotations

from typing import Any

import pytest

from keydist.core import crypto
from keydist.core.jwk import public_jwk
from keydist.core.kept import parse_kept
from keydist.core.pem import public_pem
from keydist.core.strict import serialise
from keydist.errors import CorruptError, MalformedError
from tests.material import sig_key

KEYS = {
    "RS256": sig_key("rsa-a", alg="RS256"),
    "PS256": sig_key("rsa-b", alg="PS256"),
    "ES256": sig_key("e", alg="ES256"),
    "EdDSA": sig_key("d"),
}


@pytest.mark.parametrize("alg", KEYS)
def test_what_was_kept_is_read(alg: str) -> None:
    key = KEYS[alg]
    kept = parse_kept(serialise(public_jwk(key)) + b"\n", key.kid)
    assert (kept.alg, kept.jwk, kept.spki, kept.pem()) == (alg, public_jwk(key), key.public.spki, public_pem(key))


def altered(name: str, /, **changes: object) -> dict[str, object]:
    """Return a JWK with other members; None takes one away."""
    members: dict[str, object] = {**public_jwk(KEYS[name]), **changes}
    return {member: value for member, value in members.items() if value is not None}


@pytest.mark.parametrize(
    ("alg", "jwk"),
    [
        pytest.param("RS256", {}, id="nothing"),
        pytest.param("RS256", altered("RS256", alg="HS256"), id="an algorithm that is none"),
        pytest.param("RS256", altered("RS256", alg="ES256"), id="another family"),
        pytest.param("RS256", altered("RS256", e="Aw"), id="another exponent"),
        pytest.param("RS256", altered("RS256", e="AAEAAQ"), id="a longer exponent of the same value"),
        pytest.param("RS256", altered("RS256", n="AQAB"), id="a short modulus"),
        pytest.param("RS256", altered("RS256", n="A" * 1025), id="a modulus without end"),
        pytest.param("RS256", altered("RS256", n=None), id="no modulus"),
        pytest.param("RS256", altered("RS256", n=1), id="a modulus that is no text"),
        pytest.param("ES256", altered("ES256", x="AA"), id="a point that is none"),
        pytest.param("ES256", altered("ES256", crv="P-384"), id="another curve"),
        pytest.param("EdDSA", altered("EdDSA", x="AA"), id="a short key"),
        pytest.param("EdDSA", altered("EdDSA", crv="X25519"), id="a key for something else"),
        pytest.param("EdDSA", altered("EdDSA", use="enc"), id="another use"),
        pytest.param("EdDSA", altered("EdDSA", kid="A" * 43), id="another kid"),
        pytest.param("EdDSA", altered("EdDSA", d="AA"), id="a member more"),
        pytest.param("EdDSA", altered("EdDSA", kty="oct"), id="a symmetric key"),
    ],
)
def test_what_was_altered_is_told(alg: str, jwk: dict[str, Any]) -> None:
    kid = KEYS[alg].kid
    with pytest.raises(CorruptError, match=f"the public key kept for {kid} was altered"):
        parse_kept(serialise(jwk), kid)


def test_another_key_is_not_the_one_of_a_kid() -> None:
    with pytest.raises(CorruptError, match="not the one of its kid"):
        parse_kept(serialise(public_jwk(KEYS["EdDSA"])), KEYS["ES256"].kid)


def test_a_jwk_that_cryptography_refuses_is_malformed() -> None:
    with pytest.raises(MalformedError, match="a JWK cannot be read"):
        crypto.public_of_jwk(altered("ES256", x="AA", y="AA"), "ES256")
