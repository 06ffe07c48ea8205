"""The small JSON files of the state directory: floor, when keys were seen, when the epoch was confirmed, checksums.

Written by keydist alone, and parsed as strictly as what comes from the store. Raises `MalformedError`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from keydist.core.accept import Floor
from keydist.core.keyset import DIGEST_BYTES, Keyset, State
from keydist.core.local import Confirmation
from keydist.core.plaintext import parse_kid
from keydist.core.strict import array_of, b64url_encode, exact_members, fixed, integer, is_hex, parse_object, serialise
from keydist.errors import MalformedError

Seen = dict[str, dict[str, int]]
"""kid → state → unix seconds at which this node first durably held the kid in that state."""

_MOST: Final = 65_536


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


def parse_seen(raw: bytes) -> Seen:
    """Parse seen.json."""
    value = parse_object(raw, "seen.json")
    seen: Seen = {}
    for kid, times in value.items():
        if not isinstance(times, Mapping) or not times.keys() <= {state.value for state in State}:
            raise MalformedError("seen.json names an unknown state", expected="states and times")
        seen[parse_kid(kid)] = {state: integer(at, "seen") for state, at in times.items()}
    return seen


def note_seen(seen: Seen, keyset: Keyset, now: int) -> Seen:
    """Return `seen` with what `keyset` shows first at `now`, and without the kids that it no longer names."""
    states = {key.kid: key.state.value for key in keyset.keys}
    states |= {entry.kid: State.REVOKED.value for entry in keyset.revoked}
    return {kid: {state: now} | seen.get(kid, {}) for kid, state in states.items()}


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
