"""Node records and the question to the living, with the accounts that keydist recommends: each role does its work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats import bucket
from keydist.adapters.nats.accounts import FLEET, accounts
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.permissions import subjects
from keydist.adapters.nats.records import NatsNodeRecords
from keydist.adapters.nats.server_text import render
from keydist.adapters.nats.store import NatsKeysetStore
from keydist.adapters.nats.trail import NatsTrailStream
from keydist.core.entry import Stored
from keydist.errors import BucketMissingError, ConflictError, ForbiddenError, TransientError
from tests.unit.nats_users import ADMIN, users_in, with_admin

LEADERS = ("lead-1", "lead-2")
FOLLOWERS = ("a", "b")

GET = "$JS.API.DIRECT.GET.KV_keydist.$KV.keydist.signing-key"
LAST = "$JS.API.DIRECT.GET.keydist-audit"
Guarded = tuple[EmbeddedServer, Path]


def _start(directory: Path, *, imports_records: bool = True) -> Guarded:
    users = users_in(directory, leaders=LEADERS, followers=FOLLOWERS)
    made = with_admin(accounts(users, subjects()), directory)
    if not imports_records:
        made[FLEET]["imports"] = [one for one in made[FLEET]["imports"] if "$KV.keydist-nodes" not in str(one)]
    server = EmbeddedServer(directory / "nats", extra=render({"accounts": made}))
    server.start()
    return server, directory


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    started = _start(tmp_path_factory.mktemp("accounts"))
    yield started
    started[0].stop()


@asynccontextmanager
async def seen_by(guarded: Guarded, *names: str) -> AsyncIterator[Any]:
    """Open the node records as each user, with a bucket that the operator made."""
    server, directory = guarded
    async with AsyncExitStack() as stack:
        views = []
        for name in (ADMIN, "op", *names):
            connection = Connection(Server(urls=(server.url,), node=name, nkey_file=str(directory / name)))
            stack.push_async_callback(connection.close)
            views.append(NatsNodeRecords(connection, bucket="keydist"))
        admin, operator, *others = views
        await operator.create_bucket()
        yield others
        await admin._connection.request("$JS.API.STREAM.DELETE.KV_keydist-nodes")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.01)


async def test_followers_publish_and_leaders_read_and_hear(guarded: Guarded) -> None:
    async with seen_by(guarded, *LEADERS, *FOLLOWERS) as (lead, other, a, b):
        heard: dict[str, bytes] = {}
        lead.listen(heard=heard.__setitem__, answer=None)
        assert await lead.read_all() == {}
        await a.publish("a", b"of a")
        await b.publish("b", b"of b")
        await lead.publish("lead-1", b"my own")
        expected = {"a": b"of a", "b": b"of b", "lead-1": b"my own"}
        assert await lead.read_all() == await other.read_all() == expected
        await until(lambda: len(heard) == 3)
        assert heard == expected
        assert lead._connection.denied_subscriptions() == ()


async def test_a_leader_is_answered_by_followers_and_by_the_other_leader(guarded: Guarded) -> None:
    async with seen_by(guarded, *LEADERS, *FOLLOWERS) as (lead, other, a, b):
        async with asyncio.timeout(5):
            assert await lead.ask_living(60) == ()  # nobody there: told soon
        for view, text in ((lead, b"lead-1"), (other, b"lead-2"), (a, b"a"), (b, b"b")):
            view.listen(heard=None, answer=lambda text=text: text)
        for view, name in ((lead, "lead-1"), (other, "lead-2"), (a, "a"), (b, "b")):
            await view.publish(name, b"record")  # connects, and subscribes
        for _ in range(3):
            assert sorted(await lead.ask_living(0.3)) == [b"a", b"b", b"lead-2"]
        assert sorted(await other.ask_living(0.3)) == [b"a", b"b", b"lead-1"]
        for view in (lead, other, a, b):
            assert view._connection.denied_subscriptions() == ()


async def test_a_follower_answers_after_its_connection_was_lost(guarded: Guarded) -> None:
    async with seen_by(guarded, "lead-1", "a") as (lead, follower):
        follower.listen(heard=None, answer=lambda: b"a")
        for _ in range(3):
            await follower.publish("a", b"record")
            assert await lead.ask_living(0.2) == (b"a",)
            follower._connection._link._client._transport._io_writer.transport.abort()
            await until(lambda: not follower._connection._link.is_usable)


FORBIDDEN: dict[str, tuple[str, Callable[[NatsNodeRecords], Any]]] = {
    "a follower's other record": ("a", lambda records: records.publish("b", b"x")),
    "a follower reading": ("a", lambda records: records.read_all()),
    "a follower asking": ("a", lambda records: records.ask_living(60)),
    "a follower removing": ("a", lambda records: records.forget("a")),
    "a leader removing": ("lead-1", lambda records: records.forget("a")),
    "a leader's other record": ("lead-1", lambda records: records.publish("a", b"x")),
}


@pytest.mark.parametrize(("user", "act"), FORBIDDEN.values(), ids=FORBIDDEN)
async def test_what_is_forbidden_is_told_by_name_at_once(
    user: str, act: Callable[[NatsNodeRecords], Any], guarded: Guarded
) -> None:
    async with seen_by(guarded, user, "lead-2") as (view, reader):
        for _ in range(2):
            with pytest.raises(ForbiddenError) as caught:
                await asyncio.wait_for(act(view), 2)
            assert "permissions violation" in caught.value.found
        assert await reader.read_all() == {}


async def test_who_may_not_remove_records_is_told_who_may(guarded: Guarded) -> None:
    async with seen_by(guarded, "lead-1") as (lead,):
        await lead.publish("lead-1", b"record")
        with pytest.raises(ForbiddenError, match="operator's credentials"):
            await lead.forget("lead-1")
        assert await lead.read_all() == {"lead-1": b"record"}


async def test_the_operator_removes_a_record(guarded: Guarded) -> None:
    async with seen_by(guarded, "op", "lead-1") as (operator, lead):
        await lead.publish("lead-1", b"record")
        assert await operator.forget("lead-1")
        assert await lead.read_all() == {}


async def test_a_follower_that_may_not_hear_records_answers_all_the_same(guarded: Guarded) -> None:
    async with seen_by(guarded, "lead-1", "a") as (lead, follower):
        follower.listen(heard=lambda _name, _record: None, answer=lambda: b"a")
        await follower.publish("a", b"record")
        assert await lead.ask_living(0.2) == (b"a",)
        assert follower._connection.denied_subscriptions() == ("keydist.nodes.*",)


async def test_a_followers_account_without_the_import_is_told_of_a_missing_bucket(tmp_path: Path) -> None:
    server, directory = await asyncio.to_thread(_start, tmp_path, imports_records=False)
    try:
        async with seen_by((server, directory), "a") as (follower,):
            with pytest.raises(BucketMissingError, match="import"):
                await follower.publish("a", b"record")
    finally:
        await asyncio.to_thread(server.stop)


# --- the audit trail ----------------------------------------------------------------------------


@asynccontextmanager
async def trails_of(guarded: Guarded, *names: str) -> AsyncIterator[Any]:
    """Open the audit trail as each user, with streams that the operator made, and take them away."""
    server, directory = guarded
    async with AsyncExitStack() as stack:
        views = []
        for name in (ADMIN, "op", *names):
            connection = Connection(Server(urls=(server.url,), node=name, nkey_file=str(directory / name)))
            stack.push_async_callback(connection.close)
            views.append(NatsTrailStream(connection, bucket="keydist"))
        admin, ask = views.pop(0)._connection, views[0]._connection
        await NatsKeysetStore(ask, bucket="keydist", entry="signing-key").create_bucket()
        await NatsNodeRecords(ask, bucket="keydist").create_bucket()
        await views[0].create()
        try:
            yield views
        finally:
            for stream in ("KV_keydist", "KV_keydist-nodes", "keydist-audit"):
                await admin.request(f"$JS.API.STREAM.DELETE.{stream}")


async def administer(guarded: Guarded, subject: str, payload: bytes = b"") -> bytes:
    """Ask the JetStream API as who may ask anything."""
    server, directory = guarded
    admin = Connection(Server(urls=(server.url,), node=ADMIN, nkey_file=str(directory / ADMIN)))
    try:
        return (await admin.request(subject, payload)).data
    finally:
        await admin.close()


async def held_by(operator: NatsTrailStream) -> list[tuple[str, bytes]]:
    """Return everything that the trail holds."""
    found, after = [], 0
    while (one := await operator.read(after=after, node=None)) is not None:
        found.append((one.node, one.record))
        after = one.sequence
    return found


async def test_everybody_writes_a_trail_of_their_own_and_reads_its_end(guarded: Guarded) -> None:
    async with trails_of(guarded, *LEADERS, *FOLLOWERS) as (operator, *views):
        names = (*LEADERS, *FOLLOWERS)
        for name, view in zip(names, views, strict=True):
            assert await view.last(name) is None
            at = await view.publish(name, b"1", after=0)
            await view.publish(name, b"2", after=at)
            with pytest.raises(ConflictError):
                await view.publish(name, b"again", after=at)
            found = await view.last(name)
            assert found is not None
            assert (found.node, found.record) == (name, b"2")
        expected = [(name, text) for name in names for text in (b"1", b"2")]
        assert await held_by(operator) == expected == await held_by(views[0])


TRAIL_FORBIDDEN: dict[str, tuple[str, Callable[[NatsTrailStream], Any]]] = {
    "a follower's other trail": ("a", lambda trail: trail.publish("b", b"x", after=0)),
    "a leader's other trail": ("lead-1", lambda trail: trail.publish("a", b"x", after=0)),
    "a follower reading another's": ("a", lambda trail: trail.last("b")),
    "a follower reading everything": ("a", lambda trail: trail.read(after=0, node=None)),
    "a follower making the stream": ("a", lambda trail: trail.create()),
    "a leader making the stream": ("lead-1", lambda trail: trail.create()),
}


@pytest.mark.parametrize(("user", "act"), TRAIL_FORBIDDEN.values(), ids=TRAIL_FORBIDDEN)
async def test_what_is_forbidden_of_the_trail_is_told_by_name_at_once(
    user: str, act: Callable[[NatsTrailStream], Any], guarded: Guarded
) -> None:
    async with trails_of(guarded, user) as (operator, view):
        with pytest.raises(ForbiddenError):
            await asyncio.wait_for(act(view), 2)
        assert await held_by(operator) == []


ALLOWED_REQUESTS = {
    "direct get of the key": (GET, b""),
    "leader's read": ("keydist.current", b'{"last_by_subj":"$KV.keydist.signing-key"}'),
    "own node record": ("$KV.keydist-nodes.a", b"planted"),
    "own trail": ("keydist.audit.keydist.a", b"planted"),
    "end of the own trail": (f"{LAST}.keydist.audit.keydist.a", b""),
}
TARGETS = (
    "keydist.audit.keydist.b",
    "keydist.audit.keydist.lead-1",
    "keydist.audit.keydist.new",
    "$KV.keydist.signing-key",
    "$KV.keydist.planted",
    "$KV.keydist-nodes.b",
    "$JS.API.STREAM.PURGE.keydist-audit",
    "$JS.API.STREAM.MSG.DELETE.keydist-audit",
    "$JS.API.STREAM.DELETE.keydist-audit",
)
OF_STREAMS = tuple(
    f"$JS.API.STREAM.{call}.{stream}"
    for call in ("PURGE", "DELETE")
    for stream in ("KV_keydist", "KV_keydist-nodes", "keydist-audit")
)
HEADERS: tuple[dict[str, str] | None, ...] = (
    None,
    {"Nats-Rollup": "all"},
    {"Nats-Rollup": "sub"},
    {"Nats-Expected-Stream": "keydist-audit"},
    {"Nats-TTL": "1s"},
    {"KV-Operation": "PURGE"},
    {"Nats-Subject": "keydist.audit.keydist.b"},
    {"Nats-Incr": "1"},
)


async def test_no_request_of_a_follower_reaches_anothers_trail_by_its_reply_subject(guarded: Guarded) -> None:
    async with trails_of(guarded, "a", "b", "lead-1") as (operator, a, b, lead):
        await b.publish("b", b"of b", after=0)
        await lead.publish("lead-1", b"of lead-1", after=0)
        await a.publish("a", b"of a", after=0)
        store = NatsKeysetStore(lead._connection, bucket="keydist", entry="signing-key")
        await store.write_first(b"the key")
        records = NatsNodeRecords(b._connection, bucket="keydist")
        await records.publish("b", b"record of b")
        client = a._connection._link._client
        for subject, payload in ALLOWED_REQUESTS.values():
            for target in TARGETS:
                for headers in HEADERS:
                    await client.publish(subject, payload, reply=target, headers=headers)
        for subject, payload in ALLOWED_REQUESTS.values():  # whatever was sent before them has arrived
            await a._connection.request(subject, payload)
        found = await held_by(operator)
        assert {record for node, record in found if node != "a"} == {b"of b", b"of lead-1"}
        assert {node for node, _ in found} == {"a", "b", "lead-1"}
        assert next(record for node, record in found if node == "a") == b"of a"
        assert {record for node, record in found if node == "a"} == {b"of a", b"planted"}
        kept = await store.read(from_leader=True)
        assert isinstance(kept, Stored)
        assert kept.envelope == b"the key"
        assert (await NatsNodeRecords(lead._connection, bucket="keydist").read_all())["b"] == b"record of b"


@pytest.mark.parametrize(
    "call",
    ["STREAM.PURGE.keydist-audit", 'STREAM.MSG.DELETE.keydist-audit {"seq":1}'],
    ids=["purge", "delete a message"],
)
async def test_not_even_an_administrator_removes_a_record(call: str, guarded: Guarded) -> None:
    async with trails_of(guarded, "a") as (operator, a):
        await a.publish("a", b"of a", after=0)
        subject, _, payload = call.partition(" ")
        assert b'"error"' in await administer(guarded, f"$JS.API.{subject}", payload.encode())
        for headers in HEADERS:
            await a._connection.request("keydist.audit.keydist.a", b"more", headers=headers)
        assert (await held_by(operator))[0] == ("a", b"of a")


async def test_without_the_stream_or_the_import_a_trail_is_missing(guarded: Guarded) -> None:
    async with trails_of(guarded, "a", "lead-1") as (_, a, lead):
        assert b'"success":true' in await administer(guarded, "$JS.API.STREAM.DELETE.keydist-audit")
        for name, view in (("a", a), ("lead-1", lead)):
            for act in (view.publish(name, b"x", after=0), view.last(name)):
                with pytest.raises(BucketMissingError, match=r"keydist-audit|keydist\.audit"):
                    await act


async def test_a_follower_that_fills_the_trail_leaves_room_for_the_key(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "TRAIL_BYTES", 200_000)
    async with trails_of(guarded, "a", "lead-1") as (_, a, lead):
        after = 0
        for _ in range(3):
            after = await a.publish("a", bytes(50_000), after=after)
        with pytest.raises(TransientError):
            await a.publish("a", bytes(50_000), after=after)
        store = NatsKeysetStore(lead._connection, bucket="keydist", entry="signing-key")
        assert await store.write_first(bytes(40_000)) == 1
        await NatsNodeRecords(lead._connection, bucket="keydist").publish("lead-1", b"record")


@pytest.mark.parametrize("body", [b"", b"x"], ids=["an empty answer", "a chosen answer"])
async def test_no_request_of_a_leader_is_answered_over_what_is_not_its_own(body: bytes, guarded: Guarded) -> None:
    async with trails_of(guarded, "a", "lead-1") as (operator, a, lead):
        await a.publish("a", b"of a", after=0)
        store = NatsKeysetStore(lead._connection, bucket="keydist", entry="signing-key")
        await store.write_first(b"the key")
        records = NatsNodeRecords(a._connection, bucket="keydist")
        await records.publish("a", b"record of a")
        client = lead._connection._link._client
        await lead._connection.request("$KV.keydist-nodes.lead-1", body)  # what is then read back, and goes astray
        for subject, payload in (
            ("keydist.audit.keydist.lead-1", body),
            ("$KV.keydist-nodes.lead-1", body),
            ("$JS.API.DIRECT.GET.KV_keydist-nodes.$KV.keydist-nodes.lead-1", b""),
            ("$JS.API.DIRECT.GET.KV_keydist-nodes.$KV.keydist-nodes.nobody", b""),
            ("$JS.API.DIRECT.GET.keydist-audit", b'{"seq":1}'),
            ("keydist.info.KV_keydist-nodes", b""),
            ("keydist.current", b'{"last_by_subj":"$KV.keydist.signing-key"}'),
        ):
            for target in (*TARGETS, "keydist.audit.keydist.a", "$KV.keydist-nodes.a", *OF_STREAMS):
                if target != "$KV.keydist.signing-key":  # its own to write
                    await client.publish(subject, payload, reply=target)
        await lead._connection.request("$KV.keydist-nodes.lead-1", b"last")  # whatever was sent before has arrived
        assert {(node, record) for node, record in await held_by(operator) if node != "lead-1"} == {("a", b"of a")}
        assert await store.read(from_leader=True) == Stored(envelope=b"the key", revision=1)
        assert await NatsNodeRecords(lead._connection, bucket="keydist").read_all() == {
            "a": b"record of a",
            "lead-1": b"last",
        }


async def test_in_the_account_of_the_streams_a_read_is_enough_to_delete_one(guarded: Guarded) -> None:
    """Show what the leaders' own account is for: the operator, who has none, can do it."""
    async with trails_of(guarded, "a") as (operator, a):
        await a.publish("a", b"of a", after=0)
        assert await held_by(operator) == [("a", b"of a")]
        client = operator._connection._link._client
        missing = "$JS.API.DIRECT.GET.keydist-audit.keydist.audit.keydist.nobody"  # is answered with an empty body
        await client.publish(missing, b"", reply="$JS.API.STREAM.DELETE.keydist-audit")
        async with asyncio.timeout(5):
            while b'"code":404' not in await administer(guarded, "$JS.API.STREAM.INFO.keydist-audit"):
                pass
