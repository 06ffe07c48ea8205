"""JWS signatures: keydist's and joserfc's verify each other, and nothing else verifies."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from keydist.core import crypto
from keydist.core.strict import b64url_decode, b64url_encode
from tests.material import noise, pkcs8, private_key, sig_key

# joserfc warns that RFC 9864 prefers the name Ed25519; keydist keeps the name that every verifier knows (RFC 8037).
pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated:joserfc.errors.SecurityWarning")

NAMED = [("rsa-a", "RS256"), ("rsa-a", "PS256"), ("A", "ES256"), ("A", "EdDSA")]
KINDS: dict[str, type[RSAKey | ECKey | OKPKey]] = {"RS256": RSAKey, "PS256": RSAKey, "ES256": ECKey, "EdDSA": OKPKey}


def jose_key(name: str, alg: str) -> RSAKey | ECKey | OKPKey:
    pem = sig_key(name, alg=alg).material
    return KINDS[alg].import_key(pem)


@pytest.mark.parametrize(("name", "alg"), NAMED)
def test_joserfc_verifies_what_keydist_signs(name: str, alg: str) -> None:
    signed = b64url_encode(f'{{"alg":"{alg}"}}'.encode()) + "." + b64url_encode(b"payload")
    private = crypto.load_private(pkcs8(name, alg), alg, validate=False)
    signature = crypto.sign(private, alg, signed.encode())
    token = f"{signed}.{b64url_encode(signature)}"
    assert jws.deserialize_compact(token, jose_key(name, alg), algorithms=[alg]).payload == b"payload"
    assert crypto.verify(sig_key(name, alg=alg).public.spki, alg, signed.encode(), signature)


@pytest.mark.parametrize(("name", "alg"), NAMED)
def test_keydist_verifies_what_joserfc_signs(name: str, alg: str) -> None:
    token = jws.serialize_compact({"alg": alg}, b"payload", jose_key(name, alg), algorithms=[alg])
    signed, _, text = token.rpartition(".")
    spki, signature = sig_key(name, alg=alg).public.spki, b64url_decode(text, "signature")
    assert crypto.verify(spki, alg, signed.encode(), signature)
    altered = signature[:-1] + bytes([signature[-1] ^ 1])
    for message, other in (
        (signed.encode() + b"A", signature),
        (signed.encode(), altered),
        (signed.encode(), signature[:-1]),
        (signed.encode(), signature + b"\0"),
        (signed.encode(), b""),
    ):
        assert not crypto.verify(spki, alg, message, other)


def test_one_padding_is_not_the_other() -> None:
    private = crypto.load_private(pkcs8("rsa-a", "RS256"), "RS256", validate=False)
    spki = sig_key("rsa-a", alg="RS256").public.spki
    for alg, other in (("RS256", "PS256"), ("PS256", "RS256")):
        assert not crypto.verify(spki, other, b"message", crypto.sign(private, alg, b"message"))


def test_a_p_256_signature_is_raw_never_der() -> None:
    key = private_key("A", "ES256")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    spki = sig_key("A", alg="ES256").public.spki
    assert len(crypto.sign(key, "ES256", b"message")) == 64
    der = key.sign(b"message", ec.ECDSA(SHA256()))
    assert not crypto.verify(spki, "ES256", b"message", der)


def test_a_key_of_another_kind_verifies_nothing() -> None:
    public = ed448.Ed448PrivateKey.from_private_bytes(noise("Ed448", 57)).public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert not crypto.verify(spki, "EdDSA", b"message", bytes(114))
