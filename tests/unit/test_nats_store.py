"""Answers of JetStream that a healthy server seldom gives: each has one meaning, and none is taken for an absence."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.store import NatsKeysetStore
from keydist.adapters.nats.wire import Reply
from keydist.core.entry import Absence, Absent, Stored
from keydist.errors import ConfigError, ConflictError, KeydistError, StoreTimeoutError, TransientError, UnreachableError
from tests.settled import settled

READ, GET, INFO = "$JS.API.STREAM.MSG.GET.KV_x", "$JS.API.DIRECT.GET.KV_x.$KV.x.e", "$JS.API.STREAM.INFO.KV_x"
PUT, CREATE = "$KV.x.e", "$JS.API.STREAM.CREATE.KV_x"

Answer = dict[str, Any] | bytes | tuple[bytes, dict[str, str]]


def failed(code: int, text: str = "a reason") -> dict[str, Any]:
    return {"error": {"code": 500, "err_code": code, "description": text}}


def message(data: bytes, sequence: int = 7, **headers: str) -> dict[str, Any]:
    raw = "NATS/1.0\r\n" + "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    found = {"subject": PUT, "seq": sequence, "data": base64.b64encode(data).decode()}
    if headers:
        found["hdrs"] = base64.b64encode(raw.encode()).decode()
    return {"message": found}


def state(last: int, *, has_entry: bool = False) -> dict[str, Any]:
    subjects = {"subjects": {PUT: 1}} if has_entry else {}
    return {"config": {}, "state": {"messages": 0, "last_seq": last, **subjects}}


ABSENT = failed(10037, "no message found")
NO_STREAM = failed(10059, "stream not found")
NOT_FOUND = (b"", {"Status": "404", "Description": "Message Not Found"})


@pytest.fixture(scope="module")
def plain_server(tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401 - a generator of a server
    """A server without JetStream, whose subjects a test answers."""
    server = EmbeddedServer(tmp_path_factory.mktemp("plain"), jetstream=False)
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def scripted(server: EmbeddedServer, **answers: list[Answer]) -> AsyncIterator[NatsKeysetStore]:
    """Answer each subject (READ, GET, …) with its list in turn, the last one again and again."""
    client = Client()
    await client.connect(server.url)

    def responder(script: list[Answer]) -> Any:  # noqa: ANN401 - what nats-py calls back
        async def respond(asked: Msg) -> None:
            answer = script.pop(0) if len(script) > 1 else script[0]
            if isinstance(answer, tuple):
                await client.publish(asked.reply, answer[0], headers=answer[1])
            else:
                await client.publish(asked.reply, answer if isinstance(answer, bytes) else json.dumps(answer).encode())

        return respond

    for name, script in answers.items():
        await client.subscribe(globals()[name.upper()], cb=responder(script))
    await settled(client)
    store = NatsKeysetStore(Connection(Server(urls=(server.url,), node="n1")), bucket="x", entry="e")
    try:
        yield store
    finally:
        await store.close()
        await client.close()


# --- an entry that is written while it is read --------------------------------------------------


@pytest.mark.parametrize("from_leader", [True, False])
async def test_an_entry_written_since_it_was_read_is_not_an_emptied_bucket(
    plain_server: EmbeddedServer, *, from_leader: bool
) -> None:
    """Between 'no message' and 'why' another leader may write: taken for an emptied bucket, it would end this one."""
    async with scripted(
        plain_server,
        read=[ABSENT, message(b"one")] if from_leader else [message(b"one")],
        get=[NOT_FOUND],
        info=[state(1, has_entry=True)],
    ) as store:
        assert await store.read(from_leader=from_leader) == Stored(envelope=b"one", revision=7)


async def test_an_entry_that_comes_and_goes_is_no_absence(plain_server: EmbeddedServer) -> None:
    async with scripted(plain_server, read=[ABSENT], info=[state(1, has_entry=True)]) as store:
        with pytest.raises(StoreTimeoutError, match="comes and goes"):
            await store.read(from_leader=True)


async def test_a_stream_that_no_replica_answers_for_is_read_from_its_leader(plain_server: EmbeddedServer) -> None:
    async with scripted(plain_server, info=[state(7)], read=[message(b"one")]) as store:
        assert await store.read(from_leader=False) == Stored(envelope=b"one", revision=7)


# --- what a message says ------------------------------------------------------------------------

MESSAGES = {
    "plain": (message(b"one"), Stored(envelope=b"one", revision=7)),
    "empty": (message(b""), Stored(envelope=b"", revision=7)),
    "with headers": (message(b"one", Nats_Msg_Id="x: y"), Stored(envelope=b"one", revision=7)),
    "deleted": (message(b"", KV_Operation="DEL"), Absent(why=Absence.DELETED, revision=7)),
    "purged": (message(b"", KV_Operation="PURGE"), Absent(why=Absence.DELETED, revision=7)),
    "expired": (message(b"", Nats_Marker_Reason="MaxAge"), Absent(why=Absence.DELETED, revision=7)),
    "never written": (ABSENT, Absent(why=Absence.NEVER_WRITTEN)),
    "no stream": (NO_STREAM, Absent(why=Absence.BUCKET_MISSING)),
}


@pytest.mark.parametrize(("answer", "expected"), MESSAGES.values(), ids=MESSAGES)
async def test_what_the_leader_says(
    answer: dict[str, Any], expected: Stored | Absent, plain_server: EmbeddedServer
) -> None:
    async with scripted(plain_server, read=[answer], info=[state(0)]) as store:
        assert await store.read(from_leader=True) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, Stored(envelope=b"one", revision=7)),
        ({"KV-Operation": "DEL"}, Absent(why=Absence.DELETED, revision=7)),
        ({"KV-Operation": "PURGE"}, Absent(why=Absence.DELETED, revision=7)),
        ({"Nats-Marker-Reason": "MaxAge"}, Absent(why=Absence.DELETED, revision=7)),
    ],
    ids=str,
)
async def test_what_a_replica_says(
    headers: dict[str, str], expected: Stored | Absent, plain_server: EmbeddedServer
) -> None:
    async with scripted(plain_server, get=[(b"one", {"Nats-Sequence": "7", **headers})]) as store:
        assert await store.read(from_leader=False) == expected


ODD_READS = {
    "not JSON": b"{",
    "not an object": b"[]",
    "no message": {},
    "a message that is none": {"message": []},
    "no data": {"message": {"seq": 7, "data": 5}},
    "data that is not base64": {"message": {"seq": 7, "data": "!"}},
    "no sequence": {"message": {"data": "AAAA"}},
    "a sequence that is none": {"message": {"seq": "seven", "data": "AAAA"}},
    "a sequence beyond all": {"message": {"seq": 10**30, "data": "AAAA"}},
    "a sequence that is a list": {"message": {"seq": [7], "data": "AAAA"}},
    "a sequence that is true": {"message": {"seq": True, "data": "AAAA"}},
    "data that is not ASCII": {"message": {"seq": 7, "data": "é"}},
    "headers that are not ASCII": {"message": {"seq": 7, "data": "AAAA", "hdrs": "é"}},
    "headers of a wrong type": {"message": {"seq": 7, "data": "AAAA", "hdrs": {}}},
    "nested without end": b"[" * 200_000,
    "nested deep": b"[" * 400 + b"]" * 400,
    "a description nested deep": b'{"error": {"description": ' + b"[" * 900 + b"]" * 900 + b"}}",
    "too long": b'{"a": "' + b"x" * 300_000 + b'"}',
    "a number of 5000 digits": b'{"error": {"err_code": ' + b"9" * 5000 + b"}}",
    "not UTF-8": b'{"\xff": 1}',
    "an unknown error": failed(10008, "JetStream system temporarily unavailable"),
    "a state that says nothing": {"state": {}},
    "a last sequence that is false": {"state": {"last_seq": False}},
    "an error without a code": {"error": {"description": "no code"}},
}


@pytest.mark.parametrize("answer", ODD_READS.values(), ids=ODD_READS)
async def test_an_odd_answer_is_a_failure_never_an_absence(
    answer: dict[str, Any] | bytes, plain_server: EmbeddedServer
) -> None:
    async with scripted(plain_server, read=[answer], info=[answer], get=[NOT_FOUND]) as store:
        for from_leader in (True, False):
            with pytest.raises(TransientError):
                await store.read(from_leader=from_leader)


@pytest.mark.parametrize(
    "answer", [(b"one", {"Status": "408"}), (b"one", {}), (b"one", {"Nats-Sequence": "x"})], ids=str
)
async def test_an_odd_answer_of_a_replica_is_a_failure(
    answer: tuple[bytes, dict[str, str]], plain_server: EmbeddedServer
) -> None:
    async with scripted(plain_server, get=[answer]) as store:
        with pytest.raises(TransientError):
            await store.read(from_leader=False)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["seq", "data", "hdrs", "err_code"]), inner)
    ),
    max_leaves=10,
)
_answers = st.binary(max_size=200) | st.dictionaries(
    st.sampled_from(["error", "message", "state", "seq", "config"]), _json
).map(lambda answer: json.dumps(answer).encode())


class _Echo:
    """Stands for a connection: one answer to everything."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    async def request(self, *_args: object, **_named: object) -> Reply:
        return self._reply

    read = request


@given(
    data=_answers,
    status=st.sampled_from([200, 404, 503]),
    headers=st.dictionaries(st.sampled_from(["Nats-Sequence", "KV-Operation"]), st.text()),
)
def test_whatever_comes_from_the_wire_is_an_answer_or_a_named_failure(
    data: bytes, status: int, headers: dict[str, str]
) -> None:
    store = NatsKeysetStore(
        cast("Connection", _Echo(Reply(status=status, headers=headers, data=data))), bucket="x", entry="e"
    )

    async def everything() -> None:
        for call in (
            lambda: store.read(from_leader=True),
            lambda: store.read(from_leader=False),
            lambda: store.write_first(b""),
            lambda: store.ensure_bucket(replicas=1),
        ):
            with suppress(KeydistError):
                await call()

    asyncio.run(everything())


@pytest.mark.parametrize("code", [10039, 10076])
async def test_jetstream_that_is_off_for_an_account_is_unreachable(code: int, plain_server: EmbeddedServer) -> None:
    async with scripted(plain_server, read=[failed(code)], info=[failed(code)], put=[failed(code)]) as store:
        for call in (store.read(from_leader=True), store.create_bucket(), store.write_first(b"one")):
            with pytest.raises(UnreachableError, match="JetStream is not enabled"):
                await call


# --- what a write is told -----------------------------------------------------------------------


@pytest.mark.parametrize("code", [10071, 10164])
async def test_a_lost_race_is_a_conflict(code: int, plain_server: EmbeddedServer) -> None:
    async with scripted(plain_server, put=[failed(code, "wrong last sequence: 1")]) as store:
        with pytest.raises(ConflictError):
            await store.replace(b"one", revision=1)


@pytest.mark.parametrize("answer", [failed(10077, "maximum bytes exceeded"), b"-ERR", {"stream": "KV_x"}], ids=str)
async def test_a_write_that_was_not_acknowledged_may_be_tried_again(
    answer: dict[str, Any] | bytes, plain_server: EmbeddedServer
) -> None:
    async with scripted(plain_server, put=[answer]) as store:
        with pytest.raises(TransientError) as caught:
            await store.write_first(b"one")
    assert not isinstance(caught.value, ConflictError)


# --- making a bucket ----------------------------------------------------------------------------


async def test_a_bucket_that_somebody_else_makes_meanwhile_is_theirs(plain_server: EmbeddedServer) -> None:
    async with scripted(plain_server, info=[NO_STREAM], create=[failed(10058, "name in use")]) as store:
        assert await store.ensure_bucket(replicas=None) == (False, [])


@pytest.mark.parametrize("code", [10005, 10074])
async def test_too_few_servers_for_the_replicas_say_what_to_do(code: int, plain_server: EmbeddedServer) -> None:
    async with scripted(plain_server, info=[NO_STREAM], create=[failed(code, "no suitable peers")]) as store:
        with pytest.raises(ConfigError, match="cannot hold 3 replicas") as caught:
            await store.ensure_bucket(replicas=3)
    assert "--replicas 1" in caught.value.fix


async def test_a_bucket_that_cannot_be_made_now(plain_server: EmbeddedServer) -> None:
    async with scripted(plain_server, info=[NO_STREAM], create=[failed(10008)]) as store:
        with pytest.raises(TransientError):
            await store.create_bucket()
