"""What each role may do with the accounts that keydist recommends: denials by name, in time, never an absence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.store import NatsKeysetStore
from keydist.core.entry import Absence, Absent, Stored
from keydist.errors import ForbiddenError, UnreachableError

GET = "$JS.API.DIRECT.GET.KV_keydist.$KV.keydist.signing-key"
READ = "$JS.API.STREAM.MSG.GET.KV_keydist"
INFO = "$JS.API.STREAM.INFO.KV_keydist"
PUT = "$KV.keydist.signing-key"
CREATE = "$JS.API.STREAM.CREATE.KV_keydist"
PUBLISH = {
    "op": ["$JS.API.>", "$KV.>"],
    "lead": [PUT, INFO, READ, GET],
    "no_info": [PUT, READ, GET],
    "no_put": [INFO, READ, GET],
    "no_create": [INFO, READ, GET, PUT],
    "nothing": ["somewhere.else"],
    "odd": ["keydist.current"],
}

Users = dict[str, tuple[str, str]]


def configuration(users: Users) -> str:
    """Return accounts for keys and for followers; the keys' account has a user for each entry of `PUBLISH`."""

    def user(name: str, publish: list[str], subscribe: str = '"_INBOX_x.>", "keydist.changed.>"') -> str:
        subjects = ", ".join(f'"{subject}"' for subject in publish)
        inbox = subscribe.replace("_x", f"_{name}")
        return (
            f"{{ nkey: {users[name][0]}, permissions: {{ publish: [{subjects}], subscribe: [{inbox}],"
            ' allow_responses: { max: 1, expires: "5s" } } }'
        )

    leaders = "\n".join(user(name, subjects) for name, subjects in PUBLISH.items())
    return f"""
accounts {{
  KEYS: {{
    jetstream: enabled
    users: [ {leaders} ]
    exports: [
      {{ service: "{GET}", accounts: [FLEET] }}
      {{ service: "{READ}", accounts: [FLEET] }}
      {{ stream: "keydist.changed.>", accounts: [FLEET] }}
    ]
  }}
  FLEET: {{
    users: [ {user("a", [GET, "keydist.current"])} ]
    imports: [
      {{ service: {{ account: KEYS, subject: "{GET}" }} }}
      {{ service: {{ account: KEYS, subject: "{READ}" }}, to: "keydist.current" }}
      {{ stream: {{ account: KEYS, subject: "keydist.changed.>" }} }}
    ]
  }}
  NO_JETSTREAM: {{ users: [ {{ nkey: {users["dry"][0]} }} ] }}
}}
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedServer, Path]]:
    import nkeys  # type: ignore[import-untyped] # noqa: PLC0415

    from tests.material import noise  # noqa: PLC0415

    directory = tmp_path_factory.mktemp("guarded")
    users: Users = {}
    for name in (*PUBLISH, "a", "dry"):
        seed = nkeys.encode_seed(noise(name, 32), nkeys.PREFIX_BYTE_USER)
        users[name] = (nkeys.from_seed(bytearray(seed)).public_key.decode(), seed.decode())
        (directory / name).write_text(users[name][1], encoding="ascii")
    server = EmbeddedServer(directory / "nats", extra=configuration(users))
    server.start()
    yield server, directory
    server.stop()


Guarded = tuple[EmbeddedServer, Path]


@asynccontextmanager
async def seen_by(guarded: Guarded, name: str) -> AsyncIterator[NatsKeysetStore]:
    """Open the keyset's entry as one user."""
    server, directory = guarded
    connection = Connection(Server(urls=(server.url,), node=name, nkey_file=str(directory / name)))
    store = NatsKeysetStore(connection, bucket="keydist", entry="signing-key")
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def written(guarded: Guarded, envelope: bytes | None = b"one") -> AsyncIterator[None]:
    """Make the bucket, write into it unless there is nothing to write, and remove it at the end."""
    async with seen_by(guarded, "op") as operator:
        await operator.create_bucket()
        if envelope is not None:
            await operator.write_first(envelope)
        try:
            yield
        finally:
            await operator._connection.request("$JS.API.STREAM.DELETE.KV_keydist")


async def soon(store: NatsKeysetStore, *, from_leader: bool = True) -> Stored | Absent:
    async with asyncio.timeout(1):
        return await store.read(from_leader=from_leader)


async def forbidden(act: Awaitable[object]) -> ForbiddenError:
    """Return the denial, which must come at once."""
    with pytest.raises(ForbiddenError) as caught:
        await asyncio.wait_for(act, 1)
    return caught.value


async def test_a_follower_reads_both_ways(guarded: Guarded) -> None:
    async with written(guarded), seen_by(guarded, "a") as follower:
        assert await soon(follower, from_leader=False) == Stored(envelope=b"one", revision=1)
        assert await soon(follower) == Stored(envelope=b"one", revision=1)
        assert follower._leader_read._name == "keydist.current"
        assert await soon(follower) == Stored(envelope=b"one", revision=1)


async def test_a_follower_cannot_tell_why_nothing_is_there(guarded: Guarded) -> None:
    async with written(guarded, envelope=None), seen_by(guarded, "a") as follower:
        for from_leader in (False, True, False):
            assert await soon(follower, from_leader=from_leader) == Absent(why=Absence.UNKNOWN)


async def test_a_follower_cannot_tell_a_missing_bucket(guarded: Guarded) -> None:
    async with seen_by(guarded, "a") as follower:
        assert await soon(follower, from_leader=False) == Absent(why=Absence.UNKNOWN)
        assert isinstance(await soon(follower), Absent)


async def test_a_followers_way_to_the_leader_that_leads_nowhere_is_unreachable_not_forbidden(guarded: Guarded) -> None:
    async with seen_by(guarded, "odd") as follower:  # as in a region that is cut off from home
        with pytest.raises(UnreachableError):
            await follower.read(from_leader=True)


async def test_a_follower_cannot_write(guarded: Guarded) -> None:
    async with written(guarded), seen_by(guarded, "a") as follower:
        for write in (follower.write_first(b"two"), follower.replace(b"two", revision=1), follower.create_bucket()):
            await forbidden(write)
        assert await soon(follower) == Stored(envelope=b"one", revision=1)


async def test_a_follower_is_told_of_a_change(guarded: Guarded) -> None:
    async with written(guarded), seen_by(guarded, "a") as follower, seen_by(guarded, "lead") as leader:
        await follower.read(from_leader=False)
        await follower.wait_for_notice(0.0)
        await follower.read(from_leader=False)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(follower.wait_for_notice(60))
            group.create_task(leader.replace(b"two", revision=1))


async def test_a_leader_does_its_work(guarded: Guarded) -> None:
    async with written(guarded, envelope=None), seen_by(guarded, "lead") as leader:
        assert await soon(leader) == Absent(why=Absence.NEVER_WRITTEN)
        assert await leader.write_first(b"one") == 1
        assert await soon(leader) == Stored(envelope=b"one", revision=1)
        await leader.create_bucket()  # is there
        assert leader._leader_read._name == READ


FORBIDDEN: dict[str, tuple[str, Callable[[NatsKeysetStore], Any], str]] = {
    "a leader read": ("nothing", lambda store: store.read(from_leader=True), READ),
    "a direct read": ("nothing", lambda store: store.read(from_leader=False), GET),
    "a first write": ("nothing", lambda store: store.write_first(b"two"), PUT),
    "a replacement": ("nothing", lambda store: store.replace(b"two", revision=1), PUT),
    "a bucket": ("nothing", lambda store: store.create_bucket(), INFO),
    "a first write, to who may read": ("no_put", lambda store: store.write_first(b"two"), PUT),
    "a bucket, to who may write": ("no_info", lambda store: store.create_bucket(), INFO),
}


@pytest.mark.parametrize(("user", "act", "subject"), FORBIDDEN.values(), ids=FORBIDDEN)
async def test_what_is_forbidden_is_told_by_name_at_once(
    user: str, act: Callable[[NatsKeysetStore], Any], subject: str, guarded: Guarded
) -> None:
    async with written(guarded), seen_by(guarded, user) as store:
        for error in (await forbidden(act(store)), await forbidden(act(store))):  # the second time too
            assert error.exit_code == 77
            assert subject in error.message
            assert "permissions violation" in error.found


async def test_a_forbidden_creation_is_told_by_name(guarded: Guarded) -> None:
    async with seen_by(guarded, "no_create") as store:
        assert await soon(store) == Absent(why=Absence.BUCKET_MISSING)
        assert CREATE in (await forbidden(store.create_bucket())).message


async def test_a_leader_that_may_not_ask_why_cannot_tell(guarded: Guarded) -> None:
    async with written(guarded, envelope=None), seen_by(guarded, "no_info") as store:
        assert await soon(store) == Absent(why=Absence.UNKNOWN)
        assert await soon(store, from_leader=False) == Absent(why=Absence.UNKNOWN)


async def test_an_account_without_jetstream_is_unreachable_not_absent(guarded: Guarded) -> None:
    async with seen_by(guarded, "dry") as store:
        for from_leader in (True, False):
            with pytest.raises(UnreachableError, match="JetStream"):
                await soon(store, from_leader=from_leader)
        with pytest.raises(UnreachableError):
            await store.write_first(b"one")
        with pytest.raises(UnreachableError, match="JetStream"):
            await store.create_bucket()
