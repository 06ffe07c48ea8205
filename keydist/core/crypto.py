"""Derivation, authenticated encryption and key material: the only module of the core that uses cryptography.

Derivation is HKDF-SHA256 (RFC 5869) with a salt from local configuration and every public input bound into
the info. Nothing here draws randomness or validates RSA primes unless asked: material that has just been
authenticated needs its thumbprint recomputed, not its primes tested.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final, NamedTuple, cast

from cryptography.exceptions import InternalError, InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from keydist.core.strict import b64url_decode, b64url_encode
from keydist.errors import MalformedError, TamperedError

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

KEY_BYTES: Final = 32
IV_BYTES: Final = 12
TAG_BYTES: Final = 16
_P256_BYTES: Final = 32
RSA_ALGS: Final = frozenset({"RS256", "PS256"})
SIGNING_ALGS: Final = frozenset({"RS256", "PS256", "ES256", "EdDSA"})
RSA_BITS: Final = (2048, 4096)
"""The smallest and the largest RSA modulus that is accepted, in bits."""
RSA_EXPONENT: Final = 65537

_SHA256: Final = SHA256()
_RSA_PADDING: Final[dict[str, padding.AsymmetricPadding]] = {
    "RS256": padding.PKCS1v15(),
    "PS256": padding.PSS(mgf=padding.MGF1(_SHA256), salt_length=padding.PSS.DIGEST_LENGTH),
}
_UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, InternalError)
"""What cryptography raises for bytes that are no key; the last for an X448 or Ed448 key of another length."""


@cache
def _ecdsa() -> ec.ECDSA:
    return ec.ECDSA(_SHA256)  # it loads what a start from disk does not need


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingKeys:
    """The content key (32 bytes) and the commitment to it (32 bytes) of one seal."""

    content: bytes = field(repr=False)
    commitment: bytes


def _lp(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def derive(*, secret: bytes, cluster: str, location: str, token_id: str, rnd: bytes) -> SealingKeys:
    """Derive the keys of one seal from a token's secret; `rnd` is 32 bytes, fresh for each seal."""
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand  # noqa: PLC0415 - not needed from disk

    cid = _lp(cluster.encode("ascii"))
    salt = hashlib.sha256(b"keydist/v1/extract\0" + cid).digest()
    prk = hmac.digest(salt, secret, "sha256")  # HKDF-Extract, RFC 5869 section 2.2
    context = cid + _lp(location.encode("ascii")) + _lp(token_id.encode("ascii")) + _lp(rnd)
    content, commitment = (
        HKDFExpand(SHA256(), KEY_BYTES, label + context).derive(prk)
        for label in (b"keydist/v1/aead\0", b"keydist/v1/commit\0")
    )
    return SealingKeys(content=content, commitment=commitment)


def same(one: bytes, other: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(one, other)


def encrypt(key: bytes, iv: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Return AES-256-GCM ciphertext followed by its 16-byte tag."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - not needed from disk

    return AESGCM(key).encrypt(iv, plaintext, aad)


def decrypt(key: bytes, iv: bytes, ciphertext_and_tag: bytes, aad: bytes) -> bytes:
    """Return the plaintext. Raises `TamperedError`."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - not needed from disk

    try:
        return AESGCM(key).decrypt(iv, ciphertext_and_tag, aad)
    except InvalidTag:
        raise TamperedError(
            "the envelope does not authenticate: its bytes were altered",
            expected="a valid AES-GCM tag",
            fix="compare with another node; put a good copy back with: keydist store resolve --keep local",
        ) from None


def _check_public(key: object, alg: str) -> dict[str, str]:
    """Return the required JWK members (RFC 7638, section 3.2; RFC 8037) of a key that fits `alg`."""
    if alg in RSA_ALGS and isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        if not RSA_BITS[0] <= key.key_size <= RSA_BITS[1] or numbers.e != RSA_EXPONENT:
            raise MalformedError(
                "an RSA key is out of range",
                expected=f"{RSA_BITS[0]} to {RSA_BITS[1]} bits, exponent {RSA_EXPONENT}",
                found=f"{key.key_size} bits",
            )
        modulus = numbers.n.to_bytes((key.key_size + 7) // 8, "big")
        return {"e": b64url_encode(RSA_EXPONENT.to_bytes(3, "big")), "kty": "RSA", "n": b64url_encode(modulus)}
    if alg == "ES256" and isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        point = key.public_numbers()
        x, y = (b64url_encode(part.to_bytes(32, "big")) for part in (point.x, point.y))
        return {"crv": "P-256", "kty": "EC", "x": x, "y": y}
    if alg == "EdDSA" and isinstance(key, ed25519.Ed25519PublicKey):
        return {"crv": "Ed25519", "kty": "OKP", "x": b64url_encode(key.public_bytes_raw())}
    raise MalformedError("a key does not fit its algorithm", expected=f"a key for {alg}")


class PublicPart(NamedTuple):
    """A public key as SubjectPublicKeyInfo (DER) and as the required members of a JWK."""

    spki: bytes
    members: dict[str, str]


def _public_part(key: PublicKey, alg: str) -> PublicPart:
    members = _check_public(key, alg)
    return PublicPart(spki=key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), members=members)


def load_private(pkcs8: bytes, alg: str, *, validate: bool) -> PrivateKey:
    """Load an unencrypted PKCS#8 key (DER, one encoding) for `alg`.

    `validate` tests the RSA primes (up to 260 ms): needed only where the bytes were not authenticated.
    Raises `MalformedError`.
    """
    try:
        key = load_der_private_key(pkcs8, None, unsafe_skip_rsa_key_validation=not validate)
    except _UNREADABLE:
        raise MalformedError("a private key cannot be read", expected="unencrypted PKCS#8 in DER") from None
    if not isinstance(key, PrivateKey):
        raise MalformedError("a private key has an unsupported type", expected="RSA, P-256 or Ed25519")
    _check_public(key.public_key(), alg)
    if key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()) != pkcs8:
        raise MalformedError("a private key is not in its one encoding", expected="unencrypted PKCS#8 in DER")
    return key


def public_of_private(pkcs8: bytes, alg: str, *, validate: bool) -> PublicPart:
    """Return the public part of a PKCS#8 key. Raises `MalformedError`."""
    return _public_part(load_private(pkcs8, alg, validate=validate).public_key(), alg)


def public_of_spki(spki: bytes, alg: str) -> PublicPart:
    """Check a SubjectPublicKeyInfo (DER, one encoding) for `alg`. Raises `MalformedError`."""
    key = load_public(spki)
    part = _public_part(key, alg)
    if part.spki != spki:
        raise MalformedError("a public key is not in its one encoding", expected="SubjectPublicKeyInfo in DER")
    return part


def public_of_jwk(members: Mapping[str, str], alg: str) -> PublicPart:
    """Check the required members of a public JWK (one encoding) for `alg`. Raises `MalformedError`."""
    numbers = {
        name: b64url_decode(text, f"the JWK's {name}") for name, text in members.items() if name not in ("kty", "crv")
    }
    try:
        part = _public_part(_loaded_jwk(numbers), alg)
    except _UNREADABLE:
        raise MalformedError("a public key cannot be read", expected="a JWK of a usable key") from None
    if part.members != members:
        raise MalformedError("a public key is not in its one encoding", expected="its required members, exactly")
    return part


def _loaded_jwk(numbers: Mapping[str, bytes]) -> PublicKey:
    """Return the key of a JWK's numbers; what kind it is shows by their names."""
    if numbers.keys() == {"n", "e"}:
        n, e = (int.from_bytes(numbers[name], "big") for name in ("n", "e"))
        return rsa.RSAPublicNumbers(e, n).public_key()
    if numbers.keys() == {"x", "y"}:
        x, y = (int.from_bytes(numbers[name], "big") for name in ("x", "y"))
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    if numbers.keys() == {"x"}:
        return ed25519.Ed25519PublicKey.from_public_bytes(numbers["x"])
    raise MalformedError("a JWK is of no known kind", expected="RSA, P-256 or Ed25519")


def sign(private: PrivateKey, alg: str, message: bytes) -> bytes:
    """Return a JWS signature of `message` (RFC 7518, section 3; RFC 8037).

    The key was checked for `alg` when it was loaded; to ask abstract classes for its kind costs more than the rest.
    """
    if alg in RSA_ALGS:
        return cast("rsa.RSAPrivateKey", private).sign(message, _RSA_PADDING[alg], _SHA256)
    if alg == "ES256":
        r, s = decode_dss_signature(cast("ec.EllipticCurvePrivateKey", private).sign(message, _ecdsa()))
        return r.to_bytes(_P256_BYTES, "big") + s.to_bytes(_P256_BYTES, "big")
    return cast("ed25519.Ed25519PrivateKey", private).sign(message)


def load_public(spki: bytes) -> PublicKey:
    """Load a SubjectPublicKeyInfo (DER); `public_of_spki` also checks it. Raises `MalformedError`."""
    try:
        key = load_der_public_key(spki)
    except _UNREADABLE:
        raise MalformedError("a public key cannot be read", expected="SubjectPublicKeyInfo in DER") from None
    if not isinstance(key, PublicKey):
        raise MalformedError("a public key has an unsupported type", expected="RSA, P-256 or Ed25519")
    return key


def verify(public: PublicKey | bytes, alg: str, message: bytes, signature: bytes) -> bool:
    """Tell whether a JWS signature is `alg`'s over `message`, for a loaded public key or its SubjectPublicKeyInfo."""
    key = load_der_public_key(public) if isinstance(public, bytes) else public
    try:
        if alg in RSA_ALGS and isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, _RSA_PADDING[alg], _SHA256)
        elif alg == "ES256" and isinstance(key, ec.EllipticCurvePublicKey):
            if len(signature) != 2 * _P256_BYTES:
                return False
            r, s = (int.from_bytes(part, "big") for part in (signature[:_P256_BYTES], signature[_P256_BYTES:]))
            key.verify(encode_dss_signature(r, s), message, _ecdsa())
        elif alg == "EdDSA" and isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            return False
    except InvalidSignature:
        return False
    return True
