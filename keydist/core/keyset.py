"""The keyset: an immutable set of keys with their states, and the one table of legal transitions.

States advance `next → active → retired → gone`; `revoked` is reached from any of them and never left. One
epoch takes one step of the table; a node that catches up over several epochs sees several steps at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from keydist.core.crypto import PublicPart
from keydist.core.policy import Policy
from keydist.errors import MalformedError

MAX_ANCESTORS: Final = 64
MAX_RETIRED: Final = 16
MAX_NEXT: Final = 1
DIGEST_BYTES: Final = 16


class State(StrEnum):
    """Where a key stands; `ABSENT` before it was first published, `GONE` after it was dropped."""

    ABSENT = "absent"
    NEXT = "next"
    ACTIVE = "active"
    RETIRED = "retired"
    REVOKED = "revoked"
    GONE = "gone"


LISTED: Final = frozenset({State.NEXT, State.ACTIVE, State.RETIRED})
"""The states that stand in a keyset's `keys`."""

STEPS: Final[dict[State, frozenset[State]]] = {
    # A key may appear active only where an emergency leaves no time to publish it first.
    State.ABSENT: frozenset({State.ABSENT, State.NEXT, State.ACTIVE}),
    State.NEXT: frozenset({State.NEXT, State.ACTIVE, State.REVOKED, State.GONE}),
    State.ACTIVE: frozenset({State.ACTIVE, State.RETIRED, State.REVOKED}),
    State.RETIRED: frozenset({State.RETIRED, State.REVOKED, State.GONE}),
    State.REVOKED: frozenset({State.REVOKED}),
    State.GONE: frozenset({State.GONE}),
}
"""What one epoch may do to a key."""


def _closure() -> dict[State, frozenset[State]]:
    reach = dict(STEPS)
    for _ in State:
        reach = {state: frozenset().union(*(reach[later] for later in targets)) for state, targets in reach.items()}
    return reach


REACHABLE: Final = _closure()
"""What several epochs may do to a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key, its times in unix seconds.

    `material` is PKCS#8 (sig: next, active), SubjectPublicKeyInfo (sig: retired) or 32 bytes (enc).
    """

    kid: str
    use: str
    alg: str
    state: State
    created: int
    published: int | None = None
    activated: int | None = None
    retired: int | None = None
    verify_until: int | None = None
    material: bytes = field(repr=False)
    public_part: PublicPart | None = field(default=None, repr=False)

    @property
    def public(self) -> PublicPart:
        """The public part of a signing key."""
        if self.public_part is None:
            raise MalformedError("a symmetric key has no public part")
        return self.public_part


class Revocation(NamedTuple):
    """A key that must never be accepted again: since when (unix seconds) and why (at most 64 bytes)."""

    kid: str
    at: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyset:
    """The keys of one epoch of one lineage; `ancestors` are digests of earlier envelopes, newest first."""

    lineage: str
    epoch: int
    issued: int
    policy: Policy
    ancestors: tuple[bytes, ...]
    keys: tuple[Key, ...]
    revoked: tuple[Revocation, ...] = ()

    def __post_init__(self) -> None:
        """Check the invariants of acceptance step 9 that span several members. Raises `MalformedError`."""
        if len(self.ancestors) != min(self.epoch - 1, MAX_ANCESTORS):
            raise MalformedError(
                "the keyset's ancestry does not fit its epoch",
                expected=f"{min(self.epoch - 1, MAX_ANCESTORS)} digests",
                found=str(len(self.ancestors)),
            )
        for use in ("sig", "enc"):
            self._check_counts(use)
        kids = [key.kid for key in self.keys] + [entry.kid for entry in self.revoked]
        if len(set(kids)) != len(kids):
            raise MalformedError("a kid stands twice in the keyset", expected="each kid once, listed or revoked")

    def _check_counts(self, use: str) -> None:
        counts = dict.fromkeys(LISTED, 0)
        for key in self.keys:
            if key.use == use:
                counts[key.state] += 1
        if counts[State.ACTIVE] != 1 or counts[State.NEXT] > MAX_NEXT or counts[State.RETIRED] > MAX_RETIRED:
            raise MalformedError(
                f"the keyset has the wrong number of {use} keys",
                expected=f"1 active, at most {MAX_NEXT} next and {MAX_RETIRED} retired",
                found=", ".join(f"{counts[state]} {state.value}" for state in sorted(counts)),
            )

    @property
    def active(self) -> Key:
        """The key that signs."""
        return next(key for key in self.keys if key.use == "sig" and key.state is State.ACTIVE)

    def signing_keys(self) -> Iterator[Key]:
        """Yield the signing keys, in the order of the keyset."""
        return (key for key in self.keys if key.use == "sig")

    def state_of(self, kid: str) -> State:
        """Return the state of a kid here; `ABSENT` where it is neither listed nor revoked."""
        if any(entry.kid == kid for entry in self.revoked):
            return State.REVOKED
        return next((key.state for key in self.keys if key.kid == kid), State.ABSENT)


def check_advance(old: Keyset, new: Keyset) -> None:
    """Check that every key only advances from `old` to `new`, a later epoch. Raises `MalformedError`.

    A kid keeps its algorithm, use, creation time and symmetric material, and its `verify_until` is never lowered.
    """
    table = STEPS if new.epoch == old.epoch + 1 else REACHABLE
    for kid in {key.kid for key in (*old.keys, *new.keys)} | {entry.kid for entry in new.revoked}:
        before, after = old.state_of(kid), new.state_of(kid)
        if after is State.ABSENT and before is not State.ABSENT:
            after = State.GONE
        if after not in table[before]:
            raise MalformedError(
                f"key {kid} goes from {before.value} to {after.value}",
                expected=" or ".join(sorted(state.value for state in table[before])),
                found=after.value,
                fix="the writer of this epoch is faulty: compare the versions of keydist on the nodes",
            )
    earlier = {key.kid: key for key in old.keys}
    for key in new.keys:
        if key.kid in earlier:
            _check_same_key(earlier[key.kid], key)


def _check_same_key(old: Key, new: Key) -> None:
    fixed = (old.use, old.alg, old.created) == (new.use, new.alg, new.created)
    if not fixed or (old.use == "enc" and old.material != new.material):
        raise MalformedError(
            f"key {new.kid} is not the key that this node holds", expected="the same key, only advanced"
        )
    if old.verify_until is not None and (new.verify_until is None or new.verify_until < old.verify_until):
        raise MalformedError(f"key {new.kid} has its verify_until lowered", expected=f"at least {old.verify_until}")
