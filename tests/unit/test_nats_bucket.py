"""The buckets: made with the checked configuration, and every deviation of one that is there told with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats import bucket as streams
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.records import NatsNodeRecords
from keydist.adapters.nats.store import NatsKeysetStore
from keydist.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from tests.conftest import Admin

    Administer = Callable[[EmbeddedServer, str], AbstractAsyncContextManager[Admin]]

from contextlib import asynccontextmanager


@asynccontextmanager
async def opened(server: EmbeddedServer, bucket: str) -> AsyncIterator[NatsKeysetStore]:
    store = NatsKeysetStore(Connection(Server(urls=(server.url,), node="n1")), bucket=bucket, entry="signing-key")
    try:
        yield store
    finally:
        await store.close()


async def test_both_buckets_are_made_once_and_found_in_order(
    nats_server: EmbeddedServer, administer: Administer, bucket: str
) -> None:
    async with opened(nats_server, bucket) as store, administer(nats_server, bucket) as admin:
        assert await store.ensure_bucket(replicas=None) == (True, [])
        assert await store.ensure_bucket(replicas=None) == (False, [])
        records = NatsNodeRecords(store._connection, bucket=bucket)
        assert await records.ensure_bucket(replicas=1) == (True, [])
        assert await records.ensure_bucket(replicas=1) == (False, [])
        found = (await admin.ask("INFO"))["config"]
    wanted = streams.keyset_stream(bucket, replicas=1)
    assert {name: found.get(name, False if value is False else None) for name, value in wanted.items()} == wanted
    for name in ("max_age", "duplicate_window", "allow_rollup_hdrs", "sealed", "mirror", "sources"):
        assert not found.get(name) or name == "duplicate_window"


async def test_more_replicas_than_servers_say_what_to_do(nats_server: EmbeddedServer, bucket: str) -> None:
    async with opened(nats_server, bucket) as store:
        with pytest.raises(ConfigError, match="3 replicas"):
            await store.ensure_bucket(replicas=3)
        assert await store.ensure_bucket(replicas=1) == (True, [])
        assert await store.ensure_bucket(replicas=3) == (
            False,
            ["num_replicas: found 1, expected 3 (a lost disk must not lose the key)"],
        )


async def test_a_bucket_made_by_a_key_value_client_is_told_apart(nats_server: EmbeddedServer, bucket: str) -> None:
    """`nats kv add` and nats-py turn rollups on, with which one writer erases every entry."""
    async with opened(nats_server, bucket) as store:
        client = (await store._connection._linked())._client
        await client.jetstream().create_key_value(bucket=bucket, history=1)
        made, problems = await store.ensure_bucket(replicas=None)
    assert not made
    assert {line.partition(":")[0] for line in problems} >= {"allow_rollup_hdrs", "allow_direct", "republish"}


DEVIATIONS: dict[str, Any] = {
    "subjects": ["$KV.x.>", "more"],
    "storage": "memory",
    "discard": "old",
    "max_msgs_per_subject": 5,
    "allow_direct": False,
    "allow_rollup_hdrs": True,
    "deny_delete": False,
    "max_msg_size": 1024,
    "max_msgs": 1,
    "max_bytes": 4096,
    "retention": "workqueue",
    "max_age": 3_600_000_000_000,
    "republish": {"src": "$KV.x.>", "dest": "keydist.changed.>"},
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_each_deviation_is_one_line(name: str) -> None:
    wanted = streams.keyset_stream("x", replicas=1)
    assert streams.problems(wanted, wanted) == []
    (line,) = streams.problems(wanted | {name: DEVIATIONS[name]}, wanted)
    assert line.startswith(f"{name}: found ")
    assert "expected" in line
    assert line.endswith(")")


def test_every_member_that_matters_is_checked() -> None:
    assert set(DEVIATIONS) | {"deny_purge", "mirror"} == set(streams._WHY)
    wanted = streams.keyset_stream("x", replicas=1)
    assert len(streams.problems({}, wanted)) >= 7


def test_what_the_server_leaves_out_is_not_a_deviation() -> None:
    wanted = streams.keyset_stream("x", replicas=1)
    echoed = {name: value for name, value in wanted.items() if value not in (False, 0)}
    assert streams.problems(echoed, wanted) == []


def test_more_replicas_than_wanted_are_fine() -> None:
    wanted = streams.keyset_stream("x", replicas=3)
    assert streams.problems(wanted | {"num_replicas": 5}, wanted) == []
    assert len(streams.problems(wanted | {"num_replicas": 1}, wanted)) == 1


def test_a_regions_mirror_is_the_keysets_stream_read_from_home_and_told_of_where_it_is() -> None:
    mirror, keyset = streams.mirror_stream("x", replicas=1, region="eu"), streams.keyset_stream("x", replicas=1)
    assert mirror["mirror"]["name"] == keyset["name"]
    assert {name for name in mirror.keys() | keyset if mirror.get(name) != keyset.get(name)} == {"subjects", "mirror"}
    (line,) = streams.problems(keyset, mirror)
    assert line.startswith("mirror: found None, expected")


def test_a_regions_mirror_reads_with_what_stands_at_home_for_it_alone() -> None:
    reads = streams.mirror_stream("x", replicas=1, region="eu")["mirror"]["consumer"]
    stands = streams.mirror_consumer("x", region="eu")
    assert reads == {"name": stands["durable_name"], "deliver_subject": stands["deliver_subject"]}
    assert stands["deliver_subject"] != streams.mirror_consumer("x", region="us")["deliver_subject"]


@pytest.mark.parametrize("name", ["num_replicas", "storage", "subjects"])
def test_whatever_a_server_says_is_told_in_print(name: str) -> None:
    wanted = streams.keyset_stream("x", replicas=1)
    [problem] = streams.problems(wanted | {name: "\x1b[2J\r\n"}, wanted)
    assert problem.isprintable()


def test_records_have_an_age_limit_and_are_republished_by_node() -> None:
    records = streams.records_stream("keydist-nodes", replicas=1)
    assert records["max_age"] == 7 * 86_400 * 10**9
    assert records["republish"]["dest"] == "keydist.nodes.{{wildcard(1)}}"
    assert len(streams.problems(records | {"max_age": 0}, records)) == 1
    json.dumps(records)


@pytest.mark.parametrize("is_cluster", [True, False])
async def test_a_clustered_server_is_known(start_server: Callable[..., EmbeddedServer], *, is_cluster: bool) -> None:
    cluster = "cluster { name: one, listen: 127.0.0.1:-1 }" if is_cluster else ""
    server = start_server(extra=cluster, jetstream=False)
    connection = Connection(Server(urls=(server.url,), node="n1"))
    assert not connection.is_clustered
    await connection.request("nobody.there")
    assert connection.is_clustered is is_cluster
    await connection.close()
    assert not connection.is_clustered


@pytest.mark.parametrize("name", ["deny_delete", "deny_purge", "allow_rollup_hdrs", "max_age", "retention", "storage"])
def test_an_audit_trail_from_which_something_may_go_is_a_problem(name: str) -> None:
    wanted = streams.trail_stream("x", replicas=1)
    other = {"max_age": 1, "retention": "interest", "storage": "memory"}
    assert streams.problems(wanted, wanted) == []
    assert len(streams.problems(wanted | {name: other.get(name, not wanted[name])}, wanted)) == 1


@pytest.mark.parametrize("stream", [streams.trail_stream, streams.records_stream])
@pytest.mark.parametrize(("limit", "is_one"), [(1 << 40, True), (1, True), (-1, False), (0, False), (None, False)])
def test_what_is_no_key_has_a_limit_of_whatever_size(stream: Any, limit: int | None, *, is_one: bool) -> None:  # noqa: ANN401
    wanted = stream("x", replicas=1)
    assert wanted["max_bytes"] > 0
    assert (streams.problems(wanted | {"max_bytes": limit}, wanted) == []) is is_one
