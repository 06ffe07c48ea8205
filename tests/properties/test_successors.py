"""Successors: whatever leaders do one after another, every epoch is one that every node accepts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from keydist.core.accept import Accepted, Held, accept
from keydist.core.genesis import FreshKeys
from keydist.core.keyset import MAX_RETIRED, Keyset, State, check_advance
from keydist.core.notes import Notes, noted
from keydist.core.plaintext import parse_keyset, serialise_keyset
from keydist.core.policy import Policy, check_policy_change
from keydist.core.record import open_record
from keydist.core.rotation import Drop, Publish, Rotate, Situation, Wait, activation, decide, drop_times, outlives, room
from keydist.core.strict import MAX_INT
from keydist.core.successor import extended, republished_next, resealed, revoked, rotated, with_policy, without
from keydist.errors import MalformedError, UsageError
from tests.material import (
    DAY,
    NOW,
    PLACE,
    TOKEN,
    demands,
    first,
    floor_of,
    fresh_keys,
    hold,
    make_record,
    sealed_record,
)
from tests.properties.strategies import MODEST, keysets, policies

ALGS = st.sampled_from(["EdDSA", "ES256"])
REASONS = st.text("abc xyz", max_size=64)


def parsed(keyset: Keyset) -> Keyset:
    """Return a keyset as a node reads it."""
    return parse_keyset(
        serialise_keyset(keyset), lineage=keyset.lineage, epoch=keyset.epoch, issued=keyset.issued, validate=True
    )


class Leaders(RuleBasedStateMachine):
    """Leaders that do any operation at any time, and followers that read some epochs and miss others."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.line = [first()]
        self.seen = self.line[0]
        self.ever: set[str] = {key.kid for key in self.line[0].keyset.keys}
        self.made = 0

    @property
    def held(self) -> Held:
        return self.line[-1]

    def fresh(self, alg: str) -> FreshKeys:
        self.made += 1
        return fresh_keys(f"fresh {self.made}", alg)

    def kids(self, *states: State) -> list[str]:
        return [key.kid for key in self.held.keyset.keys if key.state in states]

    def write(self, after: Keyset) -> None:
        before = self.held
        check_advance(before.keyset, after)
        assert parsed(after) == after
        gone = self.ever - {key.kid for key in before.keyset.keys}
        assert not gone & {key.kid for key in after.keys}, "a dropped or revoked key came back"
        self.ever |= {key.kid for key in after.keys}
        sealed = hold(after)
        assert accept(sealed.envelope, demands(before, floor=floor_of(before))) == Accepted(held=sealed)
        self.line.append(sealed)

    @rule(seconds=st.integers(min_value=0, max_value=10 * DAY))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def reseal(self) -> None:
        self.write(resealed(self.held, now=self.now))

    @rule(alg=ALGS, data=st.data())
    def rotate(self, alg: str, data: st.DataObject) -> None:
        drop = data.draw(st.sets(st.sampled_from([*self.kids(State.RETIRED), "none"])))
        kept = [key.use for key in self.held.keyset.keys if key.state is State.RETIRED and key.kid not in drop]
        full = max(kept.count("sig"), kept.count("enc")) >= MAX_RETIRED
        if not full:
            self.write(rotated(self.held, now=self.now, alg=alg, fresh=self.fresh(alg), drop=drop))

    @rule(alg=ALGS, uses=st.sets(st.sampled_from(["sig", "enc"]), min_size=1))
    def replace_next(self, alg: str, uses: set[str]) -> None:
        self.write(republished_next(self.held, now=self.now, alg=alg, fresh=self.fresh(alg), uses=uses))

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        may = [*self.kids(State.RETIRED), *(entry.kid for entry in self.held.keyset.revoked), "none"]
        self.write(without(self.held, now=self.now, drop=data.draw(st.sets(st.sampled_from(may)))))

    @rule(alg=ALGS, reason=REASONS, data=st.data())
    def revoke(self, alg: str, reason: str, data: st.DataObject) -> None:
        kids = data.draw(st.sets(st.sampled_from([key.kid for key in self.held.keyset.keys])))
        fresh = (self.fresh(alg), self.fresh(alg))
        before = {entry.kid for entry in self.held.keyset.revoked}
        self.write(revoked(self.held, now=self.now, kids=kids, reason=reason, alg=alg, fresh=fresh))
        assert {entry.kid for entry in self.held.keyset.revoked} == before | kids
        assert len(self.kids(State.NEXT)) == 2

    @rule(until=st.integers(min_value=0, max_value=MAX_INT - 1), data=st.data())
    def extend(self, until: int, data: st.DataObject) -> None:
        kid = data.draw(st.sampled_from([key.kid for key in self.held.keyset.keys]))
        now = {key.kid: key.verify_until for key in self.held.keyset.keys}[kid]
        if now is not None and until < now:
            with pytest.raises(UsageError):
                extended(self.held, now=self.now, kid=kid, until=until)
        else:
            self.write(extended(self.held, now=self.now, kid=kid, until=until))

    @rule(policy=policies())
    def change_policy(self, policy: Policy) -> None:
        old = self.held.keyset.policy
        try:
            check_policy_change(old, policy)
        except MalformedError:
            return
        self.write(with_policy(self.held, now=self.now, policy=policy))

    @precondition(lambda self: self.seen is not self.held)
    @rule()
    def follow(self) -> None:
        answer = accept(self.held.envelope, demands(self.seen, floor=floor_of(self.seen)))
        assert answer == Accepted(held=self.held)
        self.seen = self.held

    @invariant()
    def keys_stand_in_their_order(self) -> None:
        keys = self.held.keyset.keys
        if len(self.line) > 1 and keys != self.line[0].keyset.keys:
            states = ["active", "next", "retired"]
            order = [(key.use != "sig", states.index(key.state), -(key.retired or 0)) for key in keys]
            assert order == sorted(order)


TestLeaders = Leaders.TestCase
TestLeaders.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@MODEST
@given(keysets(), st.integers(min_value=NOW, max_value=NOW + 400 * DAY), st.data())
def test_a_decision_never_breaks_its_rules(keyset: Keyset, now: int, data: st.DataObject) -> None:
    held = hold(keyset)
    notes = noted(Notes(), held, now=data.draw(st.integers(min_value=0, max_value=NOW)))
    live = tuple(
        make_record(held, node=f"n{number}", epoch=held.keyset.epoch - behind)
        for number, behind in enumerate(data.draw(st.lists(st.sampled_from([0, 0, 0, 1]), max_size=4)))
    )
    situation = Situation(held=held, notes=notes, now=now, live=live, records=live)
    step = decide(situation)
    for after in _done(held, step, now=now):
        check_advance(held.keyset, after)
        assert parsed(after) == after
    if isinstance(step, Rotate):
        assert activation(situation).is_open
        assert room(situation) is None
        assert all(record.epoch == held.keyset.epoch for record in live)
    if isinstance(step, Rotate | Drop):
        kids = step.drop if isinstance(step, Rotate) else step.kids
        times = dict(drop_times(situation))
        assert all(times[kid] <= now for kid in kids)
        until = {key.kid: key.verify_until or 0 for key in keyset.keys}
        assert all(until.get(kid, 0) <= now for kid in kids)
        noted_at = {kid: min(states.values()) for kid, states in notes.keys.items()}
        assert all(noted_at[kid] + outlives(keyset.policy) <= now for kid in kids)


def _done(held: Held, step: Rotate | Publish | Drop | Wait, *, now: int) -> Iterator[Keyset]:
    match step:
        case Rotate(drop=drop):
            yield rotated(held, now=now, alg="EdDSA", fresh=fresh_keys("decided"), drop=drop)
        case Publish(uses=uses):
            yield republished_next(held, now=now, alg="EdDSA", fresh=fresh_keys("decided"), uses=uses)
        case Drop(kids=kids):
            yield without(held, now=now, drop=kids)
        case Wait():
            return


@MODEST
@given(
    st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    st.integers(min_value=0, max_value=MAX_INT - 1),
    st.integers(min_value=1, max_value=86_400),
    st.booleans(),
)
def test_every_record_is_read_back(node: str, counter: int, heartbeat: int, leaving: bool) -> None:  # noqa: FBT001 - drawn
    record = make_record(node=node, counter=counter, heartbeat=heartbeat, leaving=leaving)
    assert open_record(sealed_record(record), node=node, place=PLACE, tokens=(TOKEN,)) == record
