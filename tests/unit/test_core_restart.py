"""What a node does at its start: the whole table, row by row, for both roles, with the lineage pinned and not."""

from __future__ import annotations

from itertools import product
from typing import Final

import pytest

from keydist.core.restart import Action, InStore, OnDisk, Role, decide

NOTHING, VALID, DAMAGED = OnDisk
A: Final = Action
S: Final = InStore

# (on disk, in the store): leader, leader with the lineage pinned, follower
TABLE: Final[dict[tuple[OnDisk, InStore], tuple[Action, Action, Action]]] = {
    # A first key is generated only where nothing was ever written, and never where the lineage is pinned.
    (NOTHING, S.NEVER_WRITTEN): (A.GENERATE, A.REFUSE, A.WAIT),
    (NOTHING, S.BUCKET_MISSING): (A.GENERATE, A.REFUSE, A.WAIT),
    (NOTHING, S.DELETED): (A.REFUSE, A.REFUSE, A.WAIT),
    (NOTHING, S.EMPTIED): (A.REFUSE, A.REFUSE, A.WAIT),
    (NOTHING, S.ABSENT): (A.REFUSE, A.REFUSE, A.WAIT),
    (NOTHING, S.ACCEPTABLE): (A.ACCEPT, A.ACCEPT, A.ACCEPT),
    (NOTHING, S.REFUSED): (A.FAIL, A.FAIL, A.FAIL),
    (NOTHING, S.UNREACHABLE): (A.WAIT, A.WAIT, A.WAIT),
    (NOTHING, S.FORBIDDEN): (A.FAIL, A.FAIL, A.FAIL),
    # A node with a verified keyset always starts; a leader puts back what the store lost.
    (VALID, S.UNREACHABLE): (A.START, A.START, A.START),
    (VALID, S.FORBIDDEN): (A.START, A.START, A.START),
    (VALID, S.ACCEPTABLE): (A.ACCEPT, A.ACCEPT, A.ACCEPT),
    (VALID, S.SAME): (A.DONE, A.DONE, A.DONE),
    (VALID, S.ANCESTOR): (A.REPUBLISH, A.REPUBLISH, A.START),
    (VALID, S.DELETED): (A.REPUBLISH, A.REPUBLISH, A.START),
    (VALID, S.EMPTIED): (A.REPUBLISH, A.REPUBLISH, A.START),
    (VALID, S.NEVER_WRITTEN): (A.REPUBLISH, A.REPUBLISH, A.START),
    (VALID, S.BUCKET_MISSING): (A.REPUBLISH, A.REPUBLISH, A.START),
    (VALID, S.ABSENT): (A.START, A.START, A.START),
    (VALID, S.REFUSED): (A.START, A.START, A.START),
    # Signs of a keyset, but none: never generate.
    (DAMAGED, S.ACCEPTABLE): (A.ACCEPT, A.ACCEPT, A.ACCEPT),
    (DAMAGED, S.UNREACHABLE): (A.WAIT, A.WAIT, A.WAIT),
    (DAMAGED, S.FORBIDDEN): (A.FAIL, A.FAIL, A.FAIL),
    (DAMAGED, S.NEVER_WRITTEN): (A.REFUSE, A.REFUSE, A.WAIT),
    (DAMAGED, S.BUCKET_MISSING): (A.REFUSE, A.REFUSE, A.WAIT),
    (DAMAGED, S.DELETED): (A.REFUSE, A.REFUSE, A.WAIT),
    (DAMAGED, S.EMPTIED): (A.REFUSE, A.REFUSE, A.WAIT),
    (DAMAGED, S.ABSENT): (A.REFUSE, A.REFUSE, A.WAIT),
    (DAMAGED, S.REFUSED): (A.FAIL, A.FAIL, A.WAIT),
}
# 'The same' and 'an ancestor' are said of a keyset on this node; without one they cannot be.
IMPOSSIBLE: Final = {(NOTHING, S.SAME), (NOTHING, S.ANCESTOR), (DAMAGED, S.SAME), (DAMAGED, S.ANCESTOR)}


def name(pair: tuple[OnDisk, InStore]) -> str:
    return " and ".join(part.name.lower().replace("_", " ") for part in pair)


@pytest.mark.parametrize(("pair", "actions"), TABLE.items(), ids=[name(pair) for pair in TABLE])
def test_the_restart_table(pair: tuple[OnDisk, InStore], actions: tuple[Action, Action, Action]) -> None:
    leader, pinned_leader, follower = actions
    assert decide(*pair, Role.LEADER, lineage_pinned=False) is leader
    assert decide(*pair, Role.LEADER, lineage_pinned=True) is pinned_leader
    assert decide(*pair, Role.FOLLOWER, lineage_pinned=False) is follower
    assert decide(*pair, Role.FOLLOWER, lineage_pinned=True) is follower


def test_only_what_cannot_be_is_undecided() -> None:
    undecided = set()
    for on_disk, in_store, role, pinned in product(OnDisk, InStore, Role, (False, True)):
        try:
            decide(on_disk, in_store, role, lineage_pinned=pinned)
        except KeyError:
            undecided.add((on_disk, in_store))
    assert undecided == IMPOSSIBLE
    assert undecided | TABLE.keys() == set(product(OnDisk, InStore))


def test_promises_that_the_table_keeps() -> None:
    actions = {
        (pair, role, pinned): decide(*pair, role, lineage_pinned=pinned)
        for pair, role, pinned in product(TABLE, Role, (False, True))
    }
    for ((on_disk, in_store), role, pinned), action in actions.items():
        if action is A.GENERATE:
            assert (on_disk, role, pinned) == (NOTHING, Role.LEADER, False)
            assert in_store in (S.NEVER_WRITTEN, S.BUCKET_MISSING)
        if on_disk is VALID:
            assert action in (A.ACCEPT, A.DONE, A.START, A.REPUBLISH)
        if role is Role.FOLLOWER:
            assert action not in (A.GENERATE, A.REPUBLISH, A.REFUSE)
        if action is A.REPUBLISH:
            assert in_store in (S.ANCESTOR, S.DELETED, S.EMPTIED, S.NEVER_WRITTEN, S.BUCKET_MISSING)
