"""A short run of what `make fuzz` does for long: no input makes a parser do anything but answer or refuse."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS
from fuzz.words import some_swapped
from keydist.errors import KeydistError
from tests.properties.strategies import damaged, mangled

ANY_BYTE = bytes(range(256))


@pytest.mark.parametrize("name", TARGETS)
def test_a_good_input_is_taken_and_a_bad_one_refused(name: str) -> None:
    for seed in TARGETS[name].good:
        TARGETS[name].check(seed)
    for seed in TARGETS[name].refused:
        with pytest.raises(KeydistError):
            TARGETS[name].check(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_stands_in_the_place_of_a_word_is_taken_or_refused(name: str) -> None:
    seeds = TARGETS[name].good + TARGETS[name].refused
    for raw in (raw for seed in seeds for raw in some_swapped(seed, most=800 // len(seeds))):
        with suppress(KeydistError):
            TARGETS[name].check(raw)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_other_is_taken_or_refused(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    seed = data.draw(st.sampled_from(target.good + target.refused))
    raw = data.draw(damaged(seed, ANY_BYTE) | mangled(seed) | st.binary(max_size=200))
    with suppress(KeydistError):
        target.check(raw)
