"""What became of minting and verifying, in counts that add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

OUTSIDE: Final = "outside"
TICKS: Final = 10


class Unavailable(NamedTuple):
    """Which node could not mint or verify, why, and when, in tenths of a unix second."""

    node: str
    act: str
    code: str
    tick: int

    @property
    def at(self) -> float:
        """The unix second at which that tenth began."""
        return self.tick / TICKS


class Rejected(NamedTuple):
    """Which node (or `OUTSIDE`) rejected a JWT, why, and of which key."""

    node: str
    reason: str
    kid: str


@dataclass
class Tally:
    """What became of minting and verifying; `pairs` counts by (minted on, verified on)."""

    minted: int = 0
    late: int = 0
    """Verified at a later age; those are among the others too."""
    missed: int = 0
    """Not verified at a later age, because that process got no processor in time."""
    blind: int = 0
    """Not verified outside, because no node was confirmed within V to take a JWK Set from."""
    fetched: int = 0
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    kids: Counter[str] = field(default_factory=Counter)
    rejected: Counter[Rejected] = field(default_factory=Counter)
    unavailable: Counter[Unavailable] = field(default_factory=Counter)
    contexts: list[str] = field(default_factory=list)
    """The first rejections, in full."""

    @property
    def verified(self) -> int:
        """JWTs verified by nodes."""
        return sum(number for (_, by), number in self.pairs.items() if by != OUTSIDE)

    @property
    def verified_outside(self) -> int:
        """JWTs verified by outside verifiers."""
        return sum(number for (_, by), number in self.pairs.items() if by == OUTSIDE)

    def add(self, other: Tally) -> None:
        """Take in what another process counted."""
        for name in ("minted", "late", "missed", "blind", "fetched"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("pairs", "kids", "rejected", "unavailable"):
            getattr(self, name).update(getattr(other, name))
        self.contexts += other.contexts

    def __str__(self) -> str:
        """Return one line of counts."""
        why = dict(Counter(f"{one.act}: {one.code}" for one in self.unavailable.elements()))
        return (
            f"{self.minted} minted under {len(self.kids)} keys, {self.verified} verified by nodes and "
            f"{self.verified_outside} outside ({self.late} of them later in their lives), "
            f"{self.rejected.total()} rejected, {self.unavailable.total()} unavailable; "
            f"{why}; outside: {self.fetched} JWK Sets fetched, {self.blind} times none could be; {self.missed} missed"
        )


def outside_of(unavailable: Iterable[Unavailable], absences: Mapping[str, list[tuple[float, float]]]) -> list[str]:
    """Return, one line each, what was unavailable while its node was not away; `absences` are spans by node."""
    slack = 1 / TICKS  # what is counted within a tenth of a second
    return [
        f"{one.node} cannot {one.act} at {one.at:.1f}: {one.code}"
        for one in unavailable
        if not any(begin - slack <= one.at <= end + slack for begin, end in absences.get(one.node, ()))
    ]
