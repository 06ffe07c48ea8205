"""The small JSON files of the state directory: floor, when keys were seen, when the epoch was confirmed, checksums.

Written by keydist alone, and parsed as strictly as what comes from the store. Raises `MalformedError`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from keydist.core.accept import Floor
from keydist.core.keyset import DIGEST_BYTES, State
from keydist.core.local import Confirmation, Start
from keydist.core.notes import Notes
from keydist.core.plaintext import parse_kid
from keydist.core.strict import array_of, b64url_encode, exact_members, fixed, integer, is_hex, parse_object, serialise
from keydist.errors import MalformedError

_MOST: Final = 65_536
_DIGITS: Final = 16


def format_floor(floor: Floor) -> bytes:
    """Return floor.json."""
    return serialise(
        {
            "lineage": floor.lineage,
            "epoch": floor.epoch,
            "digest": b64url_encode(floor.digest),
            "token": floor.token_id,
            "superseded": sorted(floor.superseded),
            "revoked": sorted(floor.revoked),
        }
    )


def parse_floor(raw: bytes) -> Floor:
    """Parse floor.json."""
    value = parse_object(raw, "floor.json")
    names = frozenset({"lineage", "epoch", "digest", "token", "superseded", "revoked"})
    exact_members(value, names, frozenset(), "floor.json")
    return Floor(
        lineage=_hex(value["lineage"], 32, "lineage"),
        epoch=integer(value["epoch"], "epoch", least=1),
        digest=fixed(value["digest"], DIGEST_BYTES, "digest"),
        token_id=_hex(value["token"], 10, "token"),
        superseded=frozenset(
            array_of(value["superseded"], lambda v: _hex(v, 10, "superseded"), "superseded", most=_MOST)
        ),
        revoked=frozenset(array_of(value["revoked"], parse_kid, "revoked", most=_MOST)),
    )


def _hex(value: object, length: int, what: str) -> str:
    if not is_hex(value, length):
        raise MalformedError(f"{what} is not well formed", expected=f"{length} lower-case hex digits")
    return str(value)


def format_confirmation(confirmation: Confirmation) -> bytes:
    """Return confirmed.json."""
    return serialise({"epoch": confirmation.epoch, "digest": b64url_encode(confirmation.digest), "at": confirmation.at})


def parse_confirmation(raw: bytes) -> Confirmation:
    """Parse confirmed.json."""
    value = parse_object(raw, "confirmed.json")
    exact_members(value, frozenset({"epoch", "digest", "at"}), frozenset(), "confirmed.json")
    return Confirmation(
        epoch=integer(value["epoch"], "epoch", least=1),
        digest=fixed(value["digest"], DIGEST_BYTES, "digest"),
        at=integer(value["at"], "at"),
    )


def format_notes(notes: Notes) -> bytes:
    """Return seen.json."""
    done = {"republished": notes.republished, "rehearsed": notes.rehearsed}
    return serialise(
        {
            "keys": {kid: dict(states) for kid, states in notes.keys.items()},
            "tokens": dict(notes.tokens),
            "lifetimes": {str(seconds): at for seconds, at in notes.lifetimes.items()},
        }
        | {name: at for name, at in done.items() if at is not None}
    )


def parse_notes(raw: bytes) -> Notes:
    """Parse seen.json."""
    value = parse_object(raw, "seen.json")
    done = frozenset({"republished", "rehearsed"})
    exact_members(value, frozenset({"keys", "tokens", "lifetimes"}), done, "seen.json")
    keys: dict[str, dict[str, int]] = {}
    for kid, times in _object(value["keys"], "seen.json's keys").items():
        states = _object(times, "seen.json's keys")
        if not states.keys() <= {state.value for state in State}:
            raise MalformedError("seen.json names an unknown state", expected="states and times")
        keys[parse_kid(kid)] = {state: integer(at, "seen") for state, at in states.items()}
    lifetimes = _object(value["lifetimes"], "seen.json's lifetimes")
    if not all(text.isascii() and text.isdigit() and len(text) <= _DIGITS for text in lifetimes):
        raise MalformedError("seen.json names a lifetime that is no number", expected="seconds and times")
    return Notes(
        keys=keys,
        tokens={
            _hex(token, 10, "token"): integer(at, "seen")
            for token, at in _object(value["tokens"], "seen.json's tokens").items()
        },
        lifetimes={int(text): integer(at, "seen") for text, at in lifetimes.items()},
        **{name: integer(value[name], name) for name in done if name in value},
    )


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise MalformedError(f"{what} is not an object", expected="an object")
    return value


def format_start(start: Start) -> bytes:
    """Return agent.json."""
    return serialise({"instance": start.instance, "starts": start.number})


def parse_start(raw: bytes) -> Start:
    """Parse agent.json."""
    value = parse_object(raw, "agent.json")
    exact_members(value, frozenset({"instance", "starts"}), frozenset(), "agent.json")
    return Start(instance=_hex(value["instance"], 32, "instance"), number=integer(value["starts"], "starts", least=1))


def format_sums(files: Mapping[str, bytes]) -> bytes:
    """Return the checksum file of an archive directory: `<sha256>  <name>` a line, as sha256sum writes it."""
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())).encode()


def format_override(chosen: bytes) -> bytes:
    """Return override.json: the digest of a keyset that a person chose against the floor."""
    return serialise({"digest": b64url_encode(chosen)})


def parse_override(raw: bytes) -> bytes:
    """Parse override.json."""
    value = parse_object(raw, "override.json")
    exact_members(value, frozenset({"digest"}), frozenset(), "override.json")
    return fixed(value["digest"], DIGEST_BYTES, "digest")
