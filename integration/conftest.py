"""A nats-server for all tests of this folder, and what its administrator asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from integration import deb
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats.bucket import keyset_stream, stream_name
from tests.conftest import pytest_pyfunc_call  # noqa: F401 - coroutines are tests in this folder too

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    made = EmbeddedServer(tmp_path_factory.mktemp("nats"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def ask(server: EmbeddedServer) -> Ask:
    """Ask the JetStream API about a bucket: `ask("INFO", bucket)`; "MAKE" makes it as keydist does."""

    async def work(call: str, bucket: str) -> dict[str, Any]:
        client = Client()
        await client.connect(server.url)
        query = keyset_stream(bucket, replicas=1) if call == "MAKE" else {}
        subject = f"$JS.API.STREAM.{call.replace('MAKE', 'CREATE')}.{stream_name(bucket)}"
        reply = await client.request(subject, json.dumps(query).encode(), timeout=10)
        await client.close()
        answer: dict[str, Any] = json.loads(reply.data)
        return answer

    return lambda call, bucket: asyncio.run(work(call, bucket))


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Debian package of this checkout."""
    deb.skip_unless_possible()
    return deb.build(tmp_path_factory.mktemp("package"))
