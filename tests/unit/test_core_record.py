"""Node records: what a node says is read back, and nothing else is believed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

import pytest

from keydist.core.envelope import Place, parse_envelope
from keydist.core.record import MAX_RECORD, RECORD_TYPE, Minted, Record, open_record, record_place
from keydist.core.restart import Role
from keydist.core.strict import MAX_INT, b64url_encode
from keydist.core.token import BootstrapToken
from keydist.errors import (
    CommitmentError,
    ForeignClusterError,
    KeydistError,
    MalformedError,
    TamperedError,
    UnsupportedError,
    WrongTokenError,
)
from tests.material import (
    IMPOSTOR,
    LINEAGE,
    NOW,
    OTHER_TOKEN,
    PLACE,
    TOKEN,
    altered,
    chain,
    enc_key,
    first,
    hold,
    make_record,
    noise,
    seal_as_record,
    seal_plaintext,
    sealed_record,
    sig_key,
)

HELD: Final = first()
RECORD: Final = make_record(
    HELD,
    role=Role.LEADER,
    counter=7,
    minted={HELD.keyset.active.kid: Minted(jwts=3, last_expiry=NOW + 60)},
    alarms=("disk-full", "overdue"),
    tokens=(TOKEN.token_id, OTHER_TOKEN.token_id),
    leaving=True,
)
RAW: Final = sealed_record(RECORD)


def opened(
    raw: bytes, *, node: str = "node-1", place: Place = PLACE, tokens: tuple[BootstrapToken, ...] = (TOKEN,)
) -> Record:
    return open_record(raw, node=node, place=place, tokens=tokens)


def test_a_record_is_read_back() -> None:
    assert opened(RAW) == RECORD
    plain = make_record(chain(3)[2], node="n")
    assert opened(sealed_record(plain), node="n") == plain
    header = parse_envelope(RAW, typ=RECORD_TYPE).header
    assert (header.lineage, header.epoch, header.issued) == (LINEAGE, 1, NOW)


def test_its_place_is_its_own_in_the_bucket_beside() -> None:
    assert record_place(PLACE, "node-1") == Place(cluster="prod-eu1", location="KV/keydist-nodes/node-1")
    other = Place(cluster="c", location="KV/keys/entry")
    assert record_place(other, "n") == Place(cluster="c", location="KV/keys-nodes/n")


def test_the_widest_record_fits() -> None:
    kids = [sig_key(f"{number}").kid for number in range(36)]
    widest = make_record(
        HELD,
        node="n" * 64,
        role=Role.FOLLOWER,
        counter=MAX_INT - 1,
        heartbeat=86_400,
        epoch=MAX_INT - 1,
        tokens=(TOKEN.token_id, OTHER_TOKEN.token_id),
        persisted=MAX_INT - 1,
        loaded=MAX_INT - 1,
        minted={kid: Minted(jwts=MAX_INT - 1, last_expiry=MAX_INT - 1) for kid in kids},
        version="v" * 64,
        alarms=("a" * 64,) * 16,
    )
    place = Place(cluster="c" * 64, location=f"KV/{'b' * 64}/entry")
    raw = sealed_record(widest, place=place)
    assert len(raw) <= MAX_RECORD
    assert opened(raw, node="n" * 64, place=place) == widest


# --- who may have sealed it ---------------------------------------------------------------------


def test_any_held_token_opens_it_a_superseded_one_too() -> None:
    old = sealed_record(RECORD, token=TOKEN)
    new = sealed_record(RECORD, token=OTHER_TOKEN)
    for raw in (old, new):
        assert opened(raw, tokens=(OTHER_TOKEN, TOKEN)) == RECORD


def test_a_token_that_is_not_held_is_named() -> None:
    with pytest.raises(WrongTokenError, match="node node-1") as caught:
        opened(RAW, tokens=(OTHER_TOKEN,))
    assert (caught.value.have, caught.value.need) == ((OTHER_TOKEN.token_id,), TOKEN.token_id)
    with pytest.raises(WrongTokenError):
        opened(RAW, tokens=())


def sealed_as(**where: Any) -> bytes:  # noqa: ANN401 - of many types
    return seal_plaintext(json.dumps(VALUE).encode(), **({"place": record_place(PLACE, "node-1")} | where))


def said() -> dict[str, Any]:
    return {
        "node": "node-1",
        "instance": "0" * 32,
        "machine": "f" * 32,
        "role": "follower",
        "counter": 1,
        "heartbeat": 20,
        "leaving": False,
        "digest": b64url_encode(bytes(16)),
        "kid": sig_key("A").kid,
        "token": TOKEN.token_id,
        "tokens": [TOKEN.token_id],
        "persisted": NOW,
        "loaded": NOW,
        "minted": {sig_key("A").kid: [1, NOW]},
        "version": "1.0.0",
        "alarms": ["disk-full"],
    }


VALUE: Final = said()
FOREIGN: Final = {
    "another node's": sealed_record(replace(RECORD, node="node-2")),
    "another bucket's": sealed_record(RECORD, place=Place(cluster="prod-eu1", location="KV/other/signing-key")),
    "another cluster's": sealed_record(RECORD, place=PLACE._replace(cluster="prod-us1")),
    "at the keyset's place": sealed_as(place=PLACE, typ=RECORD_TYPE),
}


@pytest.mark.parametrize("raw", FOREIGN.values(), ids=FOREIGN)
def test_a_record_of_another_place_is_foreign(raw: bytes) -> None:
    with pytest.raises(ForeignClusterError):
        opened(raw)


REFUSED: Final[dict[str, tuple[type[KeydistError], bytes]]] = {
    "a keyset at the node's place": (UnsupportedError, sealed_as()),
    "a keyset": (UnsupportedError, HELD.envelope),
    "another type": (UnsupportedError, sealed_as(typ="keydist-other+jwe")),
    "another secret under the same id": (CommitmentError, sealed_record(RECORD, token=IMPOSTOR)),
    "altered ciphertext": (TamperedError, altered(RAW, RAW.rindex(b".") - 9)),
    "altered tag": (TamperedError, altered(RAW, len(RAW) - 9)),
    "altered initialization vector": (TamperedError, altered(RAW, RAW.index(b"..") + 4)),
    "empty": (MalformedError, b""),
    "text": (MalformedError, b"online"),
    "cut": (MalformedError, RAW[: RAW.rindex(b".")]),
    "too long": (MalformedError, RAW + b"A" * MAX_RECORD),
}


@pytest.mark.parametrize(("error", "raw"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(error: type[KeydistError], raw: bytes) -> None:
    with pytest.raises(error) as caught:
        opened(raw)
    assert type(caught.value) is error


def test_a_record_is_not_a_keyset() -> None:
    with pytest.raises(UnsupportedError):
        parse_envelope(RAW)


def test_length_is_bounded_exactly() -> None:
    def of(size: int) -> bytes:
        return seal_as_record(b"{" + b" " * (size - 2) + b"}")

    size = next(size for size in range(5000, 6200) if len(of(size)) >= MAX_RECORD - 1)
    while len(of(size + 1)) <= MAX_RECORD:
        size += 1
    with pytest.raises(MalformedError, match="wrong members"):
        opened(of(size))
    with pytest.raises(MalformedError, match="too long") as caught:
        opened(of(size + 1))
    assert caught.value.expected == f"at most {MAX_RECORD} bytes"


@pytest.mark.parametrize("node", ["", "n" * 65, "a/b", "a.b", "node 1", "nöde", "node\n"])
def test_a_name_that_is_none_is_refused(node: str) -> None:
    with pytest.raises(MalformedError, match="names no node"):
        opened(RAW, node=node)


# --- what a token holder may have sealed --------------------------------------------------------

WITHOUT: Final = object()
BIG: Final = {enc_key(f"{number}").kid: [1, 1] for number in range(37)}
KID: Final = sig_key("A").kid
MALFORMED: Final[dict[str, list[Any]]] = {
    "node": ["node-2", "", 1, None, ["node-1"], "Node-1"],
    "instance": ["0" * 31, "0" * 33, "G" * 32, "A" * 32, 0, None, ["0" * 32]],
    "machine": ["", "f" * 31, "F" * 32, 1, None],
    "role": ["", "Leader", "king", 1, True, None, [], {}],
    "counter": [-1, 2**53, True, False, "1", None, []],
    "heartbeat": [0, -1, 86_401, 2**53, True, "20", None],
    "leaving": [0, 1, "false", None, [], {}],
    "digest": ["", b64url_encode(bytes(15)), b64url_encode(bytes(17)), "*" * 22, "A" * 21 + "B", 1, None],
    "kid": ["", "x", KID[:-1], KID + "A", 1, None],
    "token": ["", "0" * 9, "0" * 11, "G" * 10, 1, None],
    "tokens": ["0123456789", [1], ["0" * 9], ["0" * 10] * 3, {}, None, [None]],
    "persisted": [-1, True, "now", None, 2**53],
    "loaded": [-1, True, "now", None, 2**53],
    "minted": [
        [],
        None,
        1,
        {"x": [1, 1]},
        {KID: [1]},
        {KID: [1, 1, 1]},
        {KID: []},
        {KID: 1},
        {KID: [True, 1]},
        {KID: [1, True]},
        {KID: [-1, 1]},
        {KID: [1, "1"]},
        {KID: {"jwts": 1}},
        BIG,
    ],
    "version": ["", "v" * 65, "1.0\n", "é", 1, None, []],
    "alarms": [
        "disk-full",
        [1],
        [""],
        ["Disk"],
        ["a\n"],
        ["-a"],
        ["1"],
        ["a" * 65],
        ["a\n"],
        ["ä"],
        [None],
        ["a"] * 17,
    ],
}


def test_the_table_begins_with_a_good_record() -> None:
    assert MALFORMED.keys() == VALUE.keys()
    good = opened(seal_as_record(json.dumps(VALUE).encode()))
    assert (good.node, good.role, good.leaving, good.alarms) == ("node-1", Role.FOLLOWER, False, ("disk-full",))
    assert good.minted == {KID: Minted(jwts=1, last_expiry=NOW)}


@pytest.mark.parametrize(
    ("member", "value"),
    [
        pytest.param(member, value, id=f"{member} {number} {json.dumps(value)[:40]}")
        for member, values in MALFORMED.items()
        for number, value in enumerate(values)
    ],
)
def test_a_malformed_member_is_refused(member: str, value: object) -> None:
    with pytest.raises(MalformedError):
        opened(seal_as_record(json.dumps(VALUE | {member: value}).encode()))


@pytest.mark.parametrize("member", VALUE)
def test_every_member_is_needed(member: str) -> None:
    rest = {name: value for name, value in VALUE.items() if name != member}
    with pytest.raises(MalformedError, match="a record has the wrong members"):
        opened(seal_as_record(json.dumps(rest).encode()))


TEXT: Final = json.dumps(VALUE).encode()
SHAPES: Final = {
    "another member": json.dumps(VALUE | {"colour": "red"}).encode(),
    "lineage inside": json.dumps(VALUE | {"lineage": LINEAGE}).encode(),
    "a member twice": TEXT[:-1] + b',"counter":2}',
    "a kid twice": TEXT.replace(b'"minted": {', b'"minted": {"' + KID.encode() + b'": [1, 1], '),
    "a float": TEXT.replace(b'"counter": 1', b'"counter": 1.0'),
    "NaN": TEXT.replace(b'"counter": 1', b'"counter": NaN'),
    "an array": b"[" + TEXT + b"]",
    "a number": b"1",
    "not JSON": TEXT[:-1],
    "not UTF-8": TEXT[:-1] + b"\xff}",
    "nothing": b"",
    "nested deep": b'{"a":' + b"[" * 5000,
}


@pytest.mark.parametrize("plaintext", SHAPES.values(), ids=SHAPES)
def test_a_malformed_shape_is_refused(plaintext: bytes) -> None:
    with pytest.raises(MalformedError):
        opened(seal_as_record(plaintext))


GOOD: Final[dict[str, list[Any]]] = {
    "role": ["leader", "follower"],
    "counter": [0, 2**53 - 1],
    "heartbeat": [1, 86_400],
    "leaving": [True, False],
    "kid": [KID, enc_key("A").kid],
    "tokens": [[], ["0" * 10], ["0" * 10, "1" * 10]],
    "persisted": [0],
    "minted": [{}, {KID: [0, 0]}, dict(list(BIG.items())[:36])],
    "version": ["1", "v" * 64],
    "alarms": [[], ["a"], ["a" * 64], ["a-1"], ["a"] * 16],
}


@pytest.mark.parametrize(
    ("member", "value"),
    [
        pytest.param(member, value, id=f"{member} {number} {json.dumps(value)[:40]}")
        for member, values in GOOD.items()
        for number, value in enumerate(values)
    ],
)
def test_what_stands_at_the_edge_is_read(member: str, value: object) -> None:
    record = opened(seal_as_record(json.dumps(VALUE | {member: value}).encode()))
    shown = json.loads(json.dumps(getattr(record, member)))
    assert shown == value


def test_a_record_shows_no_secret_and_is_of_the_keyset_it_names() -> None:
    held = hold(chain(2)[1].keyset, token=OTHER_TOKEN)
    record = make_record(held, node="n", instance=noise("i", 16).hex())
    assert (record.epoch, record.digest, record.token) == (2, held.digest, OTHER_TOKEN.token_id)
    assert TOKEN.secret.hex() not in repr(record)
