"""The format's parsers, JWTs, JWEs and the audit trail: pure functions of bytes that come from the store or a user."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from typing import Final

from fuzz.target import Target, as_text, each
from keydist.core import crypto
from keydist.core.accept import accept
from keydist.core.audit import Link, mint_of
from keydist.core.audit_chain import check_next
from keydist.core.compact import compact_jwe, parse_compact_jwe
from keydist.core.envelope import KEYSET_TYPE, open_envelope, parse_envelope
from keydist.core.jwe import decrypt_jwe, encrypt_jwe, parse_jwe
from keydist.core.jwk import parse_public_jwk, public_jwk
from keydist.core.jws import check_claims, check_signature, mint_compact, parse_compact
from keydist.core.look_into import look_into
from keydist.core.own_jwt import own_jwt
from keydist.core.plaintext import parse_keyset, serialise_keyset
from keydist.core.record import RECORD_TYPE, open_record
from keydist.core.strict import b64url_decode, b64url_encode, parse_object, serialise
from keydist.core.token import format_token, parse_token_file
from keydist.errors import KeydistError
from tests.material import (
    LINEAGE,
    NOW,
    OTHER_TOKEN,
    PLACE,
    TOKEN,
    chain,
    demands,
    enc_key,
    first,
    make_record,
    noise,
    pkcs8,
    private_key,
    seal_as_record,
    sealed_record,
    sig_key,
)
from tests.unit.audit_material import NODE, chained, key_of

HELD: Final = first()
KEY: Final = sig_key("A")
CLAIMS: Final = {"iss": "i", "sub": "s", "aud": ["a", "b"], "exp": NOW + 60, "iat": NOW, "jti": "x", "ä": [{"b": None}]}
JWT: Final = mint_compact(KEY, private_key("A"), CLAIMS, "JWT")
ENC: Final = enc_key("A")
CHAIN: Final = tuple(chained())


def _envelope(raw: bytes) -> None:
    parse_envelope(raw)
    compact = parse_compact_jwe(raw, "the envelope", max_header=len(raw))
    assert compact_jwe(compact.aad, compact.iv, compact.sealed) == raw, "one spelling"


def _accept(raw: bytes) -> None:
    _envelope(raw)
    accept(raw, demands())
    assert raw in {held.envelope for held in chain(3)}, "nobody else can seal"


def _keyset(raw: bytes) -> None:
    keyset = parse_keyset(raw, lineage=LINEAGE, epoch=1, issued=NOW)
    assert serialise_keyset(keyset) == raw, "one spelling"


def _record(raw: bytes) -> None:
    """Open a record that was sealed: of one who holds the token, and means harm."""
    open_record(seal_as_record(raw), node="node-1", place=PLACE, tokens=(TOKEN,))


def _jws(raw: bytes) -> None:
    parsed = parse_compact(raw.decode("utf-8", "surrogateescape"))
    check_signature(parsed, private_key("A").public_key(), alg=KEY.alg, typ="JWT")
    check_claims(parsed, issuer="i", audience="a", now=NOW, leeway=60)
    assert raw.decode() == JWT, "nobody else can sign"


def _look(text: str) -> None:
    look_into(text, now=NOW, leeway=60)
    own_jwt(text)


def _claims(raw: bytes) -> None:
    """Check claims that were signed: of one who holds the key, and means harm."""
    _object(raw)
    parsed = parse_compact(JWT)._replace(payload=raw)
    claims = check_claims(parsed, issuer="i", audience="a", now=NOW, leeway=60)
    assert json.loads(raw) == dict(claims.all), "what keydist reads is what others read"
    mint_of(JWT, claims.all, KEY.kid)


def _jwe(raw: bytes) -> None:
    decrypt_jwe(parse_jwe(raw), ENC)
    assert raw == _sealed_jwe(), "nobody else can encrypt"


def _signed_header(raw: bytes) -> None:
    """Verify a JWT with any header: of one who holds the key, and means harm."""
    signed = f"{b64url_encode(raw)}.{b64url_encode(serialise(CLAIMS))}"
    signature = crypto.sign(private_key("A"), KEY.alg, signed.encode())
    parsed = parse_compact(f"{signed}.{b64url_encode(signature)}")
    check_signature(parsed, private_key("A").public_key(), alg=KEY.alg, typ="JWT")
    assert json.loads(raw) == {"alg": KEY.alg, "kid": parsed.header.kid, "typ": "JWT"}


def _envelope_header(raw: bytes) -> None:
    sealed = parse_envelope(HELD.envelope)
    found = parse_envelope(compact_jwe(b64url_encode(raw).encode(), sealed.iv, sealed.sealed)).header
    assert _canonical(raw) == _canonical(found.serialise(KEYSET_TYPE)), "nothing is overlooked"


def _canonical(raw: bytes) -> str:
    return json.dumps(json.loads(raw), sort_keys=True)


def _jwe_header(raw: bytes) -> None:
    parts = parse_jwe(_sealed_jwe()).parts
    parse_jwe(compact_jwe(b64url_encode(raw).encode(), parts.iv, parts.sealed))


@cache
def _sealed_jwe() -> bytes:
    return encrypt_jwe(b'{"a":1}', ENC, iv=noise("iv", 12)).encode()


def _trail(raw: bytes) -> None:
    """Check a chain as it comes from the stream; what is proven of it is the beginning of what the node wrote."""
    link: Link | None = None
    for number, line in enumerate(raw.split(b"\n")):
        checked = check_next(line, link, place=NODE, key_of=key_of)
        assert checked.entry.raw == line
        if checked.is_proven:
            assert line == CHAIN[number], "nobody else can sign"
        link = checked.entry.link


def _jwk(raw: bytes) -> None:
    alg, public = parse_public_jwk(raw, KEY.kid)
    assert (alg, public.spki) == (KEY.alg, KEY.public.spki), "a kid names one key"


def _tokens(raw: bytes) -> None:
    for token in parse_token_file(raw):
        assert format_token(token).encode() in raw, "one spelling"


def _pkcs8(raw: bytes) -> None:
    for alg in sorted(crypto.SIGNING_ALGS):
        with suppress(KeydistError):
            crypto.public_of_private(raw, alg, validate=True)


def _object(raw: bytes) -> None:
    value = parse_object(raw, "an object")
    with suppress(RecursionError):
        assert json.loads(serialise(value)) == value


TARGETS: Final[dict[str, Target]] = {
    "jws": Target(_jws, (JWT.encode(),)),
    "claims": Target(_claims, (serialise(CLAIMS),), refused=(b'{"a":[1,"\\ud83d\\ude00",null,true,{"b":{}}]}',)),
    "look into": Target(as_text(_look), (JWT.encode(),)),
    "headers": Target(
        each(_signed_header, _envelope_header, _jwe_header),
        tuple(
            b64url_decode(part.partition(b".")[0], "a header") for part in (JWT.encode(), HELD.envelope, _sealed_jwe())
        ),
    ),
    "jwe": Target(_jwe, (_sealed_jwe(),)),
    "envelope": Target(_accept, tuple(held.envelope for held in chain(2))),
    "keyset": Target(_keyset, (HELD.plaintext,)),
    "record": Target(_record, (open_envelope(parse_envelope(sealed_record(make_record()), typ=RECORD_TYPE), TOKEN),)),
    "sealed record": Target(
        lambda raw: open_record(raw, node="node-1", place=PLACE, tokens=(TOKEN,)), (sealed_record(make_record()),)
    ),
    "audit chain": Target(_trail, (b"\n".join(CHAIN),)),
    "public jwk": Target(_jwk, (serialise(public_jwk(KEY)),)),
    "private key": Target(_pkcs8, (pkcs8("A"), pkcs8("A", "ES256"))),
    "token file": Target(_tokens, (f"{format_token(TOKEN)}\n{format_token(OTHER_TOKEN)}\n".encode(),)),
}
