"""The contract of `TrailStream`, on the fake that other tests use and on a real nats-server alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.trail import NatsTrailStream
from keydist.errors import BucketMissingError, ConflictError, UnreachableError
from tests.fakes.memory_store import Fault
from tests.fakes.memory_trail import MemoryTrail, MemoryTrailStream


class MemoryWorld:
    def __init__(self) -> None:
        self._trail = MemoryTrail(exists=False)

    def view(self) -> MemoryTrailStream:
        return MemoryTrailStream(self._trail)

    def unreachable(self) -> MemoryTrailStream:
        view = self.view()
        view.fail_always("any", Fault.UNREACHABLE)
        return view

    async def drop(self) -> None:
        self._trail.drop()


class NatsWorld:
    def __init__(self, server: EmbeddedServer, bucket: str) -> None:
        self._server = server
        self._bucket = bucket
        self._connections: list[Connection] = []

    def _view(self, url: str) -> NatsTrailStream:
        self._connections.append(Connection(Server(urls=(url,), node=f"n{len(self._connections)}")))
        return NatsTrailStream(self._connections[-1], bucket=self._bucket)

    def view(self) -> NatsTrailStream:
        return self._view(self._server.url)

    def unreachable(self) -> NatsTrailStream:
        return self._view("nats://127.0.0.1:1")

    async def drop(self) -> None:
        view = self.view()
        await view._connection.request(f"$JS.API.STREAM.DELETE.{self._bucket}-audit")

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()


World = Any
Worlds = Callable[[], AbstractAsyncContextManager[World]]


@pytest.fixture(params=["memory", "nats"])
def worlds(request: pytest.FixtureRequest, bucket: str) -> Worlds:
    @asynccontextmanager
    async def memory() -> AsyncIterator[World]:
        yield MemoryWorld()

    @asynccontextmanager
    async def nats() -> AsyncIterator[World]:
        world = NatsWorld(request.getfixturevalue("nats_server"), bucket)
        yield world
        await world.close()

    if request.param == "nats":
        request.getfixturevalue("nats_server")  # before the event loop runs
        return nats
    return memory


async def test_without_a_stream_everything_says_so(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        for act in (view.last("a"), view.read(after=0, node=None), view.publish("a", b"1", after=0)):
            with pytest.raises(BucketMissingError):
                await act


async def test_records_are_read_one_after_the_other_of_one_node_or_of_all(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create()
        assert await view.last("a") is None
        assert await view.read(after=0, node=None) is None
        first = await view.publish("a", b"a1", after=0)
        other = await view.publish("b", b"b1", after=0)
        second = await view.publish("a", b"a2", after=first)
        assert first < other < second
        read = [await view.read(after=at, node=None) for at in (0, first, other, second)]
        assert read == [("a", b"a1", first), ("b", b"b1", other), ("a", b"a2", second), None]
        read = [await world.view().read(after=at, node="a") for at in (0, first, second)]
        assert read == [("a", b"a1", first), ("a", b"a2", second), None]
        assert await view.last("a") == ("a", b"a2", second)
        assert await view.last("b") == ("b", b"b1", other)


@pytest.mark.parametrize("after", [0, 7], ids=["as if it were the first", "behind another number"])
async def test_a_record_that_is_not_behind_the_last_one_is_refused(worlds: Worlds, after: int) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create()
        at = await view.publish("a", b"a1", after=0)
        with pytest.raises(ConflictError):
            await view.publish("a", b"again", after=after)
        await view.publish("a", b"a2", after=at)
        assert (await view.last("a")).record == b"a2"


async def test_making_the_stream_again_leaves_it_as_it_is(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create()
        await view.publish("a", b"a1", after=0)
        await world.view().create()
        assert (await view.last("a")).record == b"a1"


async def test_a_stream_that_was_dropped_begins_anew(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create()
        await view.publish("a", b"a1", after=0)
        await world.drop()
        with pytest.raises(BucketMissingError):
            await view.publish("a", b"a2", after=1)
        await view.create()
        assert await view.last("a") is None
        assert await view.publish("a", b"a1", after=0) == 1


async def test_without_a_server_it_is_unreachable(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.unreachable()
        for act in (view.last("a"), view.read(after=0, node=None), view.publish("a", b"", after=0), view.create()):
            with pytest.raises(UnreachableError):
                await act
