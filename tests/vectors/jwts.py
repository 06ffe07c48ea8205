"""What jwts.json holds: a JWK Set, JWTs that verify with it, and hostile ones, each with the reason that refuses it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from keydist.core.jwk import jwk_set, public_jwk
from keydist.core.jws import MAX_JWT
from tests.material import NOW
from tests.vectors.jwt_material import (
    AUDIENCE,
    BODY,
    CLAIMS,
    EC,
    ED,
    GOOD,
    HEAD,
    HELD,
    ISSUER,
    LEEWAY,
    P256_ORDER,
    PS,
    REVOKED,
    RS,
    SIGNATURE,
    STRANGER,
    Case,
    Json,
    claims_text,
    header,
    jwt,
    message_of,
    of_length,
    padded,
    part,
    pss,
    raw_pair,
    raw_rsa,
    signature_of,
    signed,
    spare_bit,
    with_signature,
    without,
)
from tests.vectors.jwts_signed_otherwise import algorithms, kids, signatures
from tests.vectors.jwts_well_signed import claims, numbers, parties, times

# --- shape and spelling -------------------------------------------------------------------------


def shapes() -> Iterator[Case]:
    """Yield what is no compact JWS of three segments."""
    flattened = {"payload": BODY, "protected": HEAD, "signature": SIGNATURE}
    general = {"payload": BODY, "signatures": [{"protected": HEAD, "signature": SIGNATURE}]}
    yield "nothing", "shape", ""
    yield "a word", "shape", "token"
    yield "one segment", "shape", HEAD
    yield "two segments", "shape", f"{HEAD}.{BODY}"
    yield "four segments", "shape", f"{GOOD}.{SIGNATURE}"
    yield "a fourth segment that is empty", "shape", f"{GOOD}."
    yield "a leading dot", "shape", f".{GOOD}"
    yield "a JWE's five segments", "shape", f"{GOOD}.{BODY}.{BODY}"
    yield "a JWE of direct encryption", "shape", f"{part({'alg': 'dir', 'enc': 'A256GCM'})}..{BODY}.{BODY}.{BODY}"
    yield "two JWTs", "shape", f"{GOOD}.{GOOD}"
    yield "8000 dots", "shape", "." * 8000
    yield (
        "JSON serialization with two dots in it",
        "encoding",
        json.dumps(flattened).replace("{", "{.").replace("}", ".}"),
    )
    yield "JSON serialization, flattened", "shape", json.dumps(flattened)
    yield "JSON serialization, general", "shape", json.dumps(general)
    yield "8 KiB and one character", "size", of_length(MAX_JWT + 1)
    yield "a header longer than 512 characters", "size", signed(header(typ="x" * 600), CLAIMS)


def spellings() -> Iterator[Case]:
    """Yield what is no unpadded, canonical base64url."""
    two = signed(padded(header(), 1), padded(CLAIMS, 2)).split(".")
    yield "a Bearer prefix", "encoding", f"Bearer {GOOD}"
    yield "quotes around it", "encoding", f'"{GOOD}"'
    yield "a line feed behind it", "encoding", f"{GOOD}\n"
    yield "a carriage return and a line feed behind it", "encoding", f"{GOOD}\r\n"
    yield "a blank before it", "encoding", f" {GOOD}"
    yield "a tab in the claims", "encoding", f"{HEAD}.{BODY[:8]}\t{BODY[8:]}.{SIGNATURE}"
    yield "a line break in the signature", "encoding", f"{HEAD}.{BODY}.{SIGNATURE[:40]}\n{SIGNATURE[40:]}"
    yield "a NUL behind it", "encoding", f"{GOOD}\0"
    yield "a NUL in the claims", "encoding", f"{HEAD}.{BODY[:8]}\0{BODY[8:]}.{SIGNATURE}"
    yield "a letter beyond ASCII", "encoding", f"{GOOD}\u00e9"
    yield "a fullwidth letter", "encoding", f"{HEAD}.{BODY}.\uff21{SIGNATURE[1:]}"
    yield "a soft hyphen", "encoding", f"{HEAD}.{BODY}\u00ad.{SIGNATURE}"
    yield "a byte order mark before it", "encoding", f"\ufeff{GOOD}"
    yield "half a surrogate pair behind it", "encoding", f"{GOOD}\ud800"
    yield "fullwidth dots", "encoding", GOOD.replace(".", "\uff0e")
    yield "dots as percent escapes", "shape", GOOD.replace(".", "%2E")
    yield "a percent escape in the claims", "encoding", f"{HEAD}.%{ord(BODY[0]):02X}{BODY[1:]}.{SIGNATURE}"
    yield "padding of the header", "encoding", f"{two[0]}==.{two[1]}.{two[2]}"
    yield "padding of the claims", "encoding", f"{two[0]}.{two[1]}=.{two[2]}"
    yield "padding of the signature", "encoding", f"{GOOD}=="
    yield "spare bits in the header", "encoding", f"{spare_bit(two[0])}.{two[1]}.{two[2]}"
    yield "spare bits in the claims", "encoding", f"{two[0]}.{spare_bit(two[1])}.{two[2]}"
    yield "spare bits in the signature", "encoding", f"{HEAD}.{BODY}.{spare_bit(SIGNATURE)}"
    yield "an impossible length of the header", "encoding", f"{HEAD[: len(HEAD) // 4 * 4]}A.{BODY}.{SIGNATURE}"
    yield "an impossible length of the claims", "encoding", f"{HEAD}.{BODY[: len(BODY) // 4 * 4]}A.{SIGNATURE}"
    yield "an impossible length of the signature", "encoding", f"{HEAD}.{BODY}.{SIGNATURE[:84]}A"
    standard = next(one for one in _signatures_of_many() if {"-", "_"} & set(one.rpartition(".")[2]))
    yield "the standard alphabet", "encoding", standard.replace("-", "+").replace("_", "/")
    hexed = ".".join(one.encode().hex() for one in (HEAD, BODY, SIGNATURE))
    yield "hexadecimal", "header", hexed
    yield "segments encoded twice", "header", ".".join(part(one.encode()) for one in (HEAD, BODY, SIGNATURE))


def _signatures_of_many() -> Iterator[str]:
    for number in range(100):
        yield jwt(jti=str(number))


# --- header -------------------------------------------------------------------------------------


def headers() -> Iterator[Case]:
    """Yield headers that are not exactly alg, kid and typ, each well signed."""
    parts = {
        "an empty header": b"",
        "a header that is no JSON": b"{",
        "a header that is an array": b"[]",
        "a header that is text": b'"alg"',
        "a header that is null": b"null",
        "a header in UTF-16": json.dumps(header()).encode("utf-16"),
        "a header with a byte order mark": json.dumps(header()).encode("utf-8-sig"),
        "a header that is no UTF-8": json.dumps(header()).encode().replace(b"JWT", b"JW\xff"),
        "a header with something behind it": json.dumps(header()).encode() + b"{}",
        "a header with a NUL behind it": json.dumps(header()).encode() + b"\0",
        "alg twice": json.dumps(header(alg="none"))[:-1].encode() + b',"alg":"EdDSA"}',
        "alg twice, once with an escape": json.dumps(header())[:-1].encode() + b',"\\u0061lg":"none"}',
        "kid twice": json.dumps(header())[:-1].encode() + f',"kid":"{EC.kid}"}}'.encode(),
        "typ twice": json.dumps(header())[:-1].encode() + b',"typ":"JWT"}',
        "a header nested too deep": b'{"alg":"EdDSA","typ":"JWT","kid":' + b"[" * 150 + b"]" * 150 + b"}",
    }
    for name, raw in parts.items():
        yield name, "header", signed(raw, CLAIMS)
    for name in ("alg", "kid", "typ"):
        yield f"no {name}", "header", signed(without(header(), name), CLAIMS)
    own = public_jwk(STRANGER)
    extra: Json = {
        "jku": "https://evil.example/jwks.json",
        "jwk": own,
        "x5u": "https://evil.example/cert.pem",
        "x5c": ["MIIB"],
        "x5t": "AAAA",
        "x5t#S256": "AAAA",
        "crit": ["exp"],
        "b64": False,
        "zip": "DEF",
        "cty": "JWT",
        "enc": "A256GCM",
        "epk": own,
        "p2c": 2**31,
        "iss": ISSUER,
        "exp": NOW + 900,
        "ALG": "none",
        "": "",
    }
    for name, value in extra.items():
        yield f"a header with {name or 'a member without a name'}", "header", signed(header(**{name: value}), CLAIMS)
    yield "a header with crit that names an unknown member", "header", signed(header(crit=["x"], x=1), CLAIMS)
    yield "the signer's own key in jwk", "header", signed(header(STRANGER, jwk=own), CLAIMS, STRANGER)
    for name in ("alg", "kid", "typ"):
        for value in (None, 1, True, ["EdDSA"], {"EdDSA": 1}):
            yield f"{name} that is {json.dumps(value)}", "header", signed(header(**{name: value}), CLAIMS)
    for typ in ("jwt", "at+jwt", "application/jwt", "JOSE", "JWT ", "logout+jwt", "keydist-keyset+jwe", ""):
        yield f"typ {typ!r}", "typ", signed(header(typ=typ), CLAIMS)


def hostile() -> Iterator[Case]:
    """Yield every hostile JWT."""
    for make in (shapes, spellings, headers, algorithms, kids, signatures, claims, numbers, parties, times):
        yield from make()


# --- what verifies ------------------------------------------------------------------------------


def valid() -> Iterator[tuple[str, str]]:
    """Yield JWTs that verify, the edges of the rules among them."""
    for key in (ED, EC, RS, PS):
        yield f"a JWT by the {key.state.value} {key.alg} key", jwt(key)
    yield "several audiences", jwt(aud=["other", AUDIENCE])
    yield "an audience twice", jwt(aud=[AUDIENCE, AUDIENCE])
    yield "exp one second within the leeway", jwt(exp=NOW - LEEWAY + 1)
    yield "iat at the end of the leeway", jwt(iat=NOW + LEEWAY)
    yield "nbf at the end of the leeway", jwt(nbf=NOW + LEEWAY)
    yield "the last exp", jwt(exp=2**53 - 1)
    yield "exp in milliseconds", jwt(exp=NOW * 1000)
    yield "iat in 1970", jwt(iat=0)
    yield "an empty subject", jwt(sub="")
    yield "white space in header and claims", signed(padded(header(), 1), b"\r\n\t " + json.dumps(CLAIMS).encode())
    yield "the header in another order", signed(dict(reversed(header().items())), CLAIMS)
    yield "escapes in a name", signed(header(), claims_text().replace(b'"exp"', b'"e\\u0078p"'))
    yield "letters beyond the first plane, as escapes", signed(header(), claims_text(x='"\\ud83d\\udddd"'))
    yield "letters beyond the first plane, as UTF-8", signed(header(), claims_text(x='"\U0001f5dd"'))
    yield "16 deep with the claims themselves", signed(header(), claims_text(x="[" * 15 + "]" * 15))
    yield "brackets in text", jwt(x="[" * 100)
    yield "every kind of value", jwt(a=None, b=True, c=[], d={}, e=2**53 - 1, f="", g={"h": [{"i": 0}]}, jti="7")
    both = signature_of(message_of(EC), EC)
    r, s = int.from_bytes(both[:32], "big"), int.from_bytes(both[32:], "big")
    yield "P-256 with the other s: high and low are both valid in JWS", with_signature(EC, raw_pair(r, P256_ORDER - s))
    yield "PS256 with another salt", with_signature(PS, raw_rsa(PS, pss(message_of(PS), salt=bytes(32))))
    yield "8 KiB", of_length(MAX_JWT)


def jwts() -> Json:
    """Return jwts.json."""
    return {
        "about": "JWTs as a verifier sees them whose node was up to date just now; every key was made for this file",
        "now": NOW,
        "audience": AUDIENCE,
        "issuer": ISSUER,
        "typ": "JWT",
        "leeway": LEEWAY,
        "jwks": jwk_set(HELD.keyset),
        "revoked": [REVOKED.kid],
        "valid": [{"name": name, "jwt": text} for name, text in valid()],
        "invalid": [{"name": name, "reason": reason, "jwt": text} for name, reason, text in hostile()],
    }
