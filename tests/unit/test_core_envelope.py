"""The envelope: one accepted spelling, each step with its own error, the earliest step first."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, Final

import pytest

from keydist.core import crypto
from keydist.core.accept import accept
from keydist.core.envelope import (
    MAX_ENVELOPE,
    MAX_HEADER,
    Place,
    digest,
    open_envelope,
    parse_envelope,
    seal,
)
from keydist.core.strict import b64url_encode, is_hex
from keydist.errors import (
    CommitmentError,
    ForeignClusterError,
    KeydistError,
    MalformedError,
    TamperedError,
    UnsupportedError,
    WrongTokenError,
)
from tests.material import IMPOSTOR, LINEAGE, NOW, PLACE, TOKEN, altered, demands, first, noise, seal_plaintext

ENVELOPE: Final = first().envelope
HEADER, _, IV, BODY, TAG = ENVELOPE.split(b".")
MEMBERS: Final[dict[str, Any]] = json.loads(base64.urlsafe_b64decode(HEADER + b"=="))


def joined(header: bytes = HEADER, key: bytes = b"", iv: bytes = IV, body: bytes = BODY, tag: bytes = TAG) -> bytes:
    return b".".join((header, key, iv, body, tag))


def with_json(raw: bytes) -> bytes:
    """Return the envelope with another header; the commitment and the tag no longer belong to it."""
    return joined(b64url_encode(raw).encode())


def with_header(**members: object) -> bytes:
    return with_json(json.dumps(MEMBERS | members).encode())


def without(name: str, **members: object) -> bytes:
    return with_json(json.dumps({key: value for key, value in (MEMBERS | members).items() if key != name}).encode())


def refused(raw: bytes) -> KeydistError:
    with pytest.raises(KeydistError) as caught:
        parse_envelope(raw)
    return caught.value


def test_an_envelope_is_a_compact_jwe_with_the_documented_header() -> None:
    assert list(MEMBERS.items())[:10] == [
        ("alg", "dir"),
        ("enc", "A256GCM"),
        ("typ", "keydist-keyset+jwe"),
        ("v", 1),
        ("kid", TOKEN.token_id),
        ("cid", PLACE.cluster),
        ("loc", PLACE.location),
        ("lin", LINEAGE),
        ("ep", 1),
        ("iat", NOW),
    ]
    assert list(MEMBERS)[10:] == ["rnd", "kc"]
    assert (len(MEMBERS["rnd"]), len(MEMBERS["kc"])) == (43, 43)
    assert ENVELOPE.count(b".") == 4


def test_an_envelope_is_read_back() -> None:
    envelope = parse_envelope(ENVELOPE)
    header = envelope.header
    assert (header.token_id, header.lineage, header.epoch, header.issued) == (TOKEN.token_id, LINEAGE, 1, NOW)
    assert Place(cluster=header.cluster, location=header.location) == PLACE
    assert b64url_encode(header.serialise("keydist-keyset+jwe")).encode() == envelope.aad == HEADER
    assert open_envelope(envelope, TOKEN) == first().plaintext


def test_the_widest_header_fits_its_bound() -> None:
    place = Place(cluster="c" * 64, location="l" * 256)
    raw = seal(
        b"{}", token=TOKEN, place=place, lineage=LINEAGE, epoch=2**53 - 1, issued=2**53 - 1, rnd=bytes(32), iv=bytes(12)
    )
    assert len(raw.split(b".")[0]) < MAX_HEADER
    assert open_envelope(parse_envelope(raw), TOKEN) == b"{}"


def test_what_no_node_would_accept_is_not_sealed() -> None:
    overhead = len(seal_plaintext(b""))
    most = (MAX_ENVELOPE - overhead) * 3 // 4
    assert open_envelope(parse_envelope(seal_plaintext(bytes(most))), TOKEN) == bytes(most)
    with pytest.raises(MalformedError, match="too large to be sealed"):
        seal_plaintext(bytes(most + 1))


def test_a_digest_is_half_a_sha_256() -> None:
    assert digest(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0a", True), ("0A", False), ("0", False), ("0ag", False), ("\u0661\u0662", False), (10, False), (None, False)],
)
def test_hex_is_lower_case(value: object, *, expected: bool) -> None:
    assert is_hex(value, 2) is expected


# --- steps 1 and 2: sizes and segments ----------------------------------------------------------

LAST: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
SPARE_BIT: Final = TAG[:-1] + LAST[LAST.index(TAG[-1:]) + 1 :][:1]
SHAPES: Final = {
    "nothing": (b"", "the envelope has the wrong size"),
    "one byte too many": (
        joined(body=b"A" * (MAX_ENVELOPE + 1 - len(joined(body=b"")))),
        "the envelope has the wrong size",
    ),
    "no segment ends within the bound": (b"A" * (MAX_HEADER + 1) + b"." + b"....", "the envelope's header is too long"),
    "no segments": (b"A" * 100, "the envelope's header is too long"),
    "four segments": (b".".join((HEADER, b"", IV, BODY + TAG)), "the envelope is not a compact JWE"),
    "six segments": (ENVELOPE + b".", "the envelope is not a compact JWE"),
    "an encrypted key": (joined(key=b"AAAA"), "the envelope is not a compact JWE"),
    "only dots": (b"....", "the envelope's IV or tag has the wrong length"),
    "header in another alphabet": (joined(HEADER[:-1] + b"+"), "the header is not base64url"),
    "padding": (joined(tag=TAG + b"=="), "the tag is not base64url"),
    "a newline at the end": (ENVELOPE + b"\n", "the tag is not base64url"),
    "a space before": (b" " + ENVELOPE, "the header is not base64url"),
    "not ASCII": (joined(body=b"\xc3\xa9" + BODY), "the ciphertext is not base64url"),
    "spare bits": (joined(tag=SPARE_BIT), "the tag is not canonical base64url"),
    "IV too short": (joined(iv=b64url_encode(bytes(11)).encode()), "the envelope's IV or tag has the wrong length"),
    "IV too long": (joined(iv=b64url_encode(bytes(13)).encode()), "the envelope's IV or tag has the wrong length"),
    "tag too short": (joined(tag=b64url_encode(bytes(12)).encode()), "the envelope's IV or tag has the wrong length"),
    "tag too long": (joined(tag=b64url_encode(bytes(17)).encode()), "the envelope's IV or tag has the wrong length"),
}


@pytest.mark.parametrize(("raw", "message"), SHAPES.values(), ids=SHAPES)
def test_another_shape_is_malformed(raw: bytes, message: str) -> None:
    error = refused(raw)
    assert type(error) is MalformedError
    assert error.message == message


def test_the_bounds_themselves_are_inside() -> None:
    body = b"A" * (MAX_ENVELOPE - len(joined(body=b"")))
    body = body[: len(body) - len(body) % 4]
    header = b64url_encode(json.dumps(MEMBERS).ljust(MAX_HEADER * 3 // 4).encode()).encode()
    assert len(header) == MAX_HEADER
    assert parse_envelope(joined(body=body)).header == parse_envelope(joined(header)).header
    assert refused(joined(header + b"A")).message == "the envelope's header is too long"


# --- steps 3 and 4: the header ------------------------------------------------------------------

WRONG_MEMBERS: Final = "the envelope's header has the wrong members"
BAD_ID: Final = "the envelope's kid or lin is not well formed"
HEADERS: Final = {
    "no JSON": (with_json(b"{"), "the envelope's header is not JSON"),
    "no object": (with_json(b"[]"), "the envelope's header is not a JSON object"),
    "a member twice": (
        with_json(json.dumps(MEMBERS).encode()[:-1] + b',"ep":1}'),
        "the envelope's header: a member stands twice in one object",
    ),
    "a float": (with_header(ep=1.0), "the envelope's header: a number is not an integer"),
    "an unknown member": (with_header(zip="DEF"), WRONG_MEMBERS),
    "a critical member": (with_header(crit=["v"]), WRONG_MEMBERS),
    "v of another type": (with_header(v="1"), "the envelope's v has the wrong type"),
    "v true": (with_header(v=True), "the envelope's v has the wrong type"),
    "v null": (with_header(v=None), "the envelope's v has the wrong type"),
    "typ of another type": (with_header(typ=1), "the envelope's typ has the wrong type"),
    "alg of another type": (with_header(alg=["dir"]), "the envelope's alg has the wrong type"),
    "enc of another type": (with_header(enc={}), "the envelope's enc has the wrong type"),
    "kid too short": (with_header(kid="012345678"), BAD_ID),
    "kid in upper case": (with_header(kid="ABCDEF0123"), BAD_ID),
    "kid of another type": (with_header(kid=123), BAD_ID),
    "lin too long": (with_header(lin=LINEAGE + "0"), BAD_ID),
    "lin of another type": (with_header(lin=None), BAD_ID),
    "cid empty": (with_header(cid=""), "cid is not text in range"),
    "cid too long": (with_header(cid="c" * 65), "cid is not text in range"),
    "cid not ASCII": (with_header(cid="é"), "cid is not text in range"),
    "cid of another type": (with_header(cid=1), "cid is not text in range"),
    "loc too long": (with_header(loc="l" * 257), "loc is not text in range"),
    "loc with a line end": (with_header(loc="KV\n"), "loc is not text in range"),
    "ep zero": (with_header(ep=0), "ep is not an integer in range"),
    "ep true": (with_header(ep=True), "ep is not an integer in range"),
    "ep text": (with_header(ep="1"), "ep is not an integer in range"),
    "ep too large": (with_header(ep=2**53), "the envelope's header: an integer is out of range"),
    "ep below zero": (with_header(ep=-1), "the envelope's header: an integer is out of range"),
    "iat null": (with_header(iat=None), "iat is not an integer in range"),
    "rnd too short": (with_header(rnd=b64url_encode(bytes(31))), "rnd has the wrong length"),
    "rnd of another type": (with_header(rnd=[]), "rnd has the wrong length"),
    "rnd in another alphabet": (with_header(rnd="+" * 43), "rnd is not base64url"),
    "kc too long": (with_header(kc=b64url_encode(bytes(33))), "kc has the wrong length"),
    "kc with spare bits": (with_header(kc="A" * 42 + "B"), "kc is not canonical base64url"),
} | {f"no {name}": (without(name), WRONG_MEMBERS) for name in MEMBERS}


@pytest.mark.parametrize(("raw", "message"), HEADERS.values(), ids=HEADERS)
def test_another_header_is_malformed(raw: bytes, message: str) -> None:
    error = refused(raw)
    assert type(error) is MalformedError
    assert error.message == message


UNKNOWN: Final[dict[str, tuple[bytes, str]]] = {
    "version 2": (with_header(v=2), "v '2'"),
    "version 0": (with_header(v=0), "v '0'"),
    "another type": (with_header(typ="JWE"), "typ 'JWE'"),
    "a node's record": (with_header(typ="keydist-node+jwe"), "typ 'keydist-node+jwe'"),
    "key wrapping": (with_header(alg="A256KW"), "alg 'A256KW'"),
    "another cipher": (with_header(enc="A128GCM"), "enc 'A128GCM'"),
    # What a release to come writes may have other members: it is unknown, not malformed (ADR 2).
    "version 2 with other members": (with_header(v=2, new="x"), "v '2'"),
    "version 2 without a member": (without("kc", v=2), "v '2'"),
    "version 2 with members of other types": (with_header(v=2, ep="later"), "v '2'"),
    "another type with other members": (with_header(typ="keydist-keyset+cwe", new=1), "typ 'keydist-keyset+cwe'"),
    "a long name": (with_header(enc="x" * 400), "enc '" + "x" * 64 + "'"),
    "a name that moves a terminal": (with_header(typ="\x1b[2J"), "typ '\\x1b[2J'"),
}


@pytest.mark.parametrize(("raw", "found"), UNKNOWN.values(), ids=UNKNOWN)
def test_another_version_or_type_is_unsupported(raw: bytes, found: str) -> None:
    error = refused(raw)
    assert type(error) is UnsupportedError
    assert error.found == found


def test_a_caller_says_which_type_it_expects() -> None:
    raw = seal(
        b"{}",
        token=TOKEN,
        place=PLACE,
        lineage=LINEAGE,
        epoch=1,
        issued=NOW,
        rnd=bytes(32),
        iv=bytes(12),
        typ="keydist-node+jwe",
    )
    assert open_envelope(parse_envelope(raw, typ="keydist-node+jwe"), TOKEN) == b"{}"
    for one, typ in ((raw, "keydist-keyset+jwe"), (ENVELOPE, "keydist-node+jwe")):
        with pytest.raises(UnsupportedError):
            parse_envelope(one, typ=typ)


# --- steps 7 and 8: commitment and authentication -----------------------------------------------


def test_another_secret_under_the_same_id_fails_the_commitment() -> None:
    with pytest.raises(CommitmentError):
        open_envelope(parse_envelope(ENVELOPE), IMPOSTOR)


@pytest.mark.parametrize("name", ["cid", "loc", "rnd", "kc", "kid"])
def test_what_the_key_is_derived_from_cannot_be_altered(name: str) -> None:
    members = {"cid": "prod-eu2", "loc": "KV/keydist/other", "kid": "0123456780", "rnd": b64url_encode(bytes(32))}
    members["kc"] = members["rnd"]
    with pytest.raises(CommitmentError):
        open_envelope(parse_envelope(with_header(**{name: members[name]})), TOKEN)


@pytest.mark.parametrize(
    "raw",
    [
        with_header(ep=2),
        with_header(iat=NOW + 1),
        with_header(lin="0" * 32),
        with_json(json.dumps(MEMBERS, indent=1).encode()),
        joined(iv=altered(IV, 0)),
        joined(body=altered(BODY, 7)),
        joined(tag=altered(TAG, 0)),
        joined(body=BODY[4:]),
        joined(body=b""),
    ],
    ids=["epoch", "time", "lineage", "only white space in the header", "IV", "body", "tag", "cut body", "no body"],
)
def test_what_the_tag_covers_cannot_be_altered(raw: bytes) -> None:
    with pytest.raises(TamperedError):
        open_envelope(parse_envelope(raw), TOKEN)


@pytest.mark.parametrize("at", range(32))
def test_every_byte_of_the_commitment_counts(at: int) -> None:
    # The header says another commitment and the tag is right for it: only whoever holds the token can make this.
    header = parse_envelope(ENVELOPE).header
    keys = crypto.derive(
        secret=TOKEN.secret,
        cluster=PLACE.cluster,
        location=PLACE.location,
        token_id=TOKEN.token_id,
        rnd=header.rnd,
    )
    other = header.commitment[:at] + bytes([header.commitment[at] ^ 1]) + header.commitment[at + 1 :]
    aad = b64url_encode(json.dumps(MEMBERS | {"kc": b64url_encode(other)}).encode()).encode()
    sealed = crypto.encrypt(keys.content, noise("iv", 12), first().plaintext, aad)
    parts = (noise("iv", 12), sealed[:-16], sealed[-16:])
    raw = joined(aad, b"", *(b64url_encode(part).encode() for part in parts))
    with pytest.raises(CommitmentError):
        open_envelope(parse_envelope(raw), TOKEN)


def test_a_commitment_to_one_key_and_a_tag_by_another_is_tampering() -> None:
    # AES-GCM does not commit to its key: whoever knows two may make a text that opens with both. The commitment,
    # derived with the key, leaves one.
    keys = crypto.derive(
        secret=TOKEN.secret,
        cluster=PLACE.cluster,
        location=PLACE.location,
        token_id=TOKEN.token_id,
        rnd=parse_envelope(ENVELOPE).header.rnd,
    )
    other = noise("another content key", 32)
    sealed = crypto.encrypt(other, noise("iv", 12), b"{}", HEADER)
    raw = joined(
        iv=b64url_encode(noise("iv", 12)).encode(),
        body=b64url_encode(sealed[:-16]).encode(),
        tag=b64url_encode(sealed[-16:]).encode(),
    )
    assert other != keys.content
    with pytest.raises(TamperedError):
        open_envelope(parse_envelope(raw), TOKEN)


# --- the order of the steps ---------------------------------------------------------------------


def big(raw: bytes) -> bytes:
    return raw + b"A" * MAX_ENVELOPE


def padded(raw: bytes) -> bytes:
    return raw + b"="


FAULTS: Final[list[tuple[type[KeydistError], str, Callable[[dict[str, object]], None], Callable[[bytes], bytes]]]] = [
    # Each fault is of a later step than the one before: error, words of its message, in the header, in the bytes.
    (MalformedError, "wrong size", lambda _: None, big),
    (MalformedError, "not base64url", lambda _: None, padded),
    (UnsupportedError, "'s v is not one", lambda header: header.update(v=2), bytes),
    (MalformedError, "wrong members", lambda header: header.update(new=1), bytes),
    (ForeignClusterError, "another cluster", lambda header: header.update(cid="staging"), bytes),
    (WrongTokenError, "does not hold", lambda header: header.update(kid="00000000ff"), bytes),
    (CommitmentError, "does not commit", lambda header: header.update(kc=b64url_encode(bytes(32))), bytes),
    (TamperedError, "does not authenticate", lambda header: header.update(iat=NOW + 1), bytes),
]


@pytest.mark.parametrize("earliest", range(len(FAULTS)), ids=[words for _, words, _, _ in FAULTS])
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "with every later fault"])
def test_the_earliest_fault_is_the_answer(earliest: int, *, alone: bool) -> None:
    members = dict(MEMBERS)
    faults = FAULTS[earliest : earliest + 1] if alone else FAULTS[earliest:]
    for _, _, in_header, _ in faults:
        in_header(members)
    raw = with_json(json.dumps(members).encode())
    for _, _, _, in_bytes in faults:
        raw = in_bytes(raw)
    error, words, _, _ = FAULTS[earliest]
    with pytest.raises(KeydistError, match=words) as caught:
        accept(raw, demands())
    assert type(caught.value) is error
