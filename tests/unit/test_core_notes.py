"""Notes: since when a node holds what it holds; the first sight stays, and nothing is made up but a longer wait."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keydist.core.keyset import State
from keydist.core.notes import Notes, longest_lifetime, noted
from keydist.core.policy import Policy
from tests.material import DAY, NOW, OTHER_TOKEN, Change, extend, first, hold, make_keyset, sig_key, standing_keys

FIRST = first()
SECOND = extend(FIRST, Change.ROTATE)
ACTIVE, NEXT = FIRST.keyset.active.kid, SECOND.keyset.active.kid


def test_the_first_sight_counts() -> None:
    notes = noted(Notes(), FIRST, now=NOW)
    again = noted(notes, FIRST, now=NOW + 5)
    assert again == notes
    assert notes.since(ACTIVE, State.ACTIVE, now=NOW + 9) == NOW
    assert notes.since(NEXT, State.NEXT, now=NOW + 9) == NOW


def test_what_was_never_noted_counts_as_made_now() -> None:
    notes = noted(Notes(), FIRST, now=NOW)
    assert notes.since(ACTIVE, State.RETIRED, now=NOW + 9) == NOW + 9
    assert notes.since("unknown", State.NEXT, now=NOW + 9) == NOW + 9


def test_each_state_has_its_own_time() -> None:
    notes = noted(noted(Notes(), FIRST, now=NOW), SECOND, now=NOW + 7)
    assert notes.keys[ACTIVE] == {"active": NOW, "retired": NOW + 7}
    assert notes.keys[NEXT] == {"next": NOW, "active": NOW + 7}


def test_revoked_keys_are_noted_and_forgotten_with_their_revocation() -> None:
    revoked = extend(FIRST, Change.REVOKE_ACTIVE)
    notes = noted(noted(Notes(), FIRST, now=NOW), revoked, now=NOW + 7)
    assert notes.since(ACTIVE, State.REVOKED, now=NOW + 9) == NOW + 7
    kids = {entry.kid for entry in revoked.keyset.revoked} | {key.kid for key in revoked.keyset.keys}
    assert notes.keys.keys() == kids
    later = noted(notes, extend(revoked, Change.FORGET), now=NOW + 8)
    assert len(later.keys) == len(kids) - 1
    assert revoked.keyset.revoked[0].kid not in later.keys


def test_a_key_that_leaves_is_forgotten() -> None:
    notes = noted(Notes(), FIRST, now=NOW)
    replaced = extend(FIRST, Change.REPLACE_NEXT)
    assert NEXT in notes.keys
    assert NEXT not in noted(notes, replaced, now=NOW).keys


@pytest.mark.parametrize(
    ("noted_states", "state", "left"),
    [
        pytest.param({"active": 1, "retired": 2}, State.ACTIVE, {"active": 1}, id="retired there, active here"),
        pytest.param({"next": 1, "active": 2, "revoked": 3}, State.NEXT, {"next": 1}, id="revoked there, next here"),
        pytest.param({"next": 1, "active": 2}, State.RETIRED, {"next": 1, "active": 2, "retired": NOW}, id="a step on"),
        pytest.param({"next": 1}, State.RETIRED, {"next": 1, "retired": NOW}, id="a step skipped"),
        pytest.param({"gone": 1}, State.ACTIVE, {"active": NOW}, id="gone there, active here"),
    ],
)
def test_after_a_fork_a_key_does_not_keep_the_times_of_the_other_side(
    noted_states: dict[str, int], state: State, left: dict[str, int]
) -> None:
    keys = [*standing_keys("x"), sig_key("key", State.RETIRED)]
    if state is not State.RETIRED:
        keys = [key for key in standing_keys("x") if (key.use, key.state) != ("sig", state)]
        keys.append(sig_key("key", state))
    kid = sig_key("key").kid
    notes = Notes(keys={kid: noted_states})
    assert noted(notes, hold(make_keyset(keys=tuple(keys))), now=NOW).keys[kid] == left


def test_tokens_and_lifetimes_are_noted_at_first_sight_and_kept() -> None:
    raised = replace(FIRST.keyset, policy=Policy(max_lifetime=2 * DAY))
    notes = noted(noted(Notes(), FIRST, now=NOW), hold(raised, token=OTHER_TOKEN), now=NOW + 7)
    assert notes.tokens == {FIRST.token_id: NOW, OTHER_TOKEN.token_id: NOW + 7}
    assert notes.lifetimes == {DAY: NOW, 2 * DAY: NOW + 7}
    assert noted(notes, FIRST, now=NOW + 8) == notes._replace(keys=noted(notes, FIRST, now=NOW + 8).keys)


def test_what_the_node_did_itself_stays() -> None:
    notes = noted(Notes(republished=3, rehearsed=4), FIRST, now=NOW)
    assert (notes.republished, notes.rehearsed) == (3, 4)


LONGER = hold(make_keyset(policy=Policy(max_lifetime=3 * DAY)))
D = LONGER.keyset.policy.propagation


@pytest.mark.parametrize(
    ("lifetimes", "now", "longest"),
    [
        pytest.param({}, NOW, 3 * DAY, id="nothing noted"),
        pytest.param({3 * DAY: NOW}, NOW, 3 * DAY, id="no other is known"),
        pytest.param({DAY: 0, 3 * DAY: NOW}, NOW, DAY, id="just raised"),
        pytest.param({DAY: 0, 3 * DAY: NOW}, NOW + D - 1, DAY, id="one second before D"),
        pytest.param({DAY: 0, 3 * DAY: NOW}, NOW + D, 3 * DAY, id="exactly D later"),
        pytest.param({DAY: 0, 2 * DAY: NOW, 3 * DAY: NOW + 5}, NOW + D, 2 * DAY, id="raised twice, one is ripe"),
        pytest.param({DAY: NOW, 3 * DAY: NOW + 5}, NOW + 6, DAY, id="none is ripe: the shortest"),
        pytest.param({5 * DAY: 0}, NOW, 3 * DAY, id="never more than the policy"),
    ],
)
def test_a_raised_lifetime_is_minted_a_propagation_later(lifetimes: dict[int, int], now: int, longest: int) -> None:
    assert longest_lifetime(Notes(lifetimes=lifetimes), LONGER, now=now) == longest
