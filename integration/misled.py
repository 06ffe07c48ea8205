"""New nodes that a store misled which was put back to an earlier moment: they had nothing to compare it with.

That is a limit of keydist, for which there are `--min-epoch` and `lineage:`. It ends when a leader has put the right
keyset back. Until then such a node signs with an old key, and does not know new ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final, NamedTuple

from integration.fleet import Fleet
from integration.tally import OUTSIDE, Rejected
from keydist.core.accept import Held

_RACE: Final = 1.0
"""Who reads an epoch less than so long after the next was installed elsewhere was not misled: it came early."""


class Misled(NamedTuple):
    """One node: the kid that it signed with, and those that it did not know."""

    node: str
    kid: str
    unknown: frozenset[str]

    def excuses(self, one: Rejected) -> bool:
        """Tell whether this is why a JWT was rejected: by it, by who had its JWK Set, or by others what it minted."""
        return one.kid == self.kid or (one.kid in self.unknown and one.node in (self.node, OUTSIDE))


def misled(fleet: Fleet, history: Mapping[int, Held]) -> Iterator[Misled]:
    """Yield the nodes that took an epoch as their first, by their logs, when others had a later one."""
    taken = [
        (datetime.fromisoformat(event["ts"]).timestamp(), name, event)
        for name, member in fleet.members.items()
        for event in member.events()
        if event["event"] == "keyset-taken"
    ]
    for at, name, event in taken:
        epoch, newest = (
            event["epoch"],
            max((other["epoch"] for when, _, other in taken if when < at - _RACE), default=0),
        )
        first = event["how"] == "retrieved" and event["was"] is None
        if first and epoch < newest and {epoch, newest} <= history.keys():
            old, new = history[epoch].keyset, history[newest].keyset
            known = {key.kid for key in old.signing_keys()}
            unknown = frozenset(key.kid for key in new.signing_keys()) - known
            yield Misled(name, old.active.kid, unknown)
