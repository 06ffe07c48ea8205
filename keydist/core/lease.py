"""What a confirmation is worth: how long a node may mint under its keyset, and how long it may call a kid unknown.

A confirmation says that a leader read, sent at `at`, found an epoch. It speaks for that epoch and for every
descendant: to hold a later one is to know no less than was confirmed. All times are unix seconds of this node's clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from keydist.errors import ClockBehindError, LeaseExpiredError

if TYPE_CHECKING:
    from keydist.core.accept import Held
    from keydist.core.local import Confirmation


class Lease(NamedTuple):
    """The times that a confirmation allows, each inclusive: `since`, with S for a clock that was put right."""

    confirmed: int
    since: int
    mint_until: int
    fresh_until: int

    def is_fresh(self, now: int) -> bool:
        """Tell whether what a node does not know at `now` does not exist."""
        return self.since <= now <= self.fresh_until


def confirms(confirmation: Confirmation, held: Held) -> bool:
    """Tell whether a confirmation speaks for a keyset: it names its envelope, or an ancestor that stands in it."""
    if confirmation.epoch == held.keyset.epoch:
        return confirmation.digest == held.digest
    behind = held.keyset.epoch - confirmation.epoch - 1  # where it stands: ancestors[0] is the envelope of epoch - 1
    ancestors = held.keyset.ancestors
    return 0 <= behind < len(ancestors) and ancestors[behind] == confirmation.digest


def lease_of(held: Held, confirmation: Confirmation | None) -> Lease | None:
    """Return what a confirmation allows under a keyset; None where there is none, or it speaks for another one."""
    if confirmation is None or not confirms(confirmation, held):
        return None
    policy, at = held.keyset.policy, confirmation.at
    return Lease(
        confirmed=at,
        since=at - policy.skew,
        mint_until=at + policy.mint_lease,
        fresh_until=at + policy.freshness,
    )


def check_lease(lease: Lease | None, now: int) -> None:
    """Refuse to mint outside of a lease. Raises `LeaseExpiredError`, `ClockBehindError`."""
    if lease is None:
        raise LeaseExpiredError(
            "the store never confirmed this node's keyset",
            expected="a confirmation of its epoch",
            found="none",
            fix="confirm it with NATS reachable: keydist bootstrap",
        )
    if now < lease.since:
        raise ClockBehindError(
            "this machine's clock is behind the last confirmation of its epoch",
            expected=f"unix time {lease.confirmed} or later",
            found=str(now),
            fix="set the clock right, then confirm the epoch anew: keydist bootstrap",
        )
    if now > lease.mint_until:
        raise LeaseExpiredError(
            "this node's epoch was confirmed too long ago to mint under it",
            expected=f"a confirmation at most {lease.mint_until - lease.confirmed} s old",
            found=f"{now - lease.confirmed} s",
            fix="start keydist with NATS reachable: it confirms the epoch",
        )


def may_mint(held: Held, confirmation: Confirmation | None, now: int) -> None:
    """Refuse to mint under a keyset that was not confirmed within the lease G. Raises as `check_lease`."""
    check_lease(lease_of(held, confirmation), now)


def is_fresh(held: Held, confirmation: Confirmation | None, now: int) -> bool:
    """Tell whether a keyset was confirmed within the freshness V, and the clock is not behind that."""
    lease = lease_of(held, confirmation)
    return lease is not None and lease.is_fresh(now)
