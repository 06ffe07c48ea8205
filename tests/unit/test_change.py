"""`services.change`: a key's time and the policy; one epoch where something changes, none where nothing does."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

import pytest

from keydist.core.keyset import Keyset
from keydist.core.policy import NEVER_LOWERED, Policy
from keydist.core.restart import Role
from keydist.errors import KeydistError, UsageError, WrongRoleError
from keydist.services.change import Changed, extend, set_policy
from tests.material import Change, chain
from tests.material import extend as epoch_after
from tests.unit.command_world import Operator, failure

MINE = chain(2)[-1]
ACTIVE = MINE.keyset.active.kid
LATER = epoch_after(MINE, Change.ROTATE)


def a_node(role: Role = Role.LEADER) -> Operator:
    return Operator(None, *chain(2), role=role)


async def extended(operator: Operator, until: int, *, kid: str = ACTIVE, dry_run: bool = False) -> Changed:
    return await extend(operator.command, operator.local, kid=kid, until=until, dry_run=dry_run)


async def policy_set(operator: Operator, values: Mapping[str, int], *, dry_run: bool = False) -> Changed:
    return await set_policy(operator.command, operator.local, values, dry_run=dry_run)


def until_of(keyset: Keyset, kid: str = ACTIVE) -> int | None:
    return next(key.verify_until for key in keyset.keys if key.kid == kid)


async def refused(operator: Operator, work: Awaitable[object]) -> KeydistError:
    before = operator.cluster.bucket.writes
    found = await failure(work)
    assert operator.cluster.bucket.writes == before
    return found


# --- a key's time -------------------------------------------------------------------------------


@pytest.mark.parametrize("kid", [key.kid for key in MINE.keyset.keys])
async def test_a_key_of_any_state_is_extended_in_one_epoch(kid: str) -> None:
    operator = a_node()
    at = operator.clock.now() + 1000
    done = await extended(operator, at, kid=kid)
    assert (done.is_made, done.after, until_of(done.after, kid)) == (True, operator.held.keyset, at)
    assert operator.held == operator.cluster.held()
    assert operator.held.keyset.epoch == 3


async def test_the_same_again_changes_nothing_even_when_it_has_passed() -> None:
    operator = a_node()
    at = operator.clock.now() + 1000
    await extended(operator, at)
    writes = operator.cluster.bucket.writes
    for _ in range(2):
        done = await extended(operator, at)
        assert (done.is_made, done.before, operator.cluster.bucket.writes) == (False, done.after, writes)
        operator.clock.advance(2000)


@pytest.mark.parametrize("until", [0, 1, -1, 2**53, 1 << 80], ids=str)
async def test_a_time_that_has_passed_or_cannot_be_is_refused(until: int) -> None:
    operator = a_node()
    assert isinstance(await refused(operator, extended(operator, until)), UsageError)


async def test_it_is_never_lowered_and_what_is_not_there_not_extended() -> None:
    operator = a_node()
    at = operator.clock.now() + 1000
    await extended(operator, at)
    found = await refused(operator, extended(operator, at - 1))
    assert isinstance(found, UsageError)
    assert found.message == "verify_until is never lowered"
    assert isinstance(await refused(operator, extended(operator, at, kid="x" * 43)), UsageError)


async def test_a_dry_run_says_what_would_be_and_writes_nothing() -> None:
    operator = a_node()
    operator.cluster.bucket.put(LATER.envelope)
    before, at = operator.state(), operator.clock.now() + 1000
    done = await extended(operator, at, dry_run=True)
    assert (done.is_made, done.behind, done.before) == (False, 2, LATER.keyset)
    assert (until_of(done.after), done.after.epoch) == (at, 4)
    assert isinstance(await failure(extended(operator, 1, dry_run=True)), UsageError)
    assert operator.state() == before


# --- the policy ---------------------------------------------------------------------------------


async def test_several_members_are_set_in_one_epoch() -> None:
    operator = a_node()
    values = {"propagation": 1200, "freshness": 400, "rotate_every": 86_400, "max_tokens_per_key": 5}
    done = await policy_set(operator, values)
    assert done.is_made
    policy = operator.held.keyset.policy
    assert policy == Policy(**values)
    assert operator.held.keyset.epoch == 3


async def test_what_is_so_already_changes_nothing() -> None:
    operator = a_node()
    writes = operator.cluster.bucket.writes
    done = await policy_set(operator, MINE.keyset.policy.as_json())
    assert (done.is_made, done.before, operator.cluster.bucket.writes) == (False, done.after, writes)


@pytest.mark.parametrize("name", NEVER_LOWERED)
async def test_what_was_promised_is_never_lowered(name: str) -> None:
    operator = a_node()
    found = await refused(operator, policy_set(operator, {name: getattr(Policy(), name) - 1}))
    assert isinstance(found, UsageError)
    assert "never lowered" in found.message or "too short" in found.message


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"freshness": 541}, "freshness + stale_read + jwks_max_age = 901"),
        ({"jwks_max_age": 721}, "= 901"),
        ({"skew": 31}, "2 × skew = 62"),
        ({"freshness": 0}, ""),
        ({"rotate_every": -1}, ""),
        ({"max_lifetime": 2**53}, ""),
        ({"no_such": 1}, "propagation"),
    ],
)
async def test_its_rules_are_enforced(values: dict[str, int], told: str) -> None:
    operator = a_node()
    found = await refused(operator, policy_set(operator, values))
    assert isinstance(found, UsageError)
    assert told in found.expected


async def test_members_that_depend_on_each_other_are_set_together() -> None:
    operator = a_node()
    await policy_set(operator, {"skew": 31, "leeway": 62})
    await policy_set(operator, {"propagation": 901, "freshness": 541})
    assert operator.held.keyset.epoch == 4


async def test_a_dry_run_of_a_policy_writes_nothing() -> None:
    operator = a_node()
    before = operator.state()
    done = await policy_set(operator, {"leeway": 90}, dry_run=True)
    assert (done.is_made, done.after.policy.leeway, done.after.epoch, done.behind) == (False, 90, 3, None)
    assert isinstance(await failure(policy_set(operator, {"leeway": 1}, dry_run=True)), UsageError)
    assert operator.state() == before


async def test_a_follower_changes_nothing() -> None:
    operator = a_node(Role.FOLLOWER)
    at = operator.clock.now() + 1000
    assert isinstance(await refused(operator, extended(operator, at)), WrongRoleError)
    assert isinstance(await refused(operator, policy_set(operator, {"leeway": 90})), WrongRoleError)
    assert isinstance(await refused(operator, policy_set(operator, {"leeway": 90}, dry_run=True)), WrongRoleError)


# --- races --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "before", [["read_leader"] * 2, ["read_leader"] * 2 + ["replace"]], ids=["building", "writing"]
)
@pytest.mark.parametrize("what", ["a time", "the policy"])
async def test_an_epoch_that_an_agent_writes_meanwhile_is_built_upon(what: str, before: list[str]) -> None:
    operator = a_node()
    at = operator.clock.now() + 1000

    def race(_call: str) -> None:
        if operator.store.calls == before:
            operator.cluster.bucket.put(LATER.envelope)

    operator.store.between = race
    done = await (extended(operator, at) if what == "a time" else policy_set(operator, {"leeway": 90}))
    assert (done.is_made, done.before, done.after) == (True, LATER.keyset, operator.held.keyset)
    assert operator.held == operator.cluster.held()
    assert (until_of(done.after) == at, done.after.policy.leeway == 90) == (what == "a time", what != "a time")


async def test_what_another_leader_has_set_meanwhile_is_not_set_again() -> None:
    operator = a_node()
    theirs = a_node()
    await policy_set(theirs, {"leeway": 90, "rotate_every": 86_400})

    def race(call: str) -> None:
        if call == "replace" and operator.cluster.held().keyset.epoch == MINE.keyset.epoch:
            operator.cluster.bucket.put(theirs.held.envelope)

    operator.store.between = race
    done = await policy_set(operator, {"leeway": 90})
    assert (done.is_made, operator.held) == (False, theirs.held)
