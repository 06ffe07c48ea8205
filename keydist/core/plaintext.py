"""The plaintext of an envelope: a keyset as strict JSON, one shape only.

Lineage, epoch and issue time stand in the envelope's header, which is authenticated with it. Parsing
recomputes the thumbprint of every signing key, so that a kid always names the key that it claims to name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from keydist.core import crypto
from keydist.core.jwk import thumbprint
from keydist.core.keyset import DIGEST_BYTES, LISTED, MAX_ANCESTORS, Key, Keyset, Revocation, State
from keydist.core.policy import parse_policy
from keydist.core.strict import (
    array_of,
    ascii_text,
    b64url_decode,
    b64url_encode,
    exact_members,
    fixed,
    integer,
    parse_object,
    serialise,
)
from keydist.errors import MalformedError

MAX_KEYS: Final = 2 * (1 + 1 + 16)
MAX_REVOKED: Final = 256
MAX_REASON: Final = 64
ENC_ALG: Final = "A256GCM"
ENC_KID_BYTES: Final = 16

_TIMES: Final = ("created", "published", "activated", "retired", "verify_until")
_NOT_BEFORE: Final = {"activated": frozenset({State.ACTIVE, State.RETIRED}), "retired": frozenset({State.RETIRED})}
_KEY_REQUIRED: Final = frozenset({"kid", "use", "alg", "state", "created"})


def serialise_keyset(keyset: Keyset) -> bytes:
    """Return the plaintext of a keyset's envelope. It holds private keys."""
    return serialise(
        {
            "policy": keyset.policy.as_json(),
            "anc": [b64url_encode(digest) for digest in keyset.ancestors],
            "keys": [_key_json(key) for key in keyset.keys],
            "revoked": [{"kid": entry.kid, "at": entry.at, "reason": entry.reason} for entry in keyset.revoked],
        }
    )


def parse_keyset(raw: bytes, *, lineage: str, epoch: int, issued: int, validate: bool = False) -> Keyset:
    """Parse a plaintext whose header says `lineage`, `epoch` and `issued` (acceptance step 9).

    `validate` also tests RSA primes: for bytes that no tag or checksum vouches for. Raises `MalformedError`.
    """
    value = parse_object(raw, "the keyset")
    exact_members(value, frozenset({"policy", "anc", "keys", "revoked"}), frozenset(), "the keyset")
    return Keyset(
        lineage=lineage,
        epoch=epoch,
        issued=issued,
        policy=parse_policy(value["policy"]),
        ancestors=array_of(value["anc"], lambda item: fixed(item, DIGEST_BYTES, "anc"), "anc", most=MAX_ANCESTORS),
        keys=array_of(value["keys"], lambda item: _parse_key(item, validate=validate), "keys", most=MAX_KEYS),
        revoked=array_of(value["revoked"], _parse_revocation, "revoked", most=MAX_REVOKED),
    )


def _key_json(key: Key) -> dict[str, object]:
    times = {name: value for name in _TIMES if (value := getattr(key, name)) is not None}
    return {
        "kid": key.kid,
        "use": key.use,
        "alg": key.alg,
        "state": key.state.value,
        **times,
        _material_member(key.use, key.state): b64url_encode(key.material),
    }


def _material_member(use: str, state: State) -> str:
    if use == "enc":
        return "k"
    return "spki" if state is State.RETIRED else "pkcs8"


def _parse_key(value: object, *, validate: bool) -> Key:
    if not isinstance(value, dict):
        raise MalformedError("a key is not an object", expected="an object")
    use, state = _parse_use(value.get("use")), _parse_state(value.get("state"))
    material_name = _material_member(use, state)
    exact_members(value, _KEY_REQUIRED | {material_name}, frozenset(_TIMES), "a key")
    times = {name: integer(value[name], f"keys.{name}") for name in _TIMES if name in value}
    for name, states in _NOT_BEFORE.items():
        if name in times and state not in states:
            raise MalformedError(f"a {state.value} key says when it was {name}", expected=f"no {name}")
    kid, alg, text = value["kid"], value["alg"], value[material_name]
    if not isinstance(text, str):
        raise MalformedError("key material is not text", expected="base64url")
    material = b64url_decode(text, "key material")
    if use == "enc":
        return _encryption_key(kid, alg, state, times, material)
    part = _signing_part(alg, state, material, validate=validate)
    if kid != thumbprint(part.members):
        raise MalformedError("a kid is not the thumbprint of its key", expected="the RFC 7638 SHA-256 thumbprint")
    return replace(_key(kid, alg, use=use, state=state, times=times, material=material), public_part=part)


def _key(kid: object, alg: object, *, use: str, state: State, times: dict[str, int], material: bytes) -> Key:
    return Key(
        kid=str(kid),
        use=use,
        alg=str(alg),
        state=state,
        created=times["created"],
        published=times.get("published"),
        activated=times.get("activated"),
        retired=times.get("retired"),
        verify_until=times.get("verify_until"),
        material=material,
    )


def _parse_use(value: object) -> str:
    if value not in ("sig", "enc"):
        raise MalformedError("a key has an unknown use", expected="sig or enc")
    return str(value)


def _parse_state(value: object) -> State:
    if not isinstance(value, str) or value not in {state.value for state in LISTED}:
        raise MalformedError("a key has an unknown state", expected="next, active or retired")
    return State(value)


def _encryption_key(kid: object, alg: object, state: State, times: dict[str, int], material: bytes) -> Key:
    if alg != ENC_ALG:
        raise MalformedError("an encryption key has an unsupported algorithm", expected=ENC_ALG)
    if len(material) != crypto.KEY_BYTES:
        raise MalformedError("an encryption key has the wrong length", expected=f"{crypto.KEY_BYTES} bytes")
    fixed(kid, ENC_KID_BYTES, "the kid of an encryption key")
    return _key(kid, ENC_ALG, use="enc", state=state, times=times, material=material)


def _signing_part(alg: object, state: State, material: bytes, *, validate: bool) -> crypto.PublicPart:
    if not isinstance(alg, str) or alg not in crypto.SIGNING_ALGS:
        raise MalformedError(
            "a signing key has an unsupported algorithm", expected=", ".join(sorted(crypto.SIGNING_ALGS))
        )
    if state is State.RETIRED:
        return crypto.public_of_spki(material, alg)
    return crypto.public_of_private(material, alg, validate=validate)


def parse_kid(value: object) -> str:
    """Return a kid of either kind: base64url of 32 bytes (thumbprint) or 16 bytes (symmetric).

    Raises `MalformedError`.
    """
    size = ENC_KID_BYTES if isinstance(value, str) and len(value) == len(b64url_encode(bytes(ENC_KID_BYTES))) else 32
    fixed(value, size, "a kid")
    return str(value)


def _parse_revocation(value: object) -> Revocation:
    if not isinstance(value, dict):
        raise MalformedError("a revocation is not an object", expected="an object")
    exact_members(value, frozenset({"kid", "at", "reason"}), frozenset(), "a revocation")
    reason = value["reason"]
    if not isinstance(reason, str) or len(reason.encode("utf-8", "surrogatepass")) > MAX_REASON:
        raise MalformedError("a revocation's reason is out of range", expected=f"text of at most {MAX_REASON} bytes")
    if reason:
        ascii_text(reason, "a revocation's reason", most=MAX_REASON)
    return Revocation(kid=parse_kid(value["kid"]), at=integer(value["at"], "revoked.at"), reason=reason)
