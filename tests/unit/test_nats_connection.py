"""One NATS connection against real servers: what is refused, silent, lost or denied fails by name and in time."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from keydist.adapters.config import TlsConfig
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.denials import Denials
from keydist.adapters.nats.store import NatsKeysetStore
from keydist.core.entry import Absence, Absent, Stored
from keydist.errors import (
    CredentialsRefusedError,
    ForbiddenError,
    KeydistError,
    StoreTimeoutError,
    TransientError,
    UnreachableError,
)
from tests.settled import settled

StartServer = Callable[..., EmbeddedServer]

PASSWORD = 'authorization { user: "someone", password: "a password" }'
INFO = {"server_id": "x", "version": "2.15.1", "proto": 1, "headers": True, "max_payload": 1048576, "nonce": "abc"}


@asynccontextmanager
async def connection(url: str, *more: str, seconds: float = 5.0, **options: Any) -> AsyncIterator[Connection]:  # noqa: ANN401
    made = Connection(Server(urls=(url, *more), node="n1", **options), connect_seconds=seconds)
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def listener(greeting: bytes, heard: bytearray) -> AsyncIterator[str]:
    """Listen, say `greeting` to who connects, and keep what they say."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        while data := await reader.read(65_536):
            heard.extend(data)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def permissions(text: str) -> str:
    """Return the configuration of a server that lets everybody in, with these permissions."""
    return f"authorization {{ default_permissions: {{ {text} }}, users: [{{user: u}}] }}\nno_auth_user: u"


async def failure(made: Connection, *, within: float, subject: str = "anything") -> KeydistError:
    """Return what a request raises, which must be soon."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(KeydistError) as caught:
        await made.request(subject)
    assert loop.time() - start < within
    return caught.value


@asynccontextmanager
async def silent_subject(server: EmbeddedServer, subject: str) -> AsyncIterator[None]:
    """Listen on a subject and never answer."""
    client = Client()
    await client.connect(server.url)
    await client.subscribe(subject)
    await settled(client)
    try:
        yield
    finally:
        await client.close()


async def answered(store: NatsKeysetStore, *, seconds: float = 15.0) -> Stored | Absent:
    """Read until an answer comes, as a retry would."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await store.read(from_leader=True)
            except TransientError:
                await store.wait_for_notice(0.1)


# --- connecting ---------------------------------------------------------------------------------


async def test_a_refused_port_is_unreachable_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with connection(f"nats://127.0.0.1:{taken.getsockname()[1]}") as made:
            error = await failure(made, within=1)
    assert isinstance(error, UnreachableError)
    assert "connection refused" in error.found or "connect call failed" in error.found.lower()


async def test_a_listener_that_never_speaks_is_unreachable_at_the_deadline() -> None:
    heard = bytearray()
    async with listener(b"", heard) as url, connection(url, seconds=1.0) as made:
        error = await failure(made, within=2.5)
    assert isinstance(error, UnreachableError)
    assert error.found
    assert not heard


async def test_a_listener_that_never_accepts_is_unreachable_at_the_deadline() -> None:
    with socket.socket() as server, socket.socket() as first:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        first.connect(server.getsockname())
        async with connection(f"nats://127.0.0.1:{server.getsockname()[1]}", seconds=0.5) as made:
            error = await failure(made, within=2)
    assert isinstance(error, UnreachableError)


async def test_a_listener_that_speaks_another_language_is_unreachable() -> None:
    async with listener(b"SSH-2.0-OpenSSH_9.2\r\n", bytearray()) as url, connection(url, seconds=1.0) as made:
        error = await failure(made, within=2.5)
    assert isinstance(error, UnreachableError)


async def test_one_of_two_servers_is_enough(nats_server: EmbeddedServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with connection(f"nats://127.0.0.1:{taken.getsockname()[1]}", nats_server.url) as made:
            assert (await made.request("nobody.there")).status == 503


@pytest.mark.parametrize("silent_first", [True, False])
async def test_a_server_that_never_speaks_leaves_the_next_its_turn(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, *, silent_first: bool
) -> None:
    monkeypatch.setattr("nats.aio.client.shuffle", lambda _pool: None)
    async with listener(b"", bytearray()) as silent:
        urls = (silent, nats_server.url) if silent_first else (nats_server.url, silent)
        async with connection(*urls, seconds=1.0) as made:
            assert (await made.request("nobody.there")).status == 503


def test_a_name_that_takes_long_to_resolve_holds_up_nobody() -> None:
    """In a process of its own: its end counts too."""
    program = """
import asyncio, socket, threading
from keydist.adapters.nats.connection import Connection, Server
from keydist.errors import UnreachableError
socket.getaddrinfo = lambda *_args, **_named: threading.Event().wait(25)

async def main():
    try:
        await Connection(Server(urls=("nats://some.name:4222",), node="n1"), connect_seconds=0.5).request("x")
    except UnreachableError:
        print("unreachable")

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=15, check=False)
    assert (ended.stdout, ended.stderr) == ("unreachable\n", "")


async def test_names_are_resolved_and_unknown_ones_told(nats_server: EmbeddedServer) -> None:
    async with connection(nats_server.url.replace("127.0.0.1", "localhost")) as made:
        assert (await made.request("nobody.there")).status == 503
    async with connection("nats://no.such.name.invalid:4222", seconds=3.0) as made:
        assert isinstance(await failure(made, within=4), UnreachableError)


async def test_a_payload_beyond_all_bounds_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    hung_up = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"INFO {json.dumps(INFO)}\r\n".encode())
        try:
            await reader.readuntil(b"PING\r\n")
            writer.write(b"PONG\r\n")
            await reader.readuntil(b"PUB")
            writer.write(b"MSG x 1 4000000000\r\n")
            while await reader.read(65_536):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        hung_up.set()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server, connection(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}") as made:
        with pytest.raises(UnreachableError, match="was lost"):
            await made.request("anything", seconds=5)
        async with asyncio.timeout(3):
            await hung_up.wait()


async def test_requests_take_as_long_as_their_connection_allows(nats_server: EmbeddedServer) -> None:
    made = Connection(Server(urls=(nats_server.url,), node="n1"), request_seconds=0.3)
    async with silent_subject(nats_server, "silent"):
        assert isinstance(await failure(made, within=2, subject="silent"), StoreTimeoutError)
    await made.close()


async def test_notices_without_end_wake_five_times_a_second_at_most(nats_server: EmbeddedServer) -> None:
    loop = asyncio.get_running_loop()
    async with connection(nats_server.url) as made:
        await made.request("nobody.there")
        await made.wait_for_notice("keydist.changed.noise", 0.0)
        start, woken = loop.time(), 0
        while loop.time() - start < 1.0:
            made._changed.set()
            await made.wait_for_notice("keydist.changed.noise", 10)
            if not woken:
                assert loop.time() - start < 0.15  # the first at once
            woken += 1
    assert 4 <= woken <= 6


async def test_wrong_credentials_are_refused_quickly_and_silently(
    start_server: StartServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start_server(extra=PASSWORD)
    async with connection(server.url) as made:
        error = await failure(made, within=1)
        again = await failure(made, within=1)
    assert isinstance(error, CredentialsRefusedError)
    assert error.exit_code == 77
    assert "authorization violation" in error.found.lower()
    assert isinstance(again, CredentialsRefusedError)
    assert capfd.readouterr() == ("", "")


async def test_too_many_connections_are_no_refusal_of_credentials(start_server: StartServer) -> None:
    server = start_server(extra="max_connections: 1")
    async with connection(server.url) as one, connection(server.url, seconds=1.0) as other:
        await one.request("nobody.there")
        error = await failure(other, within=2.5)
    assert isinstance(error, UnreachableError)


@pytest.mark.parametrize("server_speaks_first", [True, False])
async def test_tls_that_was_asked_for_is_never_given_up(*, server_speaks_first: bool) -> None:
    heard = bytearray()
    greeting = f"INFO {json.dumps(INFO)}\r\n".encode() if server_speaks_first else b""
    async with (
        listener(greeting, heard) as url,
        connection(url, seconds=1.0, tls=TlsConfig()) as made,
    ):
        error = await failure(made, within=3.5)
    assert isinstance(error, UnreachableError)
    assert heard[:1] == b"\x16"  # a TLS handshake, and nothing else
    assert b"CONNECT" not in heard


async def test_tls_with_a_plain_server_is_unreachable(nats_server: EmbeddedServer) -> None:
    async with connection(nats_server.url, seconds=1.0, tls=TlsConfig()) as made:
        error = await failure(made, within=2.5)
    assert isinstance(error, UnreachableError)


async def test_many_requests_at_once_make_one_connection(nats_server: EmbeddedServer) -> None:
    async with connection(nats_server.url) as made:
        await asyncio.gather(*(made.request("nobody.there") for _ in range(20)))
        link = made._link
        await made.request("nobody.there")
        assert made._link is link


# --- losing the connection ----------------------------------------------------------------------


async def test_a_silent_answer_is_a_timeout_not_an_absence(nats_server: EmbeddedServer) -> None:
    async with silent_subject(nats_server, "silent"), connection(nats_server.url) as made:
        with pytest.raises(StoreTimeoutError, match="did not answer in time") as caught:
            await made.request("silent", seconds=0.3)
    assert caught.value.expected == "an answer on silent"
    assert "a full disk ends it until nats-server is started again" in caught.value.fix
    assert not isinstance(caught.value, OSError)


async def test_a_server_killed_during_a_request(start_server: StartServer) -> None:
    server = start_server()
    async with silent_subject(server, "silent"), connection(server.url) as made:
        await made.request("nobody.there")
        asking = asyncio.gather(made.request("silent", seconds=1), return_exceptions=True)
        await made.wait_for_notice("nothing", 0.0)
        await asyncio.to_thread(server.stop, kill=True)
        (error,) = await asking
        assert isinstance(error, TransientError)
        later = await failure(made, within=7)
        assert isinstance(later, UnreachableError)
        assert later.fix


@pytest.mark.parametrize("noticed", ["yes", "just now", "not yet"])
async def test_a_connection_comes_back_after_a_restart_and_no_write_is_made_up_for(
    start_server: StartServer, noticed: str
) -> None:
    """What was asked while disconnected must not be applied later, behind the back of who was told that it failed."""
    server = start_server()
    async with connection(server.url) as made:
        store = NatsKeysetStore(made, bucket="keydist", entry="signing-key")
        await store.create_bucket()
        await store.wait_for_notice(0.0)
        if noticed == "not yet":
            server.stop(kill=True)  # the event loop stands still meanwhile
        else:
            await asyncio.to_thread(server.stop, kill=True)
        while noticed == "yes" and made._link is not None and made._link.is_usable:
            await store.wait_for_notice(0.01)
        with pytest.raises(TransientError):
            await store.write_first(b"one")
        await asyncio.to_thread(server.start)
        assert await answered(store) == Absent(why=Absence.NEVER_WRITTEN)
        assert await store.write_first(b"two") == 1


async def test_a_write_that_was_queued_when_the_connection_broke_is_not_sent_on_the_next(
    start_server: StartServer,
) -> None:
    server = start_server()
    async with connection(server.url) as made:
        store = NatsKeysetStore(made, bucket="keydist", entry="signing-key")
        await store.create_bucket()
        await store.wait_for_notice(0.0)
        assert made._link is not None
        flusher = made._link._client._flusher_task
        assert flusher is not None
        flusher.cancel()  # as when the socket takes no more
        with pytest.raises(StoreTimeoutError):
            await made.request("$KV.keydist.signing-key", b"one", seconds=0.2)
        await asyncio.to_thread(server.stop, kill=True)
        await asyncio.to_thread(server.start)
        assert await answered(store) == Absent(why=Absence.NEVER_WRITTEN)


async def test_a_bucket_lost_with_its_server_is_missing_not_empty(start_server: StartServer) -> None:
    server = start_server()
    async with connection(server.url) as made:
        store = NatsKeysetStore(made, bucket="keydist", entry="signing-key")
        await store.create_bucket()
        await store.write_first(b"one")
        await asyncio.to_thread(server.stop, kill=True)
        server.wipe()
        await asyncio.to_thread(server.start)
        assert await answered(store) == Absent(why=Absence.BUCKET_MISSING)
        await store.create_bucket()
        assert await store.write_first(b"one") == 1


async def test_credentials_that_are_withdrawn_are_refused_on_the_standing_connection(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server()
    async with connection(server.url) as made:
        await made.request("nobody.there")
        await asyncio.to_thread(server.stop, kill=True)
        guarded = EmbeddedServer(tmp_path / "guarded", extra=PASSWORD)
        guarded.port = server.port
        await asyncio.to_thread(guarded.start)
        try:
            async with asyncio.timeout(15):
                while not isinstance(await failure(made, within=7), CredentialsRefusedError):
                    await made.wait_for_notice("changed", 0.1)
        finally:
            await asyncio.to_thread(guarded.stop)


# --- denials ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "exc",
    [
        Exception(),
        Exception(None),
        ValueError("\udcff"),
        OSError(5, None),
        Exception("permissions violation"),
        Exception('permissions violation for publish to "'),
        KeyError(),
    ],
    ids=repr,
)
def test_what_is_reported_may_be_anything(exc: Exception) -> None:
    denials = Denials("n1")
    for _ in range(100):
        denials.note(exc)
    denials.raise_for("subject")
    assert len(denials._publishing) < 20


def test_of_denied_subscriptions_few_are_kept() -> None:
    denials = Denials("n1")
    for number in range(100):
        denials.note(Exception(f'permissions violation for subscription to "s{number}"'))
    assert denials.is_subscription_denied("s0")
    assert len(denials._subscribing) < 20


async def test_a_denied_inbox_is_forbidden_not_a_timeout(start_server: StartServer) -> None:
    server = start_server(extra=permissions('publish: ">", subscribe: "_INBOX_other.>"'))
    async with connection(server.url) as made:
        for error in (await failure(made, within=1), await failure(made, within=1)):
            assert isinstance(error, ForbiddenError)
            assert "subscription" in error.found


async def test_what_was_denied_may_be_allowed_after_a_reconnection(start_server: StartServer) -> None:
    server = start_server(extra=permissions('publish: ">", subscribe: "_INBOX_other.>"'))
    async with connection(server.url) as made:
        assert isinstance(await failure(made, within=1), ForbiddenError)
        await asyncio.to_thread(server.stop, kill=True)
        server._extra = ""
        await asyncio.to_thread(server.start)
        assert (await made.request("$JS.API.INFO")).status == 200


async def test_a_denial_concerns_its_subject_only(start_server: StartServer) -> None:
    server = start_server(extra=permissions('publish: { deny: "denied" }'))
    async with silent_subject(server, "allowed"), connection(server.url) as made:
        slow = asyncio.gather(made.request("allowed", seconds=1), return_exceptions=True)
        error = await failure(made, within=1, subject="denied")
        (silence,) = await slow
    assert isinstance(error, ForbiddenError)
    assert "denied" in error.message
    assert isinstance(silence, StoreTimeoutError)


async def test_a_denied_notice_leaves_the_waiting_a_wait(start_server: StartServer) -> None:
    server = start_server(extra=permissions('publish: ">", subscribe: "_INBOX_n1.>"'))
    async with connection(server.url) as made:
        await made.request("nobody.there")
        await made.wait_for_notice("keydist.changed.signing-key", 0.05)
        await made.wait_for_notice("keydist.changed.signing-key", 0.05)
        assert (await made.request("nobody.there")).status == 503


@pytest.mark.parametrize("ask", [Connection.request, Connection.read])
async def test_who_stood_still_for_longer_than_a_question_may_take_reads_the_answer_that_came(
    ask: Callable[..., Any], start_server: StartServer
) -> None:
    made = Connection(Server(urls=(start_server().url,), node="n1"), request_seconds=0.5)
    await made.connect()
    asyncio.get_running_loop().call_soon(time.sleep, 1.0)  # noqa: TID251 - it stands still
    try:
        assert json.loads((await ask(made, "$JS.API.INFO")).data)["type"].endswith("account_info_response")
    finally:
        await made.close()


# --- a server that a whole fleet connects to ------------------------------------------------------


async def seconds_until_failure(made: Connection) -> float:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(UnreachableError):
        await made.connect()
    return loop.time() - begun


@contextmanager
def swallowing() -> Iterator[str]:
    """Give the address of a server whose queue is full: what asks for a connection is dropped, as by a network."""
    with socket.socket() as server, ExitStack() as queued:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = queued.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"nats://127.0.0.1:{server.getsockname()[1]}"


async def test_who_waited_in_vain_waits_longer_the_next_time_up_to_a_limit_and_anew_after_success() -> None:
    async with listener(b"", bytearray()) as url:
        made = Connection(Server(urls=(url,), node="n1"), connect_seconds=0.2, longest_connect=0.5)
        waited = [await seconds_until_failure(made) for _ in range(4)]
    assert [0.2 <= waited[0] < 0.4, 0.4 <= waited[1] < 0.5, *(0.5 <= one < 0.9 for one in waited[2:])] == [True] * 4
    made._server = Server(urls=("nats://127.0.0.1:1",), node="n1")
    assert await seconds_until_failure(made) < 0.2, "who is refused need not wait"
    assert made._patience == 0.5


async def test_who_reaches_no_server_tries_as_often_as_ever_and_so_soon_after_a_network_is_healed() -> None:
    with swallowing() as url:
        made = Connection(Server(urls=(url,), node="n1"), connect_seconds=0.2, longest_connect=60)
        waited = [await seconds_until_failure(made) for _ in range(4)]
    assert all(0.2 <= one < 0.4 for one in waited)


async def test_a_connection_that_stands_makes_the_patience_short_again(start_server: StartServer) -> None:
    made = Connection(Server(urls=(start_server().url,), node="n1"), connect_seconds=5, longest_connect=60)
    made._patience = 40
    await made.connect()
    await made.close()
    assert made._patience == 5


async def test_who_has_only_so_much_time_does_not_wait_longer_than_that() -> None:
    async with listener(b"", bytearray()) as url:
        until = asyncio.get_running_loop().time() + 0.5
        made = Connection(Server(urls=(url,), node="n1"), connect_seconds=3, longest_connect=30, until=until)
        assert await seconds_until_failure(made) < 2
