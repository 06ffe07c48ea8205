"""Followers as tasks of one process: each with a connection, a state directory and the agent's own following."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from keydist.adapters.clock import SystemClock
from keydist.adapters.disk.archive import Layout
from keydist.adapters.disk.keyset_disk import PosixKeysetDisk
from keydist.adapters.entropy import SystemEntropy
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.store import NatsKeysetStore
from keydist.core.accept import Demands, Held
from keydist.core.envelope import Place
from keydist.core.restart import Role
from keydist.core.token import BootstrapToken
from keydist.services.follow import follow
from keydist.services.node import Node
from keydist.services.present import Present
from keydist.services.reconcile import Genesis, Reconciler

PLACE = Place(cluster="bench", location="KV/keydist/signing-key")
CONNECT_SECONDS = 60.0


class Silence:
    """A notifier and a journal that tell nobody."""

    def waiting(self, what: str, *, seconds_left: float) -> None:
        """Say nothing."""

    def event(self, name: str, /, *, level: str = "info", **fields: object) -> None:
        """Say nothing."""


class PollingStore(NatsKeysetStore):
    """A store whose notices nobody hears."""

    async def wait_for_notice(self, seconds: float) -> None:
        """Wait the whole time."""
        await asyncio.sleep(seconds)


async def nobody() -> None:
    """Answer that no live node holds a keyset."""


async def never() -> bytes:
    """Stand where a leader makes a first envelope: followers never do."""
    raise AssertionError


class Taker:
    """What takes keysets; `taken` says when (monotonic) each epoch was durable and in use."""

    def __init__(self) -> None:
        self.taken: dict[int, float] = {}
        self._changed = asyncio.Event()

    def changed(self, held: Held) -> None:
        """Note when a keyset is in use."""
        self.taken[held.keyset.epoch] = time.monotonic()
        self._changed.set()

    async def has(self, epoch: int) -> float:
        """Return when this follower had an epoch."""
        while epoch not in self.taken:
            self._changed.clear()
            await self._changed.wait()
        return self.taken[epoch]


class Follower(Taker):
    """One follower."""

    def __init__(self, number: int, root: Path, url: str, token: BootstrapToken, *, polls: bool) -> None:
        super().__init__()
        made = PollingStore if polls else NatsKeysetStore
        connection = Connection(Server(urls=(url,), node=f"node-{number}"), connect_seconds=CONNECT_SECONDS)
        self.store = made(connection, bucket="keydist", entry="signing-key")
        layout = Layout(sealed=False, gid=None, place=PLACE)
        self.node = Node(
            store=self.store,
            disk=PosixKeysetDisk(str(root / f"state-{number}"), str(root / "run"), layout),
            clock=SystemClock(),
            demands=Demands(place=PLACE, tokens=(token,)),
            role=Role.FOLLOWER,
        )

    async def run(self, resync: float) -> NoReturn:
        """Follow for ever."""
        node, silence = self.node, Silence()
        present = Present(clock=node.clock, disk=node.disk, journal=silence, listeners=(self,))
        reconciler = Reconciler(
            node, node.disk.load(node.demands.tokens), Genesis(ask_living=nobody, first_envelope=never)
        )
        await follow(node, reconciler, present, entropy=SystemEntropy(), notifier=silence, resync=resync)


@asynccontextmanager
async def crowd(
    count: int, root: Path, url: str, token: BootstrapToken, *, resync: float, polls: bool
) -> AsyncIterator[list[Follower]]:
    """Run so many followers until the block is left."""
    followers = [Follower(number, root, url, token, polls=polls) for number in range(count)]
    tasks = [asyncio.create_task(follower.run(resync)) for follower in followers]
    try:
        yield followers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for follower in followers:
            await follower.store.close()
