"""Project Wycheproof (C2SP, testvectors_v1) through keydist's own functions.

The vectors are not part of the project: `KEYDIST_WYCHEPROOF` names the folder that holds them.
"""

from __future__ import annotations

import hmac
import json
import os
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OctKey, RSAKey

from keydist.core import crypto
from keydist.core.envelope import parse_envelope
from keydist.core.strict import b64url_decode, parse_object
from keydist.errors import KeydistError, TamperedError

FOLDER: Final = os.environ.get("KEYDIST_WYCHEPROOF", "")
pytestmark = pytest.mark.skipif(
    not FOLDER, reason="KEYDIST_WYCHEPROOF is unset: it names the folder of Wycheproof's testvectors_v1"
)


def groups(file: str) -> list[dict[str, Any]]:
    value = json.loads((Path(FOLDER) / file).read_bytes())
    found: list[dict[str, Any]] = value["testGroups"]
    return found


def label(case: dict[str, Any]) -> str:
    return f"tcId {case['tcId']}: {case['comment']}"


def test_aes_256_gcm() -> None:
    tried = 0
    for group in groups("aes_gcm_test.json"):
        if (group["keySize"], group["ivSize"], group["tagSize"]) != (256, 96, 128):
            continue
        for case in group["tests"]:
            key, iv, aad, message, ciphertext, tag = (
                bytes.fromhex(case[name]) for name in ("key", "iv", "aad", "msg", "ct", "tag")
            )
            tried += 1
            if case["result"] == "valid":
                assert crypto.decrypt(key, iv, ciphertext + tag, aad) == message, label(case)
                assert crypto.encrypt(key, iv, message, aad) == ciphertext + tag, label(case)
            else:
                with pytest.raises(TamperedError):
                    crypto.decrypt(key, iv, ciphertext + tag, aad)
    assert tried > 50


def test_hkdf_sha256() -> None:
    tried = 0
    for group in groups("hkdf_sha256_test.json"):
        for case in group["tests"]:
            ikm, salt, info, okm = (bytes.fromhex(case[name]) for name in ("ikm", "salt", "info", "okm"))
            prk = hmac.digest(salt, ikm, "sha256")
            tried += 1
            if case["result"] == "valid":
                assert HKDFExpand(SHA256(), case["size"], info).derive(prk) == okm, label(case)
            else:
                with pytest.raises(ValueError, match="larger than"):
                    HKDFExpand(SHA256(), case["size"], info)
    assert tried > 50


def compact_jwes() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(group, case) for group in groups("json_web_encryption_test.json") for case in group["tests"]]


def test_no_jwe_of_another_kind_is_an_envelope() -> None:
    refused = 0
    for _, case in compact_jwes():
        with pytest.raises(KeydistError):
            parse_envelope(case["jwe"].encode())
        refused += 1
    assert refused > 100


UNWRAPPED: Final = ("A256KW", "A256GCMKW", "RSA-OAEP", "RSA-OAEP-256")


def test_both_agree_on_the_ciphertext_of_every_a256gcm_jwe() -> None:
    """Unwrap the content key, then compare keydist's AES-GCM with what joserfc makes of the whole JWE."""
    opened = 0
    for group, case in compact_jwes():
        private = group["private"]
        if case["enc"] != "A256GCM" or private["alg"] not in UNWRAPPED:
            continue
        segments = case["jwe"].encode().split(b".")
        algorithms = [private["alg"], "A256GCM"]
        owner = (OctKey if private["kty"] == "oct" else RSAKey).import_key(private)
        try:
            expected = jwe.decrypt_compact(case["jwe"], owner, algorithms=algorithms).plaintext
        except (JoseError, ValueError):
            expected = None
        try:
            found = own_opening(private, segments)
        except (KeydistError, ValueError):
            found = None
        assert found == expected, label(case)
        assert (found is not None) == (case["result"] == "valid"), label(case)
        opened += found is not None
    assert opened >= 5


def own_opening(private: dict[str, Any], segments: list[bytes]) -> bytes:
    """Open a JWE with keydist's own decoding and decryption; only the key is unwrapped by the test."""
    header = parse_object(b64url_decode(segments[0], "header"), "header")
    if header["alg"] != private["alg"]:
        raise TamperedError("another algorithm than the key's")
    wrapped, iv, body, tag = (b64url_decode(part, "segment") for part in segments[1:])
    if len(tag) != crypto.TAG_BYTES:
        raise TamperedError("a short tag")
    return crypto.decrypt(content_key(private, header, wrapped), iv, body + tag, segments[0])


def content_key(private: dict[str, Any], header: dict[str, Any], wrapped: bytes) -> bytes:
    if private["alg"] == "A256KW":
        return aes_key_unwrap(b64url_decode(private["k"], "k"), wrapped)
    if private["alg"] == "A256GCMKW":
        iv, tag = b64url_decode(header["iv"], "iv"), b64url_decode(header["tag"], "tag")
        return crypto.decrypt(b64url_decode(private["k"], "k"), iv, wrapped + tag, b"")
    key = RSAKey.import_key(private).private_key
    assert isinstance(key, rsa.RSAPrivateKey)
    used: HashAlgorithm = SHA256() if private["alg"] == "RSA-OAEP-256" else SHA1()  # noqa: S303 - what RSA-OAEP is
    return key.decrypt(wrapped, padding.OAEP(mgf=padding.MGF1(used), algorithm=used, label=None))


@pytest.mark.parametrize(
    ("file", "alg"),
    [
        ("ecdsa_secp256r1_sha256_p1363_test.json", "ES256"),
        ("ed25519_test.json", "EdDSA"),
        ("rsa_signature_2048_sha256_test.json", "RS256"),
        ("rsa_signature_3072_sha256_test.json", "RS256"),
        ("rsa_pss_3072_sha256_mgf1_32_test.json", "PS256"),
    ],
)
def test_signatures(file: str, alg: str) -> None:
    """Nothing is left out, and what is only acceptable (an algorithm without its NULL) is refused."""
    tried = 0
    for group in groups(file):
        described = group["publicKeyDer"]
        spki = bytes.fromhex(described)
        for case in group["tests"]:
            valid = crypto.verify(spki, alg, bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"]))
            tried += 1
            assert valid is (case["result"] == "valid"), label(case)
    assert tried > 100
