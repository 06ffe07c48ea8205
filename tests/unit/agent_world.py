"""A cluster of agents in one process and in virtual time: ports are fakes, what decides is keydist's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from keydist.core.accept import Demands, Held
from keydist.core.policy import Policy
from keydist.core.record import Minted, Record, open_record
from keydist.core.restart import Role
from keydist.core.token import BootstrapToken
from keydist.ports import Listener
from keydist.services.agent import Agent, run_agent
from keydist.services.announce import Self
from keydist.services.genesis import Beginning, first_envelope
from keydist.services.living import refuse_where_living
from keydist.services.node import Node
from keydist.services.present import Present
from keydist.services.reconcile import Genesis, Reconciler
from tests.fakes.entropy import NumberedEntropy
from tests.fakes.journal import RecordingJournal
from tests.fakes.manager import RecordingManager
from tests.fakes.memory_disk import MemoryFolder, MemoryKeysetDisk
from tests.fakes.memory_records import MemoryRecordBucket, MemoryRecords
from tests.fakes.memory_store import MemoryBucket, MemoryKeysetStore
from tests.fakes.virtual_loop import LoopClock
from tests.material import NOW, PLACE, TOKEN, demands, noise

HEARTBEAT = 10
RESYNC = 45.0
POLICY = Policy(rotate_every=3600)


async def passes(seconds: float) -> None:
    """Let virtual time pass."""
    await asyncio.sleep(seconds)  # noqa: TID251 - virtual


class Hearing:
    """A `Listener` that keeps what it hears, with what the disk held at that moment."""

    def __init__(self, folder: MemoryFolder) -> None:
        self._folder = folder
        self.heard: list[tuple[int, bool]] = []
        """Each epoch, and whether exactly that was durable when it was told."""

    def changed(self, held: Held) -> None:
        self.heard.append((held.keyset.epoch, self._folder.live == held))

    @property
    def epochs(self) -> list[int]:
        return [epoch for epoch, _ in self.heard]


@dataclass
class Cluster:
    """What the servers keep."""

    bucket: MemoryBucket = field(default_factory=MemoryBucket)
    records: MemoryRecordBucket = field(default_factory=MemoryRecordBucket)

    def member(self, name: str, role: Role = Role.FOLLOWER, *history: Held, **options: Any) -> Member:  # noqa: ANN401 - of `Member`
        return Member(self, name, role, *history, **options)

    def said(self, name: str, *tokens: BootstrapToken) -> Record:
        """Return what a node's record says."""
        return open_record(self.records.records[name], node=name, place=PLACE, tokens=tokens or (TOKEN,))


class Member:
    """One node: its ports, and its agent over restarts. Make it inside the virtual loop."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        role: Role,
        *history: Held,
        policy: Policy = POLICY,
        tokens: tuple[BootstrapToken, ...] = (TOKEN,),
        watchdog_seconds: float | None = None,
        minted: dict[str, Minted] | None = None,
    ) -> None:
        self.name, self.role, self.tokens = name, role, tokens
        self.clock = LoopClock()
        self.entropy = NumberedEntropy(name)
        self.journal = RecordingJournal()
        self.manager = RecordingManager(watchdog_seconds=watchdog_seconds)
        self.store = MemoryKeysetStore(cluster.bucket)
        self.records = MemoryRecords(cluster.records)
        self.folder = MemoryFolder()
        self.disk = MemoryKeysetDisk(self.folder)
        self.hearing = Hearing(self.folder)
        self.listeners: tuple[Listener, ...] = (self.hearing,)
        self.others: tuple[Callable[[], Any], ...] = ()
        self.minted = minted or {}
        self.looks: list[float] = []
        """When the store was looked at."""
        self.store.between = self._note_look
        self._beginning = Beginning(place=PLACE, token=TOKEN, policy=policy, alg="EdDSA", bits=0)
        self.hold(*history)

    def hold(self, *history: Held, at: int = NOW) -> None:
        """Install a history, as another process on this node does."""
        for held in history:
            other = MemoryKeysetDisk(self.folder)
            other.install(held, based_on=other.load((TOKEN, *self.tokens)), now=at)

    def _note_look(self, call: str) -> None:
        if call.startswith("read"):
            self.looks.append(self.clock.monotonic())

    @property
    def demands(self) -> Demands:
        return demands(tokens=self.tokens)

    @property
    def node(self) -> Node:
        return Node(store=self.store, disk=self.disk, clock=self.clock, demands=self.demands, role=self.role)

    def genesis(self) -> Genesis:
        async def ask() -> None:
            await refuse_where_living(self.records, place=PLACE, tokens=self.tokens)

        async def first() -> bytes:
            return await first_envelope(self._beginning, entropy=self.entropy, clock=self.clock)

        return Genesis(ask_living=ask, first_envelope=first)

    def self_(self) -> Self:
        return Self(
            name=self.name,
            machine=noise(f"machine {self.name}", 16).hex(),
            start=self.disk.count_start(noise(f"instance {self.name}", 16).hex(), now=self.clock.now()),
            version="test",
            heartbeat=HEARTBEAT,
            minted=lambda: self.minted,
        )

    def present(self) -> Present:
        """Return what a just started agent is."""
        present = Present(clock=self.clock, disk=self.disk, journal=self.journal, listeners=self.listeners)
        present.take(self.disk.load(self.tokens), found=None, how="from-disk")
        return present

    def reconciler(self) -> Reconciler:
        return Reconciler(self.node, self.disk.load(self.tokens), self.genesis())

    def agent(self, **changes: Any) -> Agent:  # noqa: ANN401 - of `Agent`
        given: dict[str, Any] = {
            "node": self.node,
            "records": self.records,
            "entropy": self.entropy,
            "journal": self.journal,
            "manager": self.manager,
            "genesis": self.genesis(),
            "self_": self.self_(),
            "resync": RESYNC,
            "rehearse_every": 0,
            "listeners": self.listeners,
            "others": self.others,
        }
        return Agent(**(given | changes))

    @asynccontextmanager
    async def running(self, *, stays: bool = False, **changes: Any) -> AsyncIterator[None]:  # noqa: ANN401 - of `Agent`
        """Run its agent meanwhile; it must not end by itself."""
        work = run_agent(self.agent(**changes), self.disk.load(self.tokens), stays=lambda: stays)
        task = asyncio.get_running_loop().create_task(work)
        try:
            yield
            assert not task.done(), task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
