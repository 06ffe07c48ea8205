"""The contract of `KeysetStore`, on the fake that other tests use and on a real nats-server alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import pytest

from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.store import NatsKeysetStore
from keydist.core.entry import Absence, Absent, Stored
from keydist.errors import ConflictError, KeydistError, TransientError, UnreachableError
from keydist.ports import KeysetStore
from tests.fakes.memory_store import MemoryBucket, MemoryKeysetStore

if TYPE_CHECKING:
    from tests.conftest import Admin

LEADER_AND_REPLICA = pytest.mark.parametrize("from_leader", [True, False], ids=["leader", "direct"])


class World(Protocol):
    """One bucket, the nodes that see it, and what befalls it."""

    def view(self) -> KeysetStore: ...
    async def delete(self) -> None: ...
    async def purge(self) -> None: ...
    async def drop(self) -> None: ...
    async def write_entry_first(self, envelope: bytes) -> int: ...
    async def write_with(self, envelope: bytes, headers: dict[str, str]) -> int: ...


class MemoryWorld:
    def __init__(self) -> None:
        self._bucket = MemoryBucket(exists=False)

    def view(self) -> KeysetStore:
        return MemoryKeysetStore(self._bucket)

    async def delete(self) -> None:
        self._bucket.delete()

    async def purge(self) -> None:
        self._bucket.purge()

    async def drop(self) -> None:
        self._bucket.drop()

    async def write_entry_first(self, envelope: bytes) -> int:
        return self._bucket.write(envelope, entry_at=0)

    async def write_with(self, envelope: bytes, headers: dict[str, str]) -> int:
        return await self.write_entry_first(envelope)  # headers mean nothing here


class NatsWorld:
    def __init__(self, server: EmbeddedServer, bucket: str, admin: Admin) -> None:
        self._server = server
        self._bucket = bucket
        self._admin = admin
        self.views: list[NatsKeysetStore] = []
        self.delete, self.purge, self.drop = admin.delete, admin.purge, admin.drop

    def view(self) -> KeysetStore:
        connection = Connection(Server(urls=(self._server.url,), node=f"n{len(self.views)}"))
        self.views.append(NatsKeysetStore(connection, bucket=self._bucket, entry="signing-key"))
        return self.views[-1]

    async def write_entry_first(self, envelope: bytes) -> int:
        answer = await self._admin.publish(envelope, {"Nats-Expected-Last-Subject-Sequence": "0"})
        return int(answer["seq"])

    async def write_with(self, envelope: bytes, headers: dict[str, str]) -> int:
        return int((await self._admin.publish(envelope, headers))["seq"])


Worlds = Callable[[], AbstractAsyncContextManager[World]]


@pytest.fixture(params=["memory", "nats"])
def worlds(request: pytest.FixtureRequest, bucket: str) -> Worlds:
    @asynccontextmanager
    async def memory() -> AsyncIterator[World]:
        yield MemoryWorld()

    @asynccontextmanager
    async def nats() -> AsyncIterator[World]:
        server = request.getfixturevalue("nats_server")
        async with request.getfixturevalue("administer")(server, bucket) as admin:
            world = NatsWorld(server, bucket, admin)
            yield world
            for view in world.views:
                await view.close()

    if request.param == "nats":
        request.getfixturevalue("nats_server")  # before the event loop runs
        request.getfixturevalue("administer")
        return nats
    return memory


# --- why nothing is there -----------------------------------------------------------------------


@LEADER_AND_REPLICA
async def test_a_missing_bucket_is_told(worlds: Worlds, *, from_leader: bool) -> None:
    async with worlds() as world:
        assert await world.view().read(from_leader=from_leader) == Absent(why=Absence.BUCKET_MISSING)


@LEADER_AND_REPLICA
async def test_a_bucket_that_was_never_written_is_told(worlds: Worlds, *, from_leader: bool) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        assert await view.read(from_leader=from_leader) == Absent(why=Absence.NEVER_WRITTEN)


@LEADER_AND_REPLICA
async def test_a_deleted_entry_is_told_with_its_revision(worlds: Worlds, *, from_leader: bool) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        await view.write_first(b"one")
        await world.delete()
        assert await view.read(from_leader=from_leader) == Absent(why=Absence.DELETED, revision=2)


@LEADER_AND_REPLICA
async def test_an_emptied_bucket_is_told(worlds: Worlds, *, from_leader: bool) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        await view.write_first(b"one")
        await world.purge()
        assert await view.read(from_leader=from_leader) == Absent(why=Absence.EMPTIED)


@LEADER_AND_REPLICA
async def test_a_dropped_bucket_is_told_on_a_standing_connection(worlds: Worlds, *, from_leader: bool) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        await view.write_first(b"one")
        assert await view.read(from_leader=from_leader) == Stored(envelope=b"one", revision=1)
        await world.drop()
        assert await view.read(from_leader=from_leader) == Absent(why=Absence.BUCKET_MISSING)
        await view.create_bucket()
        assert await view.read(from_leader=from_leader) == Absent(why=Absence.NEVER_WRITTEN)
        assert await view.write_first(b"two") == 1  # revisions begin again


# --- the first write ----------------------------------------------------------------------------


@LEADER_AND_REPLICA
async def test_what_was_written_first_is_read_by_another(worlds: Worlds, *, from_leader: bool) -> None:
    async with worlds() as world:
        one, other = world.view(), world.view()
        await one.create_bucket()
        assert await one.write_first(b"\x00bytes, \xff verbatim\r\n") == 1
        assert await other.read(from_leader=from_leader) == Stored(envelope=b"\x00bytes, \xff verbatim\r\n", revision=1)


@LEADER_AND_REPLICA
@pytest.mark.parametrize("status", ["9" * 5000, "²", "404", "503", "100", ""], ids=lambda text: text[:4])
async def test_a_status_that_a_writer_put_into_the_entry_means_nothing(
    worlds: Worlds, status: str, *, from_leader: bool
) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        revision = await world.write_with(b"one", {"Status": status, "Nats-Sequence": "77"})
        assert await view.read(from_leader=from_leader) == Stored(envelope=b"one", revision=revision)


async def test_a_second_first_write_is_refused(worlds: Worlds) -> None:
    async with worlds() as world:
        one, other = world.view(), world.view()
        await one.create_bucket()
        await one.write_first(b"one")
        with pytest.raises(ConflictError):
            await other.write_first(b"two")
        assert await other.read(from_leader=True) == Stored(envelope=b"one", revision=1)


async def test_a_first_write_is_refused_after_a_purge_where_an_expectation_on_the_entry_is_not(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        await view.write_first(b"one")
        await world.purge()
        with pytest.raises(ConflictError):
            await view.write_first(b"two")
        assert await view.read(from_leader=True) == Absent(why=Absence.EMPTIED)
        assert await world.write_entry_first(b"a second history") == 2


async def test_a_first_write_is_refused_after_a_deletion(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        await view.write_first(b"one")
        await world.delete()
        with pytest.raises(ConflictError):
            await view.write_first(b"two")


async def test_of_twenty_first_writes_at_once_one_wins(worlds: Worlds) -> None:
    async with worlds() as world:
        views = [world.view() for _ in range(20)]
        await views[0].create_bucket()
        texts = [f"envelope {number}".encode() for number in range(20)]
        answers = await asyncio.gather(
            *(view.write_first(text) for view, text in zip(views, texts, strict=True)), return_exceptions=True
        )
        winners = [number for number, answer in enumerate(answers) if answer == 1]
        assert len(winners) == 1
        assert sum(isinstance(answer, ConflictError) for answer in answers) == 19
        assert {await view.read(from_leader=True) for view in views} == {Stored(envelope=texts[winners[0]], revision=1)}


async def test_twenty_requests_at_once_on_one_view(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await asyncio.gather(*(view.create_bucket() for _ in range(20)))
        answers = await asyncio.gather(*(view.write_first(b"one") for _ in range(20)), return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["ConflictError"] * 19 + ["int"]


async def test_a_write_without_a_bucket_is_not_a_conflict(worlds: Worlds) -> None:
    async with worlds() as world:
        with pytest.raises(UnreachableError, match="no JetStream stream takes writes"):
            await world.view().write_first(b"one")


# --- later writes -------------------------------------------------------------------------------


async def test_replace_needs_the_revision_of_the_entry(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        first = await view.write_first(b"one")
        second = await view.replace(b"two", revision=first)
        assert second > first
        for wrong in (0, first, second + 1):
            with pytest.raises(ConflictError):
                await view.replace(b"three", revision=wrong)
        assert await view.read(from_leader=True) == Stored(envelope=b"two", revision=second)


async def test_replace_puts_an_envelope_back_over_a_deletion_and_into_an_emptied_bucket(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        await view.write_first(b"one")
        for accident in (world.delete, world.purge):
            await accident()
            found = await view.read(from_leader=True)
            assert isinstance(found, Absent)
            revision = await view.replace(b"one", revision=found.revision)
            assert await view.read(from_leader=True) == Stored(envelope=b"one", revision=revision)


async def test_of_twenty_replacements_at_once_one_wins(worlds: Worlds) -> None:
    async with worlds() as world:
        views = [world.view() for _ in range(20)]
        await views[0].create_bucket()
        first = await views[0].write_first(b"one")
        answers = await asyncio.gather(
            *(view.replace(b"two", revision=first) for view in views), return_exceptions=True
        )
        assert sum(isinstance(answer, int) for answer in answers) == 1
        assert sum(isinstance(answer, ConflictError) for answer in answers) == 19


# --- the bucket ---------------------------------------------------------------------------------


async def test_making_a_bucket_again_changes_nothing(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        await view.write_first(b"one")
        await view.create_bucket()
        assert await view.read(from_leader=True) == Stored(envelope=b"one", revision=1)


async def test_twenty_nodes_make_the_bucket_at_once(worlds: Worlds) -> None:
    async with worlds() as world:
        views = [world.view() for _ in range(20)]
        await asyncio.gather(*(view.create_bucket() for view in views))
        assert await views[0].read(from_leader=True) == Absent(why=Absence.NEVER_WRITTEN)


# --- notices, and letting go --------------------------------------------------------------------


async def test_waiting_without_a_notice_ends(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        await view.wait_for_notice(0.1)  # the first may return at once, to look again
        loop = asyncio.get_running_loop()
        start = loop.time()
        await view.wait_for_notice(0.1)
        assert 0.05 < loop.time() - start < 2


async def test_a_write_wakes_who_waits(worlds: Worlds) -> None:
    async with worlds() as world:
        writer, waiter = world.view(), world.view()
        await writer.create_bucket()
        await waiter.read(from_leader=False)
        await waiter.wait_for_notice(0.0)
        await waiter.read(from_leader=False)
        loop = asyncio.get_running_loop()
        start = loop.time()
        async with asyncio.TaskGroup() as group:
            group.create_task(waiter.wait_for_notice(30))
            group.create_task(writer.write_first(b"one"))
        assert loop.time() - start < 5
        assert await waiter.read(from_leader=False) == Stored(envelope=b"one", revision=1)


async def test_waiting_before_anything_was_asked_is_only_waiting(worlds: Worlds) -> None:
    async with worlds() as world:
        loop = asyncio.get_running_loop()
        start = loop.time()
        await world.view().wait_for_notice(0.05)
        assert loop.time() - start < 2


async def test_closing_never_raises(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.close()  # never connected
        await view.create_bucket()
        await view.close()
        await view.close()


async def test_reading_after_closing_answers_or_fails_by_name(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        await view.write_first(b"one")
        await view.close()
        try:
            found: Stored | Absent | KeydistError = await view.read(from_leader=False)
        except TransientError as exc:
            found = exc
        assert found == Stored(envelope=b"one", revision=1) or isinstance(found, TransientError)


async def test_a_cancelled_call_leaves_the_view_usable(worlds: Worlds) -> None:
    async with worlds() as world:
        view = world.view()
        await view.create_bucket()
        reading = asyncio.gather(view.read(from_leader=True))
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await view.read(from_leader=True) == Absent(why=Absence.NEVER_WRITTEN)
