"""The plaintext: one shape, the strictest reading, and every kid recomputed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

import pytest

from keydist.core.keyset import Keyset, Revocation, State
from keydist.core.plaintext import MAX_REVOKED, parse_keyset, parse_kid, serialise_keyset
from keydist.core.strict import b64url_encode
from keydist.errors import MalformedError
from tests.material import (
    LINEAGE,
    NOW,
    Change,
    enc_key,
    history,
    make_keyset,
    noise,
    pkcs8,
    sig_key,
)

KEYSET: Final = make_keyset(
    3,
    keys=(
        sig_key("rsa-a", alg="RS256"),
        enc_key("A"),
        sig_key("B", State.NEXT, alg="ES256"),
        enc_key("B", State.NEXT),
        replace(sig_key("C", State.RETIRED), verify_until=NOW + 1),
        enc_key("C", State.RETIRED),
    ),
    revoked=(
        Revocation(kid=sig_key("D").kid, at=NOW, reason="laptop stolen"),
        Revocation(kid=enc_key("D").kid, at=0, reason=""),
    ),
)
SIG, ENC, SIG_NEXT, ENC_NEXT, SIG_RETIRED, ENC_RETIRED = range(6)


def parse(raw: bytes, *, epoch: int = 3, validate: bool = False) -> Keyset:
    return parse_keyset(raw, lineage=LINEAGE, epoch=epoch, issued=NOW, validate=validate)


def members() -> dict[str, Any]:
    """Return the plaintext of `KEYSET` as a JSON value, to be altered."""
    value: dict[str, Any] = json.loads(serialise_keyset(KEYSET))
    return value


def refused(value: object) -> MalformedError:
    with pytest.raises(MalformedError) as caught:
        parse(json.dumps(value).encode())
    return caught.value


@pytest.mark.parametrize("validate", [False, True])
def test_a_keyset_is_read_back(*, validate: bool) -> None:
    assert parse(serialise_keyset(KEYSET), validate=validate) == KEYSET


def test_every_epoch_of_a_history_is_read_back() -> None:
    for held in history(list(Change)):
        keyset = held.keyset
        raw = serialise_keyset(keyset)
        assert parse_keyset(raw, lineage=keyset.lineage, epoch=keyset.epoch, issued=keyset.issued) == keyset


def test_the_members_are_the_documented_ones() -> None:
    value = members()
    assert list(value) == ["policy", "anc", "keys", "revoked"]
    kinds = [(key["use"], key["state"], list(key)[4:]) for key in value["keys"]]
    assert kinds == [
        ("sig", "active", ["created", "published", "activated", "pkcs8"]),
        ("enc", "active", ["created", "published", "activated", "k"]),
        ("sig", "next", ["created", "published", "pkcs8"]),
        ("enc", "next", ["created", "published", "k"]),
        ("sig", "retired", ["created", "published", "activated", "retired", "verify_until", "spki"]),
        ("enc", "retired", ["created", "published", "activated", "retired", "k"]),
    ]
    assert all(list(key)[:4] == ["kid", "use", "alg", "state"] for key in value["keys"])
    assert [list(entry) for entry in value["revoked"]] == [["kid", "at", "reason"]] * 2


@pytest.mark.parametrize("name", ["policy", "anc", "keys", "revoked"])
def test_every_member_is_needed(name: str) -> None:
    value = members()
    del value[name]
    assert refused(value).message == "the keyset has the wrong members"


def test_other_members_are_refused() -> None:
    assert refused(members() | {"epoch": 3}).message == "the keyset has the wrong members"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the keyset is not JSON"),
        (b"[]", "the keyset is not a JSON object"),
        (b'{"keys":[],"keys":[]}', "the keyset: a member stands twice in one object"),
    ],
)
def test_it_is_one_strict_object(raw: bytes, message: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse(raw)
    assert caught.value.message == message


DIGEST = b64url_encode(noise("a", 16))
WHOLE = {
    "policy": ({"policy": []}, "policy is not an object"),
    "anc no array": ({"anc": DIGEST}, "anc is not an array in range"),
    "anc too long": ({"anc": [DIGEST] * 65}, "anc is not an array in range"),
    "anc too short for its epoch": ({"anc": [DIGEST]}, "the keyset's ancestry does not fit its epoch"),
    "anc of other digests": ({"anc": [DIGEST, b64url_encode(bytes(32))]}, "anc has the wrong length"),
    "anc of numbers": ({"anc": [1, 2]}, "anc has the wrong length"),
    "keys no array": ({"keys": {}}, "keys is not an array in range"),
    "keys too many": ({"keys": [{}] * 37}, "keys is not an array in range"),
    "keys empty": ({"keys": []}, "the keyset has the wrong number of sig keys"),
    "a key no object": ({"keys": [[]]}, "a key is not an object"),
    "a key without members": ({"keys": [{}]}, "a key has an unknown use"),
    "revoked no array": ({"revoked": None}, "revoked is not an array in range"),
    "revoked too many": ({"revoked": [{}] * (MAX_REVOKED + 1)}, "revoked is not an array in range"),
    "a revocation no object": ({"revoked": ["kid"]}, "a revocation is not an object"),
    "a revocation without members": ({"revoked": [{}]}, "a revocation has the wrong members"),
}


@pytest.mark.parametrize(("other", "message"), WHOLE.values(), ids=WHOLE)
def test_a_member_of_another_shape_is_refused(other: dict[str, object], message: str) -> None:
    assert refused(members() | other).message == message


K_SHORT = b64url_encode(bytes(31))
KEYS = {
    "use unknown": (SIG, {"use": "ver"}, "a key has an unknown use"),
    "use of another type": (SIG, {"use": ["sig"]}, "a key has an unknown use"),
    "state unknown": (SIG, {"state": "gone"}, "a key has an unknown state"),
    "state revoked": (SIG, {"state": "revoked"}, "a key has an unknown state"),
    "state of another type": (SIG, {"state": ["next"]}, "a key has an unknown state"),
    "an unknown member": (SIG, {"nbf": 0}, "a key has the wrong members"),
    "public material while active": (SIG, {"spki": "", "pkcs8": None}, "a key has the wrong members"),
    "private material once retired": (
        SIG_RETIRED,
        {"pkcs8": b64url_encode(pkcs8("C")), "spki": None},
        "a key has the wrong members",
    ),
    "symmetric material to sign with": (SIG, {"k": K_SHORT, "pkcs8": None}, "a key has the wrong members"),
    "both kinds of material": (SIG_RETIRED, {"pkcs8": ""}, "a key has the wrong members"),
    "no kid": (SIG, {"kid": None}, "a key has the wrong members"),
    "created no integer": (SIG, {"created": "yesterday"}, "keys.created is not an integer in range"),
    "verify_until no integer": (SIG, {"verify_until": True}, "keys.verify_until is not an integer in range"),
    "next but activated": (SIG_NEXT, {"activated": NOW}, "a next key says when it was activated"),
    "next but retired": (ENC_NEXT, {"retired": NOW}, "a next key says when it was retired"),
    "active but retired": (ENC, {"retired": NOW}, "a active key says when it was retired"),
    "material no text": (ENC, {"k": 1}, "key material is not text"),
    "material no base64url": (ENC, {"k": "*"}, "key material is not base64url"),
    "enc of another algorithm": (ENC, {"alg": "A128GCM"}, "an encryption key has an unsupported algorithm"),
    "enc of another type of algorithm": (ENC, {"alg": []}, "an encryption key has an unsupported algorithm"),
    "enc too short": (ENC, {"k": K_SHORT}, "an encryption key has the wrong length"),
    "enc too long": (ENC, {"k": b64url_encode(bytes(33))}, "an encryption key has the wrong length"),
    "enc with a long kid": (
        ENC,
        {"kid": b64url_encode(bytes(32))},
        "the kid of an encryption key has the wrong length",
    ),
    "enc with another kid": (ENC, {"kid": "*" * 22}, "the kid of an encryption key is not base64url"),
    "enc with a kid of another type": (ENC, {"kid": [1]}, "the kid of an encryption key has the wrong length"),
    "sig of another algorithm": (SIG, {"alg": "RS512"}, "a signing key has an unsupported algorithm"),
    "sig of a symmetric algorithm": (SIG, {"alg": "HS256"}, "a signing key has an unsupported algorithm"),
    "sig without algorithm": (SIG, {"alg": "none"}, "a signing key has an unsupported algorithm"),
    "sig of another type of algorithm": (SIG, {"alg": ["RS256"]}, "a signing key has an unsupported algorithm"),
    "sig of a key of another kind": (SIG, {"alg": "ES256"}, "a key does not fit its algorithm"),
    "sig with no key inside": (SIG, {"pkcs8": b64url_encode(b"0")}, "a private key cannot be read"),
    "retired sig with no key inside": (SIG_RETIRED, {"spki": b64url_encode(b"0")}, "a public key cannot be read"),
    "the kid of another key": (SIG, {"kid": sig_key("B").kid}, "a kid is not the thumbprint of its key"),
    "a kid that is no text": (SIG, {"kid": 1}, "a kid is not the thumbprint of its key"),
    "the key of another kid": (
        SIG_NEXT,
        {"pkcs8": b64url_encode(pkcs8("C", "ES256"))},
        "a kid is not the thumbprint of its key",
    ),
    "the public key of another kid": (
        SIG_RETIRED,
        {"spki": b64url_encode(sig_key("D").public.spki)},
        "a kid is not the thumbprint of its key",
    ),
}


@pytest.mark.parametrize(("index", "other", "message"), KEYS.values(), ids=KEYS)
def test_a_key_of_another_shape_is_refused(index: int, other: dict[str, object], message: str) -> None:
    value = members()
    key = {name: item for name, item in (value["keys"][index] | other).items() if item is not None}
    value["keys"][index] = key
    assert refused(value).message == message


KID = sig_key("Z").kid
REVOCATIONS = {
    "an unknown member": ({"by": "me"}, "a revocation has the wrong members"),
    "no time": ({"at": "now"}, "revoked.at is not an integer in range"),
    "kid too short": ({"kid": KID[:-1]}, "a kid has the wrong length"),
    "kid no base64url": ({"kid": "*" * 43}, "a kid is not base64url"),
    "kid not canonical": ({"kid": KID[:-1] + "_"}, "a kid is not canonical base64url"),
    "kid no text": ({"kid": 1}, "a kid has the wrong length"),
    "reason no text": ({"reason": None}, "a revocation's reason is out of range"),
    "reason too long": ({"reason": "x" * 65}, "a revocation's reason is out of range"),
    "reason of too many bytes": ({"reason": "é" * 33}, "a revocation's reason is out of range"),
    "reason with half a character": ({"reason": "\ud800"}, "a revocation's reason is not text in range"),
    "reason that moves a terminal": ({"reason": "\x1b[2J"}, "a revocation's reason is not text in range"),
}


@pytest.mark.parametrize(("other", "message"), REVOCATIONS.values(), ids=REVOCATIONS)
def test_a_revocation_of_another_shape_is_refused(other: dict[str, object], message: str) -> None:
    entry = {"kid": KID, "at": NOW, "reason": ""} | other
    assert refused(members() | {"revoked": [entry]}).message == message


@pytest.mark.parametrize("reason", ["", "x" * 64])
def test_the_reason_of_a_revocation_may_be_empty_or_64_bytes(reason: str) -> None:
    entry = {"kid": KID, "at": 0, "reason": reason}
    keyset = parse(json.dumps(members() | {"revoked": [entry]}).encode())
    assert keyset.revoked == (Revocation(kid=KID, at=0, reason=reason),)


def test_damaged_primes_are_found_only_where_they_are_looked_for() -> None:
    value = members()
    damaged = bytearray(pkcs8("rsa-a", "RS256"))
    damaged[-40] ^= 1
    value["keys"][SIG]["pkcs8"] = b64url_encode(bytes(damaged))
    raw = json.dumps(value).encode()
    assert parse(raw).active.kid == KEYSET.active.kid
    with pytest.raises(MalformedError, match="a private key cannot be read"):
        parse(raw, validate=True)


@pytest.mark.parametrize("size", [16, 32])
def test_a_kid_has_16_or_32_bytes(size: int) -> None:
    kid = b64url_encode(noise("kid", size))
    assert parse_kid(kid) == kid


@pytest.mark.parametrize("kid", [b64url_encode(bytes(15)), b64url_encode(bytes(24)), "", None, 5, "A" * 21 + "B"])
def test_nothing_else_is_a_kid(kid: object) -> None:
    with pytest.raises(MalformedError):
        parse_kid(kid)
