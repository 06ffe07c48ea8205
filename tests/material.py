"""Test material: the same keys, tokens, keysets, envelopes and histories in every run. None of it is secret.

Bytes come from `noise(name)`, keys from a name, envelopes from a keyset. A history is made of `Change`s, each one
lawful epoch: `chain(n)` is the plain one, `extend` adds to any.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from functools import cache
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keydist.core import crypto
from keydist.core.accept import Demands, Floor, Held
from keydist.core.envelope import KEYSET_TYPE, Place, seal
from keydist.core.fleet import Fleet, Sighting
from keydist.core.genesis import FreshKeys, encryption_key, first_keyset, signing_key
from keydist.core.keyset import DIGEST_BYTES, MAX_ANCESTORS, MAX_RETIRED, Key, Keyset, Revocation, State
from keydist.core.notes import Notes
from keydist.core.plaintext import serialise_keyset
from keydist.core.policy import Policy
from keydist.core.record import Record, record_place, seal_record
from keydist.core.restart import Role
from keydist.core.token import BootstrapToken

NOW: Final = 1_800_000_000
DAY: Final = 86_400
LINEAGE: Final = "00112233445566778899aabbccddeeff"
OTHER_LINEAGE: Final = "ffeeddccbbaa99887766554433221100"
PLACE: Final = Place(cluster="prod-eu1", location="KV/keydist/signing-key")


def noise(name: str, size: int) -> bytes:
    """Return `size` bytes that look random and are the same for the same name."""
    return hashlib.shake_256(name.encode()).digest(size)


TOKEN: Final = BootstrapToken(token_id="0123456789", secret=noise("token", 32))
OTHER_TOKEN: Final = BootstrapToken(token_id="fedcba9876", secret=noise("other token", 32))
IMPOSTOR: Final = BootstrapToken(token_id=TOKEN.token_id, secret=noise("impostor", 32))
"""Another secret under the id of `TOKEN`."""

_RSA_PRIMES: Final = {  # two 2048-bit test keys: making one takes longer than every test that needs it
    "rsa-a": (
        int(
            "e5162d28bd33f4e9086a7c9f05650f65c37d2c9e6a1f0df27394698e0ef9321856a8649a68046761aced29fb0785ed4d0808"
            "51c4283f3c3e1e859f203320a89afd8f30eb44eed43d99101dc4720984abb3e90176541460bc8e5b7602d3accb6ec9c9628f"
            "8b7fa81016045cffce7a536b6018998b6d34b057a2116de3d2fdac73",
            16,
        ),
        int(
            "c7d0d98829cecad91bacbef1210bb92b32089c2dd305adcfbcb5443da8ca883ed28507c189bee8543c703a1fb1cd87cf1025"
            "64579e7e55e35ff02babffbe898d43b66f96c3d15daffad4d1fced33a7cdd86044c199c49492637a3df53ef8d3b75e231287"
            "bf0d51be8b69a8a37b0299c6e0206b5a6d31e41dd079462d8e032b95",
            16,
        ),
    ),
    "rsa-b": (
        int(
            "f2d59deb74b883ebcc282abbff9c032045d62bf6eaeff44e013997b79285a634e3e55d7e9cc4d83810b34c7db919f76dddd8"
            "4d9cd48f760b59fb9b4baa2abc3c108016bd2f12b945e6699939d8625826590e60d14f57e7e435f4b404b606bc11e2925fe4"
            "5225dacda82d2003acdee16c93f41791cc521b3361add64053572389",
            16,
        ),
        int(
            "dc14d0b19c6523c4112ba9f3e48175acc1c2d823c816604fa9a29bd9359929b10beaf06522ec4a2e040d034831ae197a4978"
            "f02c618110a7edad89eb2830fe90298beb08048bf84913098d3a5936013f6be56e4309dd30bef381e632f94ce7a9cc7dcd52"
            "135de5dbd04f1556b298a56b5301e6e1a623f4a3557babf0926a5eaf",
            16,
        ),
    ),
}


# --- keys ---------------------------------------------------------------------------------------


@cache
def private_key(name: str, alg: str = "EdDSA") -> crypto.PrivateKey:
    """Return the private key of a name; for RS256 and PS256 the names are rsa-a and rsa-b."""
    if alg in crypto.RSA_ALGS:
        return rsa_key(*_RSA_PRIMES[name])
    if alg == "ES256":
        return ec.derive_private_key(int.from_bytes(noise(f"P-256 {name}", 31), "big"), ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.from_private_bytes(noise(f"Ed25519 {name}", 32))


def rsa_key(p: int, q: int, e: int = crypto.RSA_EXPONENT) -> rsa.RSAPrivateKey:
    """Return the RSA key of two primes."""
    d = pow(e, -1, (p - 1) * (q - 1))
    return rsa.RSAPrivateNumbers(
        p=p,
        q=q,
        d=d,
        dmp1=rsa.rsa_crt_dmp1(d, p),
        dmq1=rsa.rsa_crt_dmq1(d, q),
        iqmp=rsa.rsa_crt_iqmp(p, q),
        public_numbers=rsa.RSAPublicNumbers(e, p * q),
    ).private_key(unsafe_skip_rsa_key_validation=True)


@cache
def pkcs8(name: str, alg: str = "EdDSA") -> bytes:
    """Return a private key as PKCS#8."""
    return private_key(name, alg).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def sig_key(name: str, state: State = State.ACTIVE, *, alg: str = "EdDSA", now: int = NOW) -> Key:
    """Return a signing key in a state."""
    key = signing_key(pkcs8(name, alg), alg=alg, state=State.NEXT, now=now, activated=None)
    return moved(key, state, now=now)


def enc_key(name: str, state: State = State.ACTIVE, *, now: int = NOW) -> Key:
    """Return an encryption key in a state."""
    key = encryption_key(
        noise(f"secret {name}", 32), noise(f"kid {name}", 16), state=State.NEXT, now=now, activated=None
    )
    return moved(key, state, now=now)


def moved(key: Key, state: State, *, now: int) -> Key:
    """Return a key in a later state, with the times and the material that belong to it."""
    if state is State.ACTIVE:
        return replace(key, state=state, activated=now)
    if state is State.RETIRED:
        material = key.public.spki if key.use == "sig" else key.material
        return replace(key, state=state, activated=key.activated or now, retired=now, material=material)
    return replace(key, state=state)


def fresh_keys(name: str, alg: str = "EdDSA") -> FreshKeys:
    """Return new material, as `sig_key` and `enc_key` of that name have it."""
    return FreshKeys(pkcs8=pkcs8(name, alg), secret=noise(f"secret {name}", 32), secret_kid=noise(f"kid {name}", 16))


def standing_keys(name: str = "") -> tuple[Key, ...]:
    """Return one active and one next key of each use."""
    return (
        sig_key(f"{name}A"),
        enc_key(f"{name}A"),
        sig_key(f"{name}B", State.NEXT),
        enc_key(f"{name}B", State.NEXT),
    )


# --- keysets and envelopes ----------------------------------------------------------------------


def make_keyset(
    epoch: int = 1,
    *,
    ancestors: tuple[bytes, ...] | None = None,
    keys: tuple[Key, ...] | None = None,
    revoked: tuple[Revocation, ...] = (),
    lineage: str = LINEAGE,
    policy: Policy | None = None,
    issued: int = NOW,
) -> Keyset:
    """Return a keyset; its ancestors are invented where none are given."""
    if ancestors is None:
        invented = range(epoch - 1, max(0, epoch - 1 - MAX_ANCESTORS), -1)
        ancestors = tuple(noise(f"envelope {number}", DIGEST_BYTES) for number in invented)
    return Keyset(
        lineage=lineage,
        epoch=epoch,
        issued=issued,
        policy=policy or Policy(),
        ancestors=ancestors,
        keys=standing_keys() if keys is None else keys,
        revoked=revoked,
    )


def seal_plaintext(
    plaintext: bytes,
    *,
    epoch: int = 1,
    token: BootstrapToken = TOKEN,
    place: Place = PLACE,
    lineage: str = LINEAGE,
    typ: str = KEYSET_TYPE,
) -> bytes:
    """Return an envelope around any plaintext."""
    nonce = noise(f"{plaintext.hex()} {epoch} {token.token_id} {place} {lineage}", 44)
    return seal(
        plaintext,
        token=token,
        place=place,
        lineage=lineage,
        epoch=epoch,
        issued=NOW,
        rnd=nonce[:32],
        iv=nonce[32:],
        typ=typ,
    )


def seal_for(keyset: Keyset, *, token: BootstrapToken = TOKEN, place: Place = PLACE) -> bytes:
    """Return the envelope of a keyset; the same for the same keyset, token and place."""
    return hold(keyset, token=token, place=place).envelope


def hold(keyset: Keyset, *, token: BootstrapToken = TOKEN, place: Place = PLACE) -> Held:
    """Return a keyset as a node holds it."""
    plaintext = serialise_keyset(keyset)
    nonce = noise(f"{plaintext.hex()} {keyset.lineage} {keyset.epoch} {token.token_id} {place}", 44)
    envelope = seal(
        plaintext,
        token=token,
        place=place,
        lineage=keyset.lineage,
        epoch=keyset.epoch,
        issued=keyset.issued,
        rnd=nonce[:32],
        iv=nonce[32:],
    )
    return Held(keyset=keyset, envelope=envelope, plaintext=plaintext, token_id=token.token_id)


def demands(
    held: Held | None = None,
    *,
    floor: Floor | None = None,
    tokens: tuple[BootstrapToken, ...] = (TOKEN,),
    place: Place = PLACE,
    lineage: str | None = None,
    min_epoch: int = 0,
) -> Demands:
    """Return what a node demands: by default one without state, that holds `TOKEN` and pins nothing."""
    return Demands(place=place, tokens=tokens, lineage=lineage, min_epoch=min_epoch, held=held, floor=floor)


def floor_of(held: Held, *, superseded: frozenset[str] = frozenset(), revoked: frozenset[str] = frozenset()) -> Floor:
    """Return the floor of a node that accepted a keyset."""
    keyset = held.keyset
    return Floor(
        lineage=keyset.lineage,
        epoch=keyset.epoch,
        digest=held.digest,
        token_id=held.token_id,
        superseded=superseded,
        revoked=revoked | {entry.kid for entry in keyset.revoked},
    )


# --- histories ----------------------------------------------------------------------------------


class Change(Enum):
    """What one epoch does to the keys of each use."""

    RESEAL = "nothing, but a new seal"
    ROTATE = "next becomes active, active retires, a new next appears"
    REPLACE_NEXT = "next is gone, a new next appears"
    DROP = "the oldest retired key is gone"
    REVOKE_ACTIVE = "active is revoked, next becomes active, a new next appears"
    REVOKE_RETIRED = "the newest retired key is revoked"
    REVOKE_ALL = "every key is revoked and replaced"
    FORGET = "the oldest revocation leaves the list"


def first(name: str = "", *, lineage: str = LINEAGE, token: BootstrapToken = TOKEN) -> Held:
    """Return a genesis; another name has other keys."""
    fresh = [fresh_keys(f"{name}{which}") for which in "AB"]
    keyset = first_keyset(lineage=lineage, now=NOW, policy=Policy(), alg="EdDSA", active=fresh[0], following=fresh[1])
    return hold(keyset, token=token)


def extend(before: Held, change: Change, *, name: str = "", token: BootstrapToken = TOKEN) -> Held:
    """Return the next epoch of a history; another name has other new keys."""
    keyset = before.keyset
    now, epoch = keyset.issued + DAY, keyset.epoch + 1
    keys: list[Key] = []
    for use in ("sig", "enc"):
        of_use = [key for key in keyset.keys if key.use == use]
        keys += _changed(of_use, change, f"{name}{epoch}", now)
    listed = {key.kid for key in keys}
    revoked = list(keyset.revoked)
    if change in (Change.REVOKE_ACTIVE, Change.REVOKE_RETIRED, Change.REVOKE_ALL):
        gone = [key.kid for key in keyset.keys if key.kid not in listed]
        revoked += [Revocation(kid=kid, at=now, reason="test") for kid in gone]
    elif change is Change.FORGET:
        revoked = revoked[1:]
    ancestors = (before.digest, *keyset.ancestors)[:MAX_ANCESTORS]
    after = replace(keyset, epoch=epoch, issued=now, ancestors=ancestors, keys=tuple(keys), revoked=tuple(revoked))
    return hold(after, token=token)


def _changed(keys: list[Key], change: Change, name: str, now: int) -> list[Key]:  # noqa: PLR0911 - one a change
    active, following = (next(key for key in keys if key.state is state) for state in (State.ACTIVE, State.NEXT))
    retired = [key for key in keys if key.state is State.RETIRED]  # newest first

    def new(state: State) -> Key:
        make = sig_key if active.use == "sig" else enc_key
        return make(f"{name} {state}", state, now=now)

    match change:
        case Change.RESEAL | Change.FORGET:
            return keys
        case Change.ROTATE:
            past = [moved(active, State.RETIRED, now=now), *retired][:MAX_RETIRED]
            return [moved(following, State.ACTIVE, now=now), new(State.NEXT), *past]
        case Change.REPLACE_NEXT:
            return [active, new(State.NEXT), *retired]
        case Change.DROP:
            return [active, following, *retired[:-1]]
        case Change.REVOKE_ACTIVE:
            return [moved(following, State.ACTIVE, now=now), new(State.NEXT), *retired]
        case Change.REVOKE_RETIRED:
            return [active, following, *retired[1:]]
        case Change.REVOKE_ALL:
            return [new(State.ACTIVE), new(State.NEXT)]


def history(changes: Sequence[Change], *, start: Held | None = None, name: str = "") -> list[Held]:
    """Return the epochs that changes make, from a genesis or from `start`, which comes first."""
    epochs = [start or first()]
    for change in changes:
        epochs.append(extend(epochs[-1], change, name=name))
    return epochs


@cache
def chain(epochs: int) -> tuple[Held, ...]:
    """Return a history of so many epochs, a rotation each: `chain(n)[e - 1]` is epoch e."""
    return (first(),) if epochs == 1 else (*chain(epochs - 1), extend(chain(epochs - 1)[-1], Change.ROTATE))


def altered(envelope: bytes, offset: int) -> bytes:
    """Return an envelope with one character changed into another of the alphabet."""
    other = b"B" if envelope[offset : offset + 1] == b"A" else b"A"
    return envelope[:offset] + other + envelope[offset + 1 :]


# --- nodes and what they note -------------------------------------------------------------------


def make_record(held: Held | None = None, *, node: str = "node-1", **members: object) -> Record:
    """Return what a node says that uses a keyset; other members as given."""
    held = held or first()
    said: dict[str, Any] = {
        "instance": noise(f"instance {node}", 16).hex(),
        "machine": noise(f"machine {node}", 16).hex(),
        "role": Role.FOLLOWER,
        "counter": 1,
        "heartbeat": 20,
        "lineage": held.keyset.lineage,
        "epoch": held.keyset.epoch,
        "digest": held.digest,
        "kid": held.keyset.active.kid,
        "token": held.token_id,
        "tokens": (held.token_id,),
        "persisted": NOW,
        "loaded": NOW,
        "minted": {},
        "version": "1.0.0",
    }
    said.update(members)
    return Record(node=node, **said)


def sealed_record(record: Record, *, token: BootstrapToken = TOKEN, place: Place = PLACE) -> bytes:
    """Return a record as its node writes it; the same for the same record, token and place."""
    nonce = noise(f"{record} {token.token_id} {place}", 44)
    return seal_record(record, token=token, place=place, now=NOW, rnd=nonce[:32], iv=nonce[32:])


def seal_as_record(plaintext: bytes, *, node: str = "node-1", token: BootstrapToken = TOKEN) -> bytes:
    """Return any plaintext sealed as the record of a node."""
    return seal_plaintext(plaintext, token=token, place=record_place(PLACE, node), typ="keydist-node+jwe")


def make_fleet(*records: Record, rose: float = 0.0) -> Fleet:
    """Return a fleet that was seen whole at one moment of the reader's clock."""
    return {(record.node, record.instance, record.machine): Sighting(record, rose) for record in records}


def notes_of(held: Held, *, at: int = NOW, **since: Mapping[str, int]) -> Notes:
    """Return notes of a node that holds each key in its state since `at`; `since` names other times, state → kid."""
    states = {key.kid: key.state for key in held.keyset.keys}
    states |= {entry.kid: State.REVOKED for entry in held.keyset.revoked}
    return Notes(
        keys={kid: {state.value: since.get(state.value, {}).get(kid, at)} for kid, state in states.items()},
        tokens={held.token_id: at},
        lifetimes={held.keyset.policy.max_lifetime: at},
    )
