"""Bytes in, values out: what is written is read back, what is altered is refused, and nothing else ever happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keydist.core import strict
from keydist.core.accept import Accepted, Unchanged, accept
from keydist.core.envelope import Header, Place, open_envelope, parse_envelope, seal
from keydist.core.keyset import Keyset
from keydist.core.plaintext import parse_keyset, serialise_keyset
from keydist.core.policy import Policy, parse_policy
from keydist.core.token import BootstrapToken, format_token, parse_token, parse_token_file
from keydist.errors import KeydistError, TokenError
from tests.material import LINEAGE, NOW, PLACE, TOKEN, Change, chain, demands, first, history
from tests.properties.strategies import (
    ALPHABET,
    MANY,
    MODEST,
    PRINTABLE,
    damaged,
    keysets,
    lineages,
    mangled,
    places,
    policies,
    times,
    tokens,
)

ENVELOPE: Final = first().envelope
PLAINTEXT: Final = first().plaintext
TEXT: Final = format_token(TOKEN).encode()
ANY_BYTE: Final = bytes(range(256))

# --- what is written is read back ---------------------------------------------------------------


@MANY
@given(tokens)
def test_a_token_is_read_back(token: BootstrapToken) -> None:
    assert parse_token(format_token(token)) == token


@MANY
@given(
    held=st.lists(tokens, min_size=1, max_size=2, unique_by=lambda token: token.token_id),
    ends=st.booleans(),
)
def test_a_token_file_is_read_back(held: list[BootstrapToken], *, ends: bool) -> None:
    text = "\n".join(format_token(token) for token in held) + "\n" * ends
    assert parse_token_file(text.encode()) == tuple(held)


@MANY
@given(policies())
def test_a_policy_is_read_back(policy: Policy) -> None:
    assert parse_policy(json.loads(json.dumps(policy.as_json()))) == policy


@MODEST
@given(keysets())
def test_a_keyset_is_read_back(keyset: Keyset) -> None:
    raw = serialise_keyset(keyset)
    again = parse_keyset(raw, lineage=keyset.lineage, epoch=keyset.epoch, issued=keyset.issued)
    assert again == keyset
    assert serialise_keyset(again) == raw


@MODEST
@given(
    token=tokens,
    place=places,
    lineage=lineages,
    epoch=st.integers(min_value=1, max_value=2**53 - 1),
    issued=times,
    rnd=st.binary(min_size=32, max_size=32),
    iv=st.binary(min_size=12, max_size=12),
    plaintext=st.binary(max_size=200),
)
def test_an_envelope_is_read_back(  # noqa: PLR0917 - hypothesis passes by name
    token: BootstrapToken,
    place: Place,
    lineage: str,
    epoch: int,
    issued: int,
    rnd: bytes,
    iv: bytes,
    plaintext: bytes,
) -> None:
    raw = seal(plaintext, token=token, place=place, lineage=lineage, epoch=epoch, issued=issued, rnd=rnd, iv=iv)
    envelope = parse_envelope(raw)
    header = envelope.header
    assert header == Header(
        token_id=token.token_id,
        cluster=place.cluster,
        location=place.location,
        lineage=lineage,
        epoch=epoch,
        issued=issued,
        rnd=rnd,
        commitment=header.commitment,
    )
    assert envelope.aad == strict.b64url_encode(header.serialise("keydist-keyset+jwe")).encode()
    assert open_envelope(envelope, token) == plaintext


@MANY
@given(st.binary(max_size=100))
def test_base64url_is_read_back(raw: bytes) -> None:
    assert strict.b64url_decode(strict.b64url_encode(raw), "x") == raw


@MANY
@given(st.text(ALPHABET, max_size=30))
def test_base64url_has_one_spelling(text: str) -> None:
    with suppress(KeydistError):
        assert strict.b64url_encode(strict.b64url_decode(text, "x")) == text


scalars = st.none() | st.booleans() | st.integers(min_value=0, max_value=2**53 - 1) | st.text(max_size=10)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)


@MANY
@given(st.dictionaries(st.text(max_size=5), values, max_size=4))
def test_an_object_is_read_back(value: dict[str, Any]) -> None:
    assert strict.parse_object(strict.serialise(value), "x") == value


# --- what is altered is refused -----------------------------------------------------------------


@settings(MANY, max_examples=300)
@given(damaged(ENVELOPE, ALPHABET.encode() + b"=+/ \n\x00\xff"))
def test_one_other_character_and_an_envelope_is_refused(raw: bytes) -> None:
    with pytest.raises(KeydistError):
        accept(raw, demands())


def test_every_single_bit_of_an_envelope_counts() -> None:
    # Exhaustive where it is cheap: each character of the header and of the tag, and its neighbours in the alphabet.
    header, tag = ENVELOPE.index(b"."), ENVELOPE.rindex(b".")
    for at in (*range(header + 20), *range(tag - 4, len(ENVELOPE))):
        for bit in (1, 2, 4, 8, 16, 32, 64, 128):
            raw = ENVELOPE[:at] + bytes([ENVELOPE[at] ^ bit]) + ENVELOPE[at + 1 :]
            with pytest.raises(KeydistError):
                accept(raw, demands())


@settings(MANY, max_examples=300)
@given(damaged(TEXT, PRINTABLE.encode()))
def test_one_other_character_and_a_token_is_refused(raw: bytes) -> None:
    with pytest.raises(TokenError):
        parse_token(raw.decode())


def test_every_single_character_of_a_token_counts() -> None:
    text = TEXT.decode()
    for at in range(len(text)):
        for other in "abcdefghijklmnopqrstuvwxyz0123456789_":
            if other != text[at]:
                with pytest.raises(TokenError):
                    parse_token(text[:at] + other + text[at + 1 :])


@MANY
@given(damaged(PLAINTEXT, ANY_BYTE))
def test_one_other_character_and_a_keyset_is_refused_or_still_lawful(raw: bytes) -> None:
    # The plaintext itself carries no checksum: the tag is what protects it. What is read still obeys every rule.
    with suppress(KeydistError):
        keyset = parse_keyset(raw, lineage=LINEAGE, epoch=1, issued=NOW)
        assert keyset.active.kid


# --- parsers raise KeydistError and nothing else ------------------------------------------------

PARSERS: Final[dict[str, tuple[Callable[[bytes], object], bytes]]] = {
    "token file": (parse_token_file, TEXT + b"\n"),
    "envelope": (parse_envelope, ENVELOPE),
    "keyset": (lambda raw: parse_keyset(raw, lineage=LINEAGE, epoch=1, issued=NOW), PLAINTEXT),
    "keyset of a late epoch": (
        lambda raw: parse_keyset(raw, lineage=LINEAGE, epoch=8, issued=NOW),
        history(list(Change)[1:])[-1].plaintext,
    ),
    "acceptance": (lambda raw: accept(raw, demands()), ENVELOPE),
    "acceptance with a history": (lambda raw: accept(raw, demands(chain(3)[2])), chain(4)[3].envelope),
    "object": (lambda raw: strict.parse_object(raw, "x"), PLAINTEXT),
    "base64url": (lambda raw: strict.b64url_decode(raw, "x"), ENVELOPE[:43]),
}


@pytest.mark.parametrize("name", PARSERS)
@settings(MODEST, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_parser_raises_its_own_errors_only(name: str, data: st.DataObject) -> None:
    parse, valid = PARSERS[name]
    raw = data.draw(st.binary(max_size=300) | mangled(valid) | damaged(valid, ANY_BYTE))
    with suppress(KeydistError):
        parse(raw)


@MODEST
@given(st.text(max_size=100) | st.text(PRINTABLE, min_size=77, max_size=77).map(lambda text: "kdt1_" + text[5:]))
def test_a_token_parser_raises_its_own_errors_only(text: str) -> None:
    with suppress(TokenError):
        parse_token(text)


members = st.sampled_from(["keys", "anc", "revoked", "policy"])


@MANY
@given(st.dictionaries(members, values | st.lists(st.dictionaries(st.text(max_size=3), values), max_size=3)))
def test_a_keyset_of_any_json_raises_its_own_errors_only(other: dict[str, Any]) -> None:
    raw = strict.serialise(json.loads(PLAINTEXT) | other)
    with suppress(KeydistError):
        parse_keyset(raw, lineage=LINEAGE, epoch=1, issued=NOW)


@MANY
@given(
    st.integers(min_value=0, max_value=3),
    st.sampled_from(["kid", "use", "alg", "state", "created", "activated", "pkcs8", "spki", "k", "other"]),
    values,
)
def test_a_key_of_any_json_raises_its_own_errors_only(index: int, name: str, other: object) -> None:
    value = json.loads(PLAINTEXT)
    value["keys"][index][name] = other
    with suppress(KeydistError):
        parse_keyset(strict.serialise(value), lineage=LINEAGE, epoch=1, issued=NOW)


@MANY
@given(st.sampled_from(["kid", "cid", "loc", "lin", "ep", "iat", "rnd", "kc", "v", "typ", "alg", "enc", "x"]), values)
def test_a_header_of_any_json_raises_its_own_errors_only(name: str, other: object) -> None:
    header, *rest = ENVELOPE.split(b".")
    value = json.loads(strict.b64url_decode(header, "x")) | {name: other}
    raw = b".".join((strict.b64url_encode(strict.serialise(value)).encode(), *rest))
    with suppress(KeydistError):
        answer = accept(raw, demands())
        assert not isinstance(answer, Unchanged)
        assert isinstance(answer, Accepted)
        assert raw == ENVELOPE  # nothing else opens


@MODEST
@given(mangled(chain(1)[0].keyset.keys[0].material))
def test_key_material_of_any_bytes_raises_its_own_errors_only(material: bytes) -> None:
    value = json.loads(PLAINTEXT)
    value["keys"][0]["pkcs8"] = strict.b64url_encode(material)
    with suppress(KeydistError):
        parse_keyset(strict.serialise(value), lineage=LINEAGE, epoch=1, issued=NOW)


def test_the_place_of_the_test_envelope_is_the_demanded_one() -> None:
    assert parse_envelope(ENVELOPE).header.cluster == PLACE.cluster
