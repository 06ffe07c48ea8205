"""Histories: a follower may miss any number of epochs of its own, and takes none of another."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keydist.core.accept import Accepted, Demands, Floor, Held, Unchanged, accept
from keydist.errors import ForkError, KeydistError, RollbackError
from tests.material import Change, chain, demands, extend, first, floor_of, history
from tests.properties.strategies import MODEST, changes, histories


def node(held: Held | None, floor: Floor | None) -> Demands:
    return demands(held, floor=floor)


@MODEST
@given(histories, st.data())
def test_a_follower_may_miss_any_epochs(made_by: list[Change], data: st.DataObject) -> None:
    epochs = history(made_by)
    seen = sorted(data.draw(st.sets(st.integers(min_value=0, max_value=len(epochs) - 1), min_size=1)))
    held: Held | None = None
    floor: Floor | None = None
    for index in seen:
        answer = accept(epochs[index].envelope, node(held, floor))
        assert answer == Accepted(held=epochs[index], ancestry_unproven=False)
        held = epochs[index]
        floor = floor_of(held, revoked=floor.revoked if floor else frozenset())
        assert accept(held.envelope, node(held, floor)) == Unchanged()
        for earlier in epochs[:index]:
            with pytest.raises(RollbackError):
                accept(earlier.envelope, node(held, floor))
            with pytest.raises(KeydistError):  # without the keyset the floor still stands
                accept(earlier.envelope, node(None, floor))


@MODEST
@given(
    st.lists(changes, max_size=4),
    st.lists(changes, min_size=1, max_size=4),
    st.lists(changes, min_size=1, max_size=4),
)
def test_two_histories_never_mix(common: list[Change], one: list[Change], other: list[Change]) -> None:
    trunk = history(common)
    left = history(one, start=trunk[-1], name="left ")[1:]
    right = history(other, start=trunk[-1], name="right ")[1:]
    assume(left[0].envelope != right[0].envelope)
    for mine in left:
        for theirs in right:
            for what in (node(mine, None), node(mine, floor_of(mine))):
                with pytest.raises(ForkError):
                    accept(theirs.envelope, what)
            floor_only = ForkError if theirs.keyset.epoch >= mine.keyset.epoch else RollbackError
            with pytest.raises(floor_only):
                accept(theirs.envelope, node(None, floor_of(mine)))


@MODEST
@given(st.integers(min_value=1, max_value=90), st.integers(min_value=1, max_value=90))
def test_far_ahead_is_proven_for_64_epochs(mine: int, theirs: int) -> None:
    assume(mine < theirs)
    answer = accept(chain(theirs)[-1].envelope, demands(chain(mine)[-1]))
    assert answer == Accepted(held=chain(theirs)[-1], ancestry_unproven=theirs - mine > 64)


@settings(MODEST, max_examples=30)
@given(st.lists(changes, min_size=10, max_size=30))
def test_long_histories_stay_lawful(made_by: list[Change]) -> None:
    epochs = history(made_by)
    accept(epochs[-1].envelope, demands(epochs[0]))
    for before, after in pairwise(epochs):
        answer = accept(after.envelope, demands(before))
        assert isinstance(answer, Accepted)


class Store(RuleBasedStateMachine):
    """A leader, a store that serves any envelope there ever was, rivals included, and a node that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.line = [first()]
        self.rivals: list[Held] = [first("rival ")]
        self.held: Held | None = None
        self.floor: Floor | None = None

    @rule(change=changes)
    def write(self, change: Change) -> None:
        if len(self.line) < 12:
            self.line.append(extend(self.line[-1], change))

    @rule(change=changes, data=st.data())
    def write_beside(self, change: Change, data: st.DataObject) -> None:
        base = data.draw(st.sampled_from([*self.line, *self.rivals]))
        if len(self.rivals) < 8:
            rival = extend(base, change, name=f"rival {len(self.rivals)} ")
            if all(rival.envelope != one.envelope for one in self.line):
                self.rivals.append(rival)

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        served = data.draw(st.sampled_from([*self.line, *self.rivals]))
        before = (self.held, self.floor)
        try:
            answer = accept(served.envelope, node(self.held, self.floor))
        except KeydistError:
            assert before == (self.held, self.floor)
            return
        if isinstance(answer, Accepted):
            self._install(answer.held)

    @rule()
    def lose_the_keyset_but_not_the_floor(self) -> None:
        self.held = None

    def _install(self, new: Held) -> None:
        old = self.held
        self.held = new
        remembered = self.floor.revoked if self.floor else frozenset[str]()
        self.floor = floor_of(new, revoked=remembered)
        if old is not None:
            assert new.keyset.epoch > old.keyset.epoch
            assert new.keyset.ancestors[new.keyset.epoch - old.keyset.epoch - 1] == old.digest

    @invariant()
    def the_floor_is_never_above_the_keyset(self) -> None:
        if self.held is not None and self.floor is not None:
            assert self.floor.epoch == self.held.keyset.epoch

    @invariant()
    def no_key_is_listed_that_was_seen_revoked(self) -> None:
        if self.held is not None and self.floor is not None:
            assert not self.floor.revoked & {key.kid for key in self.held.keyset.keys}


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
