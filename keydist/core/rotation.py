"""When keys may advance: a pure function of the keyset, this node's notes, the time, and the fleet's records.

Activate the next keys only a propagation after this node first durably held them as published, and only where every
live node says that it uses the very keyset that publishes them: both, always. Drop a retired key only where no JWT
minted with it can still be valid anywhere. Where this node put its keyset back into a store that had lost it, both
waits begin anew: until then the store may have confirmed an earlier epoch to somebody. Any number of leaders may
decide: compare-and-set picks one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.core.fleet import lacking
from keydist.core.jwk import bits_of
from keydist.core.keyset import MAX_RETIRED, State
from keydist.errors import KeydistError, OverdueError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keydist.core.accept import Held
    from keydist.core.keyset import Key
    from keydist.core.notes import Notes
    from keydist.core.policy import Policy
    from keydist.core.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a decision is made from; `now` is unix seconds of this node's clock.

    `live` are the records of the living, `records` those of every node that was seen, `without` the names that a
    person leaves out.
    """

    held: Held
    notes: Notes
    now: int
    live: tuple[Record, ...] = ()
    records: tuple[Record, ...] = ()
    without: frozenset[str] = field(default_factory=frozenset)

    @property
    def policy(self) -> Policy:
        """The cluster's policy."""
        return self.held.keyset.policy

    def since(self, key: Key) -> int:
        """Return since when this node holds a key in its state."""
        return self.notes.since(key.kid, key.state, now=self.now)

    def known_since(self, kid: str, state: State) -> int:
        """Return since when nobody is told by the store that a key has not reached a state yet."""
        return max(self.notes.since(kid, state, now=self.now), self.notes.republished or 0)


class Gate(NamedTuple):
    """Whether the next keys may be activated: not before `opens` (unix seconds), and not while a node lacks them."""

    opens: int
    lacking: tuple[str, ...]
    is_open: bool


class Wanted(NamedTuple):
    """Why and since when a rotation is due."""

    at: int
    why: str


class Rotate(NamedTuple):
    """Activate the next keys, publish new ones, and let these retired keys and revocations go."""

    why: str
    drop: tuple[str, ...]


class Publish(NamedTuple):
    """Publish the next keys that are missing."""

    uses: tuple[str, ...]


class Drop(NamedTuple):
    """Let these retired keys and revocations go."""

    kids: tuple[str, ...]


class Wait(NamedTuple):
    """Do nothing; `lacking` nodes keep a rotation from what it would do now."""

    lacking: tuple[str, ...] = ()


Step = Rotate | Publish | Drop | Wait
SCHEDULE: Final = "its time came"
COUNT: Final = "it signed as many JWTs as the policy allows"
CHANGE: Final = "another kind of key is waiting to sign"


def decide(situation: Situation) -> Step:
    """Return what a leader does now without being asked."""
    missing = tuple(use for use in ("sig", "enc") if _next(situation, use) is None)
    if missing:
        return Publish(uses=missing)
    wanted, ripe = due(situation), droppable(situation)
    gate = activation(situation)
    if wanted is not None and situation.now >= wanted.at and gate.is_open and room(situation) is None:
        return Rotate(why=wanted.why, drop=ripe)
    if ripe:
        return Drop(kids=ripe)
    waits = wanted is not None and situation.now >= max(wanted.at, gate.opens)
    return Wait(lacking=gate.lacking if waits else ())


def activation(situation: Situation) -> Gate:
    """Return whether the next keys may sign now: the wait and the acknowledgements, both."""
    keys = situation.held.keyset.keys
    published = [situation.known_since(key.kid, key.state) for key in keys if key.state is State.NEXT]
    opens = max(published, default=situation.now) + publication(situation.policy)
    asked = [record for record in situation.live if record.node not in situation.without]
    absent = lacking(situation.held, asked)
    return Gate(opens=opens, lacking=absent, is_open=situation.now >= opens and not absent)


def publication(policy: Policy) -> int:
    """Return for how many seconds a next key is published before it signs, though D were the least that is allowed.

    A read may be answered late by R; who sent it counts as fresh for V, and its JWK Set is used for A. The clocks of
    that node and of this leader may each go from one end of the skew to the other meanwhile.
    """
    caches = policy.stale_read + policy.freshness + policy.jwks_max_age
    return max(policy.propagation, caches + 4 * policy.skew)


def due(situation: Situation) -> Wanted | None:
    """Return when and why the next rotation is due, the earliest reason; None where the policy asks for none."""
    return min(_reasons(situation), key=lambda wanted: wanted.at, default=None)


def _reasons(situation: Situation) -> Iterator[Wanted]:
    active, following, policy = situation.held.keyset.active, _next(situation, "sig"), situation.policy
    if following is not None and (following.alg, bits_of(following)) != (active.alg, bits_of(active)):
        yield Wanted(at=situation.since(following) + publication(policy), why=CHANGE)
    if 0 < policy.max_tokens_per_key <= minted(situation, active.kid):
        yield Wanted(at=situation.now, why=COUNT)
    if policy.rotate_every:
        yield Wanted(at=situation.since(active) + policy.rotate_every, why=SCHEDULE)


def minted(situation: Situation, kid: str) -> int:
    """Return how many JWTs the nodes say that they minted with a key."""
    return sum(record.minted[kid].jwts for record in situation.records if kid in record.minted)


def droppable(situation: Situation) -> tuple[str, ...]:
    """Return the retired keys and the revocations that may go now."""
    return tuple(kid for kid, at in drop_times(situation) if situation.now >= at)


def drop_times(situation: Situation) -> Iterator[tuple[str, int]]:
    """Yield each retired key and each revocation with the time (unix seconds) at which it may go."""
    span = outlives(situation.policy)
    for key in situation.held.keyset.keys:
        if key.state is State.RETIRED:
            yield key.kid, max(situation.known_since(key.kid, key.state) + span, key.verify_until or 0)
    for entry in situation.held.keyset.revoked:
        yield entry.kid, situation.known_since(entry.kid, State.REVOKED) + span


def outlives(policy: Policy) -> int:
    """Return for how many seconds after its retirement a key may have JWTs that are still accepted somewhere."""
    return policy.stale_read + policy.mint_lease + policy.max_lifetime + policy.leeway + 4 * policy.skew


def room(situation: Situation) -> int | None:
    """Return when a rotation finds room for one more retired key; None where there is room now."""
    times = dict(drop_times(situation))
    found: list[int] = []
    for use in ("sig", "enc"):
        kids = [key.kid for key in situation.held.keyset.keys if key.use == use and key.state is State.RETIRED]
        if len([kid for kid in kids if times[kid] > situation.now]) >= MAX_RETIRED:
            found.append(min(times[kid] for kid in kids))
    return max(found, default=None)


def overdue(situation: Situation, *, leads: bool) -> tuple[KeydistError, ...]:
    """Return an alarm for each phase that should have ended a propagation ago.

    A leader that put the keyset back begins its waits anew, and only its own notes say so: to a node that does not
    lead, a phase is late when it would be late even where that happened just before its end.
    """
    now, policy, found = situation.now, situation.policy, list[KeydistError]()
    wanted, gate, room_at = due(situation), activation(situation), room(situation)
    anew = 0 if leads else publication(policy)
    if wanted is not None and now > _due_since(wanted, gate, room_at) + anew + policy.propagation:
        found.append(_overdue_rotation(wanted, gate, room_at))
    anew = 0 if leads else outlives(policy)
    late = [kid for kid, at in drop_times(situation) if now > at + anew + policy.propagation]
    if late:
        found.append(
            OverdueError(
                "retired keys should have left the keyset",
                phase="drop",
                expected="a leader-role agent that drops them",
                found=", ".join(late[:4]),
                fix="look at the leaders: keydist status --fleet, and their logs",
            )
        )
    return tuple(found)


def _due_since(wanted: Wanted, gate: Gate, room_at: int | None) -> int:
    """Return since when a rotation could have been; when a count was reached is noted nowhere, only what stops it."""
    is_stopped = bool(gate.lacking) or room_at is not None
    return gate.opens if wanted.why == COUNT and is_stopped else max(wanted.at, gate.opens)


def _overdue_rotation(wanted: Wanted, gate: Gate, room_at: int | None) -> OverdueError:
    held_up = "no leader did it"
    if room_at is not None:
        held_up = f"no room for another retired key before unix time {room_at}"
    if gate.lacking:
        held_up = f"nodes that have not acknowledged: {', '.join(gate.lacking[:8])}"
    return OverdueError(
        f"a rotation is overdue: {wanted.why}",
        phase="rotation",
        expected=f"a rotation since unix time {wanted.at}",
        found=held_up,
        fix="see who is behind: keydist status --fleet; then: keydist key rotate --dry-run",
    )


def _next(situation: Situation, use: str) -> Key | None:
    keys = situation.held.keyset.keys
    return next((key for key in keys if key.use == use and key.state is State.NEXT), None)
