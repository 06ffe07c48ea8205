"""The policy: the documented defaults, and the rules between its members."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keydist.core.policy import MEMBERS, NEVER_LOWERED, Policy, check_policy_change, parse_policy
from keydist.errors import MalformedError

DEFAULTS = {
    "propagation": 900,
    "freshness": 120,
    "stale_read": 60,
    "jwks_max_age": 300,
    "max_lifetime": 86_400,
    "mint_lease": 604_800,
    "leeway": 60,
    "skew": 30,
    "rotate_every": 2_592_000,
    "max_tokens_per_key": 0,
}


def test_the_defaults_are_the_documented_ones() -> None:
    assert Policy().as_json() == DEFAULTS
    assert list(Policy().as_json()) == list(DEFAULTS) == list(MEMBERS)


def test_a_policy_is_read_back() -> None:
    assert parse_policy(DEFAULTS) == Policy()
    assert parse_policy(Policy(propagation=1000, rotate_every=0).as_json()) == Policy(propagation=1000, rotate_every=0)


@pytest.mark.parametrize("value", [None, [], "nine hundred", 900])
def test_a_policy_is_an_object(value: object) -> None:
    with pytest.raises(MalformedError, match="policy is not an object"):
        parse_policy(value)


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_is_needed(name: str) -> None:
    with pytest.raises(MalformedError, match="policy has the wrong members"):
        parse_policy({member: value for member, value in DEFAULTS.items() if member != name})


def test_other_members_are_refused() -> None:
    with pytest.raises(MalformedError, match="policy has the wrong members"):
        parse_policy(DEFAULTS | {"colour": 1})


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("value", [-1, 2**53, True, 1.0, "one", None])
def test_every_member_is_an_integer_in_range(name: str, value: object) -> None:
    with pytest.raises(MalformedError, match=rf"policy\.{name} is not an integer in range"):
        parse_policy(DEFAULTS | {name: value})


@pytest.mark.parametrize("name", ["propagation", "freshness", "max_lifetime", "mint_lease"])
def test_a_time_without_which_nothing_works_is_not_zero(name: str) -> None:
    with pytest.raises(MalformedError, match=rf"policy\.{name} is not an integer in range"):
        parse_policy(DEFAULTS | {name: 0})


def test_the_other_members_may_be_zero() -> None:
    least = Policy(
        propagation=1,
        freshness=1,
        stale_read=0,
        jwks_max_age=0,
        max_lifetime=1,
        mint_lease=1,
        leeway=0,
        skew=0,
        rotate_every=0,
        max_tokens_per_key=0,
    )
    assert sum(least.as_json().values()) == 4


def test_propagation_covers_freshness_stale_read_and_caches() -> None:
    assert Policy(propagation=480).propagation == 120 + 60 + 300
    with pytest.raises(MalformedError, match=r"policy\.propagation is too short") as caught:
        Policy(propagation=479)
    assert (caught.value.expected[-3:], caught.value.found) == ("480", "479")
    for name in ("freshness", "stale_read", "jwks_max_age"):
        with pytest.raises(MalformedError, match=r"policy\.propagation is too short"):
            replace(Policy(propagation=480), **{name: DEFAULTS[name] + 1})


def test_leeway_covers_two_clocks() -> None:
    assert Policy(leeway=60, skew=30).leeway == 2 * 30
    with pytest.raises(MalformedError, match=r"policy\.leeway is too short"):
        Policy(leeway=59, skew=30)


# --- changing it --------------------------------------------------------------------------------

WIDE = Policy(propagation=1000, leeway=100, skew=30)


def test_what_is_never_lowered_is_written_down() -> None:
    assert NEVER_LOWERED == ("propagation", "max_lifetime", "mint_lease", "leeway", "skew")


@pytest.mark.parametrize("name", MEMBERS)
def test_a_policy_may_be_raised_and_only_some_of_it_lowered(name: str) -> None:
    value = getattr(WIDE, name)
    check_policy_change(WIDE, replace(WIDE, **{name: value + 1}))
    check_policy_change(WIDE, WIDE)
    if value == 0:
        return
    lower = replace(WIDE, **{name: value - 1})
    if name not in NEVER_LOWERED:
        check_policy_change(WIDE, lower)
        return
    with pytest.raises(MalformedError, match=rf"policy\.{name} is never lowered") as caught:
        check_policy_change(WIDE, lower)
    assert (caught.value.expected, caught.value.found) == (f"at least {value}", str(value - 1))


def test_what_one_member_gains_does_not_make_up_for_another() -> None:
    with pytest.raises(MalformedError, match=r"policy\.skew"):
        check_policy_change(WIDE, replace(WIDE, propagation=2000, max_lifetime=10**6, mint_lease=10**6, skew=29))
