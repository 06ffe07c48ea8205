"""What a node does at its start, by what its disk and the store hold: one table, nothing else decides.

The rules behind the table: a first key is generated only where the bucket was never written and this node has
no sign of an earlier one; a node with a verified keyset always starts; nothing in the store that is not an
ancestor of mine is ever overwritten; where waiting cannot help, fail at once.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Final


class Role(StrEnum):
    """Who may generate, republish and rotate."""

    LEADER = "leader"
    FOLLOWER = "follower"


class OnDisk(Enum):
    """What the disk holds; `DAMAGED` is anything that shows there was a keyset and gives none."""

    NOTHING = "nothing"
    VALID = "a verified keyset"
    DAMAGED = "signs of a keyset, but none that can be used"


class InStore(Enum):
    """What the store holds, in this node's judgement."""

    NEVER_WRITTEN = "a bucket that was never written"
    BUCKET_MISSING = "no bucket"
    DELETED = "a deleted entry"
    EMPTIED = "an emptied bucket"
    ABSENT = "nothing, for a reason this user may not ask for"
    SAME = "the keyset of this node"
    ACCEPTABLE = "a keyset to accept"
    ANCESTOR = "an earlier epoch of this node's keyset"
    REFUSED = "something that must not be used"
    UNREACHABLE = "no answer"
    FORBIDDEN = "a refusal"


class Action(Enum):
    """What to do next."""

    GENERATE = "generate the first keyset"
    ACCEPT = "install the store's keyset"
    WAIT = "wait and read again"
    FAIL = "fail at once"
    REFUSE = "refuse to generate"
    START = "start from disk, with an alarm"
    REPUBLISH = "start from disk and put the envelope back"
    DONE = "nothing to do"


_A = Action
_BOTH: Final[dict[tuple[OnDisk, InStore], Action]] = {
    (OnDisk.NOTHING, InStore.ACCEPTABLE): _A.ACCEPT,
    (OnDisk.NOTHING, InStore.REFUSED): _A.FAIL,
    (OnDisk.NOTHING, InStore.UNREACHABLE): _A.WAIT,
    (OnDisk.NOTHING, InStore.FORBIDDEN): _A.FAIL,
    (OnDisk.VALID, InStore.UNREACHABLE): _A.START,
    (OnDisk.VALID, InStore.FORBIDDEN): _A.START,
    (OnDisk.VALID, InStore.ACCEPTABLE): _A.ACCEPT,
    (OnDisk.VALID, InStore.SAME): _A.DONE,
    (OnDisk.VALID, InStore.REFUSED): _A.START,
    (OnDisk.VALID, InStore.ABSENT): _A.START,
    (OnDisk.DAMAGED, InStore.ACCEPTABLE): _A.ACCEPT,
    (OnDisk.DAMAGED, InStore.UNREACHABLE): _A.WAIT,
    (OnDisk.DAMAGED, InStore.FORBIDDEN): _A.FAIL,
}
_BY_ROLE: Final[dict[tuple[OnDisk, InStore], tuple[Action, Action]]] = {
    # (on disk, in the store): (leader, follower)
    (OnDisk.NOTHING, InStore.NEVER_WRITTEN): (_A.GENERATE, _A.WAIT),
    (OnDisk.NOTHING, InStore.BUCKET_MISSING): (_A.GENERATE, _A.WAIT),
    (OnDisk.NOTHING, InStore.DELETED): (_A.REFUSE, _A.WAIT),
    (OnDisk.NOTHING, InStore.EMPTIED): (_A.REFUSE, _A.WAIT),
    (OnDisk.NOTHING, InStore.ABSENT): (_A.REFUSE, _A.WAIT),
    (OnDisk.VALID, InStore.ANCESTOR): (_A.REPUBLISH, _A.START),
    (OnDisk.VALID, InStore.DELETED): (_A.REPUBLISH, _A.START),
    (OnDisk.VALID, InStore.EMPTIED): (_A.REPUBLISH, _A.START),
    (OnDisk.VALID, InStore.NEVER_WRITTEN): (_A.REPUBLISH, _A.START),
    (OnDisk.VALID, InStore.BUCKET_MISSING): (_A.REPUBLISH, _A.START),
    (OnDisk.DAMAGED, InStore.NEVER_WRITTEN): (_A.REFUSE, _A.WAIT),
    (OnDisk.DAMAGED, InStore.BUCKET_MISSING): (_A.REFUSE, _A.WAIT),
    (OnDisk.DAMAGED, InStore.DELETED): (_A.REFUSE, _A.WAIT),
    (OnDisk.DAMAGED, InStore.EMPTIED): (_A.REFUSE, _A.WAIT),
    (OnDisk.DAMAGED, InStore.ABSENT): (_A.REFUSE, _A.WAIT),
    (OnDisk.DAMAGED, InStore.REFUSED): (_A.FAIL, _A.WAIT),
}


def decide(on_disk: OnDisk, in_store: InStore, role: Role, *, lineage_pinned: bool) -> Action:
    """Return what to do. `lineage_pinned`: the configuration names the lineage, so none may be begun."""
    pair = (on_disk, in_store)
    if pair in _BOTH:
        return _BOTH[pair]
    leader, follower = _BY_ROLE[pair]
    action = leader if role is Role.LEADER else follower
    return _A.REFUSE if action is _A.GENERATE and lineage_pinned else action
