"""What is fuzzed: every parser of bytes that somebody else may have made, with good inputs to begin from.

A target returns or raises a `KeydistError`; anything else is a finding. What it takes is also held against the parser's
promises: what has one spelling is written back as the same bytes, and what a verifier believes is what was signed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Final, NamedTuple

from keydist.adapters.config import load_config
from keydist.adapters.config_yaml import MAX_FILE, _Document
from keydist.adapters.credentials_socket import parse_address
from keydist.adapters.disk.records import (
    format_confirmation,
    format_floor,
    format_notes,
    format_override,
    format_start,
    parse_confirmation,
    parse_floor,
    parse_notes,
    parse_override,
    parse_start,
)
from keydist.adapters.duration import parse_duration
from keydist.adapters.hook_record import _parse as parse_told
from keydist.adapters.mints import format_mints, parse_mints
from keydist.adapters.nats.answers import description, error_code, parse_answer, raise_error
from keydist.adapters.nats.wire import Reply
from keydist.adapters.trail.journal import _parse_shipped as parse_shipped
from keydist.adapters.trail.spool import _parse as parse_spool
from keydist.cli.times import parse_time
from keydist.core import crypto
from keydist.core.accept import accept
from keydist.core.audit import mint_json, mint_of
from keydist.core.audit_record import parse_entry, parse_mint
from keydist.core.compact import compact_jwe, parse_compact_jwe
from keydist.core.envelope import open_envelope, parse_envelope
from keydist.core.jwe import decrypt_jwe, encrypt_jwe, parse_jwe
from keydist.core.jwk import parse_public_jwk, public_jwk
from keydist.core.jws import check_claims, check_signature, mint_compact, parse_compact
from keydist.core.local import Confirmation, Start
from keydist.core.look_into import look_into
from keydist.core.own_jwt import own_jwt
from keydist.core.plaintext import parse_keyset, serialise_keyset
from keydist.core.record import RECORD_TYPE, Minted, open_record
from keydist.core.strict import parse_object, serialise
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
    floor_of,
    make_record,
    noise,
    notes_of,
    pkcs8,
    private_key,
    seal_as_record,
    sealed_record,
    sig_key,
)
from tests.unit.audit_material import chained, mint


class Target(NamedTuple):
    """A parser, and good inputs of it."""

    check: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


HELD: Final = first()
KEY: Final = sig_key("A")
CLAIMS: Final = {"iss": "i", "sub": "s", "aud": ["a", "b"], "exp": NOW + 60, "iat": NOW, "jti": "x", "ä": [{"b": None}]}
JWT: Final = mint_compact(KEY, private_key("A"), CLAIMS, "JWT")
ENC: Final = enc_key("A")


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """Return a check of a parser of text; what is no UTF-8 comes as Python gives it to programs."""
    return lambda raw: parse(raw.decode("utf-8", "surrogateescape"))


def _same(parse: Callable[[bytes], object], write: Callable[..., bytes]) -> Callable[[bytes], None]:
    """Return a check that what is read is written as what reads as the same."""

    def check(raw: bytes) -> None:
        value = parse(raw)
        assert parse(write(value)) == value

    return check


def _envelope(raw: bytes) -> None:
    parse_envelope(raw)
    compact = parse_compact_jwe(raw, "the envelope", max_header=len(raw))
    assert compact_jwe(compact.aad, compact.iv, compact.sealed) == raw, "one spelling"


def _accept(raw: bytes) -> None:
    accept(raw, demands())
    assert raw in {held.envelope for held in chain(3)}, "nobody else can seal"


def _keyset(raw: bytes) -> None:
    keyset = parse_keyset(raw, lineage=LINEAGE, epoch=1, issued=NOW)
    assert serialise_keyset(keyset) == raw, "one spelling"


def _record(raw: bytes) -> None:
    open_record(seal_as_record(raw), node="node-1", place=PLACE, tokens=(TOKEN,))


def _jws(raw: bytes) -> None:
    parsed = parse_compact(raw.decode("utf-8", "surrogateescape"))
    check_signature(parsed, private_key("A").public_key(), alg=KEY.alg, typ="JWT")
    check_claims(parsed, issuer="i", audience="a", now=NOW, leeway=60)
    assert raw.decode() == JWT, "nobody else can sign"


def _claims(raw: bytes) -> None:
    """Check claims that were signed: of one who holds the key, and means harm."""
    parsed = parse_compact(JWT)._replace(payload=raw)
    claims = check_claims(parsed, issuer="i", audience="a", now=NOW, leeway=60)
    assert json.loads(raw) == dict(claims.all), "what keydist reads is what others read"
    mint_of(JWT, claims.all, KEY.kid)


def _jwe(raw: bytes) -> None:
    decrypt_jwe(parse_jwe(raw), ENC)
    assert raw == _sealed_jwe(), "nobody else can encrypt"


@cache
def _sealed_jwe() -> bytes:
    return encrypt_jwe(b'{"a":1}', ENC, iv=noise("iv", 12)).encode()


def _entry(raw: bytes) -> None:
    assert parse_entry(raw).raw == raw


def _mint(raw: bytes) -> None:
    found = parse_mint(raw)
    assert parse_mint(serialise(mint_json(found))) == found


def _jwk(raw: bytes) -> None:
    alg, public = parse_public_jwk(raw, KEY.kid)
    assert (alg, public.spki) == (KEY.alg, KEY.public.spki), "a kid names one key"


def _pkcs8(raw: bytes) -> None:
    for alg in sorted(crypto.SIGNING_ALGS):
        with suppress(KeydistError):
            crypto.public_of_private(raw, alg, validate=True)


def _yaml(raw: bytes) -> None:
    assert isinstance(_Document("a file").parse(raw[:MAX_FILE]), dict)


@cache
def _place() -> Path:
    return Path(mkdtemp(prefix="keydist-fuzz-")) / "keydist.yaml"


def _config(raw: bytes) -> None:
    _place().write_bytes(raw)
    _place().chmod(0o600)
    load_config(str(_place()), environ={}, overrides={})


def _answer(raw: bytes) -> None:
    answer = parse_answer(Reply(status=200, headers={}, data=raw))
    error_code(answer)
    assert description(answer).isprintable()
    raise_error(answer)


def _object(raw: bytes) -> None:
    value = parse_object(raw, "an object")
    with suppress(RecursionError):
        assert json.loads(serialise(value)) == value


_YAML: Final = b"""\
cluster: c
node: n
role: leader
token_file: /t
nats: {servers: ['nats://127.0.0.1:4222', "tls://[::1]:4222"], tls: {ca_file: /ca}}
hooks: [{"on": key, run: [/bin/true], timeout: 5s}]
socket: {mode: "0660", allow: [{users: [u], mint: {subjects: ["a-*"], audiences: [b], lifetime: 15m}}]}
policy: {propagation: 900s, max_lifetime: 1d}
rotation: {every: 30d}
"""

TARGETS: Final[dict[str, Target]] = {
    "token file": Target(parse_token_file, (f"{format_token(TOKEN)}\n{format_token(OTHER_TOKEN)}\n".encode(),)),
    "object": Target(_object, (b'{"a":[1,"\\ud83d\\ude00",null,true,{"b":{}}]}',)),
    "envelope": Target(_envelope, (HELD.envelope,)),
    "accept": Target(_accept, tuple(held.envelope for held in chain(2))),
    "keyset": Target(_keyset, (HELD.plaintext,)),
    "private key": Target(_pkcs8, (pkcs8("A"), pkcs8("A", "ES256"))),
    "record": Target(_record, (open_envelope(parse_envelope(sealed_record(make_record()), typ=RECORD_TYPE), TOKEN),)),
    "sealed record": Target(
        lambda raw: open_record(raw, node="node-1", place=PLACE, tokens=(TOKEN,)), (sealed_record(make_record()),)
    ),
    "jws": Target(_jws, (JWT.encode(),)),
    "claims": Target(_claims, (serialise(CLAIMS),)),
    "look into": Target(_text(lambda text: look_into(text, now=NOW, leeway=60)), (JWT.encode(),)),
    "own jwt": Target(_text(own_jwt), (JWT.encode(),)),
    "jwe": Target(_jwe, (_sealed_jwe(),)),
    "public jwk": Target(_jwk, (serialise(public_jwk(KEY)),)),
    "audit record": Target(_entry, tuple(chained())),
    "minted jwt": Target(_mint, (serialise(mint_json(mint(1))),)),
    "spool": Target(parse_spool, (serialise(mint_json(mint(1))) + b"\n" + b'{"left_out":3}\n',)),
    "counts": Target(_same(parse_mints, format_mints), (format_mints({KEY.kid: Minted(3, NOW)}),)),
    "shipped": Target(parse_shipped, (b'{"chain":"00112233aabbccdd","hash":"' + b"A" * 43 + b'","seq":3}',)),
    "floor": Target(_same(parse_floor, format_floor), (format_floor(floor_of(HELD, revoked=frozenset({KEY.kid}))),)),
    "confirmation": Target(
        _same(parse_confirmation, format_confirmation),
        (format_confirmation(Confirmation(epoch=1, digest=HELD.digest, at=NOW)),),
    ),
    "notes": Target(_same(parse_notes, format_notes), (format_notes(notes_of(HELD)),)),
    "start": Target(_same(parse_start, format_start), (format_start(Start(instance="0" * 32, number=NOW)),)),
    "override": Target(_same(parse_override, format_override), (format_override(HELD.digest),)),
    "told": Target(parse_told, (b'{"told":{}}',)),
    "yaml": Target(_yaml, (_YAML, b"a: &x [1]\nb: !!str 2\n? c\n: d\n")),
    "configuration": Target(_config, (_YAML,)),
    "duration": Target(_text(parse_duration), (b"15m", b"0", b"30d")),
    "time": Target(_text(lambda text: parse_time(text, now=NOW)), (b"+30d", b"2026-03-01T12:00:00Z", b"1800000000")),
    "credential": Target(parse_address, (b"\0adf9d86b6eda275e/unit/foobar.service/signing-key",)),
    "answer": Target(
        _answer,
        (
            b'{"type":"io.nats.jetstream.api.v1.stream_info_response","error":{"code":404,"err_code":10059}}',
            b'{"stream":"KV_keydist","seq":7}',
        ),
    ),
}
