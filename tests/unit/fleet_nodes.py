"""Nodes of a real fleet, as a command meets them: they write their records and answer, in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from keydist.adapters.clock import SystemClock
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.records import NatsNodeRecords
from keydist.adapters.nats.store import NatsKeysetStore
from keydist.core.accept import Held
from keydist.core.record import Record
from keydist.core.token import BootstrapToken
from keydist.errors import StoreTimeoutError
from tests.material import TOKEN, sealed_record

BUCKET = "keydist"
"""The bucket of the test material's place."""


def run(work: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine in a loop of its own."""
    asyncio.run(work)


async def set_up(url: str, held: Held) -> None:
    """Make both buckets anew; the store holds `held`."""
    connection = Connection(Server(urls=(url,), node="setup"))
    try:
        for name in (f"KV_{BUCKET}", f"KV_{BUCKET}-nodes"):
            await connection.request(f"$JS.API.STREAM.DELETE.{name}")
        store = NatsKeysetStore(connection, bucket=BUCKET, entry="signing-key")
        await _made(store.create_bucket)
        await store.write_first(held.envelope)
        await _made(NatsNodeRecords(connection, bucket=BUCKET).create_bucket)
    finally:
        await connection.close()


async def _made(create: Callable[[], Awaitable[None]]) -> None:
    """Make a bucket whose folder the server may still be removing."""
    for _ in range(50):
        try:
            return await create()
        except StoreTimeoutError:
            await SystemClock().sleep(0.1)
    return await create()


async def write(url: str, name: str, raw: bytes) -> None:
    """Write anything as the record of a name."""
    connection = Connection(Server(urls=(url,), node="writer"))
    try:
        await NatsNodeRecords(connection, bucket=BUCKET).publish(name, raw)
    finally:
        await connection.close()


class Nodes:
    """Nodes that live while this is entered: each writes its record at each heartbeat, and answers where it may.

    `dead` wrote theirs once.
    """

    def __init__(
        self,
        url: str,
        *alive: Record,
        dead: tuple[Record, ...] = (),
        token: BootstrapToken = TOKEN,
        answers: bool = True,
    ) -> None:
        self._url = url
        self._alive = list(alive)
        self._dead = dead
        self._token = token
        self._answers = answers
        self._heartbeat = min((record.heartbeat for record in alive), default=1) / 2
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    async def _live(self) -> None:
        connections = [
            Connection(Server(urls=(self._url,), node=f"node-{index}")) for index in range(1 + len(self._alive))
        ]
        gone, *views = [NatsNodeRecords(connection, bucket=BUCKET) for connection in connections]
        for index, view in enumerate(views if self._answers else ()):
            view.listen(heard=None, answer=partial(self._next, index))
        try:
            for record in self._dead:
                await gone.publish(record.node, sealed_record(record, token=self._token))
            while not self._stop.is_set():
                for index, view in enumerate(views):
                    await view.publish(self._alive[index].node, self._next(index))
                self._ready.set()
                await asyncio.get_running_loop().run_in_executor(None, self._stop.wait, self._heartbeat)
        finally:
            for connection in connections:
                await connection.close()

    def _next(self, index: int) -> bytes:
        record = self._alive[index]
        self._alive[index] = replace(record, counter=record.counter + 1)
        return sealed_record(self._alive[index], token=self._token)
