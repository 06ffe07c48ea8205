"""Make the vectors: `python -m tests.vectors.generate`. The same bytes in every run."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from keydist.core.accept import Held
from keydist.core.envelope import MAX_ENVELOPE, Place, seal
from keydist.core.keyset import Keyset, Revocation, State
from keydist.core.plaintext import serialise_keyset
from keydist.core.record import MAX_RECORD, RECORD_TYPE, Minted, Record, record_place
from keydist.core.restart import Role
from keydist.core.strict import b64url_encode
from keydist.core.token import BootstrapToken, format_token
from tests.material import (
    IMPOSTOR,
    LINEAGE,
    NOW,
    OTHER_LINEAGE,
    OTHER_TOKEN,
    PLACE,
    TOKEN,
    Change,
    altered,
    enc_key,
    extend,
    first,
    history,
    hold,
    make_keyset,
    make_record,
    noise,
    pkcs8,
    seal_as_record,
    seal_plaintext,
    sealed_record,
    sig_key,
    standing_keys,
)
from tests.vectors.jwts import jwts

FOLDER: Final = Path(__file__).parent
SECRET: Final = "every secret here is a test secret and protects nothing"
Json = dict[str, Any]

# --- derivation ---------------------------------------------------------------------------------


def _lp(raw: bytes) -> bytes:
    return len(raw).to_bytes(2, "big") + raw


def _derivation(name: str, *, token: BootstrapToken, place: Place, rnd: bytes) -> Json:
    salt = hashlib.sha256(b"keydist/v1/extract\0" + _lp(place.cluster.encode())).digest()
    prk = hmac.digest(salt, token.secret, "sha256")
    parts = (place.cluster.encode(), place.location.encode(), token.token_id.encode(), rnd)
    context = b"".join(_lp(part) for part in parts)
    return {
        "name": name,
        "token_id": token.token_id,
        "secret_hex": token.secret.hex(),
        "cluster": place.cluster,
        "location": place.location,
        "rnd_hex": rnd.hex(),
        "salt_hex": salt.hex(),
        "prk_hex": prk.hex(),
        "context_hex": context.hex(),
        "content_key_hex": hmac.digest(prk, b"keydist/v1/aead\0" + context + b"\x01", "sha256").hex(),
        "commitment_hex": hmac.digest(prk, b"keydist/v1/commit\0" + context + b"\x01", "sha256").hex(),
    }


def derivation() -> Json:
    """Return derivation.json."""
    known = BootstrapToken(token_id="0123456789", secret=bytes(range(32)))
    place = Place(cluster="prod-eu1", location="KV/keydist/keyset")
    cases = [
        _derivation("the known answer of the format", token=known, place=place, rnd=bytes(range(32, 64))),
        _derivation("the token of the other vectors", token=TOKEN, place=PLACE, rnd=noise("rnd", 32)),
        _derivation("shortest names", token=TOKEN, place=Place(cluster="c", location="l"), rnd=bytes(32)),
        _derivation(
            "longest names", token=OTHER_TOKEN, place=Place(cluster="c" * 64, location="l" * 256), rnd=b"\xff" * 32
        ),
        _derivation(
            "a boundary moved: not the known answer",
            token=known,
            place=Place(cluster="prod-eu1K", location="V/keydist/keyset"),
            rnd=bytes(range(32, 64)),
        ),
    ]
    return {"about": f"HKDF-SHA256 of one seal; {SECRET}", "cases": cases}


# --- tokens -------------------------------------------------------------------------------------


def _checked(body: str) -> str:
    return f"{body}_{zlib.crc32(body.encode()):08x}"


def _with_secret(secret: bytes) -> str:
    return _checked(f"kdt1_0123456789_{base64.b32encode(secret).decode().rstrip('=').lower()}")


def tokens() -> Json:
    """Return tokens.json."""
    text, other = format_token(TOKEN), format_token(OTHER_TOKEN)
    shape = "kdt1_<id>_<secret>_<checksum>, 77 characters"
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    refused = [
        ("empty", "", "empty"),
        ("another prefix", "kdt2" + text[4:], shape),
        ("upper case", text.upper(), shape),
        ("white space around", f" {text} ", shape),
        ("cut", text[:-1], shape),
        ("longer", text + "0", shape),
        ("first separator", text[:15] + "-" + text[16:], shape),
        ("second separator", text[:68] + "-" + text[69:], shape),
        ("id in upper case", _checked(text[:5] + "ABCDEF0123" + text[15:68]), "the id is 10 lower-case hex digits"),
        ("secret with digits outside base32", _checked(text[:16] + "1" + text[17:68]), "the secret is base32"),
        ("checksum in upper case", text[:69] + text[69:].upper().replace("0", "A"), "the checksum is hex"),
        ("wrong checksum", text[:69] + f"{int(text[69:], 16) ^ 1:08x}", "the checksum does not match"),
        ("altered id", text[:5] + ("1" if text[5] == "0" else "0") + text[6:], "the checksum does not match"),
        (
            "pad bits set",
            _checked(text[:67] + letters[letters.index(text[67]) + 1]),
            "the last character of the secret carries four pad bits, which are zero",
        ),
        ("17 distinct bytes", _with_secret(bytes(range(17)) + bytes(15)), "fewer than 18 distinct bytes"),
        ("all printable", _with_secret(b"Sphinx of black quartz judge vow"), "all bytes are printable ASCII"),
    ]
    return {
        "about": f"bootstrap tokens and token files; {SECRET}",
        "valid": [
            {"name": name, "text": format_token(token), "id": token.token_id, "secret_hex": token.secret.hex()}
            for name, token in (
                ("a token", TOKEN),
                ("another", OTHER_TOKEN),
                ("secret 00..1f", BootstrapToken(token_id="0123456789", secret=bytes(range(32)))),
                ("18 distinct bytes", BootstrapToken(token_id="0000000000", secret=bytes(range(18)) + bytes(14))),
                ("one byte not printable", BootstrapToken(token_id="ffffffffff", secret=bytes(range(31, 63)))),
            )
        ],
        "invalid": [{"name": name, "text": text, "reason": reason} for name, text, reason in refused],
        "valid_files": [
            {"name": "one line", "text": f"{text}\n", "ids": [TOKEN.token_id]},
            {"name": "one line without end", "text": text, "ids": [TOKEN.token_id]},
            {"name": "two lines", "text": f"{text}\n{other}\n", "ids": [TOKEN.token_id, OTHER_TOKEN.token_id]},
        ],
        "invalid_files": [
            {"name": "empty", "text": "", "reason": "no token"},
            {"name": "white space", "text": " \n", "reason": "no token"},
            {"name": "too large", "text": " " * 4097, "reason": "at most 4096 bytes"},
            {"name": "not ASCII", "text": f"{text}\n\u00a0", "reason": "ASCII only"},
            {"name": "an empty line", "text": f"{text}\n\n", "reason": "each line is a token"},
            {"name": "carriage return", "text": f"{text}\r\n", "reason": "lines end in LF"},
            {"name": "three lines", "text": f"{text}\n{other}\n{text}\n", "reason": "at most two tokens"},
            {"name": "one id twice", "text": f"{text}\n{format_token(IMPOSTOR)}\n", "reason": "two ids"},
        ],
    }


# --- envelopes ----------------------------------------------------------------------------------


def _where(token: BootstrapToken = TOKEN, place: Place = PLACE) -> Json:
    return {"token": format_token(token), "cluster": place.cluster, "location": place.location}


def _facts(held: Held) -> Json:
    keyset = held.keyset
    return {
        "lineage": keyset.lineage,
        "epoch": keyset.epoch,
        "issued": keyset.issued,
        "token_id": held.token_id,
        "digest": b64url_encode(held.digest),
        "plaintext_sha256_hex": hashlib.sha256(held.plaintext).hexdigest(),
        "policy": keyset.policy.as_json(),
        "ancestors": [b64url_encode(ancestor) for ancestor in keyset.ancestors],
        "active_kid": keyset.active.kid,
        "keys": [{"kid": key.kid, "use": key.use, "alg": key.alg, "state": key.state.value} for key in keyset.keys],
        "revoked": [entry.kid for entry in keyset.revoked],
    }


def _valid_keysets() -> Iterator[tuple[str, Held]]:
    for alg, names in (("RS256", ("rsa-a", "rsa-b")), ("PS256", ("rsa-a", "rsa-b")), ("ES256", "AB"), ("EdDSA", "AB")):
        sig = (sig_key(names[0], alg=alg), sig_key(names[1], State.NEXT, alg=alg))
        yield f"a genesis with {alg}", hold(make_keyset(keys=(*sig, enc_key("A"), enc_key("B", State.NEXT))))
    yield "no next key", hold(make_keyset(keys=(sig_key("A"), enc_key("A"))))
    yield "a rotation", history([Change.ROTATE])[-1]
    yield "every change in turn", history(list(Change))[-1]
    retired = [make(f"old {number}", State.RETIRED) for number in range(16) for make in (sig_key, enc_key)]
    yield "16 retired keys of each use", hold(make_keyset(2, keys=(*standing_keys(), *retired)))
    until = replace(sig_key("C", State.RETIRED), verify_until=2**53 - 1)
    bare = replace(enc_key("C", State.RETIRED), published=None, activated=None, retired=None, created=0)
    yield "optional times there and not", hold(make_keyset(3, keys=(*standing_keys(), until, bare)))
    entries = (
        Revocation(kid=sig_key("lost").kid, at=NOW, reason="x" * 64),
        Revocation(kid=enc_key("lost").kid, at=0, reason=""),
    )
    yield "revocations", hold(make_keyset(5, revoked=entries))
    yield "epoch 65: 64 ancestors", hold(make_keyset(65))
    yield "epoch 66: still 64 ancestors", hold(make_keyset(66))
    yield "the last epoch", hold(make_keyset(2**53 - 1))


HEADER, _, IV, BODY, TAG = first().envelope.split(b".")
MEMBERS: Final[Json] = json.loads(base64.urlsafe_b64decode(HEADER + b"=="))


def _joined(header: bytes = HEADER, key: bytes = b"", iv: bytes = IV, body: bytes = BODY, tag: bytes = TAG) -> bytes:
    return b".".join((header, key, iv, body, tag))


def _with_json(raw: str) -> bytes:
    return _joined(b64url_encode(raw.encode()).encode())


def _with_header(**members: object) -> bytes:
    return _with_json(json.dumps(MEMBERS | members))


def _without(name: str, **members: object) -> bytes:
    return _with_json(json.dumps({key: value for key, value in (MEMBERS | members).items() if key != name}))


def _b64(size: int) -> str:
    return b64url_encode(bytes(size))


def _flipped(segment: bytes, at: int) -> bytes:
    other = b"B" if segment[at : at + 1] == b"A" else b"A"
    return segment[:at] + other + segment[at + 1 :]


def _invalid_shapes() -> Iterator[tuple[str, int, str, bytes]]:
    """Yield name, step, error and envelope: steps 1 to 8."""
    bad = "malformed"
    full = MAX_ENVELOPE - len(_joined(body=b""))
    yield "nothing", 1, bad, b""
    yield "48 KiB and one byte", 1, bad, _joined(body=b"A" * (full + 1))
    yield "a header longer than 1 KiB", 1, bad, _joined(b64url_encode(json.dumps(MEMBERS).ljust(800).encode()).encode())
    yield "four segments", 2, bad, b".".join((HEADER, b"", IV, BODY + TAG))
    yield "six segments", 2, bad, first().envelope + b"."
    yield "an encrypted key", 2, bad, _joined(key=b"AAAA")
    yield "padding", 2, bad, _joined(tag=TAG + b"==")
    yield "a newline after it", 2, bad, first().envelope + b"\n"
    yield "another alphabet", 2, bad, _joined(body=b"+" + BODY[1:])
    yield "spare bits set", 2, bad, _joined(tag=TAG[:-1] + bytes([TAG[-1] + 1]))
    yield "IV of 16 bytes", 2, bad, _joined(iv=_b64(16).encode())
    yield "tag of 12 bytes", 2, bad, _joined(tag=_b64(12).encode())
    yield "a header that is no JSON", 3, bad, _with_json("{")
    yield "a header that is no object", 3, bad, _with_json("[]")
    yield "a member twice", 3, bad, _with_json(json.dumps(MEMBERS)[:-1] + ',"ep":1}')
    yield "a float", 3, bad, _with_header(ep=1.0)
    yield "an exponent", 3, bad, _with_json(json.dumps(MEMBERS).replace('"ep": 1', '"ep": 1e0'))
    yield "minus zero", 3, bad, _with_json(json.dumps(MEMBERS).replace('"ep": 1', '"ep": -0'))
    yield "2^53", 3, bad, _with_header(ep=2**53)
    yield "an unknown member", 3, bad, _with_header(zip="DEF")
    for name in MEMBERS:
        yield f"no {name}", 3, bad, _without(name)
    wrong: Json = {
        "v": "1",
        "typ": None,
        "alg": ["dir"],
        "enc": 1,
        "kid": "ABCDEF0123",
        "cid": "c" * 65,
        "loc": "KV/\u00e9",
        "lin": LINEAGE[:-1],
        "ep": 0,
        "iat": True,
        "rnd": _b64(31),
        "kc": "A" * 42 + "B",
    }
    for name, value in wrong.items():
        yield f"{name} of another kind", 3, bad, _with_header(**{name: value})
    yield "version 2", 4, "unsupported", _with_header(v=2)
    yield "version 2 with members of its own", 4, "unsupported", _without("kc", v=2, new=[1])
    yield "a node's record", 4, "unsupported", _with_header(typ="keydist-node+jwe")
    yield "key wrapping", 4, "unsupported", _with_header(alg="A256KW")
    yield "another cipher", 4, "unsupported", _with_header(enc="A128GCM")
    yield "another cluster", 5, "foreign-cluster", hold(first().keyset, place=replace_place("staging", None)).envelope
    yield "another place", 5, "foreign-cluster", hold(first().keyset, place=replace_place(None, "KV/k/k")).envelope
    yield "another token", 6, "wrong-token", first(token=OTHER_TOKEN).envelope
    yield "another secret under the token's id", 7, "commitment", first(token=IMPOSTOR).envelope
    yield "another rnd", 7, "commitment", _with_header(rnd=_b64(32))
    yield "another commitment", 7, "commitment", _with_header(kc=_b64(32))
    yield "another epoch in the header", 8, "tampered", _with_header(ep=2)
    yield "another time in the header", 8, "tampered", _with_header(iat=NOW + 1)
    yield "another lineage in the header", 8, "tampered", _with_header(lin=OTHER_LINEAGE)
    yield "white space in the header", 8, "tampered", _with_json(json.dumps(MEMBERS))
    yield "an altered IV", 8, "tampered", _joined(iv=_flipped(IV, 0))
    yield "an altered ciphertext", 8, "tampered", _joined(body=_flipped(BODY, 9))
    yield "no ciphertext", 8, "tampered", _joined(body=b"")
    yield "an altered tag", 8, "tampered", _joined(tag=_flipped(TAG, 0))


def replace_place(cluster: str | None, location: str | None) -> Place:
    """Return the place of the vectors, in another cluster or location."""
    return Place(cluster=cluster or PLACE.cluster, location=location or PLACE.location)


BASE: Final = make_keyset(3, keys=(*standing_keys(), sig_key("C", State.RETIRED), enc_key("C", State.RETIRED)))
SIG, ENC, SIG_NEXT, ENC_NEXT, SIG_RETIRED, ENC_RETIRED = range(6)


def _spoiled(change: Callable[[Json], object]) -> bytes:
    value: Json = json.loads(serialise_keyset(BASE))
    change(value)
    return seal_plaintext(json.dumps(value, separators=(",", ":")).encode(), epoch=3)


def _key(index: int, **members: object) -> Callable[[Json], object]:
    def change(value: Json) -> None:
        key = value["keys"][index] | members
        value["keys"][index] = {name: item for name, item in key.items() if item is not None}

    return change


def _more(*keys: str) -> Callable[[Json], object]:
    """Return what adds retired or next keys, by use and state."""

    def change(value: Json) -> None:
        for number, what in enumerate(keys):
            use, state = what.split()
            make = sig_key if use == "sig" else enc_key
            keyset = make_keyset(keys=(sig_key("A"), enc_key("A"), make(f"more {number}", State(state))), epoch=1)
            value["keys"].append(json.loads(serialise_keyset(keyset))["keys"][-1])

    return change


def _drop(*indices: int) -> Callable[[Json], object]:
    def change(value: Json) -> None:
        value["keys"] = [key for index, key in enumerate(value["keys"]) if index not in indices]

    return change


def _revoke(**members: object) -> Callable[[Json], object]:
    entry = {"kid": sig_key("lost").kid, "at": NOW, "reason": ""} | members
    return lambda value: value.update(revoked=[entry])


def _invalid_keysets() -> Iterator[tuple[str, bytes]]:
    """Yield name and envelope: sealed rightly, but the keyset breaks a rule of step 9."""
    spoil: dict[str, Callable[[Json], object]] = {
        "an unknown member inside": lambda value: value.update(epoch=3),
        "no policy": lambda value: value.pop("policy"),
        "a policy without a member": lambda value: value["policy"].pop("skew"),
        "a policy whose propagation is too short": lambda value: value["policy"].update(propagation=479),
        "a policy whose leeway is too short": lambda value: value["policy"].update(leeway=59),
        "an ancestor too few": lambda value: value["anc"].pop(),
        "an ancestor too many": lambda value: value["anc"].append(_b64(16)),
        "an ancestor of 32 bytes": lambda value: value["anc"].__setitem__(0, _b64(32)),
        "no active sig": _drop(SIG),
        "no active enc": _drop(ENC),
        "two next sig": _more("sig next"),
        "two next enc": _more("enc next"),
        "17 retired sig": _more(*["sig retired"] * 16),
        "17 retired enc": _more(*["enc retired"] * 16),
        "an unknown use": _key(SIG, use="ver"),
        "an unknown state": _key(SIG, state="revoked"),
        "an unknown algorithm": _key(SIG, alg="HS256"),
        "the algorithm of another key": _key(SIG, alg="ES256"),
        "an enc key of another algorithm": _key(ENC, alg="A128GCM"),
        "an enc key of 31 bytes": _key(ENC, k=_b64(31)),
        "a kid that is not the thumbprint": _key(SIG, kid=sig_key("Z").kid),
        "a kid twice": _key(ENC_NEXT, kid=enc_key("A").kid),
        "next, but activated": _key(SIG_NEXT, activated=NOW),
        "active, but retired": _key(ENC, retired=NOW),
        "retired, but with its private part": _key(SIG_RETIRED, spki=None, pkcs8=b64url_encode(pkcs8("C"))),
        "active, but without its private part": _key(SIG, pkcs8=None, spki=b64url_encode(sig_key("A").public.spki)),
        "key material with a byte more": _key(SIG, pkcs8=b64url_encode(pkcs8("A") + b"\0")),
        "listed and revoked": _revoke(kid=sig_key("C").kid),
        "a reason of 65 bytes": _revoke(reason="x" * 65),
        "a reason with a control character": _revoke(reason="\x1b"),
        "a revoked kid of another length": _revoke(kid=_b64(20)),
    }
    for name, change in spoil.items():
        yield name, _spoiled(change)
    yield "no JSON", seal_plaintext(b"{", epoch=3)
    yield "nothing inside", seal_plaintext(b"", epoch=3)
    yield "a member twice inside", seal_plaintext(serialise_keyset(BASE)[:-1] + b',"anc":[]}', epoch=3)
    yield "another epoch than its ancestry", _sealed_as(BASE, epoch=4)


def _sealed_as(keyset: Keyset, *, epoch: int) -> bytes:
    return seal(
        serialise_keyset(keyset),
        token=TOKEN,
        place=PLACE,
        lineage=keyset.lineage,
        epoch=epoch,
        issued=keyset.issued,
        rnd=noise(f"rnd {epoch}", 32),
        iv=noise(f"iv {epoch}", 12),
    )


def envelopes() -> Json:
    """Return envelopes.json."""
    invalid = [
        {"name": name, "step": step, "error": error, "envelope": raw.decode("ascii")}
        for name, step, error, raw in _invalid_shapes()
    ]
    invalid += [
        {"name": name, "step": 9, "error": "malformed", "envelope": raw.decode("ascii")}
        for name, raw in _invalid_keysets()
    ]
    wide = Place(cluster="c" * 64, location="l" * 256)
    widest = hold(make_keyset(), token=OTHER_TOKEN, place=wide)
    return {
        "about": f"envelopes for a node without state that holds this one token; {SECRET}",
        **_where(),
        "valid": [
            *(
                {"name": name, "envelope": held.envelope.decode(), "expect": _facts(held)}
                for name, held in _valid_keysets()
            ),
            {
                "name": "the widest header, under another token",
                **_where(OTHER_TOKEN, wide),
                "envelope": widest.envelope.decode(),
                "expect": _facts(widest),
            },
        ],
        "invalid": invalid,
    }


# --- acceptance ---------------------------------------------------------------------------------


def _lines() -> dict[str, Held]:
    line = history([Change.ROTATE, Change.ROTATE, Change.REVOKE_RETIRED, Change.FORGET, Change.FORGET])
    sibling = history([Change.ROTATE, Change.ROTATE], start=line[0], name="sibling ")
    far = history([Change.RESEAL] * 67)
    resealed = extend(line[1], Change.RESEAL, token=OTHER_TOKEN)
    back = extend(resealed, Change.RESEAL, token=TOKEN)
    named = {f"epoch {held.keyset.epoch}": held for held in line}
    named |= {f"sibling {held.keyset.epoch}": held for held in sibling[1:]}
    named |= {f"far {epoch}": far[epoch - 1] for epoch in (2, 66, 67)}
    named |= {"resealed 3": resealed, "back under the old token 4": back}
    named["another lineage 1"] = first(lineage=OTHER_LINEAGE)
    kid = named["epoch 2"].keyset.active.kid
    after = extend(named["epoch 2"], Change.RESEAL).keyset
    backwards = tuple(
        replace(key, state=State.NEXT, activated=None)
        if key.kid == kid
        else replace(key, state=State.ACTIVE, activated=NOW)
        if key.use == "sig" and key.state is State.NEXT
        else key
        for key in after.keys
    )
    named["a key goes back 3"] = hold(replace(after, keys=backwards))
    exchanged = tuple(replace(key, material=noise("x", 32)) if key.use == "enc" else key for key in after.keys)
    named["a key is exchanged 3"] = hold(replace(after, keys=exchanged))
    relisted = extend(named["epoch 6"], Change.RESEAL).keyset
    lost = sig_key("B", State.RETIRED)  # what epoch 4 revoked
    named["a revoked key is listed 7"] = hold(replace(relisted, keys=(*relisted.keys, lost)))
    return named


def _floor(held: Held, *, superseded: tuple[str, ...] = (), revoked: tuple[str, ...] = ()) -> Json:
    return {
        "lineage": held.keyset.lineage,
        "epoch": held.keyset.epoch,
        "digest": b64url_encode(held.digest),
        "token_id": held.token_id,
        "superseded": list(superseded),
        "revoked": list(revoked),
    }


def acceptance() -> Json:
    """Return acceptance.json."""
    line = _lines()
    cases: list[Json] = []

    def case(
        candidate: str, outcome: str, step: int, *, holds: str | None = None, note: str = "", **have: object
    ) -> None:
        kind = "expect" if outcome in ("accepted", "accepted, ancestry unproven", "unchanged") else "error"
        known = {"holds": holds, "floor": None, "lineage": None, "min_epoch": 0, "tokens": ["token"]} | have
        cases.append({"candidate": candidate, **known, kind: outcome, "step": step, "note": note})

    case("epoch 1", "accepted", 13, note="a node without state")
    case("epoch 2", "unchanged", 0, holds="epoch 2", note="the same bytes")
    case("epoch 2", "unchanged", 0, holds="epoch 2", tokens=[], note="no token is needed for it")
    case("epoch 1", "rollback", 0, holds="epoch 3", note="an ancestor of mine")
    case("epoch 1", "rollback", 0, holds="epoch 3", tokens=[], note="no token is needed for it")
    case("epoch 3", "wrong-token", 6, holds="epoch 2", tokens=["other token"])
    case("resealed 3", "accepted", 13, holds="epoch 2", tokens=["token", "other token"], note="a new token")
    superseded = _floor(line["resealed 3"], superseded=(TOKEN.token_id,))
    both = ["token", "other token"]
    case("back under the old token 4", "accepted", 13, holds="resealed 3", tokens=both, note="no floor: not yet seen")
    case("back under the old token 4", "wrong-token", 6, holds="resealed 3", floor=superseded, tokens=both)
    case("another lineage 1", "fork", 10, lineage=LINEAGE, note="the configured lineage")
    case("another lineage 1", "fork", 10, floor=_floor(line["epoch 1"]), note="the floor's lineage")
    case("another lineage 1", "fork", 10, holds="epoch 3", min_epoch=3, note="lineage before epoch")
    case("epoch 2", "rollback", 11, min_epoch=3, note="below the demanded epoch")
    case("epoch 3", "accepted", 13, min_epoch=3)
    case("sibling 2", "fork", 11, holds="epoch 3", note="lower than mine, and no ancestor")
    case("sibling 3", "fork", 11, holds="epoch 3", note="equal, other bytes")
    case("sibling 3", "fork", 11, holds="epoch 2", note="higher, and another stands at my epoch")
    case("epoch 3", "accepted", 13, holds="epoch 2", note="the next epoch")
    case("epoch 4", "accepted", 13, holds="epoch 1", note="several epochs later")
    case("far 66", "accepted", 13, holds="far 2", note="64 ahead: mine is the last ancestor")
    case(
        "far 67", "accepted, ancestry unproven", 13, holds="far 2", note="65 ahead: the ancestry no longer reaches mine"
    )
    case("far 66", "fork", 11, holds="sibling 2")
    case("far 67", "accepted, ancestry unproven", 13, floor=_floor(line["far 2"]))
    case("epoch 2", "rollback", 11, floor=_floor(line["epoch 3"]), note="a floor without a keyset")
    case("epoch 3", "accepted", 13, floor=_floor(line["epoch 3"]), note="the floor's own envelope")
    case("sibling 3", "fork", 11, floor=_floor(line["epoch 3"]))
    case("epoch 4", "accepted", 13, floor=_floor(line["epoch 3"]))
    case("sibling 3", "fork", 11, floor=_floor(line["epoch 2"]))
    case("a key goes back 3", "malformed", 12, holds="epoch 2")
    case("a key is exchanged 3", "malformed", 12, holds="epoch 2")
    case("a revoked key is listed 7", "malformed", 12, holds="epoch 4", note="the keyset remembers the revocation")
    lost = (sig_key("B").kid,)
    case("a revoked key is listed 7", "malformed", 12, floor=_floor(line["epoch 6"], revoked=lost))
    case("a revoked key is listed 7", "malformed", 12, holds="epoch 6", floor=_floor(line["epoch 6"], revoked=lost))
    return {
        "about": f"envelopes for a node that holds a keyset, a floor, or demands of its own; {SECRET}",
        "cluster": PLACE.cluster,
        "location": PLACE.location,
        "tokens": {"token": format_token(TOKEN), "other token": format_token(OTHER_TOKEN)},
        "envelopes": {name: held.envelope.decode() for name, held in line.items()},
        "cases": cases,
    }


# --- records ------------------------------------------------------------------------------------


def _said(record: Record) -> Json:
    return {
        "lineage": record.lineage,
        "epoch": record.epoch,
        "node": record.node,
        "instance": record.instance,
        "machine": record.machine,
        "role": record.role.value,
        "counter": record.counter,
        "heartbeat": record.heartbeat,
        "leaving": record.leaving,
        "digest": b64url_encode(record.digest),
        "kid": record.kid,
        "token": record.token,
        "tokens": list(record.tokens),
        "persisted": record.persisted,
        "loaded": record.loaded,
        "minted": {kid: list(minted) for kid, minted in record.minted.items()},
        "version": record.version,
        "alarms": list(record.alarms),
    }


def _valid_records() -> Iterator[tuple[str, BootstrapToken, Record]]:
    yield "a follower that minted nothing", TOKEN, make_record()
    counts = {first().keyset.active.kid: Minted(jwts=41, last_expiry=NOW + 3600)}
    both = (TOKEN.token_id, OTHER_TOKEN.token_id)
    leader = make_record(role=Role.LEADER, counter=7, minted=counts, alarms=("store-lost", "overdue"), tokens=both)
    yield "a leader with alarms, counts and two tokens", TOKEN, leader
    yield "under the other token, of a keyset under this one", OTHER_TOKEN, leader
    yield "a node that leaves", TOKEN, make_record(counter=8, leaving=True)


def _invalid_records() -> Iterator[tuple[str, str, bytes]]:
    raw = sealed_record(make_record())
    said = _said(make_record())
    del said["lineage"], said["epoch"]
    yield "another node's", "foreign-cluster", sealed_record(make_record(node="node-2"))
    yield "another bucket's", "foreign-cluster", sealed_record(make_record(), place=Place(PLACE.cluster, "KV/k/e"))
    yield "another cluster's", "foreign-cluster", sealed_record(make_record(), place=PLACE._replace(cluster="other"))
    text = json.dumps(said).encode()
    yield "a keyset's type", "unsupported", seal_plaintext(text, place=record_place(PLACE, "node-1"))
    unheld = replace(OTHER_TOKEN, token_id="00000000ff")
    yield "a token that is not held", "wrong-token", sealed_record(make_record(), token=unheld)
    yield "another secret under the same id", "commitment", sealed_record(make_record(), token=IMPOSTOR)
    yield "altered", "tampered", altered(raw, len(raw) - 9)
    yield "longer than a record", "malformed", raw + b"A" * MAX_RECORD
    changed: dict[str, object] = {
        "node": "node-2",
        "leaving": 0,
        "role": "king",
        "counter": True,
        "heartbeat": 0,
        "tokens": ["0" * 10] * 3,
        "minted": {"x": [1, 1]},
        "alarms": ["Disk full"],
        "colour": "red",
    }
    for member, value in changed.items():
        yield f"{member} {json.dumps(value)}", "malformed", seal_as_record(json.dumps(said | {member: value}).encode())


def records() -> Json:
    """Return records.json."""
    return {
        "about": f"node records as a reader sees them that holds both tokens; {SECRET}",
        "cluster": PLACE.cluster,
        "keyset_location": PLACE.location,
        "node": "node-1",
        "type": RECORD_TYPE,
        "tokens": {"token": format_token(TOKEN), "other token": format_token(OTHER_TOKEN)},
        "valid": [
            {"name": name, "record": sealed_record(record, token=token).decode(), "expect": _said(record)}
            for name, token, record in _valid_records()
        ],
        "invalid": [{"name": name, "error": error, "record": raw.decode()} for name, error, raw in _invalid_records()],
    }


def files() -> dict[str, str]:
    """Return every file's name and text."""
    made = {
        "derivation": derivation(),
        "tokens": tokens(),
        "envelopes": envelopes(),
        "acceptance": acceptance(),
        "records": records(),
        "jwts": jwts(),
    }
    return {f"{name}.json": json.dumps(value, indent=1) + "\n" for name, value in made.items()}


def main() -> None:
    """Write the files beside this one."""
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="ascii")


if __name__ == "__main__":
    main()
