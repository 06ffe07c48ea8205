"""The policy of a keyset: one truth for the cluster, in seconds, and the rules that hold between its members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from keydist.core.strict import exact_members, integer
from keydist.errors import MalformedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The times of rotation and verification, all in seconds; `max_tokens_per_key` is a count, 0 for none."""

    propagation: int = 900
    freshness: int = 120
    stale_read: int = 60
    jwks_max_age: int = 300
    max_lifetime: int = 86_400
    mint_lease: int = 604_800
    leeway: int = 60
    skew: int = 30
    rotate_every: int = 2_592_000
    max_tokens_per_key: int = 0

    def __post_init__(self) -> None:
        """Refuse times that contradict each other. Raises `MalformedError`."""
        for name in MEMBERS:
            integer(getattr(self, name), f"policy.{name}", least=0 if name in _MAY_BE_ZERO else 1)
        least = self.freshness + self.stale_read + self.jwks_max_age
        if self.propagation < least:
            raise MalformedError(
                "policy.propagation is too short",
                expected=f"at least freshness + stale_read + jwks_max_age = {least}",
                found=str(self.propagation),
            )
        if self.leeway < 2 * self.skew:
            raise MalformedError(
                "policy.leeway is too short", expected=f"at least 2 × skew = {2 * self.skew}", found=str(self.leeway)
            )

    def as_json(self) -> dict[str, int]:
        """Return every member, in the order of the format."""
        return {name: getattr(self, name) for name in MEMBERS}


_MAY_BE_ZERO = frozenset({"max_tokens_per_key", "stale_read", "jwks_max_age", "leeway", "skew", "rotate_every"})
MEMBERS: tuple[str, ...] = tuple(member.name for member in fields(Policy))


NEVER_LOWERED: tuple[str, ...] = ("propagation", "max_lifetime", "mint_lease", "leeway", "skew")
"""What somebody somewhere still counts on: JWTs that live, leases that run, caches that are filled."""


def check_policy_change(old: Policy, new: Policy) -> None:
    """Refuse a change that takes back what was promised. Raises `MalformedError`."""
    for name in NEVER_LOWERED:
        if getattr(new, name) < getattr(old, name):
            raise MalformedError(
                f"policy.{name} is never lowered: JWTs and leases that it promised still run",
                expected=f"at least {getattr(old, name)}",
                found=str(getattr(new, name)),
            )


def parse_policy(value: object) -> Policy:
    """Parse the `policy` member of a keyset. Raises `MalformedError`."""
    if not isinstance(value, Mapping):
        raise MalformedError("policy is not an object", expected="an object")
    exact_members(value, frozenset(MEMBERS), frozenset(), "policy")
    return Policy(**value)
