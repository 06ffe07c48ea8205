"""`services.rotate`: a planned rotation never signs with a key that somebody lacks; what it waits for, it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from keydist.core.accept import Held
from keydist.core.keyset import MAX_RETIRED, State
from keydist.core.restart import Role
from keydist.core.successor import rotated
from keydist.errors import (
    ConflictError,
    CorruptError,
    ForbiddenError,
    ForkError,
    KeydistError,
    NotYetError,
    OutdatedError,
    RefusedGenesisError,
    StoreLostError,
    StoreTimeoutError,
    UnreachableError,
    UsageError,
    WrongRoleError,
)
from keydist.services.dates import date
from keydist.services.rotate import Plan, Rotated, Wish, carry_through, kind_of, next_key, plan, rotate
from tests.fakes.memory_store import Fault
from tests.material import (
    DAY,
    LINEAGE,
    OTHER_TOKEN,
    TOKEN,
    Change,
    chain,
    extend,
    first,
    fresh_keys,
    hold,
    make_record,
    sealed_record,
    sig_key,
)
from tests.unit.command_world import HEARTBEAT, D, Operator, Peer, failure

PLAIN = Wish()
ES256 = Wish(alg="ES256")
LATER = extend(chain(1)[-1], Change.ROTATE)
OTHER = extend(chain(1)[-1], Change.ROTATE, name="other ")


async def rotate_with(operator: Operator, wish: Wish = PLAIN, *, seconds: float = 60) -> Rotated:
    return await rotate(operator.command, operator.local, wish, seconds=seconds)


async def plan_with(operator: Operator, wish: Wish = PLAIN) -> Plan:
    before = operator.state()
    found = await plan(operator.command, operator.local, wish)
    assert operator.state() == before
    return found


async def refused(operator: Operator, wish: Wish = PLAIN, *, seconds: float = 60) -> KeydistError:
    """Return how a rotation fails that must change nothing in the store."""
    writes = operator.cluster.bucket.writes
    found = await failure(rotate_with(operator, wish, seconds=seconds))
    assert operator.cluster.bucket.writes == writes
    return found


# --- one epoch ----------------------------------------------------------------------------------


async def test_the_standing_next_signs_in_one_epoch() -> None:
    operator = Operator()
    before, following = operator.held.keyset, next_key(operator.held)
    peer = Peer(operator.cluster, "node-b")
    assert following is not None
    done = await rotate_with(operator)
    after = operator.held.keyset
    assert (after.epoch, after.active.kid, done.previous_kid) == (2, following.kid, before.active.kid)
    assert after.state_of(before.active.kid) is State.RETIRED
    assert next_key(operator.held) is not None
    assert done.complete
    assert done.plan.by == ("node-b",)
    assert operator.cluster.held() == operator.held == done.done.held
    peer.follow()
    assert peer.held == operator.held


async def test_what_is_due_leaves_with_it() -> None:
    operator = Operator(None, *chain(2), since=60 * DAY)
    (retired,) = (key.kid for key in operator.held.keyset.signing_keys() if key.state is State.RETIRED)
    assert retired in (await plan_with(operator)).drop
    await rotate_with(operator)
    assert operator.held.keyset.state_of(retired) is State.ABSENT


async def test_a_plan_says_when_and_who_and_changes_nothing() -> None:
    operator = Operator(since=D - 100)
    Peer(operator.cluster, "node-b", chain(1)[-1])
    operator.cluster.records.put("odd", b"no record")
    Peer(operator.cluster, "node-c", hold(replace(chain(1)[-1].keyset, issued=7)), follows=False)
    found = await plan_with(operator)
    assert (found.opens, found.lacking, found.by) == (operator.clock.now() + 100, ("node-c",), ("node-b",))
    assert (found.unreadable, found.left_out, found.behind) == (("odd",), (), None)
    assert found.following == next_key(operator.held).kid  # type: ignore[union-attr]
    policy = operator.held.keyset.policy
    span = policy.stale_read + policy.mint_lease + policy.max_lifetime + policy.leeway + 4 * policy.skew
    assert found.drops_at == operator.clock.now() + span
    found = await plan_with(operator, Wish(without=frozenset({"node-c"})))
    assert (found.lacking, found.left_out) == ((), ("node-c",))


# --- the gate: the time -------------------------------------------------------------------------


@pytest.mark.parametrize(("since", "seconds"), [(D, 0), (D - 1, 1), (0, D)])
async def test_it_waits_for_the_time_where_that_is_within_its_own(since: int, seconds: int) -> None:
    operator = Operator(since=since)
    start = operator.clock.now()
    await rotate_with(operator, seconds=seconds)
    assert operator.clock.now() - start == D - since
    assert ("waiting until the next key may sign" in operator.told) is (since < D)


async def test_a_time_too_far_off_is_told_at_once() -> None:
    operator = Operator(since=D - 61)
    Peer(operator.cluster, "node-b", LATER, follows=False, dead=True).beat(epoch=1)
    start = operator.clock.now()
    found = await refused(operator, seconds=60)
    assert isinstance(found, NotYetError)
    assert found.expected == f"{date(start + 61)} or later"
    assert "node-b" in found.found
    assert "--timeout 121s" in found.fix
    assert operator.clock.now() == start


async def test_what_this_node_noted_counts_and_no_other_time() -> None:
    """The keyset says that next was published long ago; this node holds it since now."""
    operator = Operator(None, first(), since=0)
    operator.clock.advance(D - 1)
    assert isinstance(await refused(operator, seconds=0), NotYetError)
    operator.clock.advance(1)
    await rotate_with(operator, seconds=0)


# --- the gate: the acknowledgements -------------------------------------------------------------


async def test_a_live_node_without_the_next_key_stops_it_and_is_named() -> None:
    operator = Operator(None, *chain(2))
    Peer(operator.cluster, "node-b")
    Peer(operator.cluster, "node-c", chain(1)[-1], follows=False)
    found = await refused(operator, seconds=300)
    assert isinstance(found, NotYetError)
    assert found.message.endswith("next key: node-c")
    assert "--without NODE" in found.fix
    assert operator.told[0].endswith(": node-c")


async def test_a_node_that_is_left_out_stops_nothing() -> None:
    operator = Operator(None, *chain(2))
    Peer(operator.cluster, "node-c", chain(1)[-1], follows=False)
    done = await rotate_with(operator, Wish(without=frozenset({"node-c"})), seconds=0)
    assert done.plan.left_out == ("node-c",)


async def test_a_node_that_shows_up_while_keys_are_made_is_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Operator(None, *chain(2))
    make = operator.entropy.signing_key

    async def slow(alg: str, bits: int) -> bytes:
        Peer(operator.cluster, "node-c", chain(1)[-1], follows=False)
        return await make(alg, bits)

    monkeypatch.setattr(operator.entropy, "signing_key", slow)
    found = await refused(operator, seconds=30)
    assert found.message.endswith("next key: node-c")


async def test_a_node_that_follows_meanwhile_is_waited_for() -> None:
    operator = Operator(None, *chain(2))
    peer = Peer(operator.cluster, "node-b", chain(1)[-1], follows=False)
    operator.clock.at(33, lambda: setattr(peer, "follows", True))
    await rotate_with(operator)
    assert 33 <= operator.clock.monotonic() < 45


async def test_a_dead_node_stops_counting_after_three_of_its_heartbeats() -> None:
    operator = Operator(None, *chain(2))
    Peer(operator.cluster, "node-b", chain(1)[-1], dead=True, follows=False)
    assert isinstance(await refused(operator, seconds=3 * HEARTBEAT - 1), NotYetError)
    start = operator.clock.monotonic()
    await rotate_with(operator, seconds=3 * HEARTBEAT + 1)
    assert 3 * HEARTBEAT <= operator.clock.monotonic() - start < 3 * HEARTBEAT + 1


async def test_a_node_that_left_does_not_count() -> None:
    operator = Operator(None, *chain(2))
    Peer(operator.cluster, "node-b", chain(1)[-1], dead=True, follows=False).beat(leaving=True)
    await rotate_with(operator, seconds=0)


async def test_silence_of_the_store_is_nobodys_death() -> None:
    """While records cannot be read everybody seems dead: that opens no gate."""
    operator = Operator(None, *chain(2))
    peer = Peer(operator.cluster, "node-b", chain(1)[-1], follows=False)
    operator.records.is_deaf = True
    operator.clock.at(1, lambda: operator.records.fail_always("read_all", Fault.UNREACHABLE))
    operator.clock.at(150, operator.records.heal)
    found = await refused(operator, seconds=200)
    assert found.message.endswith("next key: node-b")
    operator.records.fail("read_all", *[Fault.UNREACHABLE] * 3)
    assert isinstance(await refused(operator), UnreachableError)
    operator.records.heal()
    operator.records.is_deaf = True
    operator.clock.at(operator.clock.monotonic() + 1, lambda: operator.records.fail_always("read_all", Fault.TIMEOUT))
    assert isinstance(await refused(operator, seconds=200), StoreTimeoutError)
    operator.records.heal()
    peer.follows = True
    await rotate_with(operator)


async def test_records_that_may_not_be_read_stop_it_and_the_permission_is_named() -> None:
    operator = Operator()
    operator.records.fail_always("read_all", Fault.FORBIDDEN)
    for found in (await refused(operator), await failure(plan_with(operator))):
        assert isinstance(found, ForbiddenError)
        assert found.exit_code == 77
        assert "keydist-nodes" in found.expected
        assert "store config" in found.fix


async def test_where_nobody_runs_an_agent_the_time_alone_counts() -> None:
    operator = Operator(since=D - 5)
    operator.cluster.records.drop()
    done = await rotate_with(operator)
    assert done.plan.by == ()


# --- room ---------------------------------------------------------------------------------------


def full(*, since: int = 0) -> Operator:
    """Return a node whose keyset has no room, and which retired its keys `since` seconds ago."""
    return Operator(None, chain(MAX_RETIRED + 1)[-1], since=since)


async def test_sixteen_retired_keys_refuse_it_with_the_time() -> None:
    operator = full(since=D)
    found = await refused(operator, seconds=10 * DAY)
    assert isinstance(found, NotYetError)
    room_at = (await plan_with(operator)).room_at
    assert room_at is not None
    assert found.expected == f"{date(room_at)} or later"
    operator.clock.advance(room_at - operator.clock.now())
    await rotate_with(operator)


# --- another kind of key ------------------------------------------------------------------------


async def test_another_algorithm_takes_two_epochs() -> None:
    operator = Operator()
    before = operator.held.keyset
    found = await plan_with(operator, ES256)
    assert (found.replaces_next, found.following, found.kind) == (True, None, ("ES256", 0))
    done = await rotate_with(operator, ES256)
    published = next_key(operator.held)
    assert published is not None
    assert (done.complete, published.alg, operator.held.keyset.active) == (False, "ES256", before.active)
    assert done.opens == operator.clock.now() + D
    assert isinstance(await refused(operator, ES256), NotYetError)
    operator.clock.advance(D)
    assert not (await plan_with(operator, ES256)).replaces_next  # the same again is a plain rotation
    await rotate_with(operator, ES256)
    assert operator.held.keyset.active.kid == published.kid
    assert next_key(operator.held).alg == "ES256"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("held", "wish", "kind"),
    [
        (first(), Wish(), ("EdDSA", 0)),
        (first(), Wish(alg="RS256"), ("RS256", 3072)),
        (first(), Wish(alg="PS256", bits=4096), ("PS256", 4096)),
        (first(), Wish(alg="ES256"), ("ES256", 0)),
    ],
)
def test_what_a_wish_leaves_out_stays_or_is_the_default(held: Held, wish: Wish, kind: tuple[str, int]) -> None:
    assert kind_of(held, wish) == kind


def test_a_size_stays_that_of_the_next_key_or_else_of_the_active_one() -> None:
    keys = chain(1)[-1].keyset.keys
    rsa = (sig_key("rsa-a", alg="RS256"), sig_key("rsa-b", State.NEXT, alg="RS256"), *keys[2:])
    mixed = (sig_key("rsa-a", alg="RS256"), sig_key("B", State.NEXT), *(key for key in keys if key.use == "enc"))
    rsa = (*rsa[:2], *(key for key in keys if key.use == "enc"))
    for names in (rsa, mixed):
        held = hold(replace(chain(1)[-1].keyset, keys=names))
        assert kind_of(held, Wish(alg="PS256")) == ("PS256", 2048)
    assert kind_of(hold(replace(chain(1)[-1].keyset, keys=rsa)), Wish(bits=4096)) == ("RS256", 4096)
    with pytest.raises(UsageError, match="one size"):
        kind_of(first(), Wish(bits=4096))


async def test_a_missing_next_key_is_made_first() -> None:
    keys = tuple(key for key in chain(1)[-1].keyset.keys if key.use == "enc" or key.state is not State.NEXT)
    operator = Operator(None, hold(replace(chain(1)[-1].keyset, keys=keys)))
    assert not (await rotate_with(operator)).complete
    assert next_key(operator.held) is not None


# --- carried through ----------------------------------------------------------------------------


async def carried(operator: Operator, *, seconds: float, wish: Wish = ES256) -> Rotated:
    return await carry_through(operator.command, await rotate_with(operator, wish), wish, seconds=seconds)


async def test_both_epochs_are_written_where_the_time_allows() -> None:
    operator = Operator()
    before = operator.held.keyset.active.kid
    Peer(operator.cluster, "node-b")
    done = await carried(operator, seconds=3600)
    after = operator.held.keyset
    assert (done.complete, after.epoch, after.active.alg, done.previous_kid) == (True, 3, "ES256", before)
    assert D <= operator.clock.monotonic() < D + 30


async def test_too_little_time_is_told_at_once_and_the_first_epoch_stands() -> None:
    operator = Operator()
    found = await failure(carried(operator, seconds=D - 1))
    assert isinstance(found, NotYetError)
    assert operator.clock.monotonic() == 0
    assert operator.held.keyset.epoch == operator.cluster.held().keyset.epoch == 2


async def test_a_node_that_does_not_follow_stops_the_second_epoch() -> None:
    operator = Operator()
    Peer(operator.cluster, "node-b", follows=False)
    found = await failure(carried(operator, seconds=D + 60))
    assert found.message.endswith("next key: node-b")


def rotate_by_another(operator: Operator, name: str = "another") -> None:
    """Let another leader rotate."""
    held = operator.cluster.held()
    keyset = rotated(held, now=operator.clock.now(), alg="EdDSA", fresh=fresh_keys(name))
    operator.cluster.bucket.put(hold(keyset).envelope)


async def test_another_leader_may_be_the_one_who_activates_it() -> None:
    operator = Operator()
    operator.clock.at(D - 1, lambda: rotate_by_another(operator))
    done = await carried(operator, seconds=3600)
    assert (done.complete, operator.held.keyset.epoch, operator.held.keyset.active.alg) == (True, 3, "ES256")
    assert done.done.held == operator.held == operator.cluster.held()


async def test_another_leader_may_do_something_else_meanwhile() -> None:
    operator = Operator()
    Peer(operator.cluster, "node-b")

    def reseal() -> None:
        held = operator.cluster.held()
        operator.cluster.bucket.put(extend(held, Change.RESEAL).envelope)

    operator.clock.at(D - 1, reseal)
    done = await carried(operator, seconds=3600)
    assert (done.complete, operator.held.keyset.epoch, operator.held.keyset.active.alg) == (True, 4, "ES256")


async def test_a_key_that_was_replaced_again_is_not_waited_for() -> None:
    operator = Operator()

    def replace_it() -> None:
        operator.cluster.bucket.put(extend(operator.cluster.held(), Change.REPLACE_NEXT).envelope)

    operator.clock.at(D - 1, replace_it)
    found = await failure(carried(operator, seconds=3600))
    assert isinstance(found, ConflictError)
    assert "replaced or revoked" in found.message


async def test_a_race_that_is_lost_at_the_end_of_the_time_is_told() -> None:
    operator = Operator()
    first_epoch = await rotate_with(operator, ES256)
    operator.clock.advance(D)
    operator.store.fail_always("replace", Fault.TIMEOUT)
    writes = operator.cluster.bucket.writes
    found = await failure(carry_through(operator.command, first_epoch, ES256, seconds=0))
    assert found.exit_code == 75
    assert operator.cluster.bucket.writes == writes


async def test_a_conflict_at_the_end_of_the_time_is_the_answer() -> None:
    operator = Operator()
    first_epoch = await rotate_with(operator, ES256)
    operator.clock.advance(D)

    def race(call: str) -> None:
        if call == "replace":
            operator.cluster.bucket.put(extend(operator.cluster.held(), Change.RESEAL).envelope)

    operator.store.between = race
    found = await failure(carry_through(operator.command, first_epoch, ES256, seconds=0))
    assert isinstance(found, ConflictError)


async def test_a_race_is_run_again_while_there_is_time() -> None:
    operator = Operator()
    first_epoch = await rotate_with(operator, ES256)
    operator.clock.advance(D)
    operator.store.fail("replace", Fault.TIMEOUT)
    with pytest.raises(StoreTimeoutError):
        await carry_through(operator.command, first_epoch, ES256, seconds=5)

    lost = iter([True])

    def race(call: str) -> None:
        if call == "replace" and next(lost, False):
            operator.cluster.bucket.put(extend(operator.cluster.held(), Change.RESEAL).envelope)

    operator.store.between = race
    done = await carry_through(operator.command, first_epoch, ES256, seconds=D + 60)
    assert done.complete


# --- what the store and the disk hold -----------------------------------------------------------


async def test_a_follower_is_refused() -> None:
    operator = Operator(role=Role.FOLLOWER)
    for found in (await refused(operator), await failure(plan_with(operator))):
        assert isinstance(found, WrongRoleError)
        assert (found.exit_code, operator.store.calls) == (77, [])


async def test_a_node_that_is_behind_first_takes_what_the_store_holds() -> None:
    operator = Operator()
    operator.cluster.bucket.put(LATER.envelope)
    found = await plan_with(operator)
    assert (found.behind, found.held, found.opens) == (1, LATER, operator.clock.now() + D)
    assert isinstance(await refused(operator), NotYetError)  # the new next key came only now
    assert operator.held == LATER
    operator.clock.advance(D)
    await rotate_with(operator)
    assert operator.held.keyset.epoch == 3


async def test_a_node_without_a_keyset_takes_it_but_makes_none() -> None:
    operator = Operator()
    operator.disk.reset()
    assert (await plan_with(operator)).behind == 0
    assert isinstance(await refused(operator), NotYetError)
    assert operator.held == chain(1)[-1]
    operator.disk.reset()
    operator.cluster.bucket.wipe()
    for found in (await failure(plan_with(operator)), await refused(operator)):
        assert isinstance(found, RefusedGenesisError)
        assert "bootstrap --role leader" in found.fix


async def test_a_damaged_node_is_healed_first_and_a_plan_names_the_damage() -> None:
    operator = Operator()
    operator.disk.folder.is_damaged = True
    assert (await plan_with(operator)).behind == 0
    operator.cluster.bucket.purge()
    with pytest.raises(CorruptError):
        await plan_with(operator)


LOSSES: dict[str, Callable[[Operator], object]] = {
    "deleted": lambda operator: operator.cluster.bucket.delete(),
    "emptied": lambda operator: operator.cluster.bucket.purge(),
    "wiped": lambda operator: operator.cluster.bucket.wipe(),
    "gone": lambda operator: operator.cluster.bucket.drop(),
    "put back": lambda operator: operator.cluster.bucket.put(chain(1)[-1].envelope),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
async def test_a_store_that_lost_it_gets_it_back_and_no_epoch_for_three_heartbeats(
    lose: Callable[[Operator], object],
) -> None:
    operator = Operator(None, *chain(2))
    lose(operator)
    for found in (await failure(plan_with(operator)), await failure(rotate_with(operator))):
        assert isinstance(found, NotYetError)  # the plan fails as the rotation does
    assert operator.cluster.bucket.content() == operator.held.envelope
    for _ in range(2):
        for again in (await refused(operator), await failure(plan_with(operator))):
            assert isinstance(again, NotYetError)
            assert "put it back" in again.message
        operator.clock.advance(3 * HEARTBEAT / 2 - 1)
    operator.clock.advance(2)
    await rotate_with(operator, seconds=D)
    assert operator.held.keyset.epoch == 3


async def test_a_store_that_lost_it_and_takes_nothing_is_told_as_lost() -> None:
    operator = Operator()
    operator.cluster.bucket.purge()
    operator.store.fail_always("replace", Fault.FORBIDDEN)
    assert isinstance(await refused(operator), StoreLostError)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault.UNREACHABLE, 75),
        (Fault.TIMEOUT, 75),
        (Fault.FORBIDDEN, 77),
        (Fault.REFUSED, 77),
    ],
)
async def test_a_store_that_does_not_answer(fault: Fault, code: int) -> None:
    operator = Operator()
    operator.store.fail_always("read", fault)
    for found in (await refused(operator), await failure(plan_with(operator))):
        assert found.exit_code == code


async def test_a_fork_is_not_written_upon() -> None:
    operator = Operator(None, *chain(2))
    operator.cluster.bucket.put(OTHER.envelope)
    for found in (await refused(operator), await failure(plan_with(operator))):
        assert isinstance(found, ForkError)


async def test_nothing_at_all_and_may_not_ask_why() -> None:
    operator = Operator()
    operator.cluster.bucket.purge()
    operator.store._may_ask_why = False
    for found in (await refused(operator), await failure(plan_with(operator))):
        assert isinstance(found, StoreLostError)


# --- others -------------------------------------------------------------------------------------


async def test_a_live_node_that_is_ahead_refuses_it() -> None:
    operator = Operator()
    Peer(operator.cluster, "node-b", LATER, follows=False)
    for found in (await refused(operator), await failure(plan_with(operator))):
        assert isinstance(found, OutdatedError)
        assert "node-b" in found.message
        assert "store restore" in found.fix


async def test_a_live_node_of_another_lineage_refuses_it() -> None:
    operator = Operator()
    Peer(operator.cluster, "node-b", first("other ", lineage="f" * 32), follows=False)
    found = await refused(operator)
    assert isinstance(found, ForkError)
    assert found.expected == f"lineage {LINEAGE}"


async def test_a_dead_node_that_was_ahead_refuses_nothing_once_that_is_known() -> None:
    """A cluster that was begun anew still has the records of the old one."""
    operator = Operator()
    Peer(operator.cluster, "node-b", first("other ", lineage="f" * 32), dead=True, follows=False)
    operator.records.fail("read_all", *[])
    await rotate_with(operator)
    assert 3 * HEARTBEAT <= operator.clock.monotonic() < 3 * HEARTBEAT + 2
    assert operator.told[0] == "looking whether these nodes live: node-b"


async def test_a_record_that_cannot_be_opened_is_named_and_does_not_count() -> None:
    operator = Operator()
    operator.cluster.records.put("node-x", sealed_record(make_record(node="node-x"), token=OTHER_TOKEN))
    done = await rotate_with(operator)
    assert done.plan.unreadable == ("node-x",)


async def test_somebody_who_writes_during_the_wait_ends_it() -> None:
    operator = Operator(None, *chain(2))
    Peer(operator.cluster, "node-b", chain(1)[-1], follows=False)
    other = Peer(operator.cluster, "node-c")

    def write() -> None:
        operator.cluster.bucket.put(extend(chain(2)[-1], Change.ROTATE).envelope)
        other.beat()

    operator.clock.at(5, write)
    found = await failure(rotate_with(operator, seconds=600))
    assert isinstance(found, OutdatedError)
    assert operator.clock.monotonic() < 10


async def test_an_epoch_that_leaves_the_keys_of_the_rotation_alone_does_not_end_its_wait() -> None:
    """As where a leader's agent lets a retired key go meanwhile."""
    operator = Operator(None, *chain(3), since=D - 10)
    other = Peer(operator.cluster, "node-c")

    def write() -> None:
        operator.cluster.bucket.put(extend(chain(3)[-1], Change.DROP).envelope)
        other.beat()

    operator.clock.at(5, write)
    done = await rotate_with(operator, seconds=600)
    assert done.done.held.keyset.epoch == 5
    assert done.previous_kid == chain(3)[-1].keyset.active.kid


async def test_a_lost_race_is_a_conflict_and_nothing_is_lost() -> None:
    operator = Operator()

    def race(call: str) -> None:
        if call == "replace":
            operator.cluster.bucket.put(LATER.envelope)

    operator.store.between = race
    found = await failure(rotate_with(operator))
    assert isinstance(found, ConflictError)
    assert (found.exit_code, operator.held) == (75, LATER)
    assert operator.cluster.bucket.content() == LATER.envelope


async def test_an_agent_beside_it_that_installs_first_disturbs_nothing() -> None:
    operator = Operator()
    local = operator.local
    operator.cluster.bucket.put(LATER.envelope)
    operator.install(LATER)
    operator.clock.advance(D)
    await rotate(operator.command, local, PLAIN, seconds=0)
    assert operator.held.keyset.epoch == 3


async def test_who_always_loses_against_an_agent_beside_it_says_so() -> None:
    operator = Operator()
    operator.cluster.bucket.put(LATER.envelope)
    operator.disk.fail(*[ConflictError("another process installed something", fix="again")] * 3)
    assert isinstance(await refused(operator), ConflictError)


@pytest.mark.parametrize("fault", [Fault.LOST_ACKNOWLEDGEMENT, Fault.CONNECTION_LOST])
async def test_a_lost_acknowledgement_is_read_back(fault: Fault) -> None:
    operator = Operator()
    operator.store.fail("replace", fault)
    done = await rotate_with(operator)
    assert operator.held == done.done.held == operator.cluster.held()
    assert operator.held.keyset.epoch == 2


async def test_later_epochs_stay_under_the_token_of_the_current_one() -> None:
    for tokens in ((TOKEN, OTHER_TOKEN), (OTHER_TOKEN, TOKEN)):
        operator = Operator(tokens=tokens)
        await rotate_with(operator)
        assert operator.held.token_id == TOKEN.token_id
