"""The contract of `NodeRecords`, on the fake that other tests use and on a real nats-server alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import pytest

from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.records import NatsNodeRecords
from keydist.errors import BucketMissingError, StoreTimeoutError, UnreachableError
from keydist.ports import NodeRecords
from tests.fakes.memory_records import MemoryRecordBucket, MemoryRecords
from tests.fakes.memory_store import Fault


class World(Protocol):
    """One bucket, the nodes that see it, and what befalls them."""

    def view(self) -> Any: ...  # noqa: ANN401 - a `NodeRecords`
    def unreachable(self) -> NodeRecords: ...
    async def settle(self, *views: Any) -> None: ...  # noqa: ANN401
    async def drop(self) -> None: ...
    async def cut(self, view: Any) -> None: ...  # noqa: ANN401


class MemoryWorld:
    def __init__(self) -> None:
        self._bucket = MemoryRecordBucket(exists=False)

    def view(self) -> MemoryRecords:
        return MemoryRecords(self._bucket)

    def unreachable(self) -> MemoryRecords:
        view = MemoryRecords(self._bucket)
        view.fail_always("any", Fault.UNREACHABLE)
        return view

    async def settle(self, *views: MemoryRecords) -> None:
        """Everything is told at once."""

    async def drop(self) -> None:
        self._bucket.drop()

    async def cut(self, view: MemoryRecords) -> None:
        view.is_deaf = True
        view.is_deaf = False


class NatsWorld:
    def __init__(self, server: EmbeddedServer, bucket: str, drop: Callable[[], Awaitable[None]]) -> None:
        self._server = server
        self._bucket = bucket
        self._connections: list[Connection] = []
        self.drop: Any = drop

    def _view(self, url: str) -> NatsNodeRecords:
        self._connections.append(Connection(Server(urls=(url,), node=f"n{len(self._connections)}")))
        return NatsNodeRecords(self._connections[-1], bucket=self._bucket)

    def view(self) -> NatsNodeRecords:
        return self._view(self._server.url)

    def unreachable(self) -> NatsNodeRecords:
        return self._view("nats://127.0.0.1:1")

    async def settle(self, *views: NatsNodeRecords) -> None:
        """Make a request, as an agent does all the time: it connects and subscribes; and what was sent has come."""
        for view in views:
            await view.read_all()

    async def cut(self, view: NatsNodeRecords) -> None:
        """Let its connection break."""
        link = view._connection._link
        assert link is not None
        link._client._transport._io_writer.transport.abort()  # type: ignore[union-attr]
        await until(lambda: not link.is_usable)

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()


Worlds = Callable[[], AbstractAsyncContextManager[World]]


@pytest.fixture(params=["memory", "nats"])
def worlds(request: pytest.FixtureRequest, bucket: str) -> Worlds:
    @asynccontextmanager
    async def memory() -> AsyncIterator[World]:
        yield MemoryWorld()

    @asynccontextmanager
    async def nats() -> AsyncIterator[World]:
        server = request.getfixturevalue("nats_server")
        async with request.getfixturevalue("administer")(server, f"{bucket}-nodes") as admin:
            world = NatsWorld(server, bucket, admin.drop)
            yield world
            await world.close()

    if request.param == "nats":
        request.getfixturevalue("nats_server")  # before the event loop runs
        request.getfixturevalue("administer")
        return nats
    return memory


def nothing() -> None:
    """Answer nothing."""


def answer(text: bytes) -> Callable[[], bytes]:
    return lambda: text


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.01)


# --- records ------------------------------------------------------------------------------------


async def test_without_a_bucket_nothing_is_read_and_nothing_can_be_written(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        assert await view.read_all() == {}
        assert not await view.forget("a")
        with pytest.raises(BucketMissingError):
            await view.publish("a", b"record")
        assert await view.read_all() == {}


async def test_records_are_read_by_everybody_under_their_names(worlds: Worlds) -> None:
    async with worlds() as world:
        one, other = world.view(), world.view()
        await one.create_bucket()
        assert await other.read_all() == {}
        names = ["a", "node-1", "Node_2", "x" * 64]
        for name in names:
            await one.publish(name, b"\x00of \xff\r\n" + name.encode())
        assert await other.read_all() == {name: b"\x00of \xff\r\n" + name.encode() for name in names}


async def test_more_records_than_are_read_at_once(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        records = {f"n{number}": str(number).encode() for number in range(200)}
        await asyncio.gather(*(view.publish(name, record) for name, record in records.items()))
        assert await view.read_all() == records


async def test_a_record_is_written_over(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        await view.publish("a", b"one")
        await view.publish("a", b"two")
        assert await view.read_all() == {"a": b"two"}


async def test_a_forgotten_record_is_gone_and_may_come_again(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        await view.publish("a", b"one")
        await view.publish("b", b"other")
        assert await view.forget("a")
        assert not await view.forget("a")
        assert await view.read_all() == {"b": b"other"}
        await view.publish("a", b"two")
        assert await view.read_all() == {"a": b"two", "b": b"other"}


async def test_a_dropped_bucket_is_missing_and_may_be_made_again(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        await view.publish("a", b"one")
        await world.drop()
        assert await view.read_all() == {}
        with pytest.raises(BucketMissingError):
            await view.publish("a", b"two")
        await view.create_bucket()
        assert await view.read_all() == {}
        await view.publish("a", b"three")


async def test_making_a_bucket_again_changes_nothing(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        await view.publish("a", b"one")
        await view.create_bucket()
        assert await view.read_all() == {"a": b"one"}


async def test_everything_fails_by_name_where_no_server_is(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.unreachable()
        view.listen(heard=None, answer=nothing)
        calls: list[Awaitable[object]] = [
            view.publish("a", b"one"),
            view.read_all(),
            view.forget("a"),
            view.create_bucket(),
            view.ask_living(0.1),
        ]
        for call in calls:
            with pytest.raises(UnreachableError):
                await call


# --- the living ---------------------------------------------------------------------------------


async def test_who_asks_where_nobody_listens_is_told_so_at_once(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        async with asyncio.timeout(5):
            assert await view.ask_living(60) == ()


async def test_who_asks_is_not_among_those_who_answer(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        view.listen(heard=None, answer=answer(b"myself"))
        async with asyncio.timeout(5):
            assert await view.ask_living(60) == ()


async def test_everybody_who_listens_answers(worlds: Worlds) -> None:
    async with worlds() as world:
        asker, one, other, silent = (world.view() for _ in range(4))
        one.listen(heard=None, answer=answer(b"one"))
        other.listen(heard=None, answer=answer(b"other"))
        silent.listen(heard=None, answer=nothing)
        await world.settle(one, other, silent)
        assert sorted(await asker.ask_living(0.3)) == [b"one", b"other"]


async def test_an_answer_is_what_holds_when_it_is_asked_for(worlds: Worlds) -> None:
    async with worlds() as world:
        asker, one = world.view(), world.view()
        now = [b"first"]
        one.listen(heard=None, answer=lambda: now[0])
        await world.settle(one)
        assert await asker.ask_living(0.2) == (b"first",)
        now[0] = b"second"
        assert await asker.ask_living(0.2) == (b"second",)


async def test_of_two_who_ask_at_once_each_is_answered(worlds: Worlds) -> None:
    async with worlds() as world:
        askers, one = [world.view() for _ in range(5)], world.view()
        one.listen(heard=None, answer=answer(b"one"))
        await world.settle(one)
        assert await asyncio.gather(*(asker.ask_living(0.3) for asker in askers)) == [(b"one",)] * 5


async def test_silence_where_somebody_listens_is_not_nobody(worlds: Worlds) -> None:
    async with worlds() as world:
        asker, silent = world.view(), world.view()
        silent.listen(heard=None, answer=nothing)
        await world.settle(silent)
        with pytest.raises(StoreTimeoutError, match="listens"):
            await asker.ask_living(0.1)


async def test_who_only_hears_records_does_not_listen_to_questions(worlds: Worlds) -> None:
    async with worlds() as world:
        asker, hearer = world.view(), world.view()
        hearer.listen(heard=lambda _name, _record: None, answer=None)
        await world.settle(hearer)
        async with asyncio.timeout(5):
            assert await asker.ask_living(60) == ()


async def test_a_later_call_adds_to_what_is_heard_and_answered(worlds: Worlds) -> None:
    async with worlds() as world:
        writer, one = world.view(), world.view()
        await writer.create_bucket()
        heard: list[bytes] = []
        one.listen(heard=lambda _name, record: heard.append(record), answer=None)
        await world.settle(one)
        one.listen(heard=None, answer=answer(b"one"))
        one.listen(heard=None, answer=None)
        await world.settle(one)
        await writer.publish("a", b"record")
        await until(lambda: heard == [b"record"])
        assert await writer.ask_living(0.2) == (b"one",)


@pytest.mark.parametrize(("size", "taken"), [(64 * 1024, 64 * 1024), (64 * 1024 + 1, 0)])
async def test_an_answer_that_is_too_large_counts_as_an_empty_one(worlds: Worlds, size: int, taken: int) -> None:
    async with worlds() as world:
        asker, one = world.view(), world.view()
        one.listen(heard=None, answer=answer(b"x" * size))
        await world.settle(one)
        assert await asker.ask_living(0.3) == (b"x" * taken,)


# --- hearing ------------------------------------------------------------------------------------


async def test_what_is_written_is_heard_by_everybody_who_wants_to(worlds: Worlds) -> None:
    async with worlds() as world:
        writer, hearer, answerer = (world.view() for _ in range(3))
        await writer.create_bucket()
        heard: list[tuple[str, bytes]] = []
        hearer.listen(heard=lambda name, record: heard.append((name, record)), answer=None)
        answerer.listen(heard=None, answer=nothing)
        await world.settle(hearer, answerer)
        await writer.publish("a", b"one")
        await hearer.publish("b", b"my own")
        await writer.publish("a", b"two")
        await until(lambda: len(heard) == 3)
        assert heard == [("a", b"one"), ("b", b"my own"), ("a", b"two")]


async def test_a_forgotten_record_is_not_heard(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        heard: list[str] = []
        view.listen(heard=lambda name, _record: heard.append(name), answer=None)
        await view.publish("a", b"one")
        await view.forget("a")
        await view.publish("b", b"one")
        await until(lambda: "b" in heard)
        assert heard == ["a", "b"]


async def test_hearing_and_answering_outlive_a_connection(worlds: Worlds) -> None:
    async with worlds() as world:
        writer, hearer = world.view(), world.view()
        await writer.create_bucket()
        heard: list[bytes] = []
        hearer.listen(heard=lambda _name, record: heard.append(record), answer=answer(b"here"))
        for text in (b"one", b"two", b"three"):
            await world.settle(hearer)
            await writer.publish("a", text)
            await until(lambda text=text: text in heard)  # type: ignore[misc]
            assert await writer.ask_living(0.1) == (b"here",)
            await world.cut(hearer)
        assert heard == [b"one", b"two", b"three"]  # each once
