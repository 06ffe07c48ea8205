"""When keys advance: every condition to the second, by this node's notes alone, and what is told while they do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from keydist.core.accept import Held
from keydist.core.keyset import Key, Revocation, State
from keydist.core.notes import Notes
from keydist.core.policy import Policy
from keydist.core.record import Minted, Record
from keydist.core.rotation import (
    CHANGE,
    COUNT,
    SCHEDULE,
    Drop,
    Publish,
    Rotate,
    Situation,
    Step,
    Wait,
    Wanted,
    activation,
    decide,
    drop_times,
    droppable,
    due,
    minted,
    outlives,
    overdue,
    publication,
    room,
)
from tests.material import (
    DAY,
    NOW,
    OTHER_LINEAGE,
    enc_key,
    hold,
    make_keyset,
    make_record,
    moved,
    noise,
    notes_of,
    sig_key,
    standing_keys,
)

POLICY: Final = Policy()
D: Final = POLICY.propagation
EVERY: Final = POLICY.rotate_every
SPAN: Final = 60 + 604_800 + 86_400 + 60 + 4 * 30
"""R + G + L + λ + 4S, with the defaults, written out."""
HELD: Final = hold(make_keyset(3))
PEERS: Final = (make_record(HELD), make_record(HELD, node="node-2"))
SIG_NEXT, ENC_NEXT = sig_key("B").kid, enc_key("B").kid
SIG_ACTIVE: Final = sig_key("A").kid


def at(
    now: int,
    *,
    held: Held = HELD,
    notes: Notes | None = None,
    live: tuple[Record, ...] = PEERS,
    records: tuple[Record, ...] | None = None,
    without: frozenset[str] = frozenset(),
) -> Situation:
    """Return a situation in which this node holds everything since `NOW`, and everybody says the same."""
    return Situation(
        held=held,
        notes=notes_of(held) if notes is None else notes,
        now=now,
        live=live,
        records=live if records is None else records,
        without=without,
    )


def having(*retired: Key, revoked: tuple[Revocation, ...] = (), policy: Policy = POLICY) -> Held:
    return hold(make_keyset(3, keys=(*standing_keys(), *retired), revoked=revoked, policy=policy))


def old(name: str, *, use: str = "sig", until: int | None = None) -> Key:
    key = moved(sig_key(name) if use == "sig" else enc_key(name), State.RETIRED, now=NOW)
    return replace(key, verify_until=until)


def says(held: Held, *nodes: str) -> tuple[Record, ...]:
    return tuple(make_record(held, node=node) for node in nodes)


# --- activation: the wait and the acknowledgements, both ----------------------------------------


@pytest.mark.parametrize(("now", "is_open"), [(NOW, False), (NOW + D - 1, False), (NOW + D, True), (NOW + D + 1, True)])
def test_next_signs_a_propagation_after_this_node_held_it_and_no_second_earlier(now: int, *, is_open: bool) -> None:
    gate = activation(at(now))
    assert (gate.opens, gate.lacking, gate.is_open) == (NOW + D, (), is_open)


@pytest.mark.parametrize(
    ("policy", "seconds"),
    [
        (POLICY, 900),
        (Policy(propagation=601), 601),
        (Policy(propagation=600), 600),
        (Policy(propagation=480), 60 + 120 + 300 + 4 * 30),
        (Policy(propagation=480, skew=0), 480),
    ],
)
def test_next_is_published_for_as_long_as_a_cache_may_lack_it_at_any_error_of_clocks(
    policy: Policy, seconds: int
) -> None:
    held = having(policy=policy)
    assert publication(policy) == seconds
    assert activation(at(NOW, held=held, live=())).opens == NOW + seconds


def test_the_waits_begin_anew_where_this_node_put_its_keyset_back() -> None:
    gone = Revocation(kid=noise("gone", 16).hex(), at=NOW, reason="")
    held = having(old("old", until=NOW + SPAN + 5), revoked=(gone,))
    notes = notes_of(held)._replace(republished=NOW + 7)
    assert activation(at(NOW, held=held, notes=notes)).opens == NOW + 7 + D
    assert dict(drop_times(at(NOW, held=held, notes=notes))) == {
        old("old").kid: NOW + 7 + SPAN,
        gone.kid: NOW + 7 + SPAN,
    }
    earlier = notes._replace(republished=NOW - 7)
    assert dict(drop_times(at(NOW, held=held, notes=earlier))) == {old("old").kid: NOW + SPAN + 5, gone.kid: NOW + SPAN}


BEHIND: Final = make_record(HELD, node="node-3", epoch=2)
UNACKNOWLEDGED: Final = {
    "an earlier epoch": BEHIND,
    "a later epoch": make_record(HELD, node="node-3", epoch=4),
    "other bytes": make_record(HELD, node="node-3", digest=bytes(16)),
    "another lineage": make_record(HELD, node="node-3", lineage=OTHER_LINEAGE),
}


@pytest.mark.parametrize("record", UNACKNOWLEDGED.values(), ids=UNACKNOWLEDGED)
@pytest.mark.parametrize("now", [NOW + D, NOW + 1000 * DAY])
def test_one_live_node_without_this_very_keyset_holds_it_up_for_ever(record: Record, now: int) -> None:
    gate = activation(at(now, live=(*PEERS, record)))
    assert (gate.lacking, gate.is_open) == (("node-3",), False)


def test_everybody_having_it_does_not_shorten_the_wait() -> None:
    assert not activation(at(NOW + D - 1, live=PEERS)).is_open
    assert not activation(at(NOW + D - 1, live=())).is_open


def test_a_node_left_out_is_not_asked_and_the_wait_stays() -> None:
    without = frozenset({"node-3"})
    assert activation(at(NOW + D, live=(*PEERS, BEHIND), without=without)).is_open
    assert not activation(at(NOW + D - 1, live=(*PEERS, BEHIND), without=without)).is_open
    other = make_record(HELD, node="node-4", epoch=2)
    assert activation(at(NOW + D, live=(BEHIND, other), without=without)).lacking == ("node-4",)


def test_the_dead_are_not_asked() -> None:
    assert activation(at(NOW + D, records=(*PEERS, BEHIND))).is_open


def test_both_instances_of_one_name_are_asked() -> None:
    twin = make_record(HELD, node="node-1", instance=noise("twin", 16).hex(), epoch=2)
    assert activation(at(NOW + D, live=(*PEERS, twin))).lacking == ("node-1",)


def test_the_wait_is_for_the_later_of_both_next_keys() -> None:
    notes = notes_of(HELD, next={ENC_NEXT: NOW + 50})
    assert activation(at(NOW + D + 49, notes=notes)).opens == NOW + 50 + D
    assert not activation(at(NOW + D + 49, notes=notes)).is_open
    assert activation(at(NOW + D + 50, notes=notes)).is_open


def test_without_a_note_the_wait_begins_now() -> None:
    gate = activation(at(NOW + 5 * DAY, notes=Notes()))
    assert (gate.opens, gate.is_open) == (NOW + 5 * DAY + D, False)


def test_time_stamps_of_others_and_in_the_keyset_mean_nothing() -> None:
    stamped = tuple(replace(key, created=0, published=0) if key.state is State.NEXT else key for key in standing_keys())
    held = hold(make_keyset(3, keys=stamped))
    early = tuple(replace(record, loaded=0, persisted=0) for record in says(held, "node-1"))
    assert activation(at(NOW + D - 1, held=held, live=early)).opens == NOW + D


def test_without_a_next_key_there_is_nothing_to_open() -> None:
    held = hold(make_keyset(3, keys=(sig_key("A"), enc_key("A"))))
    for now in (NOW, NOW + 5 * DAY):
        assert not activation(at(now, held=held, live=())).is_open


# --- when a rotation is due ---------------------------------------------------------------------


def test_the_schedule_runs_from_when_this_node_first_held_the_active_key() -> None:
    assert due(at(NOW)) == Wanted(at=NOW + EVERY, why=SCHEDULE)
    notes = notes_of(HELD, active={SIG_ACTIVE: NOW - 7})
    assert due(at(NOW, notes=notes)) == Wanted(at=NOW + EVERY - 7, why=SCHEDULE)


def test_a_schedule_of_zero_asks_for_none() -> None:
    held = having(policy=Policy(rotate_every=0))
    situation = at(NOW + 10_000 * DAY, held=held, live=())
    assert due(situation) is None
    assert decide(situation) == Wait()
    assert overdue(situation, leads=True) == ()


CHANGES: Final = {
    "another algorithm": (sig_key("A"), sig_key("N", State.NEXT, alg="ES256")),
    "RSA to Ed25519": (sig_key("rsa-a", alg="RS256"), sig_key("N", State.NEXT)),
    "RS256 to PS256": (sig_key("rsa-a", alg="RS256"), sig_key("rsa-b", State.NEXT, alg="PS256")),
}


@pytest.mark.parametrize(("active", "following"), CHANGES.values(), ids=CHANGES)
def test_another_kind_of_key_is_due_after_its_own_wait(active: Key, following: Key) -> None:
    held = hold(make_keyset(3, keys=(active, following, enc_key("A"), enc_key("B", State.NEXT))))
    notes = notes_of(held, next={following.kid: NOW + 500})
    assert due(at(NOW + 500, held=held, notes=notes)) == Wanted(at=NOW + 500 + D, why=CHANGE)
    live = says(held, "node-1")
    assert decide(at(NOW + 499 + D, held=held, notes=notes, live=live)) == Wait()
    assert decide(at(NOW + 500 + D, held=held, notes=notes, live=live)) == Rotate(why=CHANGE, drop=())


def test_another_size_is_another_kind() -> None:
    small, other = sig_key("rsa-a", alg="RS256"), sig_key("rsa-b", State.NEXT, alg="RS256")
    public = other.public
    wide = public._replace(members={**public.members, "n": "_" * 512})  # 3072 bits
    for following, why in ((other, SCHEDULE), (replace(other, public_part=wide), CHANGE)):
        held = hold(make_keyset(3, keys=(small, following, enc_key("A"), enc_key("B", State.NEXT))))
        wanted = due(at(NOW, held=held))
        assert wanted is not None
        assert wanted.why == why


def test_a_change_waits_for_acknowledgements_too() -> None:
    held = hold(make_keyset(3, keys=(*CHANGES["another algorithm"], enc_key("A"), enc_key("B", State.NEXT))))
    late = make_record(held, node="late", epoch=2)
    assert decide(at(NOW + D, held=held, live=(late,))) == Wait(lacking=("late",))


COUNTED: Final = having(policy=Policy(max_tokens_per_key=100))


def counting(node: str, jwts: int, *, kid: str = SIG_ACTIVE) -> Record:
    return make_record(COUNTED, node=node, minted={kid: Minted(jwts=jwts, last_expiry=NOW)})


def test_what_the_dead_minted_counts_too() -> None:
    dead = counting("dead", 60)
    for count, why in ((39, SCHEDULE), (40, COUNT), (41, COUNT)):
        alive = counting("alive", count)
        situation = at(NOW + D, held=COUNTED, live=(alive,), records=(alive, dead))
        wanted = due(situation)
        assert wanted is not None
        assert (minted(situation, SIG_ACTIVE), wanted.why) == (60 + count, why)
        assert decide(situation) == (Rotate(why=COUNT, drop=()) if why == COUNT else Wait())


def test_what_other_keys_minted_does_not_count() -> None:
    records = (counting("alive", 500, kid=sig_key("old").kid), make_record(COUNTED, node="idle"))
    situation = at(NOW + D, held=COUNTED, live=records)
    assert minted(situation, SIG_ACTIVE) == 0
    assert due(situation) == Wanted(at=NOW + EVERY, why=SCHEDULE)


def test_a_count_does_not_shorten_the_wait() -> None:
    live = (counting("alive", 500),)
    assert decide(at(NOW + D - 1, held=COUNTED, live=live)) == Wait()


def test_no_count_is_a_limit_of_none() -> None:
    live = (make_record(HELD, minted={SIG_ACTIVE: Minted(jwts=10**9, last_expiry=NOW)}),)
    assert due(at(NOW, live=live)) == Wanted(at=NOW + EVERY, why=SCHEDULE)


def test_the_earliest_reason_is_the_one() -> None:
    live = (counting("alive", 500),)
    assert due(at(NOW + EVERY - 1, held=COUNTED, live=live)) == Wanted(at=NOW + EVERY - 1, why=COUNT)
    assert due(at(NOW + EVERY + 1, held=COUNTED, live=live)) == Wanted(at=NOW + EVERY, why=SCHEDULE)


# --- deciding -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "step"),
    [
        (NOW, Wait()),
        (NOW + D, Wait()),
        (NOW + EVERY - 1, Wait()),
        (NOW + EVERY, Rotate(why=SCHEDULE, drop=())),
        (NOW + 2 * EVERY, Rotate(why=SCHEDULE, drop=())),
    ],
)
def test_a_rotation_by_schedule(now: int, step: Step) -> None:
    assert decide(at(now)) == step


def test_a_next_key_that_came_late_has_its_wait_all_the_same() -> None:
    notes = notes_of(HELD, next={SIG_NEXT: NOW + EVERY})
    assert decide(at(NOW + EVERY + D - 1, notes=notes)) == Wait()
    assert decide(at(NOW + EVERY + D, notes=notes)) == Rotate(why=SCHEDULE, drop=())


def test_who_holds_up_is_told_once_it_is_time_and_not_before() -> None:
    live = (*PEERS, BEHIND)
    assert decide(at(NOW + EVERY - 1, live=live)) == Wait()
    assert decide(at(NOW + EVERY, live=live)) == Wait(lacking=("node-3",))
    notes = notes_of(HELD, next={SIG_NEXT: NOW + EVERY})
    assert decide(at(NOW + EVERY + D - 1, live=live, notes=notes)) == Wait()


@pytest.mark.parametrize(
    ("keys", "uses"),
    [
        ((sig_key("A"), enc_key("A")), ("sig", "enc")),
        ((sig_key("A"), enc_key("A"), enc_key("B", State.NEXT)), ("sig",)),
        ((sig_key("A"), enc_key("A"), sig_key("B", State.NEXT)), ("enc",)),
    ],
    ids=["both", "signing", "encryption"],
)
def test_a_missing_next_key_is_published_first_whatever_else_is_due(keys: tuple[Key, ...], uses: tuple[str]) -> None:
    held = hold(make_keyset(3, keys=(*keys, old("old"))))
    for now in (NOW, NOW + 10 * EVERY):
        assert decide(at(now, held=held, live=(BEHIND,))) == Publish(uses=uses)


# --- dropping -----------------------------------------------------------------------------------


def test_the_span_is_the_sum_of_what_a_jwt_may_outlive() -> None:
    assert outlives(POLICY) == SPAN
    for name, times in (
        ("stale_read", 1),
        ("mint_lease", 1),
        ("max_lifetime", 1),
        ("leeway", 1),
        ("freshness", 0),
        ("propagation", 0),
        ("jwks_max_age", 0),
    ):
        raised = Policy(**({"propagation": 9000} | {name: getattr(POLICY, name) + 5000}))
        assert outlives(raised) == SPAN + times * 5000, name
    assert outlives(Policy(skew=10)) == SPAN - 4 * 20


OLD: Final = old("old")


@pytest.mark.parametrize(
    ("until", "first"),
    [
        pytest.param(None, NOW + SPAN, id="no verify_until"),
        pytest.param(NOW, NOW + SPAN, id="verify_until is earlier"),
        pytest.param(NOW + SPAN, NOW + SPAN, id="verify_until is the same"),
        pytest.param(NOW + SPAN + 1, NOW + SPAN + 1, id="verify_until is a second later"),
        pytest.param(NOW + 400 * DAY, NOW + 400 * DAY, id="verify_until is a year later"),
    ],
)
@pytest.mark.parametrize("use", ["sig", "enc"])
def test_a_retired_key_goes_at_that_second(until: int | None, first: int, use: str) -> None:
    key = old("old", use=use, until=until)
    held = having(key)
    live = says(held, "node-1", "behind")
    notes = notes_of(held, active={SIG_ACTIVE: first})  # no rotation is due
    assert dict(drop_times(at(NOW, held=held, notes=notes))) == {key.kid: first}
    before, then = (at(now, held=held, live=live, notes=notes) for now in (first - 1, first))
    assert (droppable(before), decide(before)) == ((), Wait())
    assert (droppable(then), decide(then)) == ((key.kid,), Drop(kids=(key.kid,)))


def test_the_span_runs_from_this_nodes_own_note_and_not_from_the_stamp() -> None:
    held = having(moved(sig_key("old"), State.RETIRED, now=0))
    kid = sig_key("old").kid
    assert dict(drop_times(at(NOW, held=held))) == {kid: NOW + SPAN}
    assert dict(drop_times(at(NOW + DAY, held=held, notes=Notes()))) == {kid: NOW + DAY + SPAN}


def test_a_revocation_leaves_by_the_same_rule() -> None:
    held = having(revoked=(Revocation(kid="bad", at=0, reason=""),))
    notes = notes_of(held, revoked={"bad": NOW + 9}, active={SIG_ACTIVE: NOW + SPAN})
    assert droppable(at(NOW + 8 + SPAN, held=held, notes=notes)) == ()
    assert decide(at(NOW + 9 + SPAN, held=held, notes=notes)) == Drop(kids=("bad",))


def test_a_drop_asks_nobody_and_a_rotation_takes_it_along() -> None:
    held = having(OLD)
    live = says(held, "node-1")
    now = NOW + EVERY
    assert decide(at(now, held=held, live=live)) == Rotate(why=SCHEDULE, drop=(OLD.kid,))
    assert decide(at(now, held=held, live=(*live, BEHIND))) == Drop(kids=(OLD.kid,))


# --- room ---------------------------------------------------------------------------------------


def crowd(count: int, *, use: str = "sig", first: int = 0) -> tuple[Key, ...]:
    return tuple(old(f"old {number}", use=use) for number in range(first, first + count))


def since(keys: tuple[Key, ...]) -> dict[str, int]:
    """Return notes of keys that retired a day after each other, the first one at `NOW`."""
    return {key.kid: NOW + number * DAY for number, key in enumerate(keys)}


def test_sixteen_retired_keys_leave_room_when_the_first_may_go() -> None:
    keys = crowd(16)
    held = having(*reversed(keys))
    notes = notes_of(held, retired=since(keys))
    assert room(at(NOW + SPAN - 1, held=held, notes=notes)) == NOW + SPAN
    assert room(at(NOW + SPAN, held=held, notes=notes)) is None


def test_fifteen_leave_room() -> None:
    held = having(*crowd(15), *crowd(15, use="enc"))
    assert room(at(NOW, held=held)) is None
    assert room(at(NOW)) is None


def test_both_uses_need_room() -> None:
    sig, enc = crowd(16), crowd(16, use="enc")
    held = having(*sig, *enc)
    notes = notes_of(held, retired=since(sig) | {key.kid: NOW + 50 * DAY for key in enc})
    assert room(at(NOW, held=held, notes=notes)) == NOW + 50 * DAY + SPAN
    assert room(at(NOW + SPAN, held=held, notes=notes)) == NOW + 50 * DAY + SPAN
    assert room(at(NOW + SPAN + 50 * DAY, held=held, notes=notes)) is None


def test_a_key_that_must_verify_longer_keeps_its_place() -> None:
    keys = tuple(old(f"old {number}", until=NOW + 500 * DAY) for number in range(16))
    assert room(at(NOW + 499 * DAY, held=having(*keys))) == NOW + 500 * DAY


def test_without_room_nothing_rotates_and_with_it_the_drop_comes_along() -> None:
    keys = crowd(16)
    held = having(*keys)
    notes = notes_of(held, retired=since(keys), active={SIG_ACTIVE: NOW - EVERY})
    live = says(held, "node-1")
    assert decide(at(NOW + SPAN - 1, held=held, notes=notes, live=live)) == Wait()
    assert decide(at(NOW + SPAN, held=held, notes=notes, live=live)) == Rotate(why=SCHEDULE, drop=(keys[0].kid,))


# --- overdue ------------------------------------------------------------------------------------


def test_a_rotation_is_overdue_a_propagation_after_it_could_have_been() -> None:
    assert overdue(at(NOW + EVERY + D), leads=True) == ()
    (alarm,) = overdue(at(NOW + EVERY + D + 1), leads=True)
    assert (alarm.code, alarm.message) == ("overdue", f"a rotation is overdue: {SCHEDULE}")
    assert (alarm.expected, alarm.found) == (f"a rotation since unix time {NOW + EVERY}", "no leader did it")
    assert "keydist key rotate --dry-run" in alarm.fix


def test_it_is_not_overdue_while_next_has_its_wait() -> None:
    notes = notes_of(HELD, next={SIG_NEXT: NOW + EVERY})
    assert overdue(at(NOW + EVERY + 2 * D, notes=notes), leads=True) == ()
    assert len(overdue(at(NOW + EVERY + 2 * D + 1, notes=notes), leads=True)) == 1


def test_an_overdue_rotation_names_who_holds_it_up() -> None:
    live = tuple(make_record(HELD, node=f"late-{number}", epoch=2) for number in range(9))
    (alarm,) = overdue(at(NOW + EVERY + D + 1, live=live), leads=True)
    names = ", ".join(f"late-{number}" for number in range(8))
    assert alarm.found == f"nodes that have not acknowledged: {names}"


def test_an_overdue_rotation_names_the_time_of_room() -> None:
    keys = crowd(16)
    held = having(*keys)
    notes = notes_of(held, at=NOW + EVERY, active={SIG_ACTIVE: NOW}, next={SIG_NEXT: NOW, ENC_NEXT: NOW})
    (alarm,) = overdue(at(NOW + EVERY + D + 1, held=held, notes=notes, live=()), leads=True)
    assert alarm.found == f"no room for another retired key before unix time {NOW + EVERY + SPAN}"


def test_a_count_does_not_hide_an_overdue_schedule() -> None:
    live = (counting("alive", 500),)
    (alarm,) = overdue(at(NOW + EVERY + D + 1, held=COUNTED, live=live), leads=True)
    assert SCHEDULE in alarm.message


def test_a_count_that_was_reached_is_overdue_where_something_stops_the_rotation() -> None:
    live = (counting("alive", 500), make_record(COUNTED, node="late", epoch=2))
    assert overdue(at(NOW + 2 * D, held=COUNTED, live=live), leads=True) == ()
    (alarm,) = overdue(at(NOW + 2 * D + 1, held=COUNTED, live=live), leads=True)
    assert (alarm.message, alarm.found) == (
        f"a rotation is overdue: {COUNT}",
        "nodes that have not acknowledged: late",
    )
    assert overdue(at(NOW + 2 * D + 1, held=COUNTED, live=live[:1]), leads=True) == ()


def test_an_overdue_drop_names_a_few_keys() -> None:
    keys = crowd(6)
    held = having(*keys)
    notes = notes_of(held, active={SIG_ACTIVE: NOW + SPAN})
    assert overdue(at(NOW + SPAN + D, held=held, notes=notes), leads=True) == ()
    (alarm,) = overdue(at(NOW + SPAN + D + 1, held=held, notes=notes), leads=True)
    assert (alarm.code, alarm.found) == ("overdue", ", ".join(key.kid for key in keys[:4]))


def test_both_may_be_overdue() -> None:
    held = having(OLD)
    alarms = overdue(at(NOW + EVERY + D + 1, held=held, live=says(held, "node-1")), leads=True)
    assert [alarm.code for alarm in alarms] == ["overdue", "overdue"]


def test_who_does_not_lead_allows_for_waits_that_a_leader_began_anew() -> None:
    held = having(OLD)
    notes = notes_of(held, active={SIG_ACTIVE: NOW + SPAN})
    late = NOW + 2 * SPAN + D
    assert overdue(at(late, held=held, notes=notes), leads=False) == ()
    (alarm,) = overdue(at(late + 1, held=held, notes=notes), leads=False)
    assert (alarm.message, alarm.found) == ("retired keys should have left the keyset", OLD.kid)
    assert overdue(at(NOW + EVERY + 2 * D), leads=False) == ()
    (alarm,) = overdue(at(NOW + EVERY + 2 * D + 1), leads=False)
    assert alarm.message == f"a rotation is overdue: {SCHEDULE}"


@pytest.mark.parametrize("before_the_end", [0, 1, SPAN - 1, SPAN])
def test_a_leader_that_put_the_keyset_back_and_its_followers_agree_that_nothing_is_late(before_the_end: int) -> None:
    held, end = having(OLD), NOW + SPAN
    notes = notes_of(held, active={SIG_ACTIVE: NOW + SPAN})
    lost = notes._replace(republished=end - before_the_end)
    drop = end - before_the_end + SPAN
    assert decide(at(drop - 1, held=held, notes=lost)) == Wait()
    assert decide(at(drop, held=held, notes=lost)) == Drop(kids=(OLD.kid,))
    for now in (end, drop, drop + D):
        assert overdue(at(now, held=held, notes=lost), leads=True) == ()
        assert overdue(at(now, held=held, notes=notes), leads=False) == ()
