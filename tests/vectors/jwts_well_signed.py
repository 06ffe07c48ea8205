"""Hostile JWTs that are well signed: claims that are no strict JSON, not of their types, for others, or out of time."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.material import NOW
from tests.vectors.jwt_material import (
    AUDIENCE,
    CLAIMS,
    GOOD,
    ISSUER,
    LEEWAY,
    Case,
    claims_text,
    header,
    jwt,
    signed,
    without,
)


def claims() -> Iterator[Case]:
    """Yield claims that are no JSON of the strict kind, each well signed."""
    text = json.dumps(CLAIMS)
    parts: dict[str, bytes] = {
        "no claims": b"",
        "claims that are no JSON": b"exp",
        "claims that are an array": b"[]",
        "claims that are text": b'"exp"',
        "claims that are a number": b"1",
        "claims that are null": b"null",
        "empty claims": b"{}",
        "a JWT inside": GOOD.encode(),
        "a JWT inside, as text": json.dumps(GOOD).encode(),
        "claims in UTF-16": text.encode("utf-16"),
        "claims in UTF-16 without a mark": text.encode("utf-16-le"),
        "claims in UTF-32": text.encode("utf-32"),
        "a byte order mark": text.encode("utf-8-sig"),
        "no UTF-8": text.encode().replace(b"someone", b"some\xff"),
        "UTF-8 cut short": text.encode().replace(b"someone", b"some\xc3"),
        "UTF-8 that is overlong": text.encode().replace(b"someone", b"some\xc0\xae"),
        "UTF-8 of half a surrogate pair": text.encode().replace(b"someone", b"some\xed\xa0\x80"),
        "a NUL behind the claims": text.encode() + b"\0",
        "two objects": text.encode() * 2,
        "a comma too many": text.encode()[:-1] + b",}",
        "single quotes": text.replace('"', "'").encode(),
        "a comment": text.encode()[:-1] + b"/* */}",
        "a control character in text": text.encode().replace(b"someone", b"some\none"),
        "a vertical tab between members": text.encode().replace(b", ", b",\v"),
        "an escape that JSON has not": text.encode().replace(b"someone", b"some\\x41"),
        "17 arrays deep": claims_text(x="[" * 17 + "]" * 17),
        "17 objects deep": claims_text(x='{"a":' * 17 + "1" + "}" * 17),
        "2500 arrays deep": claims_text(x="[" * 2500 + "]" * 2500),
        "half a surrogate pair": claims_text(x='"\\ud800"'),
        "the other half": claims_text(x='"\\udc00"'),
        "the halves in the wrong order": claims_text(x='"\\udc00\\ud800"'),
        "half a surrogate pair in a name": claims_text(x='{"\\uD800":1}'),
        "half a surrogate pair in an array": claims_text(x='["\\uD800"]'),
        "exp twice": claims_text()[:-1] + b',"exp":9999999999}',
        "exp twice, once with an escape": claims_text()[:-1] + b',"e\\u0078p":9999999999}',
        "aud twice": claims_text()[:-1] + b',"aud":"admin"}',
        "a member twice far inside": claims_text(x='[{"a":1,"a":1}]'),
        "a float anywhere": claims_text(x="[1.5]"),
        "a negative integer anywhere": claims_text(x="-1"),
        "NaN": claims_text(x="NaN"),
        "Infinity": claims_text(x="Infinity"),
        "minus Infinity": claims_text(x="-Infinity"),
        "1e999": claims_text(x="1e999"),
        "an integer of 5000 digits": claims_text(x="9" * 5000),
        "jti that is a number": claims_text(jti="7"),
        "jti that is null": claims_text(jti="null"),
    }
    for name, raw in parts.items():
        yield name, "claims", signed(header(), raw)
    for name in CLAIMS:
        yield f"no {name}", "claims", signed(header(), without(CLAIMS, name))


def numbers() -> Iterator[Case]:
    """Yield times that are no integers."""
    later = NOW + 900
    spellings = {
        "text": f'"{later}"',
        "text with a date": '"2099-01-01T00:00:00Z"',
        "a float": f"{later}.5",
        "a float that is whole": f"{later}.0",
        "an exponent": "1.9e9",
        "an exponent without a point": "2e9",
        "true": "true",
        "null": "null",
        "negative": "-1",
        "minus zero": "-0",
        "2^53": str(2**53),
        "2^63": str(2**63),
        "400 digits": "9" * 400,
        "a leading zero": f"0{later}",
        "a plus": f"+{later}",
        "hexadecimal": hex(later),
        "an array": f"[{later}]",
        "an object": f'{{"$date":{later}}}',
        "NaN": "NaN",
        "Infinity": "Infinity",
    }
    for name in ("exp", "iat", "nbf"):
        for what, raw in spellings.items():
            yield f"{name} as {what}", "claims", signed(header(), claims_text(**{name: raw}))


def parties() -> Iterator[Case]:
    """Yield audiences, issuers and subjects that are no such thing, or not the ones that are asked for."""
    wrong: dict[tuple[str, str], tuple[object, ...]] = {
        ("aud", "claims"): (None, 1, True, {"api": 1}, [], [[AUDIENCE]], [AUDIENCE, 1], [AUDIENCE, None], [None]),
        ("aud", "audience"): ("", "API", "api ", " api", "ap", "api2", "api,other", "*", ["xapi", "apix"], [""]),
        ("iss", "claims"): (None, 1, [ISSUER], {"iss": ISSUER}),
        ("iss", "issuer"): (
            "",
            ISSUER[:-1],
            ISSUER.upper(),
            f"{ISSUER}/",
            f"{ISSUER}\0",
            f" {ISSUER}",
            f"{ISSUER}.evil.example",
            f"{ISSUER}:443",
            "http://issuer.example",
        ),
        ("sub", "claims"): (None, 7, ["someone"], True),
    }
    for (name, reason), values in wrong.items():
        for value in values:
            yield f"{name} as {json.dumps(value)}", reason, jwt(**{name: value})


def times() -> Iterator[Case]:
    """Yield times that the leeway does not reach."""
    yield "expired exactly the leeway ago", "expired", jwt(exp=NOW - LEEWAY)
    yield "expired a second longer ago", "expired", jwt(exp=NOW - LEEWAY - 1)
    yield "expired in 1970", "expired", jwt(exp=0)
    yield "expired, and for another time", "expired", jwt(exp=NOW - LEEWAY, nbf=NOW + 900)
    yield "issued a second beyond the leeway", "not-yet", jwt(iat=NOW + LEEWAY + 1)
    yield "issued in the future, though valid before", "not-yet", jwt(iat=NOW + LEEWAY + 1, nbf=NOW)
    yield "issued in milliseconds", "not-yet", jwt(iat=NOW * 1000)
    yield "valid a second beyond the leeway", "not-yet", jwt(nbf=NOW + LEEWAY + 1)
    yield "valid in milliseconds", "not-yet", jwt(nbf=NOW * 1000)
    yield "valid at the end of time", "not-yet", jwt(nbf=2**53 - 1, exp=2**53 - 1)
