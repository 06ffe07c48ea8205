"""What the JWTs of jwts.json are made with: a keyset, and hands that sign anything at all, the same in every run."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from keydist.core.accept import Held
from keydist.core.keyset import Key, Revocation, State
from keydist.core.strict import b64url_encode
from tests.material import NOW, enc_key, hold, make_keyset, noise, private_key, sig_key

Json = dict[str, Any]
Case = tuple[str, str, str]
"""The name, the reason and the JWT."""

ISSUER, AUDIENCE, LEEWAY = "https://issuer.example", "api", 60
ED: Final = sig_key("A")
EC: Final = sig_key("B", State.NEXT, alg="ES256")
RS: Final = sig_key("rsa-a", State.RETIRED, alg="RS256")
PS: Final = sig_key("rsa-b", State.RETIRED, alg="PS256")
REVOKED: Final = sig_key("R")
STRANGER: Final = sig_key("stranger")
ENC: Final = enc_key("A")
NAMES: Final = {ED.kid: "A", EC.kid: "B", RS.kid: "rsa-a", PS.kid: "rsa-b", REVOKED.kid: "R", STRANGER.kid: "stranger"}
HELD: Final[Held] = hold(
    make_keyset(
        keys=(ED, EC, RS, PS, ENC, enc_key("B", State.NEXT)),
        revoked=(Revocation(kid=REVOKED.kid, at=NOW, reason="stolen"),),
    )
)
CLAIMS: Final[Json] = {"iss": ISSUER, "sub": "someone", "aud": AUDIENCE, "exp": NOW + 900, "iat": NOW}

P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ED25519_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
SHA256_INFO: Final = bytes.fromhex("3031300d060960864801650304020105000420")
"""The DigestInfo of SHA-256 (RFC 8017, section 9.2, note 1)."""


def rsa_numbers(key: Key) -> rsa.RSAPrivateNumbers:
    return cast("rsa.RSAPrivateKey", private_key(NAMES[key.kid], key.alg)).private_numbers()


def raw_rsa(key: Key, encoded: bytes) -> bytes:
    """Return the RSA signature of a message that is already encoded: the bare power."""
    numbers, value = rsa_numbers(key), int.from_bytes(encoded, "big")
    one, other = (pow(value, numbers.dmp1, numbers.p), pow(value, numbers.dmq1, numbers.q))
    power = other + (one - other) * numbers.iqmp % numbers.p * numbers.q  # the remainders put together
    return power.to_bytes(256, "big")


def pkcs1(digest_info: bytes, size: int = 256) -> bytes:
    return b"\0\1" + b"\xff" * (size - len(digest_info) - 3) + b"\0" + digest_info


def _mgf1(seed: bytes, size: int, name: str) -> bytes:
    parts = [hashlib.new(name, seed + number.to_bytes(4, "big")).digest() for number in range(-(-size // 20))]
    return b"".join(parts)[:size]


def pss(message: bytes, *, salt: bytes, mgf: str = "sha256", size: int = 256) -> bytes:
    """Return EMSA-PSS with SHA-256 (RFC 8017, section 9.1.1) for a modulus of so many whole bytes."""
    hashed = hashlib.sha256(bytes(8) + hashlib.sha256(message).digest() + salt).digest()
    block = bytes(size - len(salt) - 34) + b"\1" + salt
    mask = _mgf1(hashed, len(block), mgf)
    masked = bytes(one ^ other for one, other in zip(block, mask, strict=True))
    return bytes([masked[0] & 0x7F]) + masked[1:] + hashed + b"\xbc"


def signature_of(message: bytes, key: Key) -> bytes:
    """Return a JWS signature by a key's own algorithm; the same in every run."""
    private = private_key(NAMES[key.kid], key.alg)
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(message)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(private.sign(message, ec.ECDSA(SHA256(), deterministic_signing=True)))
        return raw_pair(r, s)
    if key.alg == "PS256":
        return raw_rsa(key, pss(message, salt=noise("PSS salt", 32)))
    return raw_rsa(key, pkcs1(SHA256_INFO + hashlib.sha256(message).digest()))


def raw_pair(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def part(value: object) -> str:
    return b64url_encode(value if isinstance(value, bytes) else json.dumps(value).encode())


def header(key: Key = ED, /, **changed: object) -> Json:
    """Return a key's header, changed."""
    return {"alg": key.alg, "kid": key.kid, "typ": "JWT"} | changed


def signed(head: object, claims: object, key: Key = ED) -> str:
    """Return any header and claims (JSON values, or bytes as they are), well signed by a key."""
    text = f"{part(head)}.{part(claims)}"
    return f"{text}.{b64url_encode(signature_of(text.encode(), key))}"


def jwt(key: Key = ED, /, **changed: object) -> str:
    """Return a JWT that is right but for the claims that are changed."""
    return signed(header(key), CLAIMS | changed, key)


def with_signature(key: Key, signature: bytes) -> str:
    return f"{part(header(key))}.{part(CLAIMS)}.{b64url_encode(signature)}"


def message_of(key: Key) -> bytes:
    return f"{part(header(key))}.{part(CLAIMS)}".encode()


def without(value: Json, name: str) -> Json:
    return {member: value[member] for member in value if member != name}


def claims_text(**raw: str) -> bytes:
    """Return the claims as JSON text in which some members stand as given, JSON or not."""
    members = [f'"{name}":{json.dumps(value)}' for name, value in CLAIMS.items() if name not in raw]
    members += [f'"{name}":{text}' for name, text in raw.items()]
    return ("{" + ",".join(members) + "}").encode()


def spare_bit(segment: str) -> str:
    """Return a segment with a bit set that decoders drop; it must not end at a whole group of four."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return segment[:-1] + alphabet[alphabet.index(segment[-1]) + 1]


def padded(value: Json, remainder: int) -> bytes:
    """Return JSON with blanks behind it, so that its length leaves a remainder by three."""
    text = json.dumps(value)
    while len(text) % 3 != remainder:
        text += " "
    return text.encode()


def of_length(length: int) -> str:
    """Return a JWT of so many characters, by the length of a claim and of the blanks in its header."""
    for blanks in range(3):
        head = json.dumps(header()).encode() + b" " * blanks
        room = (length - len(part(head)) - len(SIGNATURE) - 2) * 3 // 4 - len(json.dumps(CLAIMS | {"x": ""}))
        for size in range(room - 3, room + 4):
            if len(text := signed(head, CLAIMS | {"x": "x" * size})) == length:
                return text
    raise AssertionError


GOOD: Final = jwt()
HEAD, BODY, SIGNATURE = GOOD.split(".")
