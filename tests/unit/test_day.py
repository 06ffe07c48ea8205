"""A day of two agents in virtual time, their store failing every few minutes: nothing grows, the keys go round."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from dataclasses import dataclass, field
from itertools import count

import pytest

from keydist.core.policy import Policy
from keydist.core.restart import Role
from keydist.services.agent import Agent, run_agent
from keydist.services.announce import Self
from keydist.services.genesis import Beginning, first_envelope
from keydist.services.node import Node
from keydist.services.reconcile import Genesis
from tests.fakes.clock import START
from tests.fakes.genesis import nobody
from tests.fakes.memory_disk import MemoryKeysetDisk
from tests.fakes.memory_records import MemoryRecordBucket, MemoryRecords
from tests.fakes.memory_store import Fault, MemoryBucket, MemoryKeysetStore
from tests.fakes.virtual_loop import LoopClock, run_virtually
from tests.material import PLACE, TOKEN, demands, noise, pkcs8

HOUR = 3600.0
POLICY = Policy(mint_lease=7200, max_lifetime=3600, rotate_every=7200)
KIB = 1024


class CountingEntropy:
    """Bytes and keys that never repeat, made without waiting."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = count()

    def random(self, size: int) -> bytes:
        return noise(f"{self._name} {next(self._count)}", size)

    async def signing_key(self, alg: str, bits: int) -> bytes:
        assert (alg, bits) == ("EdDSA", 0)
        return pkcs8.__wrapped__(f"{self._name} {next(self._count)}")


@dataclass
class Quiet:
    """A journal that keeps no events, and a service manager that is told."""

    events: dict[str, int] = field(default_factory=dict)
    watchdog_seconds: float | None = 60.0
    pings: int = 0

    def event(self, name: str, /, *, level: str = "info", **fields: object) -> None:
        self.events[name] = self.events.get(name, 0) + 1

    def waiting(self, what: str, *, seconds_left: float) -> None: ...

    def ready(self, status: str) -> None:
        self.event("READY")

    def status(self, text: str) -> None: ...

    def watchdog(self) -> None:
        self.pings += 1


@dataclass
class World:
    bucket: MemoryBucket = field(default_factory=MemoryBucket)
    records: MemoryRecordBucket = field(default_factory=MemoryRecordBucket)
    agents: list[Agent] = field(default_factory=list)
    stores: list[MemoryKeysetStore] = field(default_factory=list)
    views: list[MemoryRecords] = field(default_factory=list)

    def add(self, name: str, role: Role, *, ahead: int) -> Quiet:
        clock, entropy, quiet = LoopClock(ahead=ahead), CountingEntropy(name), Quiet()
        store, disk = MemoryKeysetStore(self.bucket), MemoryKeysetDisk()
        view = MemoryRecords(self.records)
        self.stores.append(store)
        self.views.append(view)
        beginning = Beginning(place=PLACE, token=TOKEN, policy=POLICY, alg="EdDSA", bits=0)

        async def first() -> bytes:
            return await first_envelope(beginning, entropy=entropy, clock=clock)

        self.agents.append(
            Agent(
                node=Node(store=store, disk=disk, clock=clock, demands=demands(), role=role),
                records=view,
                entropy=entropy,
                journal=quiet,
                manager=quiet,
                genesis=Genesis(ask_living=nobody, first_envelope=first),
                self_=Self(
                    name=name,
                    machine=noise(name, 16).hex(),
                    start=disk.count_start(noise(f"instance {name}", 16).hex(), now=START),
                    version="test",
                    heartbeat=30,
                    minted=dict,
                ),
                resync=45.0,
                rehearse_every=0,
            )
        )
        return quiet

    def fail(self, fault: Fault) -> None:
        for store in self.stores:
            store.fail_always("read", fault)
        for view in self.views:
            view.fail_always("publish", fault)

    def heal(self) -> None:
        for store in self.stores:
            store.heal()
        for view in self.views:
            view.heal()


def ours() -> int:
    """Return how many KiB are held that keydist's own code allocated: the fakes remember every call."""
    taken = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/keydist/*")])
    return sum(trace.size for trace in taken.statistics("filename")) // KIB


async def a_day(world: World) -> list[tuple[int, int]]:
    """Run the agents for 24 hours; return how many tasks and how many KiB there were after each hour."""
    found = []
    tasks = [
        asyncio.get_running_loop().create_task(run_agent(agent, agent.node.disk.load((TOKEN,)), stays=lambda: False))
        for agent in world.agents
    ]
    for hour in range(24):
        for part in range(12):
            await asyncio.sleep(HOUR / 12 - 20)  # noqa: TID251 - virtual
            world.fail(Fault.UNREACHABLE if part % 2 else Fault.TIMEOUT)
            await asyncio.sleep(20)  # noqa: TID251 - virtual
            world.heal()
            if (hour, part) == (12, 6):
                world.bucket.wipe()
                world.records.drop()
        await asyncio.sleep(60)  # noqa: TID251 - virtual
        gc.collect()
        found.append((len(asyncio.all_tasks()), ours()))
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(how, asyncio.CancelledError) for how in ended), ended
    return found


@pytest.mark.timeout(240)  # every allocation is traced
def test_a_day_of_rotations_and_outages_leaves_nothing_behind() -> None:
    world = World()
    leader, follower = world.add("leader", Role.LEADER, ahead=0), world.add("follower", Role.FOLLOWER, ahead=20)
    tracemalloc.start()
    try:
        found = run_virtually(a_day(world))
    finally:
        tracemalloc.stop()
    held = [agent.node.disk.load((TOKEN,)).held for agent in world.agents]
    assert held[0] is not None
    assert held[0] == held[1]
    assert world.bucket.content() == held[0].envelope
    assert len({keyset.keyset.lineage for keyset in held if keyset}) == 1
    assert leader.events["keyset-taken"] == follower.events["keyset-taken"]
    assert held[0].keyset.epoch >= 12
    assert (leader.events["READY"], follower.events["READY"]) == (1, 1)
    assert leader.pings > 24 * HOUR / 60
    tasks, memory = zip(*found, strict=True)
    assert max(tasks[12:]) <= max(tasks[:12]), tasks  # one fewer where a leader pauses after a decision
    assert memory[-1] - memory[5] < 16, memory  # the keyset itself holds one retired key more or less
