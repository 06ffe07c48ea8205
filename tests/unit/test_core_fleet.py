"""The fleet: who lives, by the reader's own clock, and how each stands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keydist.core.fleet import (
    Fleet,
    NodeState,
    Sighting,
    ahead,
    doubled,
    forgotten,
    holds,
    is_live,
    is_news,
    lacking,
    live,
    view,
    who_of,
)
from keydist.core.record import Record
from tests.material import OTHER_LINEAGE, OTHER_TOKEN, Change, chain, extend, first, make_fleet, make_record, noise

LINE = chain(70)
MINE = LINE[68]
PEER = make_record(MINE)


def sighted(fleet: Fleet, record: Record, *, now: float, superseded: frozenset[str] = frozenset()) -> Fleet:
    """Return the fleet after a record was read, as its reader keeps it."""
    if not is_news(fleet, record, superseded=superseded):
        return fleet
    return {**fleet, who_of(record): Sighting(record=record, rose=now)}


@pytest.mark.parametrize(
    ("silence", "lives"),
    [(0, True), (59.999, True), (60, True), (60.001, False), (61, False), (-5, True)],
)
def test_a_node_lives_for_three_of_its_own_heartbeats(silence: float, *, lives: bool) -> None:
    seen = Sighting(make_record(heartbeat=20), rose=1000.0)
    assert is_live(seen, now=1000.0 + silence) is lives


def test_a_slower_heartbeat_is_waited_for() -> None:
    assert is_live(Sighting(make_record(heartbeat=60), rose=0.0), now=180.0)
    assert not is_live(Sighting(make_record(heartbeat=59), rose=0.0), now=180.0)


def test_a_node_that_leaves_does_not_live() -> None:
    fleet = sighted(make_fleet(PEER), replace(PEER, counter=2, leaving=True), now=1.0)
    assert live(fleet, now=1.0) == ()
    back = sighted(fleet, replace(PEER, counter=3), now=2.0)
    assert [record.counter for record in live(back, now=2.0)] == [3]


def test_the_first_sight_counts_whatever_its_counter() -> None:
    for counter in (0, 7, 2**53 - 1):
        fleet = sighted({}, replace(PEER, counter=counter), now=5.0)
        assert live(fleet, now=65.0)
        assert not live(fleet, now=65.1)


@pytest.mark.parametrize("counter", [5, 4, 0], ids=["repeated", "late", "started over"])
def test_a_repeated_or_late_record_changes_nothing(counter: int) -> None:
    fleet = sighted({}, replace(PEER, counter=5), now=0.0)
    other = replace(PEER, counter=counter, epoch=3, leaving=True)
    assert sighted(fleet, other, now=50.0) is fleet
    assert not live(fleet, now=61.0)


def test_a_higher_counter_is_life_and_replaces_the_record() -> None:
    fleet = sighted({}, PEER, now=0.0)
    newer = replace(PEER, counter=2, epoch=99)
    after = sighted(fleet, newer, now=50.0)
    assert live(after, now=110.0) == (newer,)
    assert live(fleet, now=50.0) == (PEER,)  # the earlier value is untouched


TWIN = replace(PEER, instance=noise("twin", 16).hex())
COPY = replace(PEER, machine=noise("twin", 16).hex())
"""The same state directory, copied to another machine."""


@pytest.mark.parametrize("twin", [TWIN, COPY], ids=["another instance", "another machine"])
def test_two_instances_of_one_name_stand_twice(twin: Record) -> None:
    fleet = make_fleet(PEER, twin, make_record(node="node-2"))
    records = live(fleet, now=0.0)
    assert [record.node for record in records] == ["node-1", "node-1", "node-2"]
    assert doubled(records) == {"node-1"}
    late = sighted(fleet, replace(twin, counter=2), now=100.0)
    assert doubled(live(late, now=100.0)) == frozenset()


def test_the_living_stand_by_name() -> None:
    fleet = make_fleet(*(make_record(node=node) for node in ("c", "a", "b")))
    assert [record.node for record in live(fleet, now=0.0)] == ["a", "b", "c"]


def test_who_was_not_heard_of_for_long_is_forgotten() -> None:
    fleet = make_fleet(PEER, rose=10.0)
    assert forgotten(fleet, now=110.0, after=100.0) == fleet
    assert forgotten(fleet, now=110.1, after=100.0) == {}


@pytest.mark.parametrize(
    "difference",
    [{"epoch": 68}, {"epoch": 70}, {"digest": bytes(16)}, {"lineage": OTHER_LINEAGE}],
    ids=["earlier", "later", "other bytes", "another lineage"],
)
def test_only_the_very_keyset_counts_as_held(difference: dict[str, Any]) -> None:
    other = replace(PEER, node="node-2", **difference)
    assert holds(PEER, MINE)
    assert not holds(other, MINE)
    assert lacking(MINE, [other, PEER]) == ("node-2",)


def test_lacking_nodes_stand_once_and_by_name() -> None:
    behind = [replace(PEER, node=node, epoch=1) for node in ("b", "a", "b")]
    assert lacking(MINE, [*behind, PEER]) == ("a", "b")
    assert lacking(MINE, []) == ()


def test_one_of_two_instances_that_lacks_it_is_enough() -> None:
    assert lacking(MINE, [PEER, replace(COPY, epoch=1)]) == ("node-1",)


def test_a_later_epoch_or_another_lineage_is_ahead() -> None:
    later, other = replace(PEER, epoch=70), replace(PEER, epoch=1, lineage=OTHER_LINEAGE)
    assert ahead(MINE, [PEER, replace(PEER, epoch=68), later, other]) == (later, other)


def held_by(epoch: int, **members: Any) -> Record:  # noqa: ANN401 - of many types
    return make_record(LINE[epoch - 1], **members)


SIDE = extend(LINE[66], Change.RESEAL)  # epoch 68, beside the line


@pytest.mark.parametrize(
    ("record", "state"),
    [
        pytest.param(held_by(69), NodeState.CURRENT, id="mine"),
        pytest.param(held_by(69, alarms=("disk-full",)), NodeState.ALARMED, id="mine, with an alarm"),
        pytest.param(held_by(68), NodeState.BEHIND, id="my parent"),
        pytest.param(held_by(68, alarms=("disk-full",)), NodeState.BEHIND, id="my parent, with an alarm"),
        pytest.param(held_by(5), NodeState.BEHIND, id="my oldest ancestor"),
        pytest.param(held_by(4, digest=bytes(16)), NodeState.BEHIND, id="further back than I know"),
        pytest.param(make_record(SIDE), NodeState.FORKED, id="a sibling of my parent"),
        pytest.param(held_by(69, digest=bytes(16)), NodeState.FORKED, id="my epoch, other bytes"),
        pytest.param(held_by(69, lineage=OTHER_LINEAGE), NodeState.FORKED, id="another lineage"),
        pytest.param(held_by(70), NodeState.AHEAD, id="my child"),
        pytest.param(held_by(70, token=OTHER_TOKEN.token_id), NodeState.AHEAD, id="my child, another token"),
        pytest.param(held_by(69, token=OTHER_TOKEN.token_id), NodeState.OLD_TOKEN, id="mine, another token"),
        pytest.param(held_by(68, token=OTHER_TOKEN.token_id), NodeState.OLD_TOKEN, id="behind, another token"),
        pytest.param(held_by(69, leaving=True), NodeState.LEAVING, id="leaving"),
        pytest.param(held_by(69, heartbeat=10), NodeState.SILENT, id="silent"),
    ],
)
def test_how_a_node_stands(record: Record, state: NodeState) -> None:
    (row,) = view(make_fleet(record), MINE, now=31.0)
    assert (row.record, row.age, row.state) == (record, 31.0, state)


def test_living_twins_are_an_alarm_and_leaving_or_silent_ones_are_not() -> None:
    states = [row.state for row in view(make_fleet(PEER, TWIN), MINE, now=0.0)]
    assert states == [NodeState.DOUBLE, NodeState.DOUBLE]
    for gone in (replace(TWIN, leaving=True), replace(TWIN, heartbeat=1)):
        states = [row.state for row in view(make_fleet(PEER, gone), MINE, now=31.0)]
        assert sorted(states) == sorted([NodeState.CURRENT, NodeState.LEAVING if gone.leaving else NodeState.SILENT])


def test_an_empty_fleet_has_no_rows() -> None:
    assert view({}, first(), now=0.0) == ()


# --- a token that leaked ------------------------------------------------------------------------


def test_who_says_it_under_a_replaced_token_is_not_ahead_and_acknowledges_nothing() -> None:
    held = chain(2)[-1]
    forged = make_record(held, epoch=10**6, sealed=OTHER_TOKEN.token_id)
    assert ahead(held, (forged,)) == (forged,)  # it may be the next token: nobody saw it replaced
    assert ahead(held, (forged,), superseded=frozenset({OTHER_TOKEN.token_id})) == ()
    assert not holds(make_record(held, sealed=OTHER_TOKEN.token_id), held)
    assert holds(make_record(held, sealed=held.token_id), held)


def test_a_record_under_a_replaced_token_takes_no_others_place_whatever_it_counts() -> None:
    old, held = frozenset({OTHER_TOKEN.token_id}), chain(2)[-1]
    genuine = make_record(held, counter=5, sealed=held.token_id)
    forged = make_record(held, counter=10**9, sealed=OTHER_TOKEN.token_id)
    fleet = sighted({}, genuine, now=1.0, superseded=old)
    assert sighted(fleet, forged, now=2.0, superseded=old) is fleet
    fleet = sighted({}, forged, now=1.0, superseded=old)
    assert [seen.record for seen in sighted(fleet, genuine, now=2.0, superseded=old).values()] == [genuine]
