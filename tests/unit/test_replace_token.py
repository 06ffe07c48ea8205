"""`services.replace_token`: another bootstrap token without an outage, and nobody left behind unnoticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from keydist.core.accept import Held
from keydist.core.restart import Role
from keydist.core.token import BootstrapToken
from keydist.errors import (
    ConflictError,
    CorruptError,
    ForbiddenError,
    KeydistError,
    NotYetError,
    OutdatedError,
    RefusedOverwriteError,
    UnreachableError,
    WrongRoleError,
    WrongTokenError,
)
from keydist.services.living import WHO_SECONDS
from keydist.services.replace_token import Plan, Replaced, Retirable, Wish, check_retirable, plan, replace_token
from keydist.services.revoke import revoke
from keydist.services.rotate import Wish as Rotation
from keydist.services.rotate import rotate
from keydist.services.waiting import moved
from tests.fakes.memory_records import MemoryRecords
from tests.fakes.memory_store import Fault
from tests.material import (
    OTHER_TOKEN,
    TOKEN,
    Change,
    chain,
    extend,
    make_record,
    noise,
    sealed_record,
)
from tests.unit.command_world import HEARTBEAT, D, Operator, Peer, failure

OLD, NEW = TOKEN, OTHER_TOKEN
THIRD = BootstrapToken(token_id="aaaaaaaaaa", secret=noise("third token", 32))
BOTH = (OLD, NEW)
MINE = chain(2)[-1]
LATER = extend(MINE, Change.ROTATE)
MOVED = extend(MINE, Change.RESEAL, token=NEW)
WISH = Wish(NEW)


def a_node(
    *history: Held, role: Role = Role.LEADER, tokens: tuple[BootstrapToken, ...] = BOTH, sealed: bool = False
) -> Operator:
    return Operator(None, *(history or chain(2)), role=role, tokens=tokens, sealed=sealed)


async def plan_with(operator: Operator, wish: Wish = WISH) -> Plan:
    before = operator.state()
    found = await plan(operator.command, operator.local, wish)
    assert operator.state() == before
    return found


async def replaced(operator: Operator, wish: Wish = WISH) -> Replaced:
    return await replace_token(operator.command, operator.local, wish)


async def refused(operator: Operator, wish: Wish = WISH) -> KeydistError:
    writes = operator.cluster.bucket.writes
    found = await failure(replaced(operator, wish))
    assert operator.cluster.bucket.writes == writes
    return found


# --- sealing again ------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [BOTH, BOTH[::-1]], ids=["old first", "new first"])
async def test_the_whole_way_without_an_outage(tokens: tuple[BootstrapToken, ...]) -> None:
    operator = a_node(tokens=tokens)
    follower = Peer(operator.cluster, "node-b", tokens=BOTH)
    found = await plan_with(operator)
    assert (found.old_id, found.new_id, found.lacking, found.is_done) == (OLD.token_id, NEW.token_id, (), False)
    done = await replaced(operator)
    assert (operator.held.token_id, operator.held.keyset.epoch) == (NEW.token_id, 3)
    assert operator.held.keyset.keys == MINE.keyset.keys
    found_by = await moved(operator.command, done.held, seconds=60)
    assert (found_by.lacking, found_by.by) == ((), ("node-b",))
    assert follower.held == operator.held
    assert await check_retirable(operator.command, operator.local, OLD.token_id) == Retirable()
    operator.clock.advance(D)
    await rotate(operator.command, operator.local, Rotation(), seconds=0)
    assert operator.held.token_id == NEW.token_id  # whatever the order of the lines


async def test_done_already_writes_nothing() -> None:
    operator = a_node()
    await replaced(operator)
    writes = operator.cluster.bucket.writes
    assert (await plan_with(operator)).is_done
    done = await replaced(operator)
    assert (done.done, done.held, operator.cluster.bucket.writes) == (None, operator.held, writes)


async def test_another_leader_may_have_done_it() -> None:
    operator = a_node()
    operator.cluster.bucket.put(MOVED.envelope)
    found = await plan_with(operator)
    assert (found.is_done, found.behind) == (True, 2)
    assert (await replaced(operator)).done is None
    assert operator.held == MOVED


async def test_a_live_node_without_the_new_token_stops_it_and_is_named() -> None:
    operator = a_node()
    Peer(operator.cluster, "node-b", tokens=BOTH)
    Peer(operator.cluster, "node-c", tokens=(OLD,))
    assert (await plan_with(operator)).lacking == ("node-c",)
    found = await refused(operator)
    assert isinstance(found, NotYetError)
    assert "node-c" in found.message
    assert "node-b" not in found.message
    assert operator.clock.monotonic() <= HEARTBEAT  # it was heard again: no need to wait longer


async def test_who_answers_that_it_lives_is_not_waited_for() -> None:
    operator = a_node()
    record = make_record(MINE, node="node-c", counter=9)
    operator.cluster.records.put("node-c", sealed_record(record))
    answering = MemoryRecords(operator.cluster.records)
    answering.listen(heard=None, answer=lambda: sealed_record(replace(record, counter=10)))
    assert "node-c" in (await refused(operator)).message
    assert operator.clock.monotonic() == WHO_SECONDS
    operator.records.fail("ask_living", Fault.FORBIDDEN)  # then only time tells
    await replaced(operator)
    assert operator.clock.monotonic() > 3 * HEARTBEAT


async def test_a_node_that_reloads_meanwhile_stops_nothing() -> None:
    operator = a_node()
    peer = Peer(operator.cluster, "node-c", tokens=(OLD,))
    peer.tokens = BOTH
    await replaced(operator)
    assert operator.held.token_id == NEW.token_id


async def test_a_dead_node_stops_nothing_once_that_is_known_and_joins_later_with_both_lines() -> None:
    operator = a_node()
    off = Peer(operator.cluster, "node-c", tokens=(OLD,), dead=True)
    await replaced(operator)
    assert 3 * HEARTBEAT <= operator.clock.monotonic() <= 3 * HEARTBEAT + 2
    off.tokens = BOTH
    off.beat()
    assert off.held == operator.held


async def test_a_node_that_is_left_behind_keeps_what_it_has_and_alarms() -> None:
    operator = a_node()
    peer = Peer(operator.cluster, "node-c", tokens=(OLD,))
    wish = WISH._replace(without=frozenset({"node-c"}))
    assert (await plan_with(operator, wish)).left_out == ("node-c",)
    done = await replaced(operator, wish)
    operator.clock.advance(HEARTBEAT)
    assert (peer.held, len(peer.refusals)) == (MINE, 2)
    assert (await moved(operator.command, done.held, seconds=30)).lacking == ("node-c",)
    found = await moved(operator.command, done.held, without=wish.without, seconds=30)
    assert found.lacking == ()


async def test_a_token_that_was_replaced_is_not_taken_again() -> None:
    operator = a_node()
    await replaced(operator)
    for found in (await refused(operator, Wish(OLD)), await failure(plan_with(operator, Wish(OLD)))):
        assert isinstance(found, WrongTokenError)
        assert "token generate" in found.fix
    behind = a_node()
    behind.cluster.bucket.put(MOVED.envelope)  # replaced on the way that this node has yet to go
    assert isinstance(await failure(plan_with(behind, Wish(OLD))), WrongTokenError)


@pytest.mark.parametrize("fault", [Fault.LOST_ACKNOWLEDGEMENT, Fault.CONNECTION_LOST])
async def test_a_lost_acknowledgement_is_read_back(fault: Fault) -> None:
    operator = a_node()
    operator.store.fail("replace", fault)
    await replaced(operator)
    assert operator.held == operator.cluster.held(NEW)


async def test_an_epoch_that_comes_first_does_not_stop_it() -> None:
    operator = a_node()

    def race(call: str) -> None:
        if call == "replace" and operator.cluster.held().keyset.epoch == MINE.keyset.epoch:
            operator.cluster.bucket.put(LATER.envelope)

    operator.store.between = race
    await replaced(operator)
    assert operator.held == operator.cluster.held(NEW)
    assert LATER.digest in operator.held.keyset.ancestors


async def test_a_race_that_is_lost_five_times_replaces_nothing_and_says_so() -> None:
    operator = a_node()

    def race(call: str) -> None:
        if call == "replace":
            operator.cluster.bucket.put(extend(operator.cluster.held(), Change.ROTATE).envelope)

    operator.store.between = race
    assert isinstance(await failure(replaced(operator)), ConflictError)
    assert (operator.store.calls.count("replace"), operator.held.token_id) == (5, OLD.token_id)


async def test_records_that_may_not_be_read_stop_it() -> None:
    operator = a_node()
    operator.records.fail_always("read_all", Fault.FORBIDDEN)
    assert isinstance(await refused(operator), ForbiddenError)


async def test_a_follower_and_a_node_that_is_ahead_stop_it() -> None:
    assert isinstance(await refused(a_node(role=Role.FOLLOWER)), WrongRoleError)
    operator = a_node()
    Peer(operator.cluster, "node-b", LATER, follows=False, tokens=BOTH)
    assert isinstance(await refused(operator), OutdatedError)


# --- from disk ----------------------------------------------------------------------------------

LOST = Wish(NEW, from_disk=True)


async def test_a_plain_node_seals_again_though_the_old_token_is_lost() -> None:
    operator = a_node()
    operator.tokens = (NEW,)
    Peer(operator.cluster, "node-b", tokens=BOTH)
    found = await plan_with(operator, LOST)
    assert (found.is_done, found.unreadable) == (False, ("node-b",))
    await replaced(operator, LOST)
    assert operator.held == operator.cluster.held(NEW)
    assert operator.held.token_id == NEW.token_id


async def test_without_being_asked_to_it_does_not() -> None:
    operator = a_node()
    operator.tokens = (NEW,)
    Peer(operator.cluster, "node-b", tokens=(OLD,))  # whose record it could not even open
    for found in (await refused(operator), await failure(plan_with(operator))):
        assert isinstance(found, WrongTokenError)
        assert "--from-disk" in found.fix
    operator.cluster.bucket.put(LATER.envelope)
    assert isinstance(await refused(operator), WrongTokenError)


async def test_a_fleet_that_cannot_be_seen_is_said() -> None:
    operator = a_node()
    operator.tokens = (NEW,)
    operator.records.fail_always("read_all", Fault.FORBIDDEN)
    assert isinstance((await plan_with(operator, LOST)).blind, ForbiddenError)
    assert (await replaced(operator, LOST)).done is not None


STORES: dict[str, Callable[[Operator], object]] = {
    "later": lambda operator: operator.cluster.bucket.put(LATER.envelope),
    "an ancestor": lambda operator: operator.cluster.bucket.put(chain(1)[-1].envelope),
    "something else": lambda operator: operator.cluster.bucket.put(b"nothing of ours"),
    "deleted": lambda operator: operator.cluster.bucket.delete(),
    "wiped": lambda operator: operator.cluster.bucket.wipe(),
    "gone": lambda operator: operator.cluster.bucket.drop(),
}


@pytest.mark.parametrize("befall", STORES.values(), ids=STORES)
async def test_only_over_exactly_its_own_bytes(befall: Callable[[Operator], object]) -> None:
    operator = a_node()
    operator.tokens = (NEW,)
    befall(operator)
    for found in (await refused(operator, LOST), await failure(plan_with(operator, LOST))):
        assert isinstance(found, RefusedOverwriteError)
        assert found.exit_code == 65
    assert operator.held == MINE


@pytest.mark.parametrize(("fault", "code"), [(Fault.UNREACHABLE, 75), (Fault.FORBIDDEN, 77)])
async def test_a_store_that_does_not_answer_is_not_written(fault: Fault, code: int) -> None:
    operator = a_node()
    operator.store.fail_always("read", fault)
    assert (await refused(operator, LOST)).exit_code == code


async def test_a_sealed_node_cannot() -> None:
    operator = a_node(sealed=True)
    operator.tokens = (NEW,)
    found = await refused(operator, LOST)
    assert isinstance(found, WrongTokenError)
    assert "at_rest: plain" in found.fix


async def test_a_node_without_a_keyset_or_with_a_damaged_one_cannot() -> None:
    operator = a_node()
    operator.disk.folder.is_damaged = True
    with pytest.raises(CorruptError):
        await replaced(operator, LOST)
    operator.disk.reset()
    assert isinstance(await refused(operator, LOST), RefusedOverwriteError)
    assert isinstance(await refused(a_node(role=Role.FOLLOWER), LOST), WrongRoleError)


# --- retiring -----------------------------------------------------------------------------------


async def retirable(operator: Operator, token_id: str = OLD.token_id) -> Retirable:
    before = operator.state()
    found = await check_retirable(operator.command, operator.local, token_id)
    assert operator.state() == before
    return found


async def test_a_token_in_use_here_stays() -> None:
    for role in Role:
        found = await failure(retirable(a_node(role=role)))
        assert isinstance(found, NotYetError)
        assert found.found == OLD.token_id


async def test_a_token_in_use_at_a_live_node_stays_and_a_dead_one_is_nobodys_reason() -> None:
    operator = a_node(*chain(2), MOVED)
    operator.cluster.bucket.put(MOVED.envelope)
    Peer(operator.cluster, "node-b", MINE, tokens=BOTH, follows=False)
    Peer(operator.cluster, "node-c", tokens=BOTH)
    found = await failure(retirable_with_time(operator))
    assert isinstance(found, NotYetError)
    assert found.message.endswith(": node-b")
    operator = a_node(*chain(2), MOVED)
    Peer(operator.cluster, "node-b", MINE, tokens=BOTH, follows=False, dead=True)
    assert await retirable_with_time(operator) == Retirable()


async def retirable_with_time(operator: Operator) -> Retirable:
    return await check_retirable(operator.command, operator.local, OLD.token_id)


async def test_the_token_that_the_store_has_moved_to_stays_on_a_node_that_is_behind() -> None:
    operator = a_node()
    operator.cluster.bucket.put(MOVED.envelope)
    found = await failure(retirable(operator, NEW.token_id))
    assert isinstance(found, NotYetError)
    assert "keydist bootstrap" in found.fix
    assert isinstance(await failure(retirable(operator, OLD.token_id)), NotYetError)


async def test_a_token_that_was_never_used_may_go_from_a_leader() -> None:
    assert await retirable(a_node(tokens=(OLD, THIRD)), THIRD.token_id) == Retirable()


async def test_a_record_that_cannot_be_opened_is_named() -> None:
    operator = a_node(*chain(2), MOVED)
    operator.cluster.records.put("node-x", sealed_record(make_record(node="node-x"), token=THIRD))
    assert (await retirable(operator)).unreadable == ("node-x",)


async def test_a_follower_goes_by_what_it_has_seen_replaced() -> None:
    operator = a_node(*chain(2), MOVED, role=Role.FOLLOWER)
    Peer(operator.cluster, "node-b", MINE, tokens=BOTH, follows=False)
    assert isinstance((await retirable(operator)).unseen, ForbiddenError)
    assert operator.store.calls == operator.records.calls == []
    found = await failure(retirable(a_node(role=Role.FOLLOWER), NEW.token_id))
    assert isinstance(found, NotYetError)
    assert "not seen" in found.message


async def test_a_follower_that_had_nothing_when_the_token_was_replaced_is_told_how_it_gets_rid_of_the_old_one() -> None:
    found = await failure(retirable(a_node(MOVED, role=Role.FOLLOWER, tokens=BOTH)))
    assert isinstance(found, NotYetError)
    assert found.fix == (
        "on a leader: keydist token retire says who still needs it; where nobody does, and it is not one to come,"
        " remove its line from this node's token file by hand"
    )


async def test_a_node_without_a_keyset_or_without_the_store_does_not_know() -> None:
    operator = a_node()
    operator.disk.reset()
    assert isinstance(await failure(retirable(operator)), NotYetError)
    operator = a_node()
    operator.disk.folder.is_damaged = True
    with pytest.raises(CorruptError):
        await retirable(operator)
    operator = a_node(*chain(2), MOVED)
    operator.store.fail_always("read", Fault.UNREACHABLE)
    assert isinstance(await failure(retirable(operator)), UnreachableError)


async def test_whoever_has_the_replaced_token_stops_neither_a_revocation_nor_a_rotation() -> None:
    resealed = extend(chain(2)[-1], Change.RESEAL, token=OTHER_TOKEN)
    operator = Operator(None, *chain(2), resealed, tokens=(TOKEN, OTHER_TOKEN))
    ghost = make_record(resealed, node="ghost", epoch=10**6, heartbeat=86_400, counter=10**9)
    operator.cluster.records.put("ghost", sealed_record(ghost, token=TOKEN))
    turn = rotate(operator.command, operator.local, Rotation(without=frozenset({"ghost"})), seconds=5)
    assert (await turn).done.held.keyset.epoch == 4
    done = await revoke(operator.command, operator.local, kids=None, reason="leaked")
    assert done.held.keyset.epoch == 5
    assert operator.clock.monotonic() < HEARTBEAT
