"""A connection that lives for months: every loss is noticed, told, mended by the next request, and leaves nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats import dialing
from keydist.adapters.nats import link as links
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.wire import Heard, first_of
from keydist.errors import (
    CredentialsRefusedError,
    ForbiddenError,
    StoreTimeoutError,
    TransientError,
    UnreachableError,
)
from tests.settled import settled

StartServer = Callable[..., EmbeddedServer]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

ACCOUNTS = """
accounts {
  SYS: { users: [ { user: sys, password: x } ] }
  APP: { jetstream: enabled, users: [ { user: app, password: x } ] }
}
system_account: SYS
no_auth_user: app
"""
INFO = {"server_id": "x", "version": "2.15.1", "proto": 1, "headers": True, "max_payload": 1048576, "client_id": 1}


@asynccontextmanager
async def connection(url: str, **options: float) -> AsyncIterator[Connection]:
    made = Connection(Server(urls=(url,), node="n1"), **options)
    try:
        yield made
    finally:
        await made.close()


async def until(condition: Callable[[], bool], *, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.01)


async def lost(made: Connection) -> None:
    """Wait until the loss of a connection was noticed."""
    link = made._link
    assert link is not None
    await until(lambda: not link.is_usable)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, no path needed


# --- each kind of loss --------------------------------------------------------------------------


@asynccontextmanager
async def listening(talk: Talk, **options: int) -> AsyncIterator[str]:
    """Serve connections and yield the address; at the end every connection is over and every handler has ended."""
    writers: list[asyncio.StreamWriter] = []
    handlers: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.append(task)
        writers.append(writer)
        await talk(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, **options)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*handlers, return_exceptions=True)


class Script:
    """A server that greets, then does what a test wants with each connection after its first publish."""

    def __init__(self, ending: bytes | None) -> None:
        self._ending = ending
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        writer.write(f"INFO {json.dumps(INFO)}\r\n".encode())
        with suppress(OSError):
            while line := await reader.readline():
                if line == b"PING\r\n":
                    writer.write(b"PONG\r\n")
        writer.close()

    def end(self) -> None:
        """End the newest connection, with some last words or without."""
        if self._ending is None:
            self._writers[-1].close()
        else:
            self._writers[-1].write(self._ending)


ENDINGS: dict[str, bytes | None] = {
    "the end of the stream": None,
    "an error that is no denial": b"-ERR 'Invalid Subscription'\r\n",
    "an error without words": b"-ERR \r\n",
    "a stale connection": b"-ERR 'Stale Connection'\r\n",
    "a withdrawn user": b"-ERR 'Authorization Violation'\r\n",
    "an expired user": b"-ERR 'User Authentication Expired'\r\n",
    "another language": b"HTTP/1.1 400 Bad Request\r\n",
    "bytes that are no text": b"MSG \xff\xfe 1 2\r\nab\r\n",
    "an error that is no text": b"-ERR '\xff\xfe'\r\n",
    "information that is none": b"INFO {nonsense}\r\n",
    "information that is a list": b"INFO [1, 2]\r\n",
    "information without end": b"INFO " + b"x" * (3 * 1024 * 1024),
    "a payload beyond all bounds": b"MSG x 1 4000000000\r\n",
    "a header that is no text": b"HMSG x 1 12 12\r\nNATS/1.0 \xff\xff\xff\r\n",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
async def test_each_loss_wakes_who_waits_fails_who_asks_and_is_mended(
    ending: bytes | None, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(ending)
    async with listening(script.talk) as url, connection(url, request_seconds=0.2) as made:
        for number in (1, 2):
            with pytest.raises(TransientError):
                await made.request("silent")
            assert script.connections == number
            await made.wait_for_notice("changed", 0.0)
            async with asyncio.timeout(3), asyncio.TaskGroup() as group:
                group.create_task(made.wait_for_notice("changed", 60))
                asking = group.create_task(_failure(made.request("silent", seconds=60)))
                await until(lambda: made._waiting == 1)
                script.end()
            refused = ending is not None and b"Auth" in ending
            assert isinstance(asking.result(), CredentialsRefusedError if refused else UnreachableError)
            assert made._link is not None
            await until(lambda client=made._link._client: client.is_closed)  # type: ignore[misc] # it does not try again
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


async def _failure(asking: Awaitable[object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - it is looked at
        await asking
    return caught.value


@asynccontextmanager
async def relayed(server: EmbeddedServer, cut: asyncio.Event) -> AsyncIterator[str]:
    """Yield an address behind a network that swallows everything while it is cut, and refuses nothing."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if not cut.is_set():
                    writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(copy(reader, upstream[1]), copy(upstream[0], writer))

    async with listening(relay) as url:
        yield url


async def test_a_half_open_link_is_noticed(nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "_PING_SECONDS", 0.1)
    cut = asyncio.Event()
    async with relayed(nats_server, cut) as url, connection(url) as made:
        await made.request("nobody.there")
        await made.wait_for_notice("changed", 0.0)
        await made.wait_for_notice("changed", 1.0)  # pings keep it
        assert made._link is not None
        assert made._link.is_usable
        cut.set()
        async with asyncio.timeout(3):
            await made.wait_for_notice("changed", 60)
        await lost(made)
        cut.clear()
        assert (await made.request("nobody.there")).status == 503


def test_a_half_open_link_over_which_nothing_is_asked_costs_eight_seconds_at_most() -> None:
    assert dialing._PING_SECONDS * (dialing._UNANSWERED + 1) <= 8


async def test_a_question_into_a_half_open_link_fails_soon_and_the_next_goes_over_another(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "_DOUBT_SECONDS", 0.1)
    monkeypatch.setattr(links, "_PONG_SECONDS", 0.5)
    cut = asyncio.Event()
    async with relayed(nats_server, cut) as url, connection(url) as made:
        await made.request("nobody.there")
        cut.set()
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            failures = [group.create_task(_failure(made.request("nobody.there", seconds=60))) for _ in range(3)]
        assert {type(failure.result()) for failure in failures} == {UnreachableError}
        assert "stale" in failures[0].result().found  # type: ignore[attr-defined]
        cut.clear()
        assert (await made.request("nobody.there")).status == 503
    assert clients_tasks() == []


async def test_a_loss_is_told_at_once_while_nobody_answers_a_ping(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "_DOUBT_SECONDS", 0.0)
    monkeypatch.setattr(links, "_PONG_SECONDS", 60)
    server, cut = start_server(), asyncio.Event()
    async with relayed(server, cut) as url, connection(url) as made:
        await made.request("nobody.there")
        cut.set()
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            failure = group.create_task(_failure(made.request("nobody.there", seconds=60)))
            link = made._link
            assert link is not None
            await until(lambda: bool(link._client._pongs))
            await asyncio.to_thread(server.stop)
        assert isinstance(failure.result(), UnreachableError)


async def test_a_server_that_is_there_keeps_its_link_however_long_an_answer_takes(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "_DOUBT_SECONDS", 0.05)
    async with answering(nats_server, "silent", lambda _: None), connection(nats_server.url) as made:
        with pytest.raises(StoreTimeoutError):
            await made.request("silent", seconds=0.5)
        link = made._link
        assert (await made.request("nobody.there")).status == 503
        assert made._link is link


@asynccontextmanager
async def answering(
    server: EmbeddedServer, subject: str, answer: Callable[[int], bytes | None]
) -> AsyncIterator[list[int]]:
    """Answer each question with what `answer` gives for its number, from 1; yield the numbers so far."""
    client, numbers = Client(), list[int]()
    await client.connect(server.url)

    async def hear(message: Msg) -> None:
        numbers.append(len(numbers) + 1)
        found = answer(numbers[-1])
        if found is not None:
            await client.publish(message.reply, found)

    await client.subscribe(subject, cb=hear)
    await settled(client)
    try:
        yield numbers
    finally:
        await client.close()


async def test_a_question_that_only_reads_is_asked_again_where_one_was_lost_and_no_other(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "_AGAIN_SECONDS", 0.1)
    async with connection(nats_server.url) as made:
        async with answering(nats_server, "second", lambda number: b"found" if number == 2 else None) as numbers:
            assert (await made.read("second")).data == b"found"
        assert numbers[:2] == [1, 2]
        async with answering(nats_server, "once", lambda _: None) as numbers:
            with pytest.raises(StoreTimeoutError):
                await made.request("once", seconds=0.5)
        assert numbers == [1]
    assert clients_tasks() == []


@pytest.mark.parametrize("first_lost", [False, True])
async def test_a_peer_that_takes_nothing_more_holds_up_no_close(
    monkeypatch: pytest.MonkeyPatch, *, first_lost: bool
) -> None:
    """What waits to be sent is not waited for, and nothing is left of the client."""
    gone = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"INFO {json.dumps(INFO)}\r\n".encode())
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n")
        await gone.wait()  # it reads no more
        writer.close()

    monkeypatch.setattr(dialing, "_PING_SECONDS", 0.1 if first_lost else 10)
    async with listening(talk, limit=1024) as url, connection(url, request_seconds=0.01) as made:
        made.subscribe("some.*", lambda _message: None)
        with pytest.raises(TransientError):
            await made.request("x")
        link = made._link
        assert link is not None
        for _ in range(10):
            with suppress(TransientError):
                await link.request("x", b"x" * 1_000_000, headers=None, seconds=0.01)
        if first_lost:
            await lost(made)
        async with asyncio.timeout(4):
            await made.close()
        socket: asyncio.WriteTransport = link._client._transport._io_writer.transport  # type: ignore[union-attr]
        assert (socket.is_closing(), socket.get_write_buffer_size()) == (True, 0)
        assert clients_tasks() == []
        gone.set()


async def test_a_client_that_fails_to_close_leaves_no_task(
    nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the connection breaks while something waits to be sent, nats-py raises in the midst of its closing."""

    async def fail(_client: Client) -> None:
        raise ConnectionResetError

    async with connection(nats_server.url) as made:
        made.subscribe("some.*", lambda _message: None)
        await made.request("nobody.there")
        assert clients_tasks()
        monkeypatch.setattr(Client, "close", fail)
        await made.close()
        assert clients_tasks() == []


def clients_tasks() -> list[str]:
    """Return what nats-py's tasks do."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith(("Client.", "Subscription."))]


# --- waking ---------------------------------------------------------------------------------------


async def test_who_is_told_of_a_loss_by_a_failure_is_not_woken_too() -> None:
    """At a server that hangs up at every request, it would else ask again without the pause it chose."""
    script = Script(None)
    server = await asyncio.start_server(script.talk, "127.0.0.1", 0)
    async with server, connection(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}") as made:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(_failure(made.request("silent")))
                await until(lambda: made._link is not None and bool(made._link._denials._waiting))
                script.end()
            assert isinstance(asking.result(), UnreachableError)
            start = loop.time()
            await made.wait_for_notice("changed", 0.3)
            assert loop.time() - start > 0.25
    assert script.connections == 3


async def test_a_loss_between_two_waits_is_not_missed() -> None:
    script = Script(None)
    async with listening(script.talk) as url, connection(url, request_seconds=0.1) as made:
        with pytest.raises(TransientError):
            await made.request("silent")
        script.end()
        await lost(made)
        async with asyncio.timeout(3):
            await made.wait_for_notice("changed", 60)


async def test_a_connection_that_another_request_makes_wakes_who_waits(nats_server: EmbeddedServer) -> None:
    async with connection(nats_server.url) as made:
        await made.request("nobody.there")
        await made.wait_for_notice("changed", 0.0)
        await made.close()
        async with asyncio.timeout(3), asyncio.TaskGroup() as group:
            group.create_task(made.wait_for_notice("changed", 60))
            await until(lambda: made._waiting == 1)
            await made.request("nobody.there")


async def test_many_who_ask_where_nobody_is_share_one_try() -> None:
    heard = bytearray()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(b"x")
        await reader.read()
        writer.close()

    async with listening(talk) as url, connection(url, connect_seconds=0.3) as made, asyncio.timeout(2):
        failures = await asyncio.gather(*(made.request("x") for _ in range(50)), return_exceptions=True)
        assert {type(failure) for failure in failures} == {UnreachableError}
        assert len(heard) == 1
        with pytest.raises(UnreachableError):
            await made.request("x")
        assert len(heard) == 2


# --- credentials ----------------------------------------------------------------------------------


async def test_credentials_that_are_refused_and_granted_later_heal(start_server: StartServer, tmp_path: Path) -> None:
    import nkeys  # type: ignore[import-untyped] # noqa: PLC0415

    from tests.material import noise  # noqa: PLC0415

    wrong, right = (nkeys.encode_seed(noise(name, 32), nkeys.PREFIX_BYTE_USER) for name in ("wrong", "right"))
    public = nkeys.from_seed(bytearray(right)).public_key.decode()
    server = start_server(extra=f"authorization {{ users: [ {{ nkey: {public} }} ] }}")
    file = tmp_path / "nkey"
    file.write_bytes(wrong)
    made = Connection(Server(urls=(server.url,), node="n1", nkey_file=str(file)))
    try:
        for _ in range(2):
            with pytest.raises(CredentialsRefusedError):
                await made.request("nobody.there")
        file.write_bytes(right)
        assert (await made.request("nobody.there")).status == 503
    finally:
        await made.close()


async def test_an_inbox_that_is_denied_is_asked_for_again(start_server: StartServer) -> None:
    server = start_server(
        extra='authorization { default_permissions: { publish: ">", subscribe: "_INBOX_other.>" }, users: [{user: u}] }'
        "\nno_auth_user: u"
    )
    async with connection(server.url) as made:
        with pytest.raises(ForbiddenError):
            await made.request("nobody.there")
        first = made._link
        start = asyncio.get_running_loop().time()
        await made.wait_for_notice("changed", 0.3)
        assert asyncio.get_running_loop().time() - start > 0.25  # and not all the time
        with pytest.raises(ForbiddenError):
            await made.request("nobody.there")
        assert made._link is not first


# --- subscriptions --------------------------------------------------------------------------------


async def test_subscriptions_outlive_a_restart_of_the_server(start_server: StartServer) -> None:
    server = start_server()
    heard: list[bytes] = []

    def keep(message: Heard) -> bytes:
        heard.append(message.data)
        return b"answer"

    async with connection(server.url) as made:
        made.subscribe("some.*", keep)
        for text in (b"one", b"two"):
            await made.request("nobody.there")
            other = Client()
            await other.connect(server.url)
            assert (await other.request("some.thing", text, timeout=5)).data == b"answer"
            await other.close()
            await asyncio.to_thread(server.stop, kill=True)
            await asyncio.to_thread(server.start)
            await lost(made)
    assert heard == [b"one", b"two"]


async def test_a_callback_that_raises_ends_nothing(
    nats_server: EmbeddedServer, capfd: pytest.CaptureFixture[str]
) -> None:
    heard: list[bytes] = []

    def fail(message: Heard) -> None:
        heard.append(message.data)
        raise RuntimeError(message.data)

    async with connection(nats_server.url) as made, connection(nats_server.url) as other:
        made.subscribe("failing.here", fail)
        await made.request("nobody.there")
        for _ in range(3):
            with suppress(TransientError):
                await other.request("failing.here", b"x", seconds=0.1)
        assert len(heard) == 3
        assert (await made.request("nobody.there")).status == 503
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("reply", ["$KV.keydist.signing-key", "$JS.API.STREAM.DELETE.KV_x", "elsewhere", ""])
async def test_only_an_inbox_is_answered(nats_server: EmbeddedServer, reply: str) -> None:
    """A question's reply subject is its asker's choice: an answer must not be stored, nor command anything."""
    answered: list[str] = []
    questions: list[bool] = []

    def answer(message: Heard) -> bytes:
        questions.append(message.is_question)
        return b"sealed"

    async with connection(nats_server.url) as made:
        made.subscribe("question.here", answer)
        await made.request("nobody.there")
        attacker = Client()
        await attacker.connect(nats_server.url)

        async def hear(message: object) -> None:
            answered.append(str(message))

        if reply:
            await attacker.subscribe(reply, cb=hear)
        await attacker.publish("question.here", reply=reply)
        await settled(attacker)
        await until(lambda: bool(questions))
        await made.request("nobody.there")
        await settled(attacker)
        await attacker.close()
    assert (questions, answered) == ([False], [])


async def test_a_denied_subscription_is_told_and_harms_nothing(start_server: StartServer) -> None:
    server = start_server(
        extra='authorization { default_permissions: { publish: ">", subscribe: ["_INBOX_n1.>", "good.*"] },'
        " users: [{user: u}] }\nno_auth_user: u"
    )
    async with connection(server.url) as made:
        assert made.denied_subscriptions() == ()
        made.subscribe("bad.*", lambda _message: None)
        made.subscribe("good.*", lambda _message: None)
        await made.request("nobody.there")
        assert made.denied_subscriptions() == ("bad.*",)
        assert (await made.request("nobody.there")).status == 503
        await made.close()
        assert made.denied_subscriptions() == ()


# --- nothing is left ------------------------------------------------------------------------------


class Monitor:
    """What the system account sees and may do."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def _connections(self) -> list[dict[str, object]]:
        answer = await self._client.request("$SYS.REQ.SERVER.PING.CONNZ", b'{"subscriptions": true}', timeout=5)
        found: list[dict[str, object]] = json.loads(answer.data)["data"]["connections"]
        return [one for one in found if str(one.get("name", "")).startswith("keydist ")]

    async def subscriptions(self) -> list[list[str]]:
        """Return what each of keydist's connections is subscribed to."""
        return [sorted(map(str, one.get("subscriptions_list", ()))) for one in await self._connections()]  # type: ignore[call-overload]

    async def kick(self) -> None:
        """Drop keydist's connections."""
        server = json.loads((await self._client.request("$SYS.REQ.SERVER.PING", timeout=5)).data)["server"]["id"]
        for one in await self._connections():
            await self._client.request(
                f"$SYS.REQ.SERVER.{server}.KICK", json.dumps({"cid": one["cid"]}).encode(), timeout=5
            )


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Client]:
    client = Client()
    await client.connect(url)
    try:
        yield client
    finally:
        await client.close()


async def test_three_hundred_losses_leave_nothing_behind(start_server: StartServer) -> None:
    server = start_server(extra=ACCOUNTS)
    async with (
        client_of(server.url.replace("nats://", "nats://sys:x@")) as system,
        client_of(server.url) as silent,
        connection(server.url) as made,
    ):
        monitor = Monitor(system)
        await silent.subscribe("silent")
        await settled(silent)
        made.subscribe("some.*", lambda _message: None)

        async def lose() -> None:
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(_failure(made.request("silent", seconds=60)))
                await asyncio.gather(*(made.request("nobody.there") for _ in range(3)))
                await made.wait_for_notice("changed", 0.0)
                await monitor.kick()
            assert isinstance(asking.result(), UnreachableError)

        async def held() -> tuple[object, ...]:
            await made.request("nobody.there")
            gc.collect()
            (subscriptions,) = await monitor.subscriptions()
            return len(asyncio.all_tasks()), descriptors(), len(subscriptions), len(made._callbacks)

        await lose()
        before = await held()
        async with asyncio.timeout(50):
            for _ in range(300):
                await lose()
        assert await held() == before


async def test_work_that_loses_a_cancellation_is_told_again() -> None:
    cancelled = 0

    async def deaf() -> None:
        nonlocal cancelled
        while cancelled < 3:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled += 1

    async with asyncio.timeout(5):
        await first_of(deaf(), asyncio.Event().wait(), seconds=0.01)
    assert cancelled == 3
