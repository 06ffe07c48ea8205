"""Node records and the question to the living, with the accounts that keydist recommends: each role does its work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.records import NatsNodeRecords
from keydist.errors import BucketMissingError, ForbiddenError

LEADERS = ("lead-1", "lead-2")
FOLLOWERS = ("a", "b")

Users = dict[str, str]


def configuration(users: Users, *, imports_records: bool = True) -> str:
    """Return the accounts of docs/nats.md; `users` are public keys by name."""

    def user(name: str, publish: list[str], subscribe: list[str]) -> str:
        subjects = [", ".join(f'"{subject}"' for subject in which) for which in (publish, subscribe)]
        return (
            f"{{ nkey: {users[name]}, permissions: {{ publish: [{subjects[0]}], subscribe: [{subjects[1]}],"
            ' allow_responses: { max: 1, expires: "5s" } } }'
        )

    def leader(name: str) -> str:
        publish = [
            "$KV.keydist.signing-key",
            f"$KV.keydist-nodes.{name}",
            "$JS.API.STREAM.INFO.KV_keydist",
            "$JS.API.STREAM.MSG.GET.KV_keydist",
            "$JS.API.STREAM.INFO.KV_keydist-nodes",
            "$JS.API.DIRECT.GET.KV_keydist-nodes.>",
            "keydist.who",
        ]
        return user(name, publish, [f"_INBOX_{name}.>", "keydist.changed.>", "keydist.nodes.>", "keydist.who"])

    def follower(name: str) -> str:
        publish = [GET, "keydist.current", f"$KV.keydist-nodes.{name}"]
        return user(name, publish, [f"_INBOX_{name}.>", "keydist.changed.>", "keydist.who"])

    records = '{ service: { account: KEYS, subject: "$KV.keydist-nodes.*" } }' if imports_records else ""
    return f"""
accounts {{
  KEYS: {{
    jetstream: enabled
    users: [
      {user("op", ["$JS.API.>"], ["_INBOX_op.>"])}
      {", ".join(map(leader, LEADERS))}
    ]
    exports: [
      {{ service: "{GET}", accounts: [FLEET] }}
      {{ service: "$JS.API.STREAM.MSG.GET.KV_keydist", accounts: [FLEET] }}
      {{ service: "$KV.keydist-nodes.*", accounts: [FLEET] }}
      {{ stream: "keydist.changed.>", accounts: [FLEET] }}
    ]
    imports: [ {{ service: {{ account: FLEET, subject: "keydist.who" }} }} ]
  }}
  FLEET: {{
    users: [ {", ".join(map(follower, FOLLOWERS))} ]
    exports: [ {{ service: "keydist.who", accounts: [KEYS], response_type: stream }} ]
    imports: [
      {{ service: {{ account: KEYS, subject: "{GET}" }} }}
      {{ service: {{ account: KEYS, subject: "$JS.API.STREAM.MSG.GET.KV_keydist" }}, to: "keydist.current" }}
      {records}
      {{ stream: {{ account: KEYS, subject: "keydist.changed.>" }} }}
    ]
  }}
}}
"""


GET = "$JS.API.DIRECT.GET.KV_keydist.$KV.keydist.signing-key"
Guarded = tuple[EmbeddedServer, Path]


def _start(directory: Path, **options: bool) -> Guarded:
    import nkeys  # type: ignore[import-untyped] # noqa: PLC0415

    from tests.material import noise  # noqa: PLC0415

    users: Users = {}
    for name in (*LEADERS, *FOLLOWERS, "op"):
        seed = nkeys.encode_seed(noise(name, 32), nkeys.PREFIX_BYTE_USER)
        users[name] = nkeys.from_seed(bytearray(seed)).public_key.decode()
        (directory / name).write_bytes(seed)
    server = EmbeddedServer(directory / "nats", extra=configuration(users, **options))
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
        for name in ("op", *names):
            connection = Connection(Server(urls=(server.url,), node=name, nkey_file=str(directory / name)))
            stack.push_async_callback(connection.close)
            views.append(NatsNodeRecords(connection, bucket="keydist"))
        operator = views[0]
        await operator.create_bucket()
        yield views[1:]
        await operator._connection.request("$JS.API.STREAM.DELETE.KV_keydist-nodes")


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
