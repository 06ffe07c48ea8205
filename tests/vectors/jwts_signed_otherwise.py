"""Hostile JWTs of the kinds that want to be verified another way: by algorithm, by kid, by signature."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64encode
from collections.abc import Iterator
from typing import cast

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keydist.core.jwk import public_jwk
from keydist.core.keyset import Key
from keydist.core.pem import public_pem
from keydist.core.strict import b64url_encode
from tests.material import noise, private_key
from tests.vectors.jwt_material import (
    BODY,
    CLAIMS,
    EC,
    ED,
    ED25519_ORDER,
    ENC,
    HEAD,
    P256_ORDER,
    PS,
    REVOKED,
    RS,
    SHA256_INFO,
    SIGNATURE,
    STRANGER,
    Case,
    header,
    jwt,
    message_of,
    part,
    pkcs1,
    pss,
    raw_pair,
    raw_rsa,
    rsa_numbers,
    signature_of,
    signed,
    with_signature,
)


def algorithms() -> Iterator[Case]:
    """Yield algorithms that are not the key's."""
    unsigned = f"{part(header(alg='none'))}.{BODY}."
    yield "none without a signature", "alg", unsigned
    for spelling in ("none", "None", "NONE", "nOnE", "none ", " none", "n\u043ene", "none\0", ""):
        yield f"alg {spelling!a} with a signature", "alg", signed(header(alg=spelling), CLAIMS)
    yield "none under an unknown kid", "alg", f"{part(header(alg='none', kid='x'))}.{BODY}."
    for key, secret, what in _confusions():
        text = f"{part(header(key, alg='HS256'))}.{BODY}"
        mac = hmac.digest(secret, text.encode(), "sha256")
        yield f"HS256 with {what}", "alg", f"{text}.{b64url_encode(mac)}"
    for alg, name in (("HS384", "sha384"), ("HS512", "sha512")):
        text = f"{part(header(RS, alg=alg))}.{BODY}"
        mac = hmac.digest(public_pem(RS), text.encode(), name)
        yield f"{alg} with the public key as PEM", "alg", f"{text}.{b64url_encode(mac)}"
    for alg in ("RS1", "RS384", "RS512", "PS384", "PS512", "ES384", "ES512", "ES256K", "Ed448", "Ed25519", "eddsa"):
        yield f"alg {alg}", "alg", signed(header(alg=alg), CLAIMS)
    for alg in ("RSA1_5", "RSA-OAEP", "dir", "A256KW", "ECDH-ES", "PBES2-HS256+A128KW", "A256GCM"):
        yield f"alg {alg}, which encrypts", "alg", signed(header(alg=alg), CLAIMS)
    yield "PS256 by a key of RS256", "alg", _other_padding(RS, "PS256")
    yield "RS256 by a key of PS256", "alg", _other_padding(PS, "RS256")
    for key in (ED, EC, RS, PS):
        for alg in ("EdDSA", "ES256", "RS256"):
            if alg != key.alg and {alg, key.alg} != {"RS256", "PS256"}:
                yield f"{alg} named over a key of {key.alg}", "alg", signed(header(key, alg=alg), CLAIMS, key)


def _other_padding(key: Key, alg: str) -> str:
    text = f"{part(header(key, alg=alg))}.{BODY}"
    hashed = pkcs1(SHA256_INFO + hashlib.sha256(text.encode()).digest())
    encoded = hashed if alg == "RS256" else pss(text.encode(), salt=noise("PSS salt", 32))
    return f"{text}.{b64url_encode(raw_rsa(key, encoded))}"


def _confusions() -> Iterator[tuple[Key, bytes, str]]:
    """Yield what is public about a key and might be taken for a secret."""
    for key in (RS, EC, ED):
        yield key, public_pem(key), f"the {key.alg} key as PEM"
        yield key, public_pem(key).rstrip(b"\n"), f"the {key.alg} key as PEM without the last line end"
        yield key, key.public.spki, f"the {key.alg} key as DER"
        yield key, json.dumps(public_jwk(key)).encode(), f"the {key.alg} key as JWK"
        yield key, json.dumps(public_jwk(key), separators=(",", ":")).encode(), f"the {key.alg} key as compact JWK"
        yield key, key.kid.encode(), f"the kid of the {key.alg} key"
    public = cast("rsa.RSAPrivateKey", private_key("rsa-a", "RS256")).public_key()
    modulus = public.public_numbers().n.to_bytes(256, "big")
    yield RS, modulus, "the modulus"
    yield RS, b"\0" + modulus, "the modulus and its sign"
    yield RS, b64url_encode(modulus).encode(), "the modulus as base64url"
    yield RS, b64encode(modulus), "the modulus as base64"
    yield RS, public.public_bytes(Encoding.DER, PublicFormat.PKCS1), "the RSA key as PKCS #1 DER"
    yield RS, public.public_bytes(Encoding.PEM, PublicFormat.PKCS1), "the RSA key as PKCS #1 PEM"
    yield ED, key_bytes(ED), "the 32 bytes of an Ed25519 key"
    yield ED, b"", "nothing"
    yield ED, b"secret", "a poor secret"


def key_bytes(key: Key) -> bytes:
    """Return the 32 bytes of an Ed25519 public key."""
    return key.public.spki[-32:]


def kids() -> Iterator[Case]:
    """Yield kids that are no key's, or not of a key that verifies JWTs; each is well signed by the active key."""
    kid = ED.kid
    unknown = {
        "an empty kid": "",
        "a kid's first 8 letters": kid[:8],
        "a kid without its last letter": kid[:-1],
        "a kid without its first letter": kid[1:],
        "a kid and a letter more": kid + "A",
        "a kid with padding": kid + "=",
        "a kid with a blank behind it": kid + " ",
        "a kid with a blank before it": " " + kid,
        "a kid with a line feed behind it": kid + "\n",
        "a kid with a NUL behind it": kid + "\0",
        "a kid and something behind a NUL": kid + "\0.pem",
        "a kid in lower case": kid.lower(),
        "a kid in upper case": kid.upper(),
        "a kid in the other case": kid.swapcase(),
        "a kid in percent escapes": "".join(f"%{ord(letter):02X}" for letter in kid),
        "a kid in fullwidth letters": "".join(chr(ord(letter) + 0xFEE0) for letter in kid),
        "a kid with a zero-width space": kid + "\u200b",
        "a kid with half a surrogate pair": kid + "\ud800",
        "two kids": f"{kid},{EC.kid}",
        "a kid that is a path": "../../../../dev/null",
        "a kid that is a path below a folder": f"./{kid}",
        "a kid that is a file": "/proc/sys/kernel/randomize_va_space",
        "a kid that is a URL": "https://evil.example/key",
        "a kid that is SQL": f"x' UNION SELECT '{kid}' --",
        "a kid that is a command": "x|touch /tmp/pwned",
        "a kid that is a pattern": "*",
        "a kid that is a format": "{0.__class__}",
        "a kid that is an index": "0",
        "a kid that is a state": "active",
        "the kid of a key nobody has": STRANGER.kid,
        "a kid of 43 letters": "A" * 43,
        "the kid of an encryption key": ENC.kid,
        "a kid in standard base64": EC.kid.replace("-", "+").replace("_", "/"),
        "a thumbprint as hexadecimal": hashlib.sha256(kid.encode()).hexdigest(),
    }
    for name, value in unknown.items():
        yield name, "kid-unknown", signed(header(kid=value), CLAIMS)
    text = f"{part(header(ENC, alg='EdDSA'))}.{BODY}"
    mac = hmac.digest(ENC.material, text.encode(), "sha256")
    yield "a MAC under an encryption key", "kid-unknown", f"{text}.{b64url_encode(mac)}"
    yield "a revoked key", "kid-revoked", jwt(REVOKED)
    yield "a revoked key's kid by the active key", "kid-revoked", signed(header(kid=REVOKED.kid), CLAIMS)
    yield "the active key's kid by a revoked key", "signature", signed(header(), CLAIMS, REVOKED)
    yield "the active key's kid by a stranger", "signature", signed(header(), CLAIMS, STRANGER)
    yield "the kid of another key and its algorithm", "signature", signed(header(EC), CLAIMS, ED)


# --- signature ----------------------------------------------------------------------------------


def signatures() -> Iterator[Case]:
    """Yield signatures that are not the key's, or are not spelled as RFC 7518 wants."""
    raw = signature_of(message_of(ED), ED)
    altered = json.dumps(CLAIMS | {"sub": "root"}).encode()
    named: dict[str, str] = {
        "no signature": f"{HEAD}.{BODY}.",
        "no claims and the signature of some": f"{HEAD}..{SIGNATURE}",
        "another JWT's signature": f"{HEAD}.{BODY}.{jwt(sub='root').rpartition('.')[2]}",
        "altered claims": f"{HEAD}.{part(altered)}.{SIGNATURE}",
        "the same claims with a blank more": f"{HEAD}.{part(json.dumps(CLAIMS).encode() + b' ')}.{SIGNATURE}",
        "the same header with a blank more": f"{part(json.dumps(header()).encode() + b' ')}.{BODY}.{SIGNATURE}",
        "the same header in another order": f"{part(dict(reversed(header().items())))}.{BODY}.{SIGNATURE}",
        "the signature of the claims alone": with_signature(ED, signature_of(BODY.encode(), ED)),
        "the signature of what the segments say": with_signature(
            ED, signature_of(json.dumps(header()).encode() + b"." + json.dumps(CLAIMS).encode(), ED)
        ),
        "a SHA-256 for a signature": with_signature(ED, hashlib.sha256(message_of(ED)).digest()),
        "another key's signature of the same": with_signature(RS, signature_of(message_of(RS), ED)),
    }
    for name, text in named.items():
        yield name, "signature", text
    order = (int.from_bytes(raw[32:], "little") + ED25519_ORDER).to_bytes(32, "little")
    edwards = {
        "a signature of zeros": bytes(64),
        "a signature one byte short": raw[:-1],
        "a signature one byte long": raw + b"\0",
        "a signature twice": raw + raw,
        "a bit of R flipped": bytes([raw[0] ^ 1]) + raw[1:],
        "a bit of S flipped": raw[:32] + bytes([raw[32] ^ 1]) + raw[33:],
        "S plus the order of the group": raw[:32] + order,
        "S that is the order of the group": raw[:32] + ED25519_ORDER.to_bytes(32, "little"),
        "S of all ones": raw[:32] + b"\xff" * 32,
        "R the neutral element, S zero": b"\1" + bytes(63),
        "R not canonical": b"\xee" + b"\xff" * 30 + b"\x7f" + raw[32:],
        "R and S exchanged": raw[32:] + raw[:32],
        "R of all ones": b"\xff" * 32 + raw[32:],
    }
    for name, signature in edwards.items():
        yield f"Ed25519: {name}", "signature", with_signature(ED, signature)
    yield from _ecdsa_signatures()
    yield from _rsa_signatures()


def _ecdsa_signatures() -> Iterator[Case]:
    good = signature_of(message_of(EC), EC)
    r, s = int.from_bytes(good[:32], "big"), int.from_bytes(good[32:], "big")
    n = P256_ORDER
    cases = {
        "DER": encode_dss_signature(r, s),
        "zeros": raw_pair(0, 0),
        "r zero": raw_pair(0, s),
        "s zero": raw_pair(r, 0),
        "r the order": raw_pair(n, s),
        "s the order": raw_pair(r, n),
        "r and s one": raw_pair(1, 1),
        "r the order, s one": raw_pair(n, 1),
        "r and s the order less one": raw_pair(n - 1, n - 1),
        "r and s all ones": b"\xff" * 64,
        "r and s exchanged": raw_pair(s, r),
        "r and s in the other byte order": good[:32][::-1] + good[32:][::-1],
        "r negated": raw_pair(n - r, s),
        "one byte short": good[:-1],
        "one byte long": good + b"\0",
        "r and s of 33 bytes": b"\0" + good[:32] + b"\0" + good[32:],
        "as long as of P-384": good + bytes(32),
        "a zero before s": good[:32] + b"\0" + good[32:],
        "zeros before s": good[:32] + bytes(32) + good[32:],
        "r alone": good[:32],
    }
    for name, signature in cases.items():
        yield f"P-256: {name}", "signature", with_signature(EC, signature)


def _rsa_signatures() -> Iterator[Case]:
    modulus = rsa_numbers(RS).public_numbers.n
    message = message_of(RS)
    good = signature_of(message, RS)
    digest = hashlib.sha256(message).digest()
    sha1 = bytes.fromhex("3021300906052b0e03021a05000414") + hashlib.sha1(message).digest()  # noqa: S324 - hostile
    sha512 = bytes.fromhex("3051300d060960864801650304020305000440") + hashlib.sha512(message).digest()
    block = pkcs1(SHA256_INFO + digest)
    short = b"\0\1" + b"\xff" * 8 + b"\0" + SHA256_INFO + digest
    encoded = {
        "SHA-1 under the name of RS256": pkcs1(sha1),
        "SHA-512 under the name of RS256": pkcs1(sha512),
        "a digest without its algorithm": pkcs1(digest),
        "an algorithm without NULL": pkcs1(bytes.fromhex("302f300b0609608648016503040201") + b"\4\x20" + digest),
        "a digest cut short": pkcs1(SHA256_INFO + digest[:-1]),
        "something behind the digest": short + bytes(256 - len(short)),
        "padding of another type": block.replace(b"\0\1", b"\0\2", 1),
        "padding with a hole": block[:20] + b"\0" + block[21:],
        "no padding": bytes(256 - 51) + SHA256_INFO + digest,
        "PSS under the name of RS256": pss(message, salt=noise("PSS salt", 32)),
        "another message": pkcs1(SHA256_INFO + hashlib.sha256(b"").digest()),
    }
    for name, value in encoded.items():
        yield f"RS256: {name}", "signature", with_signature(RS, raw_rsa(RS, value))
    number = int.from_bytes(good, "big")
    cases = {
        "nothing": b"",
        "one byte": b"\1",
        "zero": bytes(256),
        "one": bytes(255) + b"\1",
        "the modulus": modulus.to_bytes(256, "big"),
        "the modulus less one": (modulus - 1).to_bytes(256, "big"),
        "all ones": b"\xff" * 256,
        "not reduced": (number + modulus).to_bytes(257, "big"),
        "negated": (modulus - number).to_bytes(256, "big"),
        "a leading zero more": b"\0" + good,
        "a zero behind it": good + b"\0",
        "one byte short": good[:-1],
        "the first byte away": good[1:],
        "twice": good + good,
        "the other byte order": good[::-1],
        "a bit flipped": good[:-1] + bytes([good[-1] ^ 1]),
    }
    for name, value in cases.items():
        yield f"RS256: {name}", "signature", with_signature(RS, value)
    yield "RS256: not reduced, in as many bytes", "signature", _not_reduced()
    yield "RS256: a leading zero away", "signature", _leading_zero_away()
    plain = message_of(PS)
    variants = {
        "no salt": pss(plain, salt=b""),
        "a salt of 20 bytes": pss(plain, salt=bytes(20)),
        "a salt of 33 bytes": pss(plain, salt=bytes(33)),
        "the longest salt": pss(plain, salt=bytes(222)),
        "MGF1 with SHA-1": pss(plain, salt=bytes(32), mgf="sha1"),
        "PKCS #1 v1.5 under the name of PS256": pkcs1(SHA256_INFO + hashlib.sha256(plain).digest()),
        "another trailer": pss(plain, salt=bytes(32))[:-1] + b"\xcc",
    }
    for name, value in variants.items():
        yield f"PS256: {name}", "signature", with_signature(PS, raw_rsa(PS, value))
    yield "PS256: a leading zero more", "signature", with_signature(PS, b"\0" + signature_of(plain, PS))


def _not_reduced() -> str:
    """Return an RSA signature s + n that still fits the length of the modulus."""
    modulus = rsa_numbers(RS).public_numbers.n
    for number in range(1000):
        text = f"{part(header(RS))}.{part(CLAIMS | {'jti': str(number)})}"
        value = int.from_bytes(signature_of(text.encode(), RS), "big") + modulus
        if value < 2**2048:
            return f"{text}.{b64url_encode(value.to_bytes(256, 'big'))}"
    raise AssertionError


def _leading_zero_away() -> str:
    """Return an RSA signature that begins with a zero byte (one of 256 does), without it."""
    text = f"{part(header(RS))}.{part(CLAIMS | {'jti': '131'})}"
    value = signature_of(text.encode(), RS)
    assert value[0] == 0
    return f"{text}.{b64url_encode(value[1:])}"
