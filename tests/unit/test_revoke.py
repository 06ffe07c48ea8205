"""`services.revoke`: one epoch, at once, and for good; what it breaks is known before."""

from __future__ import annotations

import pytest

from keydist.core.keyset import State
from keydist.core.record import Minted
from keydist.core.restart import Role
from keydist.errors import (
    ConflictError,
    ForbiddenError,
    KeydistError,
    OutdatedError,
    RollbackError,
    UsageError,
    WrongRoleError,
)
from keydist.services.revoke import Plan, Revoked, plan, revoke
from keydist.services.waiting import acknowledged
from tests.fakes.memory_records import MemoryRecords
from tests.fakes.memory_store import Fault
from tests.material import DAY, NOW, Change, chain, extend, make_record, sealed_record
from tests.unit.command_world import HEARTBEAT, Operator, Peer, failure

MINE = chain(3)[-1]
LATER = extend(MINE, Change.ROTATE)


async def plan_with(operator: Operator, *kids: str) -> Plan:
    before = operator.state()
    found = await plan(operator.command, operator.local, kids=frozenset(kids) or None)
    assert operator.state() == before
    return found


async def revoke_with(operator: Operator, *kids: str, reason: str = "stolen") -> Revoked:
    return await revoke(operator.command, operator.local, kids=frozenset(kids) or None, reason=reason)


async def refused(operator: Operator, *kids: str, reason: str = "stolen") -> KeydistError:
    writes = operator.cluster.bucket.writes
    found = await failure(revoke_with(operator, *kids, reason=reason))
    assert operator.cluster.bucket.writes == writes
    return found


def kid_of(state: State, use: str = "sig") -> str:
    return next(key.kid for key in MINE.keyset.keys if (key.use, key.state) == (use, state))


ACTIVE, NEXT, RETIRED = (kid_of(state) for state in (State.ACTIVE, State.NEXT, State.RETIRED))
KINDS = {
    "active": (ACTIVE, NEXT, True),
    "next": (NEXT, ACTIVE, False),
    "retired": (RETIRED, ACTIVE, False),
    "enc active": (kid_of(State.ACTIVE, "enc"), ACTIVE, False),
    "enc next": (kid_of(State.NEXT, "enc"), ACTIVE, False),
    "enc retired": (kid_of(State.RETIRED, "enc"), ACTIVE, False),
}


@pytest.mark.parametrize(("kid", "signs", "anew"), KINDS.values(), ids=KINDS)
async def test_one_key_goes_in_one_epoch(kid: str, signs: str, *, anew: bool) -> None:
    operator = Operator(None, *chain(3), since=0)
    found = await plan_with(operator, kid)
    assert (found.successor, found.signs_anew, found.kids) == (signs, anew, (kid,))
    assert [(broken.kid, broken.state) for broken in found.broken] == [(kid, MINE.keyset.state_of(kid))]
    done = await revoke_with(operator, kid)
    after = operator.held.keyset
    assert (after.epoch, after.active.kid) == (4, signs)
    assert after.state_of(kid) is State.REVOKED
    assert [(entry.kid, entry.reason) for entry in after.revoked] == [(kid, "stolen")]
    for use in ("sig", "enc"):
        states = [key.state for key in after.keys if key.use == use]
        assert (states.count(State.ACTIVE), states.count(State.NEXT)) == (1, 1)
    assert done.held == operator.held == operator.cluster.held()


async def test_all_keys_go_in_one_epoch() -> None:
    operator = Operator(None, *chain(3), since=0)
    found = await plan_with(operator)
    assert (found.successor, found.signs_anew) == (None, True)
    await revoke_with(operator)
    after = operator.held.keyset
    assert not {key.kid for key in MINE.keyset.keys} & {key.kid for key in after.keys}
    assert {entry.kid for entry in after.revoked} == {key.kid for key in MINE.keyset.keys} == set(found.kids)
    assert len(after.keys) == 4


async def test_it_waits_for_nobody() -> None:
    operator = Operator(None, *chain(3), since=0)
    Peer(operator.cluster, "node-b", chain(2)[-1], follows=False)
    assert (await plan_with(operator, ACTIVE)).lacking == ("node-b",)
    start = operator.clock.monotonic()
    await revoke_with(operator, ACTIVE)
    assert operator.clock.monotonic() == start
    assert operator.held.keyset.epoch == 4


async def test_a_store_that_is_put_back_brings_no_revoked_key_back() -> None:
    operator = Operator(None, *chain(3))
    await revoke_with(operator, ACTIVE)
    operator.cluster.bucket.put(MINE.envelope)
    seen = await operator.command.node.observe(operator.local, from_leader=True)
    assert isinstance(seen.error, RollbackError)
    assert operator.held.keyset.state_of(ACTIVE) is State.REVOKED
    floor = operator.local.floor
    assert floor is not None
    assert ACTIVE in floor.revoked


async def test_who_is_waited_for_afterwards() -> None:
    operator = Operator(None, *chain(3))
    Peer(operator.cluster, "node-b")
    Peer(operator.cluster, "node-c", follows=False)
    done = await revoke_with(operator, ACTIVE)
    found = await acknowledged(operator.command, done.held, seconds=40)
    assert (found.lacking, found.by, found.blind) == (("node-c",), ("node-b",), None)
    found = await acknowledged(operator.command, done.held, without=frozenset({"node-c"}), seconds=40)
    assert (found.lacking, found.by) == ((), ("node-b",))


async def test_a_later_epoch_acknowledges_too() -> None:
    operator = Operator(None, *chain(3))
    Peer(operator.cluster, "node-b", LATER, follows=False)
    assert (await acknowledged(operator.command, MINE, seconds=0)).by == ("node-b",)


@pytest.mark.parametrize("fault", [Fault.FORBIDDEN, Fault.UNREACHABLE])
async def test_who_cannot_be_seen_cannot_be_waited_for_and_that_is_said(fault: Fault) -> None:
    operator = Operator(None, *chain(3))
    operator.records.fail_always("read_all", fault)
    assert (await acknowledged(operator.command, MINE, seconds=1)).blind is not None


# --- what breaks --------------------------------------------------------------------------------


async def test_what_breaks_is_counted_from_the_records() -> None:
    operator = Operator(None, *chain(3))
    Peer(operator.cluster, "node-b", minted={ACTIVE: Minted(3, NOW + 50), RETIRED: Minted(1, NOW)})
    Peer(operator.cluster, "node-c", minted={ACTIVE: Minted(4, NOW + 90)}, dead=True)
    operator.clock.advance(5 * HEARTBEAT)
    (broken,) = (await plan_with(operator, ACTIVE)).broken
    assert (broken.jwts, broken.last_expiry, broken.use) == (7, NOW + 90, "sig")
    every = {broken.kid: broken.jwts for broken in (await plan_with(operator)).broken}
    assert (every[ACTIVE], every[RETIRED], every[NEXT]) == (7, 1, 0)


async def test_a_plan_counts_what_was_minted_since_the_last_heartbeat_and_a_revocation_does_not_wait_for_it() -> None:
    operator = Operator(None, *chain(3))
    peer = MemoryRecords(operator.cluster.records)
    fresh = make_record(MINE, node="node-b", counter=2, minted={ACTIVE: Minted(5, NOW + 60)})
    peer.listen(heard=None, answer=lambda: sealed_record(fresh))
    operator.cluster.records.put("node-b", sealed_record(make_record(MINE, node="node-b", counter=1)))
    assert (await plan_with(operator, ACTIVE)).broken[0].jwts == 5
    assert (await revoke_with(operator, ACTIVE)).plan.broken[0].jwts == 0


async def test_a_new_key_is_with_nobody() -> None:
    operator = Operator(None, *chain(3))
    Peer(operator.cluster, "node-b")
    assert (await plan_with(operator)).lacking == ("node-b",)
    assert (await plan_with(operator, ACTIVE)).lacking == ()
    assert (await plan_with(operator, RETIRED)).lacking == ()


@pytest.mark.parametrize("fault", [Fault.FORBIDDEN, Fault.UNREACHABLE])
async def test_a_fleet_that_cannot_be_seen_stops_nothing(fault: Fault) -> None:
    operator = Operator(None, *chain(3))
    operator.records.fail_always("read_all", fault)
    assert (await plan_with(operator, ACTIVE)).blind is not None
    await revoke_with(operator, ACTIVE)
    assert operator.held.keyset.epoch == 4


async def test_a_clock_that_was_years_ahead_when_the_store_was_healed_delays_no_revocation() -> None:
    operator = Operator(None, *chain(3))
    operator.disk.note_done(republished=operator.clock.now() + 10 * 365 * DAY)
    done = await revoke(operator.command, operator.local, kids=None, reason="leak")
    assert done.held.keyset.epoch == 4


async def test_old_revocations_and_keys_make_room() -> None:
    operator = Operator(None, *chain(3), since=60 * DAY)
    found = await plan_with(operator, ACTIVE)
    assert RETIRED in found.drop
    assert RETIRED not in (await plan_with(operator, RETIRED)).drop
    await revoke_with(operator, ACTIVE)
    assert operator.held.keyset.state_of(RETIRED) is State.ABSENT


@pytest.mark.parametrize(
    ("since", "warned"), [(None, True), (-5, True), (0, True), (5, False)], ids=["never", "before", "then", "after"]
)
async def test_a_token_that_is_as_old_as_the_keys_may_be_known(since: int | None, *, warned: bool) -> None:
    operator = Operator(None, *chain(3))
    notes = operator.disk.folder.notes
    at = min(notes.keys[ACTIVE].values())
    tokens = {} if since is None else {MINE.token_id: at + since}
    operator.disk.folder.notes = notes._replace(tokens=tokens)
    assert (await plan_with(operator)).token_may_be_known is warned
    assert not (await plan_with(operator, ACTIVE)).token_may_be_known


# --- what is refused ----------------------------------------------------------------------------


async def test_what_is_revoked_already_stays_so_and_nothing_is_written() -> None:
    operator = Operator(None, *chain(3))
    await revoke_with(operator, ACTIVE)
    writes = operator.cluster.bucket.writes
    assert (await plan_with(operator, ACTIVE)).broken == ()
    done = await revoke_with(operator, ACTIVE)
    assert (done.done, done.held, operator.cluster.bucket.writes) == (None, operator.held, writes)


async def test_what_left_the_list_of_revocations_is_known_from_the_floor() -> None:
    operator = Operator(None, *chain(3))
    floor = operator.disk.folder.floor
    assert floor is not None
    operator.disk.folder.floor = floor._replace(revoked=frozenset({"x" * 43}))
    assert (await revoke_with(operator, "x" * 43)).done is None


async def test_an_unknown_kid_is_a_mistake() -> None:
    operator = Operator(None, *chain(3))
    for found in (await refused(operator, "no-such"), await failure(plan_with(operator, "no-such"))):
        assert isinstance(found, UsageError)
        assert "key list" in found.fix


@pytest.mark.parametrize("reason", ["x" * 65, "café", "two\nlines", "\x1b[2J"])
async def test_a_reason_is_checked_before_anything(reason: str) -> None:
    operator = Operator(None, *chain(3))
    assert isinstance(await refused(operator, ACTIVE, reason=reason), UsageError)
    assert operator.store.calls == operator.records.calls == []


async def test_a_follower_is_refused() -> None:
    operator = Operator(None, *chain(3), role=Role.FOLLOWER)
    assert isinstance(await refused(operator, ACTIVE), WrongRoleError)


async def test_a_live_node_that_is_ahead_refuses_it_and_a_dead_one_does_not() -> None:
    operator = Operator(None, *chain(3))
    peer = Peer(operator.cluster, "node-b", LATER, follows=False)
    operator.records.is_deaf = True
    operator.records.fail("read_all", Fault.UNREACHABLE)
    await plan_with(operator, ACTIVE)  # the first reading failed
    found = await refused(operator, ACTIVE)
    assert isinstance(found, OutdatedError)
    operator.cluster.records.records.clear()
    peer.cluster.records.exists = False
    operator.cluster.records.exists = True
    Peer(operator.cluster, "node-c", LATER, dead=True, follows=False)
    peer.cluster.records.exists = False
    operator.clock.at(operator.clock.monotonic() + 1, lambda: operator.records.fail("read_all", Fault.TIMEOUT))
    await revoke_with(operator, ACTIVE)
    assert operator.held.keyset.epoch == 4


@pytest.mark.parametrize("kids", [(ACTIVE,), ()], ids=["one", "all"])
@pytest.mark.parametrize(
    "before", [["read_leader"] * 2, ["read_leader"] * 2 + ["replace"]], ids=["building", "writing"]
)
async def test_another_leader_that_writes_meanwhile_does_not_stop_it(before: list[str], kids: tuple[str, ...]) -> None:
    operator = Operator(None, *chain(3))

    def race(_call: str) -> None:
        if operator.store.calls == before:
            operator.cluster.bucket.put(LATER.envelope)

    operator.store.between = race
    done = await revoke_with(operator, *kids)
    after = operator.held.keyset
    assert done.held == operator.held == operator.cluster.held()
    assert (after.epoch, LATER.digest in after.ancestors) == (5, True)
    assert {entry.kid for entry in after.revoked} == set(kids or (key.kid for key in LATER.keyset.keys))


async def test_a_race_that_is_lost_five_times_revokes_nothing_and_says_so() -> None:
    operator = Operator(None, *chain(3))
    writes = 0

    def race(call: str) -> None:
        nonlocal writes
        if call == "replace":
            writes += 1
            operator.cluster.bucket.put(extend(operator.cluster.held(), Change.ROTATE).envelope)

    operator.store.between = race
    found = await failure(revoke_with(operator, ACTIVE))
    assert isinstance(found, ConflictError)
    assert writes == 5
    assert operator.held.keyset.revoked == operator.cluster.held().keyset.revoked == ()


@pytest.mark.parametrize("fault", [Fault.LOST_ACKNOWLEDGEMENT, Fault.CONNECTION_LOST])
async def test_a_lost_acknowledgement_is_read_back(fault: Fault) -> None:
    operator = Operator(None, *chain(3))
    operator.store.fail("replace", fault)
    await revoke_with(operator, ACTIVE)
    assert operator.held == operator.cluster.held()
    assert operator.held.keyset.state_of(ACTIVE) is State.REVOKED


async def test_a_node_that_is_behind_revokes_on_top_of_what_the_store_holds() -> None:
    operator = Operator(None, *chain(3))
    operator.cluster.bucket.put(LATER.envelope)
    assert (await plan_with(operator, ACTIVE)).behind == 3
    await revoke_with(operator, ACTIVE)
    assert operator.held.keyset.epoch == 5
    assert LATER.digest in operator.held.keyset.ancestors


async def test_no_permission_to_write_is_told() -> None:
    operator = Operator(None, *chain(3))
    operator.store.fail("replace", Fault.FORBIDDEN)
    assert isinstance(await refused(operator, ACTIVE), ForbiddenError)
    assert operator.held == MINE
