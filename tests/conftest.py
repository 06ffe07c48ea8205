"""Fixtures that several folders share: coroutines as tests, nats-servers on free loopback ports."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats.bucket import stream_name

StartServer = Callable[..., EmbeddedServer]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run tests that are coroutines, each in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One server for all tests that leave it as it is; each takes a bucket of its own."""
    server = EmbeddedServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start servers for one test alone, with the arguments of `EmbeddedServer`."""
    started: list[EmbeddedServer] = []

    def start(**options: Any) -> EmbeddedServer:  # noqa: ANN401 - those of `EmbeddedServer`
        server = EmbeddedServer(tmp_path / f"nats-{len(started)}", **options)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()


_numbers = count()


@pytest.fixture
def bucket() -> str:
    """The name of a bucket that no other test uses."""
    return f"b{next(_numbers)}"


class Admin:
    """What an administrator may do to a bucket, with a client of nats-py."""

    def __init__(self, client: Client, bucket: str, entry: str = "signing-key") -> None:
        self.client = client
        self._bucket = bucket
        self.subject = f"$KV.{bucket}.{entry}"

    async def ask(self, call: str, **query: object) -> dict[str, Any]:
        """Return the answer of the JetStream API about the bucket's stream."""
        reply = await self.client.request(
            f"$JS.API.STREAM.{call}.{stream_name(self._bucket)}", json.dumps(query).encode(), timeout=5
        )
        answer: dict[str, Any] = json.loads(reply.data)
        return answer

    async def publish(self, data: bytes = b"", headers: dict[str, str] | None = None) -> dict[str, Any]:
        """Write to the entry and return the acknowledgement, or what was said instead."""
        reply = await self.client.request(self.subject, data, timeout=5, headers=headers)
        answer: dict[str, Any] = json.loads(reply.data)
        return answer

    async def delete(self) -> None:
        assert "error" not in await self.publish(headers={"KV-Operation": "DEL"})

    async def purge(self) -> None:
        assert (await self.ask("PURGE"))["success"]

    async def drop(self) -> None:
        assert (await self.ask("DELETE"))["success"]


@asynccontextmanager
async def administrator(server: EmbeddedServer, bucket: str, **options: Any) -> AsyncIterator[Admin]:  # noqa: ANN401
    """Connect as an administrator."""
    client = Client()
    await client.connect(server.url, **options)
    try:
        yield Admin(client, bucket)
    finally:
        await client.close()


@pytest.fixture
def administer() -> Callable[..., Any]:
    """Return `administrator`: tests cannot import this file."""
    return administrator
