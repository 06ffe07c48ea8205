"""Node records on a real server: what others write there by mistake or on purpose, and answers that are none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats import records as module
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.records import MAX_RECORD, NatsNodeRecords
from keydist.adapters.nats.wire import Reply
from keydist.errors import KeydistError, StoreTimeoutError, TransientError, UnreachableError, UsageError
from tests.settled import settled

if TYPE_CHECKING:
    from tests.conftest import Admin


@pytest.fixture
def opened(nats_server: EmbeddedServer, bucket: str, administer: Any) -> Callable[..., Any]:  # noqa: ANN401
    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[NatsNodeRecords, Admin]]:
        connection = Connection(Server(urls=(nats_server.url,), node="n1"))
        records = NatsNodeRecords(connection, bucket=bucket)
        await records.create_bucket()
        async with administer(nats_server, f"{bucket}-nodes") as admin:
            yield records, admin
        await connection.close()

    return opened


async def put(admin: Admin, name: str, data: bytes, headers: dict[str, str] | None = None) -> None:
    subject = f"{admin.subject.rpartition('.')[0]}.{name}"
    assert b"error" not in (await admin.client.request(subject, data, timeout=5, headers=headers)).data


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.01)


STRANGE: dict[str, tuple[str, bytes, dict[str, str] | None]] = {
    "too large": ("big", b"x" * (MAX_RECORD + 1), None),
    "a deletion": ("gone", b"", {"KV-Operation": "DEL"}),
    "a purge": ("purged", b"", {"KV-Operation": "PURGE"}),
    "a name with other letters": ("näme", b"x", None),
    "a name with braces": ("{{{[[[", b"x", None),
    "a name too long": ("x" * 65, b"x", None),
    "a name of two parts": ("a.b", b"x", None),
}


@pytest.mark.parametrize(("name", "data", "headers"), STRANGE.values(), ids=STRANGE)
async def test_what_is_no_record_is_neither_read_nor_heard(
    opened: Any,  # noqa: ANN401
    name: str,
    data: bytes,
    headers: dict[str, str] | None,
) -> None:
    async with opened() as (records, admin):
        heard: list[str] = []
        records.listen(heard=lambda name, _record: heard.append(name), answer=None)
        await records.publish("good", b"x" * MAX_RECORD)
        await put(admin, name, data, headers)
        await records.publish("last", b"record")
        assert await records.read_all() == {"good": b"x" * MAX_RECORD, "last": b"record"}
        await until(lambda: "last" in heard)
        assert heard == ["good", "last"]


@pytest.mark.parametrize("status", ["404", "503", "9" * 5000])
async def test_a_status_that_a_writer_put_into_a_record_means_nothing(opened: Any, status: str) -> None:  # noqa: ANN401
    async with opened() as (records, admin):
        await put(admin, "a", b"record", {"Status": status, "Nats-Stream": "another"})
        assert await records.read_all() == {"a": b"record"}


async def test_more_names_than_nodes_are_told(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401
    monkeypatch.setattr(module, "_MOST_NAMES", 3)
    async with opened() as (records, _admin):
        for number in range(3):
            await records.publish(f"n{number}", b"record")
        assert len(await records.read_all()) == 3
        await records.publish("one-more", b"record")
        with pytest.raises(TransientError, match="more than 3 names"):
            await records.read_all()


async def test_ten_thousand_names_are_read(opened: Any) -> None:  # noqa: ANN401
    async with opened() as (records, admin):
        subject = admin.subject.rpartition(".")[0]
        for number in range(10_000):
            await admin.client.publish(f"{subject}.{number:064}", b"record")
            if number % 500 == 0:
                await admin.client.flush(30)
        await admin.client.flush(30)
        async with asyncio.timeout(30):
            while (await admin.ask("INFO"))["state"]["messages"] < 10_000:
                pass
            assert len(await records.read_all()) == 10_000


@pytest.mark.parametrize("name", ["*", ">", "a.b", "", "x" * 65, "a b", "a\r\nPUB x 0", "ä"])
async def test_only_one_node_is_forgotten_or_written(opened: Any, name: str) -> None:  # noqa: ANN401
    async with opened() as (records, _admin):
        await records.publish("a", b"record")
        for call in (records.forget(name), records.publish(name, b"x")):
            with pytest.raises(UsageError):
                await call
        assert await records.read_all() == {"a": b"record"}


async def test_another_clusters_records_are_not_heard(nats_server: EmbeddedServer, opened: Any) -> None:  # noqa: ANN401
    async with opened() as (records, _admin):
        heard: list[bytes] = []
        records.listen(heard=lambda _name, record: heard.append(record), answer=None)
        await records.read_all()
        connection = Connection(Server(urls=(nats_server.url,), node="n2"))
        other = NatsNodeRecords(connection, bucket=f"{records._bucket}-other")
        await other.create_bucket()
        await other.publish("a", b"of another cluster")
        await connection.close()
        await records.publish("a", b"of this one")
        await until(lambda: bool(heard))
        assert heard == [b"of this one"]


async def test_who_asks_all_the_time_makes_nobody_seal_all_the_time(opened: Any) -> None:  # noqa: ANN401
    async with opened() as (records, admin):
        sealed, answered = [0], [0]

        def answer() -> bytes:
            sealed[0] += 1
            return b"sealed"

        async def count(_message: object) -> None:
            answered[0] += 1

        records.listen(heard=None, answer=answer)
        await records.read_all()
        inbox = admin.client.new_inbox()
        await admin.client.subscribe(inbox, cb=count)
        for _ in range(500):
            await admin.client.publish("keydist.who", reply=inbox)
        await settled(admin.client)
        await records.read_all()
        await settled(admin.client)
    assert 1 <= sealed[0] <= 3
    assert 50 <= answered[0] <= 200


async def test_answers_are_bounded(opened: Any) -> None:  # noqa: ANN401
    async with opened() as (records, admin):

        async def answer(message: Any) -> None:  # noqa: ANN401 - of nats-py
            await message.respond(b"x" * (64 * 1024 + 1))
            for number in range(1200):
                await message.respond(str(number).encode())

        await admin.client.subscribe("keydist.who", cb=answer)
        await settled(admin.client)
        async with asyncio.timeout(5):
            answers = await records.ask_living(60)
        # The one too large, those taken, and one for whoever was not heard.
        assert answers == (b"", *(str(number).encode() for number in range(999)), b"")


async def test_where_an_answer_to_the_living_goes_tells_of_no_other_name(opened: Any) -> None:  # noqa: ANN401
    """Who hears the question sees that name, a region's servers too, which may write below its beginning."""
    asked: list[str] = []

    async def answer(message: Any) -> None:  # noqa: ANN401 - of nats-py
        asked.append(message.reply)
        await message.respond(b"here")

    async with opened() as (records, admin):
        await admin.client.subscribe("keydist.who", cb=answer)
        await settled(admin.client)
        for _ in range(2):
            assert await records.ask_living(0.2) == (b"here",)
    begun, again = (reply.rpartition(".")[2] for reply in asked)
    assert len(begun) == len(again) == 22
    assert begun[:12] != again[:12]


async def test_whose_answers_are_used_up_is_not_nobody(opened: Any) -> None:  # noqa: ANN401
    async with opened() as (records, admin), opened() as (asker, _):
        records.listen(heard=None, answer=lambda: b"sealed")
        await records.read_all()
        assert await asker.ask_living(0.2) == (b"sealed",)
        inbox = admin.client.new_inbox()
        for _ in range(150):
            await admin.client.publish("keydist.who", reply=inbox)
        await settled(admin.client)
        await records.read_all()
        with pytest.raises(StoreTimeoutError, match="does not answer"):
            await asker.ask_living(0.2)
        async with asyncio.timeout(5):
            await until_answered(asker)


async def until_answered(records: NatsNodeRecords) -> None:
    while True:
        with suppress(StoreTimeoutError):
            assert await records.ask_living(0.2) == (b"sealed",)
            return


@pytest.mark.parametrize("forged", [1, 50])
async def test_who_says_that_nobody_listens_hides_no_answer(opened: Any, forged: int) -> None:  # noqa: ANN401
    async with opened() as (records, admin):

        async def answer(message: Any) -> None:  # noqa: ANN401 - of nats-py
            for _ in range(forged):
                await admin.client.publish(message.reply, headers={"Status": "503"})
            await settled(admin.client)
            await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.02)
            await message.respond(b"here")

        await admin.client.subscribe("keydist.who", cb=answer)
        await settled(admin.client)
        assert await records.ask_living(0.5) == (b"here",)


# --- answers of JetStream that are none -----------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.just("err_code"), inner),
    max_leaves=10,
)
_answers = st.binary(max_size=200) | st.dictionaries(
    st.sampled_from(["error", "state", "seq", "purged"]),
    _json
    | st.fixed_dictionaries(
        {}, optional={"num_subjects": _json, "subjects": _json | st.just({"$KV.x-nodes.a": 1}), "messages": _json}
    ),
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
    records = NatsNodeRecords(cast("Connection", _Echo(Reply(status=status, headers=headers, data=data))), bucket="x")

    async def everything() -> None:
        for call in (
            lambda: records.publish("a", b""),
            records.read_all,
            lambda: records.forget("a"),
            lambda: records.ensure_bucket(replicas=1),
        ):
            with suppress(KeydistError):
                await call()

    asyncio.run(everything())


@pytest.mark.parametrize("code", [10039, 10076])
def test_jetstream_that_is_off_is_unreachable(code: int) -> None:
    data = json.dumps({"error": {"err_code": code, "description": "off"}}).encode()
    records = NatsNodeRecords(cast("Connection", _Echo(Reply(status=200, headers={}, data=data))), bucket="x")
    for call in (records.publish("a", b""), records.read_all(), records.forget("a")):
        with pytest.raises(UnreachableError):
            asyncio.run(call)


async def test_a_direct_get_that_nobody_answers_is_no_missing_record() -> None:
    class Half:
        async def read(self, subject: str, *_args: object) -> Reply:
            data = json.dumps({"state": {"num_subjects": 1, "subjects": {"$KV.x-nodes.a": 1}}}).encode()
            return Reply(status=200 if "INFO" in subject else 503, headers={}, data=data if "INFO" in subject else b"")

    records = NatsNodeRecords(cast("Connection", Half()), bucket="x")
    with pytest.raises(UnreachableError, match="direct gets"):
        await records.read_all()


async def test_reading_all_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        async def read(self, *_args: object, **_named: object) -> Reply:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

    monkeypatch.setattr(module, "_ALL_SECONDS", 0.05)
    with pytest.raises(StoreTimeoutError):
        await NatsNodeRecords(cast("Connection", Slow()), bucket="x").read_all()
