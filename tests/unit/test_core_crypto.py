"""Derivation and sealing against known answers; which keys are keys, and in which one encoding."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from keydist.core import crypto
from keydist.core.jwk import thumbprint
from keydist.errors import MalformedError, TamperedError
from tests.material import noise, pkcs8, private_key, rsa_key

SECRET = bytes(range(32))
RND = bytes(range(32, 64))


def lp(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def test_derivation_gives_the_known_answer() -> None:
    keys = crypto.derive(
        secret=SECRET, cluster="prod-eu1", location="KV/keydist/keyset", token_id="0123456789", rnd=RND
    )
    assert keys.content.hex() == "2de1c9a0d70d01f74fb3e7aa989cdd6e765582e7eca2b914e899f27374bcbee7"
    assert keys.commitment.hex() == "9049783191c73283fbc918473c3dae7229f1e11ae3470dd840c3abd645db6dd9"


def test_derivation_is_two_expansions_of_one_extraction() -> None:
    salt = hashlib.sha256(b"keydist/v1/extract\0" + lp(b"prod-eu1")).digest()
    prk = hmac.digest(salt, SECRET, "sha256")
    assert prk.hex().startswith("89dcd21178f0e0c4")
    context = lp(b"prod-eu1") + lp(b"KV/keydist/keyset") + lp(b"0123456789") + lp(RND)
    keys = crypto.derive(
        secret=SECRET, cluster="prod-eu1", location="KV/keydist/keyset", token_id="0123456789", rnd=RND
    )
    # One block of HKDF-Expand is one HMAC over the info and the counter (RFC 5869, section 2.3).
    assert keys.content == hmac.digest(prk, b"keydist/v1/aead\0" + context + b"\x01", "sha256")
    assert keys.commitment == hmac.digest(prk, b"keydist/v1/commit\0" + context + b"\x01", "sha256")


@pytest.mark.parametrize(
    "other",
    [
        {"secret": bytes(range(1, 33))},
        {"cluster": "prod-eu2"},
        {"location": "KV/keydist/keysets"},
        {"token_id": "0123456780"},
        {"rnd": bytes(range(31, 63))},
        {"cluster": "prod-eu1K", "location": "V/keydist/keyset"},
    ],
    ids=["secret", "cluster", "location", "token id", "rnd", "a character moved from one to the next"],
)
def test_every_input_of_the_derivation_counts(other: dict[str, str | bytes]) -> None:
    inputs: dict[str, str | bytes] = {
        "secret": SECRET,
        "cluster": "prod-eu1",
        "location": "KV/keydist/keyset",
        "token_id": "0123456789",
        "rnd": RND,
    }
    one = crypto.derive(**inputs)  # type: ignore[arg-type] # each name has its own type
    two = crypto.derive(**(inputs | other))  # type: ignore[arg-type] # as above
    assert one.content != two.content
    assert one.commitment != two.commitment
    assert one.content != one.commitment


@pytest.mark.parametrize(
    ("ikm", "salt", "info", "prk", "okm"),
    [
        (
            "0b" * 22,
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)).hex(),
            bytes(range(0x60, 0xB0)).hex(),
            bytes(range(0xB0, 0x100)).hex(),
            "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
            (
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
                "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
            ),
        ),
        (
            "0b" * 22,
            "",
            "",
            "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
    ids=["A.1", "A.2", "A.3"],
)
def test_the_primitives_are_those_of_rfc_5869(ikm: str, salt: str, info: str, prk: str, okm: str) -> None:
    extracted = hmac.digest(bytes.fromhex(salt), bytes.fromhex(ikm), "sha256")
    assert extracted.hex() == prk
    assert HKDFExpand(SHA256(), len(okm) // 2, bytes.fromhex(info)).derive(extracted).hex() == okm


def test_what_is_encrypted_is_decrypted_only_as_it_was() -> None:
    key, iv = noise("key", 32), noise("iv", 12)
    sealed = crypto.encrypt(key, iv, b"plaintext", b"aad")
    assert len(sealed) == len(b"plaintext") + crypto.TAG_BYTES
    assert crypto.decrypt(key, iv, sealed, b"aad") == b"plaintext"
    for altered in (
        (noise("other", 32), iv, sealed, b"aad"),
        (key, noise("other", 12), sealed, b"aad"),
        (key, iv, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"aad"),
        (key, iv, sealed, b"aae"),
    ):
        with pytest.raises(TamperedError):
            crypto.decrypt(*altered)


def test_comparison_tells_equal_from_unequal() -> None:
    assert crypto.same(b"one", b"one")
    assert not crypto.same(b"one", b"two")
    assert not crypto.same(b"one", b"on")


# --- keys ---------------------------------------------------------------------------------------

NAMED = [("rsa-a", "RS256"), ("rsa-a", "PS256"), ("A", "ES256"), ("A", "EdDSA")]


def der(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def spki(key: PrivateKeyTypes) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(("name", "alg"), NAMED)
def test_both_forms_of_a_key_give_one_public_part(name: str, alg: str) -> None:
    private = crypto.public_of_private(pkcs8(name, alg), alg, validate=True)
    assert private == crypto.public_of_private(pkcs8(name, alg), alg, validate=False)
    assert private == crypto.public_of_spki(spki(private_key(name, alg)), alg)
    assert private.spki == spki(private_key(name, alg))


@pytest.mark.parametrize(("name", "alg"), NAMED)
@pytest.mark.parametrize("other", ["RS256", "ES256", "EdDSA", "HS256", ""])
def test_a_key_fits_its_own_algorithm_only(name: str, alg: str, other: str) -> None:
    if other == alg or {other, alg} <= crypto.RSA_ALGS:
        return
    with pytest.raises(MalformedError, match="does not fit"):
        crypto.public_of_private(pkcs8(name, alg), other, validate=False)
    with pytest.raises(MalformedError, match="does not fit"):
        crypto.public_of_spki(spki(private_key(name, alg)), other)


def test_an_elliptic_key_is_on_p_256() -> None:
    key = ec.derive_private_key(5, ec.SECP384R1())
    with pytest.raises(MalformedError, match="does not fit"):
        crypto.public_of_private(der(key), "ES256", validate=False)


def test_coordinates_keep_their_leading_zeros() -> None:
    # The first small scalar whose x begins with a zero byte (RFC 7518, section 6.2.1.2).
    key = next(
        key
        for key in (ec.derive_private_key(scalar, ec.SECP256R1()) for scalar in range(1, 5000))
        if key.public_key().public_numbers().x < 1 << 248
    )
    members = crypto.public_of_private(der(key), "ES256", validate=False).members
    assert [len(members[name]) for name in ("x", "y")] == [43, 43]


def odd_rsa(bits: int, e: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(e, (1 << (bits - 1)) | 1).public_key()


@pytest.mark.parametrize(("bits", "e"), [(2047, 65537), (4097, 65537), (2048, 3), (2048, 65539)])
def test_rsa_keys_out_of_range_are_refused(bits: int, e: int) -> None:
    with pytest.raises(MalformedError, match="out of range"):
        crypto.public_of_spki(odd_rsa(bits, e).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), "RS256")


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_rsa_keys_at_the_bounds_are_taken(bits: int) -> None:
    raw = odd_rsa(bits).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    part = crypto.public_of_spki(raw, "RS256")
    assert part.members["e"] == "AQAB"
    assert len(part.members["n"]) == (bits // 8 * 8 + 5) // 6


def test_validation_tests_what_authenticated_bytes_need_not() -> None:
    damaged = bytearray(pkcs8("rsa-a", "RS256"))
    damaged[-40] ^= 1  # in the last CRT value
    part = crypto.public_of_private(bytes(damaged), "RS256", validate=False)
    assert part == crypto.public_of_private(pkcs8("rsa-a", "RS256"), "RS256", validate=True)
    with pytest.raises(MalformedError, match="cannot be read"):
        crypto.public_of_private(bytes(damaged), "RS256", validate=True)


ED448 = ed448.Ed448PrivateKey.from_private_bytes(noise("Ed448", 57))
NOT_PRIVATE = {
    "nothing": (b"", "cannot be read"),
    "noise": (noise("x", 100), "cannot be read"),
    "cut": (pkcs8("A")[:-1], "cannot be read"),
    "a public key": (spki(private_key("A")), "cannot be read"),
    "encrypted": (
        private_key("A").private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
        "cannot be read",
    ),
    "an X448 key of another length": (pkcs8("A").replace(b"\x2b\x65\x70", b"\x2b\x65\x6f"), "cannot be read"),
    "an Ed448 key": (der(ED448), "unsupported type"),
    "another encoding": (
        private_key("A", "ES256").private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        "one encoding",
    ),
}


@pytest.mark.parametrize(("raw", "message"), NOT_PRIVATE.values(), ids=NOT_PRIVATE)
def test_what_is_no_private_key_is_refused(raw: bytes, message: str) -> None:
    alg = "ES256" if message == "one encoding" else "EdDSA"
    with pytest.raises(MalformedError, match=message):
        crypto.load_private(raw, alg, validate=False)


def compressed(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a SubjectPublicKeyInfo whose point is compressed: the same key in another encoding."""
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
    bits = b"\x03" + bytes([len(point) + 1]) + b"\x00" + point
    return b"\x30" + bytes([len(algorithm) + len(bits)]) + algorithm + bits


ES_PUBLIC = private_key("A", "ES256").public_key()
assert isinstance(ES_PUBLIC, ec.EllipticCurvePublicKey)
NOT_PUBLIC = {
    "nothing": (b"", "EdDSA", "cannot be read"),
    "a private key": (pkcs8("A"), "EdDSA", "cannot be read"),
    "an Ed448 key": (spki(ED448), "EdDSA", "unsupported type"),
    "another encoding": (compressed(ES_PUBLIC), "ES256", "one encoding"),
}


@pytest.mark.parametrize(("raw", "alg", "message"), NOT_PUBLIC.values(), ids=NOT_PUBLIC)
def test_what_is_no_public_key_is_refused(raw: bytes, alg: str, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        crypto.public_of_spki(raw, alg)


def test_the_test_keys_are_keys() -> None:
    for name in ("rsa-a", "rsa-b"):
        crypto.load_private(pkcs8(name, "RS256"), "RS256", validate=True)
    assert rsa_key(61, 53, 17).private_numbers().d * 17 % 3120 == 1
    kids = {thumbprint(crypto.public_of_private(pkcs8(n, a), a, validate=False).members) for n, a in NAMED}
    assert len(kids) == len(NAMED) - 1  # RS256 and PS256 have one key here
    assert isinstance(private_key("A"), ed25519.Ed25519PrivateKey)
