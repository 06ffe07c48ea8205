"""Secrets stay inside: no representation, no text and no error of the core shows one."""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from keydist.core import crypto
from keydist.core.accept import Held, accept
from keydist.core.entry import Absence, Absent, Stored
from keydist.core.envelope import open_envelope, parse_envelope
from keydist.core.fleet import view
from keydist.core.genesis import FreshKeys
from keydist.core.local import Confirmation, Local
from keydist.core.plaintext import parse_keyset, serialise_keyset
from keydist.core.record import RECORD_TYPE, open_record
from keydist.core.rotation import Situation, decide
from keydist.core.strict import b64url_encode, parse_object
from keydist.core.successor import extended, revoked
from keydist.core.token import format_token, generate_token, parse_token, parse_token_file
from keydist.errors import KeydistError
from tests.material import (
    IMPOSTOR,
    LINEAGE,
    NOW,
    PLACE,
    TOKEN,
    chain,
    demands,
    first,
    floor_of,
    make_fleet,
    make_keyset,
    make_record,
    noise,
    notes_of,
    pkcs8,
    sealed_record,
    standing_keys,
)

HELD: Final = first()
KEYS: Final = crypto.derive(
    secret=TOKEN.secret, cluster="prod-eu1", location="KV/keydist/signing-key", token_id=TOKEN.token_id, rnd=bytes(32)
)
SECRETS: Final = [
    TOKEN.secret,
    KEYS.content,
    HELD.plaintext,
    *(key.material for key in HELD.keyset.keys),
    *(key.material[-32:] for key in HELD.keyset.keys),  # the seed at the end of PKCS#8
]


def spellings(secret: bytes) -> Iterator[str]:
    """Yield how a secret could be seen: any part of it long enough to matter, in every form that is in use."""
    part = secret[4:20]
    yield part.hex()
    yield repr(part)[2:-1]
    yield str(list(part))[1:-1]
    for offset in range(3):
        yield b64url_encode(secret[offset : offset + 15])
        yield base64.b64encode(secret[offset : offset + 15]).decode()
    for offset in range(5):
        yield base64.b32encode(secret[offset : offset + 15]).decode().lower()


def assert_secret_free(text: str) -> None:
    for secret in SECRETS:
        for spelling in spellings(secret):
            assert spelling not in text
    assert format_token(TOKEN)[16:40] not in text


FRESH: Final = FreshKeys(pkcs8=pkcs8("A"), secret=noise("secret A", 32), secret_kid=noise("kid A", 16))
SITUATION: Final = Situation(held=HELD, notes=notes_of(HELD), now=NOW, live=(make_record(HELD),))
RECORD: Final = sealed_record(make_record(HELD))
VALUES: Final[dict[str, object]] = {
    "token": TOKEN,
    "derived keys": KEYS,
    "envelope": parse_envelope(HELD.envelope),
    "key": HELD.keyset.keys[0],
    "symmetric key": HELD.keyset.keys[1],
    "keyset": HELD.keyset,
    "held": HELD,
    "demands": demands(chain(3)[2]),
    "accepted": accept(HELD.envelope, demands()),
    "local": Local(held=HELD, floor=floor_of(HELD), confirmation=Confirmation(epoch=1, digest=HELD.digest, at=NOW)),
    "stored": Stored(envelope=HELD.envelope, revision=1),
    "absent": Absent(why=Absence.UNKNOWN),
    "fresh keys": FRESH,
    "record": make_record(HELD),
    "sealed record": parse_envelope(RECORD, typ=RECORD_TYPE),
    "fleet": make_fleet(make_record(HELD)),
    "rows of the fleet": view(make_fleet(make_record(HELD)), HELD, now=0.0),
    "notes": notes_of(HELD),
    "situation": SITUATION,
    "step": decide(SITUATION),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_no_value_shows_its_secrets(value: object) -> None:
    for text in (repr(value), str(value), f"{value}", repr([value]), repr({"value": value})):
        assert_secret_free(text)


def test_the_test_would_see_a_secret() -> None:
    for text in (
        repr(TOKEN.secret),
        TOKEN.secret.hex(),
        format_token(TOKEN),
        HELD.plaintext.decode(),
        repr(HELD.plaintext),
    ):
        with pytest.raises(AssertionError):
            assert_secret_free(text)


PLAINTEXT: Final = serialise_keyset(make_keyset(keys=standing_keys()))
VALUE: Final = json.loads(PLAINTEXT)


def with_key(**members: object) -> bytes:
    return json.dumps(VALUE | {"keys": [VALUE["keys"][0] | members, *VALUE["keys"][1:]]}).encode()


def parse(raw: bytes) -> object:
    return parse_keyset(raw, lineage=LINEAGE, epoch=1, issued=NOW)


TEXT: Final = format_token(TOKEN)
FAILURES: Final[dict[str, tuple[Callable[[bytes], object], bytes]]] = {
    "plaintext cut": (parse, PLAINTEXT[:-1]),
    "plaintext not UTF-8": (parse, PLAINTEXT + b"\xff"),
    "plaintext with a float": (parse, PLAINTEXT[:-1] + b',"x":1.5}'),
    "plaintext with a member twice": (parse, PLAINTEXT[:-1] + b',"keys":[]}'),
    "plaintext in an array": (parse, b"[" + PLAINTEXT + b"]"),
    "plaintext nested": (parse, PLAINTEXT[:-1] + b',"x":' + b"[" * 20_000),
    "plaintext of another epoch": (lambda raw: parse_keyset(raw, lineage=LINEAGE, epoch=2, issued=NOW), PLAINTEXT),
    "key of another kid": (parse, with_key(kid="x")),
    "key of another algorithm": (parse, with_key(alg="ES256")),
    "key material damaged": (parse, with_key(pkcs8=VALUE["keys"][0]["pkcs8"][:-4])),
    "key material in another alphabet": (parse, with_key(pkcs8=VALUE["keys"][0]["pkcs8"] + "*")),
    "key material where none belongs": (parse, with_key(state="retired")),
    "key material as a name": (parse, with_key(**{VALUE["keys"][0]["pkcs8"]: 1})),
    "object with a name twice": (lambda raw: parse_object(raw, "x"), b'{"a":' + PLAINTEXT + b',"a":1}'),
    "token cut": (lambda raw: parse_token(raw.decode()), TEXT[:-1].encode()),
    "token altered": (lambda raw: parse_token(raw.decode()), TEXT[:-1].encode() + b"g"),
    "token with another checksum": (lambda raw: parse_token(raw.decode()), TEXT[:-8].encode() + b"00000000"),
    "token in upper case": (lambda raw: parse_token(raw.decode()), b"kdt1_" + TEXT[5:].upper().encode()),
    "token file not ASCII": (parse_token_file, TEXT.encode() + b"\xff"),
    "token file with a line too many": (parse_token_file, f"{TEXT}\n{TEXT}\n{TEXT}".encode()),
    "token file with one token twice": (parse_token_file, f"{TEXT}\n{TEXT}\n".encode()),
    "another secret": (lambda raw: open_envelope(parse_envelope(raw), IMPOSTOR), HELD.envelope),
    "record under another secret": (
        lambda raw: open_record(raw, node="node-1", place=PLACE, tokens=(IMPOSTOR,)),
        RECORD,
    ),
    "record of a token not held": (lambda raw: open_record(raw, node="node-1", place=PLACE, tokens=()), RECORD),
    "revoking what is not there": (
        lambda raw: revoked(HELD, now=NOW, kids=[raw.decode()], reason="", alg="EdDSA", fresh=(FRESH, FRESH)),
        b"x",
    ),
    "extending what is not there": (lambda raw: extended(HELD, now=NOW, kid=raw.decode(), until=NOW), b"x"),
    "another history": (lambda raw: accept(raw, demands(chain(3)[2])), first("other ").envelope),
}


@pytest.mark.parametrize(("action", "raw"), FAILURES.values(), ids=FAILURES)
def test_no_error_shows_a_secret(action: Callable[[bytes], object], raw: bytes) -> None:
    with pytest.raises(KeydistError) as caught:
        action(raw)
    assert_secret_free("".join(traceback.format_exception(caught.value)))
    assert_secret_free(json.dumps(caught.value.as_json()))
    error: BaseException | None = caught.value
    while error is not None:  # what an error remembers of the one before it, shown or not
        assert_secret_free(repr(error))
        assert_secret_free(repr(vars(error)) + repr(error.args))
        assert_secret_free(str(getattr(error, "doc", "")) + repr(getattr(error, "object", b"")))
        error = error.__cause__ or error.__context__


def test_a_generated_token_is_not_shown_either() -> None:
    token = generate_token(lambda size: noise("token", size))
    assert token.secret == TOKEN.secret
    assert_secret_free(repr(token))


def test_held_keysets_of_a_history_show_nothing() -> None:
    held: Held
    for held in chain(5):
        assert_secret_free(repr(held))
