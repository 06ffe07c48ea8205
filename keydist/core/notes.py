"""What a node notes by its own clock: since when it durably holds each key in each state, and what it did itself.

No decision of a rotation uses another machine's time stamp: these do. A note that is missing counts as made now,
which only makes a wait longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from keydist.core.keyset import REACHABLE, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keydist.core.accept import Held


class Notes(NamedTuple):
    """All times are unix seconds of this node's clock.

    `keys`: kid → state → since when. `tokens`: token id → since when a keyset is held under it. `lifetimes`: longest
    lifetime (seconds) → since when the policy allows it. `republished` and `rehearsed`: when this node last put its
    keyset back into the store, and last tried a backup out.
    """

    keys: Mapping[str, Mapping[str, int]] = {}
    tokens: Mapping[str, int] = {}
    lifetimes: Mapping[int, int] = {}
    republished: int | None = None
    rehearsed: int | None = None

    def since(self, kid: str, state: State, *, now: int) -> int:
        """Return when this node first durably held `kid` in `state`; `now` where that is not known."""
        return self.keys.get(kid, {}).get(state.value, now)


def noted(notes: Notes, held: Held, *, now: int) -> Notes:
    """Return `notes` with what `held` shows first at `now`, and without the kids that it no longer names.

    A state that a key has not reached in `held` is forgotten: it was noted on the other side of a fork.
    """
    keyset = held.keyset
    states = {key.kid: key.state for key in keyset.keys}
    states |= {entry.kid: State.REVOKED for entry in keyset.revoked}
    return notes._replace(
        keys={kid: _reached(notes.keys.get(kid, {}), state, now=now) for kid, state in states.items()},
        tokens={held.token_id: now} | dict(notes.tokens),
        lifetimes={keyset.policy.max_lifetime: now} | dict(notes.lifetimes),
    )


def _reached(known: Mapping[str, int], state: State, *, now: int) -> dict[str, int]:
    return {state.value: now} | {past: at for past, at in known.items() if state in REACHABLE[State(past)]}


def longest_lifetime(notes: Notes, held: Held, *, now: int) -> int:
    """Return the longest lifetime (seconds) that may be minted: a raised one only a propagation after it was seen."""
    policy = held.keyset.policy
    ripe = [seconds for seconds, at in notes.lifetimes.items() if now >= at + policy.propagation]
    known = ripe or [min(notes.lifetimes, default=policy.max_lifetime)]
    return min(policy.max_lifetime, max(known))
