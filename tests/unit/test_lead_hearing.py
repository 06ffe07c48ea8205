"""A leader that cannot see or hear enough writes no epoch: who may be ahead, or lacks the next key, is not known."""

from __future__ import annotations

from keydist.core.fleet import HEARTBEATS
from keydist.core.policy import Policy
from keydist.errors import OutdatedError
from tests.fakes.memory_store import Fault
from tests.properties.cluster_model.node import HEARTBEAT, Machine
from tests.properties.cluster_model.world import World

POLICY = Policy(
    propagation=13,
    freshness=4,
    stale_read=2,
    jwks_max_age=3,
    max_lifetime=6,
    mint_lease=12,
    leeway=2,
    skew=1,
    rotate_every=20,
)
DUE = POLICY.rotate_every + POLICY.propagation
SETTLED = HEARTBEATS * HEARTBEAT


def formed(*, leaders: int, followers: int) -> World:
    """Return a world that is about to rotate, its leaders settled."""
    world = World(leaders=leaders, followers=followers, policy=POLICY)
    world.form()
    for _ in range(POLICY.rotate_every - 1):
        passes(world)
    return world


def passes(world: World, *, leading: bool = False) -> None:
    """Let a second pass in which all nodes look and tell, and leaders decide where they may."""
    world.time.advance(1)
    for node in world.all:
        node.look()
        node.tell()
    for node in world.leaders if leading else ():
        node.lead()


def epoch(node: Machine) -> int:
    assert node.held is not None
    return node.held.keyset.epoch


def seconds_to_rotation(world: World) -> int:
    """Return after how many seconds there is another epoch."""
    leader = world.leaders[0]
    before, seconds = epoch(leader), 0
    while epoch(leader) == before and seconds < 10 * DUE:
        passes(world, leading=True)
        seconds += 1
    return seconds


def test_a_leader_that_sees_and_hears_all_rotates_when_it_is_due() -> None:
    assert seconds_to_rotation(formed(leaders=1, followers=2)) <= 2


def test_a_leader_that_finds_the_store_again_first_hears_who_may_be_ahead() -> None:
    """The store may have been lost meanwhile, and put back by another leader with an epoch that is not the last."""
    world = formed(leaders=1, followers=2)
    leader = world.leaders[0]
    leader.store.cut_off()
    leader.look()
    leader.store.heal()
    assert SETTLED <= seconds_to_rotation(world) <= SETTLED + 2


def test_a_leader_rotates_past_nobody_because_all_records_are_silent() -> None:
    world = formed(leaders=1, followers=2)
    leader, behind = world.leaders[0], world.all[-1]
    assert seconds_to_rotation(world) <= 2
    behind.store.cut_off()  # it lives, and lacks the next key
    for node in world.all:
        node.records.fail_always("publish", Fault.TIMEOUT)
    before = epoch(leader)
    for _ in range(2 * DUE):
        passes(world, leading=True)
    assert epoch(leader) == before
    behind.store.heal()
    for node in world.all:
        node.records.heal()
    assert seconds_to_rotation(world) <= SETTLED


def test_a_follower_that_took_an_epoch_first_is_no_alarm_and_one_that_stays_ahead_is() -> None:
    world = formed(leaders=2, followers=1)
    writer, other = world.leaders
    world.time.advance(1)
    writer.lead()
    for node in (writer, world.all[-1]):
        node.look()
        node.tell()
    assert other.agent is not None
    leader = other.agent.leader
    assert leader is not None
    assert epoch(writer) == epoch(other) + 1
    assert leader.alarms() == ()
    world.time.advance(HEARTBEAT)
    assert {type(alarm) for alarm in leader.alarms()} == {OutdatedError}
    other.look()
    assert leader.alarms() == ()
