"""What chance rarely finds, step by step: clocks at both ends of their skew, waits to the second, one accident each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keydist.core.policy import Policy
from keydist.core.rotation import outlives
from tests.fakes.memory_store import Fault
from tests.properties.cluster_model import accidents, healing
from tests.properties.cluster_model.node import Machine
from tests.properties.cluster_model.promises import Promises
from tests.properties.cluster_model.world import POLICY, SKEW, World

CALM = replace(POLICY, rotate_every=0)
"""Nothing rotates by itself."""


class Scene:
    """A world with its promises, and the seconds that pass in it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.promises = Promises(world)
        world.form()
        self.promises.check()

    def pass_seconds(self, seconds: int, nodes: list[Machine]) -> None:
        """Let seconds pass in which some nodes live and the others do nothing."""
        for _ in range(seconds):
            self.world.time.advance(1)
            self.world.round(nodes)
            self.promises.check()

    def command(self, node: Machine, what: str) -> None:
        failure = accidents.command(self.world, node, what)
        assert failure is None, failure
        self.world.tell(node)
        self.promises.check()

    def converge(self) -> None:
        healing.converge(self.world, self.promises.check)


def epochs(nodes: list[Machine]) -> list[int]:
    return [node.held.keyset.epoch if node.held is not None else 0 for node in nodes]


# --- the waits of a rotation, to the second ------------------------------------------------------


@pytest.mark.parametrize("propagation", range(9, 15))
def test_a_next_key_signs_only_when_every_cache_that_may_be_asked_names_it(propagation: int) -> None:
    """The last fetch before a rotation is known, at its latest, and the next rotation, at its earliest."""
    policy = replace(POLICY, propagation=propagation, rotate_every=propagation)
    scene = Scene(World(leaders=1, followers=2, policy=policy))
    world, (leader, away, other) = scene.world, scene.world.all
    leader.clock.skew, away.clock.skew = -SKEW, SKEW
    while epochs([leader]) == [1]:
        scene.pass_seconds(1, [other, away])
        world.round([leader])
    away.records.is_deaf = True
    away.records.fail_always("any", Fault.UNREACHABLE)
    away.store.late_leader = away.store.late_replica = policy.stale_read
    scene.pass_seconds(policy.stale_read, [leader, other])
    world.round([away])
    assert epochs([away]) == [1], "a deposed stream leader confirmed what was there before"
    away.cut_off()
    leader.clock.skew, away.clock.skew = SKEW, -SKEW
    fetched = 0
    for _ in range(policy.freshness + 2 * SKEW + 1):
        fetched += world.fetch(world.outside[0], away)
        scene.pass_seconds(1, [leader, other])
    assert fetched > policy.freshness
    scene.pass_seconds(20, [leader, other])
    assert epochs([leader])[0] > 2, "nothing was rotated"


def test_a_retired_key_is_dropped_only_when_its_last_jwt_is_over_everywhere() -> None:
    scene = Scene(World(leaders=1, followers=2, policy=CALM))
    world, (leader, away, other) = scene.world, scene.world.all
    leader.clock.skew, away.clock.skew, other.clock.skew = -SKEW, SKEW, -SKEW
    scene.pass_seconds(CALM.propagation + SKEW, world.all)
    scene.command(leader, "rotate")
    retired = world.time.passed
    away.store.late_leader = away.store.late_replica = CALM.stale_read
    scene.pass_seconds(CALM.stale_read, [leader, other])
    world.look(away)
    assert epochs(world.all) == [2, 1, 2]
    away.cut_off()
    scene.pass_seconds(CALM.mint_lease, [leader, other])
    assert world.mint(away, CALM.max_lifetime), "the lease is not over yet"
    leader.clock.skew = SKEW
    left = retired + outlives(CALM) - 2 * SKEW - world.time.passed
    scene.pass_seconds(left - 1, [leader, other])
    assert epochs([leader]) == [2]
    scene.pass_seconds(1, [leader, other])
    assert epochs([leader]) == [3], "it is dropped as soon as it may be"


def test_a_node_that_lives_is_waited_for() -> None:
    """Its disk is full, so that it cannot take the next keys, and says so; without it nothing is activated."""
    scene = Scene(World(leaders=1, followers=2))
    world, (leader, full, _) = scene.world, scene.world.all
    accidents.fill_disk(full)
    assert POLICY.rotate_every < POLICY.propagation < outlives(POLICY) - 2
    scene.pass_seconds(POLICY.propagation + outlives(POLICY) - 2, world.all)  # one more is due, and no drop yet
    assert epochs([leader, full]) == [2, 1]
    scene.converge()


# --- what the store does -------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["purge", "delete"])
def test_a_purged_bucket_was_written_before(loss: str) -> None:
    """A leader that is answered late does not know of the first key; who made it is away, and the entry is gone."""
    world = World(leaders=2, followers=0)
    first, second = world.all
    promises = Promises(world)
    world.time.advance(1)
    world.look(first)
    first.crash()
    accidents.lose(world, loss)
    second.store.late_leader = POLICY.stale_read
    world.look(second)
    assert world.bucket.content() is None
    promises.check()
    healing.converge(world, promises.check)


def test_a_later_revision_is_no_later_epoch() -> None:
    scene = Scene(World(leaders=1, followers=2, policy=CALM))
    for _ in range(2):
        scene.command(scene.world.leaders[0], "reseal")
        scene.pass_seconds(1, scene.world.all)
    accidents.forge(scene.world, "replay", 0)
    for node in reversed(scene.world.all):
        scene.world.look(node)
        scene.promises.check()
    assert epochs(scene.world.all) == [3, 3, 3]
    assert scene.world.bucket.content() == scene.world.captured[-1], "the leader put it right"


def test_another_history_is_not_taken_however_long_it_is() -> None:
    scene = Scene(World(leaders=2, followers=1, policy=CALM))
    world, (first, second, follower) = scene.world, scene.world.all
    scene.command(first, "reseal")
    world.look(follower)
    first.crash()
    follower.cut_off()
    accidents.lose(world, "roll back")
    for _ in range(2):
        scene.command(second, "reseal")
    follower.heal()
    world.look(follower)
    scene.promises.check()
    assert epochs([second, follower]) == [3, 2], "a person has to choose a side"


def _lost_rotation(policy: Policy) -> Scene:
    """Return a scene in which the store forgot a rotation while its leader was down, and the leader put it back."""
    scene = Scene(World(leaders=1, followers=2, policy=policy))
    world, (leader, away, other) = scene.world, scene.world.all
    world.excuses_a_store_that_forgot = False
    while epochs([leader]) == [1]:
        scene.pass_seconds(1, [away, other])
        world.round([leader])
        if not policy.rotate_every and world.time.passed > policy.propagation:
            scene.command(leader, "rotate")
    world.look(other)
    accidents.lose(world, "roll back")
    leader.crash()
    scene.pass_seconds(10, [away, other])
    assert epochs(world.all) == [2, 1, 2]
    away.cut_off()  # it confirmed what the store went back to
    leader.start()
    world.look(leader)
    assert world.bucket.content() == world.captured[-1], "the leader put it right"
    return scene


def test_after_it_was_put_back_a_retired_key_waits_anew() -> None:
    """A node confirmed the epoch before in the meantime, and mints for its lease with the key that had retired."""
    scene = _lost_rotation(CALM)
    leader, away, other = scene.world.all
    confirmation = away.disk.folder.confirmation
    assert confirmation is not None
    while away.clock.now() < confirmation.at + CALM.mint_lease:
        scene.pass_seconds(1, [leader, other])
    assert scene.world.mint(away, CALM.max_lifetime)
    scene.pass_seconds(outlives(CALM), [leader, other])
    assert epochs([leader]) == [3], "it is dropped then"


def test_after_it_was_put_back_a_next_key_waits_anew() -> None:
    """Who fetches from a node that confirmed the epoch before in the meantime does not know the key yet."""
    scene = _lost_rotation(replace(POLICY, jwks_max_age=7, propagation=17, rotate_every=17))
    leader, away, other = scene.world.all
    for _ in range(POLICY.freshness + 1):
        scene.world.fetch(scene.world.outside[0], away)
        scene.pass_seconds(1, [leader, other])
    scene.pass_seconds(30, [leader, other])
    assert epochs([leader])[0] > 2


# --- the disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [False, True])
def test_nobody_tells_of_what_could_not_be_written_to_the_disk(behind: bool) -> None:  # noqa: FBT001 - a case
    scene = Scene(World(leaders=1, followers=1, policy=CALM))
    world, (leader, follower) = scene.world, scene.world.all
    for node in world.all:
        accidents.fail_disk(node, behind=behind)
    failure = accidents.command(world, leader, "reseal")
    assert behind or failure is not None
    for node in (follower, leader):
        for part in (world.look, world.tell):
            part(node)
            scene.promises.check()
    scene.pass_seconds(2, world.all)
    assert epochs(world.all) == [2, 2]


def test_a_leader_whose_disk_is_full_does_not_tell_of_what_it_wrote() -> None:
    scene = Scene(World(leaders=1, followers=1))
    world, (leader, _) = scene.world, scene.world.all
    scene.pass_seconds(POLICY.propagation - 2, world.all)
    accidents.fill_disk(leader)
    scene.pass_seconds(6, world.all)
    assert epochs(world.all) == [1, 2]
    scene.converge()
