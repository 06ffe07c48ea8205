"""What the demo shows and how it is judged: the acts, one start of one node, and what must be true of them all.

Nothing here starts anything. A `Start` is filled in while its process runs, and read by the screen meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One act: what happens, what it proves, and how each role must get its key.

    `alarming` where a follower must raise an alarm although it starts.
    """

    name: str
    title: str
    proves: str
    leader: str = ""
    follower: str
    alarming: bool = False


FIRST_START: Final = Act(
    name="first-start",
    title="First start. The followers come first and wait for a leader.",
    proves="P1: one node made the key, once. Everybody else was given it.",
    leader="generated",
    follower="retrieved",
)
NATS_STOPPED: Final = Act(
    name="nats-stopped",
    title="NATS is stopped. Every node starts again.",
    proves="P3: a node that has the key starts alone, with the same key.",
    leader="from-disk",
    follower="from-disk",
    alarming=True,
)
STORE_WIPED: Final = Act(
    name="store-wiped",
    title="NATS is back with an empty store. Every node starts again, the leader last.",
    proves="P1, P3: alarms, no outage, no second key. The leader put the same one back.",
    leader="republished",
    follower="from-disk",
    alarming=True,
)
NEW_NODE: Final = Act(
    name="new-node",
    title="A new node joins, with an empty disk.",
    proves="P1: what the leader put back is the same keyset, byte for byte.",
    follower="retrieved",
)


@dataclass(slots=True, kw_only=True, eq=False)
class Start:
    """One start of one node: what its process is doing, and in the end how it got its key.

    `error` is what its process said where it got none; `seconds` are from the start of the process to its end.
    """

    node: str
    role: str
    note: str = ""
    began: float | None = None
    seconds: float | None = None
    outcome: str = ""
    epoch: int = 0
    kid: str = ""
    lineage: str = ""
    envelope: str = ""
    alarms: tuple[str, ...] = ()
    error: str = ""
    exit_code: int = 0
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_leader(self) -> bool:
        """Whether this node is the leader."""
        return self.role == "leader"

    def as_json(self, act: Act) -> dict[str, object]:
        """Return the members that a program reads."""
        return {
            "phase": act.name,
            "node": self.node,
            "role": self.role,
            "epoch": self.epoch,
            "kid": self.kid,
            "lineage": self.lineage,
            "outcome": self.outcome,
            "alarms": list(self.alarms),
            "ms": round(1000 * (self.seconds or 0)),
            "error": self.error,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """An act as it was played: one start for each node, the leader first."""

    act: Act
    starts: tuple[Start, ...]


def problems(scenes: Sequence[Scene]) -> list[str]:
    """Return what contradicts 'one key, the same on every node in every act', in the order it was seen."""
    first = next((start for scene in scenes for start in scene.starts if start.kid), None)
    found = [text for scene in scenes for start in scene.starts for text in _problems(scene.act, start, first)]
    makers = [start.node for scene in scenes for start in scene.starts if start.outcome == "generated"]
    if len(makers) > 1:
        found.append(f"more than one key was generated: by {', '.join(makers)}")
    return found


def _problems(act: Act, start: Start, first: Start | None) -> Iterator[str]:
    expected = act.leader if start.is_leader else act.follower
    if start.error or not start.kid or first is None:
        yield f"{start.node} has no key"
    elif start.kid != first.kid:
        yield f"{start.node} has another key than {first.node}: {start.kid}, not {first.kid}"
    elif (start.epoch, start.lineage, start.envelope) != (first.epoch, first.lineage, first.envelope):
        yield f"{start.node} has the key, but in another keyset than {first.node}"
    elif start.outcome != expected:
        yield f"{start.node} was to end as {expected}, and ended as {start.outcome}"
    elif act.alarming and not start.alarms:
        yield f"{start.node} started without an alarm"
