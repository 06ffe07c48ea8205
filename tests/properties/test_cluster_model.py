"""A whole cluster, and whatever may happen to it: after every step P1 to P7 hold, and what is healed converges."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keydist.core.rotation import Situation, activation, drop_times, due
from tests.fakes.memory_records import Fate
from tests.fakes.memory_store import Fault
from tests.properties.cluster_model import accidents, healing
from tests.properties.cluster_model.node import Machine
from tests.properties.cluster_model.promises import Promises
from tests.properties.cluster_model.stops import crash
from tests.properties.cluster_model.world import POLICY, SKEW, World

NODES = st.integers(0, 4)
PARTS = st.sampled_from(["look", "look", "tell", "lead", "lead", "mint"])
POINTS = st.integers(0, 9)
EDGES = st.sampled_from(["activation", "drop", "due", "lease", "fresh", "expiry"])
DELTAS = st.sampled_from([-1, 0])
LONGEST = 60


class Cluster(RuleBasedStateMachine):
    """Two leaders and some followers; each rule is one thing that happens."""

    may_lose: ClassVar[bool] = True
    """Whether the store and the disks may lose what they had."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(followers=2)
        self.promises = Promises(self.world)

    def node(self, number: int) -> Machine:
        return self.world.all[number % len(self.world.all)]

    def part(self, node: Machine, what: str) -> None:
        match what:
            case "look":
                self.world.look(node)
            case "tell":
                self.world.tell(node)
            case "lead":
                self.world.lead(node)
            case _:
                self.world.mint(node, self.world.policy.max_lifetime)

    # --- everyday life -------------------------------------------------------------------------

    @initialize(is_formed=st.booleans())
    def begin(self, is_formed: bool) -> None:  # noqa: FBT001 - hypothesis passes it by name
        if is_formed:
            self.world.form()

    @rule(seconds=st.integers(1, 14))
    def live(self, seconds: int) -> None:
        """Let the cluster live; who verifies outside fetches when it has to."""
        for second in range(seconds):
            self.world.time.advance(1)
            self.world.round()
            for outside in self.world.outside:
                if outside.kids() is None:
                    self.world.fetch(outside, self.node(second))
            self.promises.check()

    @rule(number=NODES, seconds=st.integers(1, 14))
    def live_without(self, number: int, seconds: int) -> None:
        """Let the others live, while one node does nothing: it is slow, but not dead."""
        slow = self.node(number)
        others = [node for node in self.world.all if node is not slow]
        for _ in range(seconds):
            self.world.time.advance(1)
            self.world.round(others)
            self.promises.check()

    @rule(number=NODES, seconds=st.integers(6, 14))
    def live_beside(self, number: int, seconds: int) -> None:
        """Cut a node off, let the others live, and let who verifies outside ask that very node while it may."""
        away = self.node(number)
        others = [node for node in self.world.all if node is not away]
        self.world.look(away)
        away.cut_off()
        for _ in range(seconds):
            for outside in self.world.outside:
                self.world.fetch(outside, away)
            self.world.time.advance(1)
            self.world.round(others)
            self.promises.check()

    @rule(number=NODES, what=PARTS)
    def act(self, number: int, what: str) -> None:
        self.part(self.node(number), what)

    @rule(number=NODES, which=st.integers(0, 1))
    def fetch(self, number: int, which: int) -> None:
        self.world.fetch(self.world.outside[which], self.node(number))

    @rule(number=NODES, edge=EDGES, delta=DELTAS)
    def wait_for_edge(self, number: int, edge: str, delta: int) -> None:
        """Let time pass until a clock reads what a decision turns at, or one less."""
        node = self.node(number)
        readings = sorted(self._edges(node, edge))
        ahead = [at + delta - node.clock.now() for at in readings if at + delta > node.clock.now()]
        if ahead and ahead[0] <= LONGEST:
            self.world.time.advance(ahead[0])

    def _edges(self, node: Machine, edge: str) -> list[int]:
        held, confirmation, policy = node.held, node.disk.folder.confirmation, self.world.policy
        if edge == "expiry":
            return [jwt.expires + policy.leeway for jwt in self.world.jwts]
        if held is None or confirmation is None:
            return []
        situation = Situation(held=held, notes=node.disk.notes(), now=node.clock.now())
        wanted = due(situation)
        return {
            "activation": [activation(situation).opens],
            "drop": [at for _, at in drop_times(situation)],
            "due": [wanted.at] if wanted is not None else [],
            "lease": [confirmation.at + policy.mint_lease],
            "fresh": [confirmation.at + policy.freshness],
        }[edge]

    @rule(number=st.integers(0, 5), skew=st.sampled_from([-SKEW, 0, SKEW]))
    def drift(self, number: int, skew: int) -> None:
        clocks = [*(node.clock for node in self.world.all), *(outside.clock for outside in self.world.outside)]
        clocks[number % len(clocks)].skew = skew

    # --- the network ---------------------------------------------------------------------------

    @rule(number=NODES)
    def cut_off(self, number: int) -> None:
        self.node(number).cut_off()

    @rule(number=NODES)
    def mend(self, number: int) -> None:
        node = self.node(number)
        node.heal()
        if node.agent is None:
            node.start()

    @rule(number=NODES, leader=st.integers(0, POLICY.stale_read), replica=st.integers(0, 30))
    def answer_late(self, number: int, leader: int, replica: int) -> None:
        store = self.node(number).store
        store.late_leader, store.late_replica = leader, replica

    @rule(
        number=NODES,
        call=st.sampled_from(["read_leader", "read_direct", "write", "replace"]),
        fault=st.sampled_from([Fault.UNREACHABLE, Fault.TIMEOUT, Fault.LOST_ACKNOWLEDGEMENT, Fault.FORBIDDEN]),
    )
    def fail_call(self, number: int, call: str, fault: Fault) -> None:
        self.node(number).store.fail(call, fault)

    @rule(number=NODES, fate=st.sampled_from(list(Fate)), times=st.integers(1, 4))
    def lose_records(self, number: int, fate: Fate, times: int) -> None:
        self.node(number).records.befall(*[fate] * times)

    @rule()
    def arrive(self) -> None:
        self.world.records.arrive()

    # --- processes and disks -------------------------------------------------------------------

    @rule(number=NODES, what=PARTS, points=POINTS)
    def crash_within(self, number: int, what: str, points: int) -> None:
        """End an agent at some point of what it does, or after it; its disk has the keyset before or the new one."""
        node = self.node(number)
        before = node.held
        node.stops.plan(points, crash)
        self.part(node, what)
        node.crash()
        node.start()
        after = node.held
        if before is not None:
            assert after is not None, "P5: a crash cost the keyset"

    @rule(number=NODES, what=PARTS, points=POINTS, other=NODES, then=PARTS)
    def meanwhile(self, number: int, what: str, points: int, other: int, then: str) -> None:
        """Let another node act at some point of what one does."""
        node, second = self.node(number), self.node(other)
        if node is not second:
            node.stops.plan(points, lambda: self.part(second, then))
            self.part(node, what)
            node.stops.forget()

    @rule(number=NODES, what=PARTS, points=POINTS)
    def cut_off_within(self, number: int, what: str, points: int) -> None:
        """Cut a node off at some point of what it does: what it wrote may be there, and it cannot know."""
        node = self.node(number)
        node.stops.plan(points, node.cut_off)
        self.part(node, what)
        node.stops.forget()

    @rule(number=NODES)
    def stop(self, number: int) -> None:
        self.node(number).crash()

    @rule(number=NODES, behind=st.booleans())
    def fail_disk(self, number: int, behind: bool) -> None:  # noqa: FBT001 - hypothesis passes it by name
        accidents.fail_disk(self.node(number), behind=behind)

    @rule(number=NODES)
    def fill_disk(self, number: int) -> None:
        accidents.fill_disk(self.node(number))

    @rule(number=NODES)
    def back_up(self, number: int) -> None:
        accidents.back_up(self.world, self.node(number))

    @precondition(lambda self: self.may_lose)
    @rule(number=NODES)
    def restore(self, number: int) -> None:
        accidents.restore(self.world, self.promises, number)

    @precondition(lambda self: self.may_lose)
    @rule(number=NODES)
    def replace_disk(self, number: int) -> None:
        accidents.replace_disk(self.world, self.promises, self.node(number))

    # --- the store -----------------------------------------------------------------------------

    @precondition(lambda self: self.may_lose)
    @rule(what=st.sampled_from(accidents.LOSSES), states=st.integers(1, 6))
    def lose(self, what: str, states: int) -> None:
        accidents.lose(self.world, what, states)

    @precondition(lambda self: self.may_lose)
    @rule(number=NODES, what=PARTS, points=POINTS, loss=st.sampled_from(accidents.LOSSES))
    def lose_meanwhile(self, number: int, what: str, points: int, loss: str) -> None:
        """Let the store forget at some point of what a node does."""
        node = self.node(number)
        node.stops.plan(points, lambda: accidents.lose(self.world, loss))
        self.part(node, what)
        node.stops.forget()

    @precondition(lambda self: self.may_lose)
    @rule(what=st.sampled_from(accidents.FORGERIES), which=st.integers(0, 20))
    def forge(self, what: str, which: int) -> None:
        accidents.forge(self.world, what, which)

    @precondition(lambda self: self.may_lose)
    @rule(number=st.integers(0, 1), epochs=st.sampled_from([2, 1, 3]))
    def part_ways(self, number: int, epochs: int) -> None:
        leaders = self.world.leaders
        accidents.part_ways(self.world, leaders[number], leaders[1 - number], epochs)

    # --- an operator ---------------------------------------------------------------------------

    @rule(number=NODES, what=st.sampled_from(accidents.COMMANDS))
    def command(self, number: int, what: str) -> None:
        accidents.command(self.world, self.world.leaders[number % 2], what)

    # --- what holds ----------------------------------------------------------------------------

    @invariant()
    def promises_hold(self) -> None:
        self.promises.check()

    def teardown(self) -> None:
        healing.converge(self.world, self.promises.check)


class FaithfulCluster(Cluster):
    """The same, where nothing that was acknowledged is ever lost: there every JWT counts."""

    may_lose = False


pytestmark = pytest.mark.timeout(300)  # thirty clusters of thirty steps, on a machine that does other things besides
COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
TestCluster = Cluster.TestCase
TestCluster.settings = settings(COMMON, max_examples=30, stateful_step_count=30)
TestFaithfulCluster = FaithfulCluster.TestCase
TestFaithfulCluster.settings = settings(COMMON, max_examples=30, stateful_step_count=30)
