"""Accepting an envelope: the steps, in order; the first failure is the answer and the last good keyset stays.

0 the accepted bytes again: nothing to do; an ancestor of mine: `RollbackError` (neither needs a token) ·
1–4 shape, version · 5 cluster and place equal local configuration · 6 the token is held and not superseded ·
7 commitment · 8 authentication · 9 invariants · 10 lineage · 11 epoch and ancestry · 12 keys only advance.
Step 13, persist then use, is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from keydist.core.envelope import Envelope, Place, digest, open_envelope, parse_envelope
from keydist.core.keyset import Keyset, check_advance
from keydist.core.plaintext import parse_keyset
from keydist.core.strict import b64url_encode
from keydist.core.token import BootstrapToken
from keydist.errors import ForeignClusterError, ForkError, MalformedError, RollbackError, WrongTokenError

RESOLVE: Final = "see both sides with: keydist store resolve --keep local --dry-run"


class Floor(NamedTuple):
    """What a node will not go back behind: the highest epoch it accepted, and what it saw superseded and revoked.

    `lineage` and `token_id` are None where a lost floor was put together from other files that do not say.
    """

    lineage: str | None
    epoch: int
    digest: bytes
    token_id: str | None
    superseded: frozenset[str] = frozenset()
    revoked: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An opened, verified keyset with the envelope that it came in."""

    keyset: Keyset
    envelope: bytes = field(repr=False)
    plaintext: bytes = field(repr=False)
    token_id: str

    @property
    def digest(self) -> bytes:
        """The envelope's digest (16 bytes)."""
        return digest(self.envelope)


class Demands(NamedTuple):
    """What this node demands of an envelope: its place, tokens, pinned lineage, least epoch, and what it has."""

    place: Place
    tokens: tuple[BootstrapToken, ...]
    lineage: str | None = None
    min_epoch: int = 0
    held: Held | None = None
    floor: Floor | None = None


class Unchanged(NamedTuple):
    """The envelope is the accepted one."""


class Accepted(NamedTuple):
    """An envelope that may be installed; `ancestry_unproven` where it is more than 64 epochs ahead."""

    held: Held
    ancestry_unproven: bool = False


def accept(raw: bytes, demands: Demands) -> Accepted | Unchanged:
    """Apply every step to the bytes of an envelope.

    Raises `MalformedError`, `UnsupportedError`, `ForeignClusterError`, `WrongTokenError`, `CommitmentError`,
    `TamperedError`, `ForkError`, `RollbackError`.
    """
    mine = demands.held
    if mine is not None:
        if raw == mine.envelope:
            return Unchanged()
        if digest(raw) in mine.keyset.ancestors:
            raise _rolled_back(mine.keyset.epoch)
    held = open_held(raw, demands)
    _check_lineage(held.keyset, demands)
    unproven = _check_epoch(held, demands)
    _check_advance(held.keyset, demands)
    return Accepted(held=held, ancestry_unproven=unproven)


def open_held(raw: bytes, demands: Demands) -> Held:
    """Apply steps 1 to 9: what the bytes are, without asking what history they belong to."""
    envelope = parse_envelope(raw)
    check_place(envelope, demands.place)
    token = _held_token(envelope, demands)
    plaintext = open_envelope(envelope, token)
    header = envelope.header
    keyset = parse_keyset(plaintext, lineage=header.lineage, epoch=header.epoch, issued=header.issued)
    return Held(keyset=keyset, envelope=raw, plaintext=plaintext, token_id=header.token_id)


def check_place(envelope: Envelope, place: Place) -> None:
    """Compare cluster and location with local configuration (step 5). Raises `ForeignClusterError`."""
    found = Place(cluster=envelope.header.cluster, location=envelope.header.location)
    if found != place:
        raise ForeignClusterError(
            "the envelope belongs to another cluster or place",
            expected=f"{place.cluster} at {place.location}",
            found=f"{found.cluster} at {found.location}",
            fix="check cluster:, nats.servers:, nats.bucket: and nats.entry: in the configuration",
        )


def _held_token(envelope: Envelope, demands: Demands) -> BootstrapToken:
    need = envelope.header.token_id
    have = tuple(token.token_id for token in demands.tokens)
    if demands.floor is not None and need in demands.floor.superseded:
        raise WrongTokenError(
            "the envelope is sealed under a token that this node has seen replaced",
            have=have,
            need=need,
            fix="the store went back to before the token's replacement: a leader with the newer epoch puts it right",
        )
    for token in demands.tokens:
        if token.token_id == need:
            return token
    raise WrongTokenError(
        "the envelope is sealed under a token that this node does not hold",
        have=have,
        need=need,
        fix=f"put the token with id {need} into the token file",
    )


def _check_lineage(keyset: Keyset, demands: Demands) -> None:
    pins = [demands.lineage, demands.floor.lineage if demands.floor else None]
    pins.append(demands.held.keyset.lineage if demands.held else None)
    for pin in pins:
        if pin is not None and keyset.lineage != pin:
            raise ForkError(
                "the envelope is of another lineage",
                expected=f"lineage {pin}",
                found=f"lineage {keyset.lineage}",
                fix=RESOLVE,
            )


def _check_epoch(held: Held, demands: Demands) -> bool:
    epoch = held.keyset.epoch
    if epoch < demands.min_epoch:
        raise RollbackError(
            "the envelope is older than demanded",
            expected=f"epoch {demands.min_epoch} or later",
            found=f"epoch {epoch}",
            fix="the store was put back to an earlier state: start a node that has the newer epoch",
        )
    mine, floor = demands.held, demands.floor
    if mine is not None:
        return _check_descent(held, mine.keyset.epoch, mine.digest)
    if floor is not None:
        if epoch < floor.epoch:
            raise _rolled_back(floor.epoch, found=epoch)
        return held.digest != floor.digest and _check_descent(held, floor.epoch, floor.digest)
    return False


def _check_descent(held: Held, my_epoch: int, my_digest: bytes) -> bool:
    """Check that `held` descends from my envelope; return whether its ancestry no longer reaches back to mine."""
    epoch, ancestors = held.keyset.epoch, held.keyset.ancestors
    behind = epoch - my_epoch - 1  # where my digest stands: ancestors[0] is the envelope of epoch - 1
    if behind < 0 or (behind < len(ancestors) and ancestors[behind] != my_digest):
        raise ForkError(
            "the envelope is of another history than the keyset on this node",
            expected=f"a descendant of epoch {my_epoch} ({b64url_encode(my_digest)})",
            found=f"epoch {epoch} ({b64url_encode(held.digest)})",
            fix=RESOLVE,
        )
    return behind >= len(ancestors)


def _check_advance(keyset: Keyset, demands: Demands) -> None:
    if demands.held is not None:
        check_advance(demands.held.keyset, keyset)
    revoked = demands.floor.revoked if demands.floor else frozenset[str]()
    for key in keyset.keys:
        if key.kid in revoked:
            raise MalformedError(
                f"key {key.kid} is listed again after it was revoked",
                expected="a revoked key stays revoked",
                found=key.state.value,
                fix=RESOLVE,
            )


def _rolled_back(mine: int, *, found: int | None = None) -> RollbackError:
    return RollbackError(
        "the store went back to an earlier epoch of this lineage",
        expected=f"epoch {mine} or later",
        found="an ancestor of it" if found is None else f"epoch {found}",
        fix="a leader that has the newer epoch puts it back: keydist store republish",
    )
