"""Two hundred followers wait on one server when the leader publishes: all of them hold the one key, durably."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from integration.nodes import Node as Place
from keydist.adapters.clock import SystemClock
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.entropy import SystemEntropy
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.store import NatsKeysetStore
from keydist.adapters.retry import TenacityRetry
from keydist.core.accept import Demands
from keydist.core.policy import Policy
from keydist.core.restart import Role
from keydist.services.bootstrap import bootstrap
from keydist.services.from_disk import Outcome
from keydist.services.genesis import Beginning, first_envelope
from keydist.services.node import Node
from tests.fakes.genesis import genesis_of
from tests.fakes.notifier import RecordingNotifier
from tests.material import TOKEN

pytestmark = pytest.mark.alone

FOLLOWERS = 200


async def no_key() -> NoReturn:
    raise AssertionError("a follower generates nothing")


class Member:
    """One node in this process, with a connection and a disk of its own."""

    def __init__(self, place: Place, role: Role) -> None:
        self.place = place
        self.role = role
        self.notifier = RecordingNotifier()
        self.store = NatsKeysetStore(
            Connection(Server(urls=(place.url,), node=place.directory.name), connect_seconds=30),
            bucket=place.bucket,
            entry="signing-key",
        )

    async def run(self, genesis: Beginning) -> tuple[Outcome, float]:
        """Bootstrap, and return the outcome with the time at which it was durable."""
        clock = SystemClock()

        async def make() -> bytes:
            return await first_envelope(genesis, entropy=SystemEntropy(), clock=clock)

        outcome = await bootstrap(
            Node(
                store=self.store,
                disk=self.place.disk,
                clock=clock,
                demands=Demands(place=self.place.place, tokens=(TOKEN,)),
                role=self.role,
            ),
            self.place.load(),
            genesis=genesis_of(make if self.role is Role.LEADER else no_key),
            retry=TenacityRetry(clock),
            notifier=self.notifier,
            seconds=120,
        )
        return outcome, time.monotonic()


async def _all(server: EmbeddedServer, directory: Path) -> tuple[list[float], list[Member]]:
    def member(name: str, role: Role) -> Member:
        return Member(Place(directory=directory / name, url=server.url, bucket="fleet", role=role), role)

    followers = [member(f"f{number}", Role.FOLLOWER) for number in range(FOLLOWERS)]
    leader = member("leader", Role.LEADER)
    for one in (*followers, leader):
        one.place.directory.mkdir()
    genesis = Beginning(place=leader.place.place, token=TOKEN, policy=Policy(), alg="RS256", bits=2048)
    try:
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(one.run(genesis)) for one in followers]
            while not all(one.notifier.told for one in followers):  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.05)  # a look from outside at 200 tasks
            await asyncio.sleep(3)  # until all have backed off
            published, start = await leader.run(genesis)
        assert published.how == "generated"
        results = [task.result() for task in waiting]
        assert {outcome.held.envelope for outcome, _ in results} == {published.held.envelope}
        assert {outcome.how for outcome, _ in results} == {"retrieved"}
        return [durable - start for _, durable in results], followers
    finally:
        for one in (*followers, leader):
            await one.store.close()


@pytest.mark.timeout(300)
def test_two_hundred_followers_wait_for_the_leader(
    server: EmbeddedServer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    delays, followers = asyncio.run(_all(server, tmp_path))
    held = [one.place.load().held for one in followers]
    assert len({keyset.keyset.active.kid for keyset in held if keyset is not None}) == 1
    assert None not in held
    delays.sort()
    shown = {
        "p50": delays[len(delays) // 2],
        "p99": delays[int(len(delays) * 0.99) - 1],
        "max": delays[-1],
    }
    for name, seconds in shown.items():
        record_property(name, round(seconds, 3))
    print("durable after the leader's: " + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in shown.items()))
