"""The doctor's look at NATS permissions, on real servers: what is too few, too many, and that trying does nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from integration.accounts import write_users
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats import link, rights
from keydist.adapters.nats.accounts import FLEET, KEYS, LEADERS, accounts
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.permissions import subjects
from keydist.adapters.nats.records import NatsNodeRecords
from keydist.adapters.nats.rights import Names, excessive_rights, needed_rights, shares_account
from keydist.adapters.nats.server_text import Because
from keydist.adapters.nats.store import NatsKeysetStore
from keydist.adapters.nats.trail import NatsTrailStream
from keydist.core.doctor import nats as judge
from keydist.core.doctor.nats import Outcome, Right
from keydist.core.doctor.verdict import Level
from keydist.core.restart import Role
from tests.settled import settled
from tests.unit.nats_users import ADMIN, write_user

StartServer = Callable[..., EmbeddedServer]

USE: Final = subjects()
STREAMS: Final = ("KV_keydist", "KV_keydist-nodes", "keydist-audit")
FEWER: Final = {  # a right that is taken from a user, and how the doctor calls it
    USE.direct_get: "read the key from any replica",
    "keydist.current": "read the key from the stream's leader",
    USE.records: "write its own record",
    USE.trail: "write its own audit trail",
    USE.trail_last: "read the end of its own audit trail",
    "keydist.changed.>": "hear of changes",
    "keydist.who": "hear who asks for the living",
}
FEWER_OF_A_LEADER: Final = {
    USE.entry: "write the key",
    "keydist.current": "read the key from the stream's leader",
    USE.imported_info: "tell why no key is there",
    USE.imported_records_info: "list the nodes' records",
    USE.records_get: "read the nodes' records",
    "keydist.nodes.>": "hear the nodes' records",
    "publish keydist.who": "ask who lives",
    USE.trail_get: "read the audit trail",
}
MORE: Final = {  # a right that is given to a follower, and how the doctor calls it
    USE.entry: "overwrite the key",
    "$KV.keydist.>": "overwrite the key",
    "$KV.keydist-nodes.*": "write other nodes' records",
    "keydist.audit.keydist.*": "write other nodes' audit trails",
    "$JS.API.STREAM.PURGE.KV_keydist": "purge KV_keydist",
    "$JS.API.STREAM.PURGE.keydist-audit": "purge keydist-audit",
    "$JS.API.STREAM.DELETE.*": "delete KV_keydist-nodes",
    "$JS.API.STREAM.MSG.DELETE.KV_keydist": "delete single messages",
    "$JS.API.STREAM.UPDATE.KV_keydist": "change the bucket",
    "$JS.API.STREAM.CREATE.>": "make streams",
    "$JS.API.CONSUMER.CREATE.>": "make consumers",
    "$JS.API.CONSUMER.CREATE.KV_keydist.>": "make named consumers",
    "$JS.API.CONSUMER.DURABLE.CREATE.>": "make durable consumers",
    "$JS.API.STREAM.PEER.REMOVE.*": "take copies away",
    "hear >": "read others' answers",
    "hear _INBOX.>": "read answers in the common inbox",
    "hear $JS.API.>": "hear requests to JetStream",
}
NODES: Final = ("lead-1", "a")


class Site(NamedTuple):
    """A server with recommended accounts, changed for a case, and the users' nkey files."""

    server: EmbeddedServer
    keys: Path


def user_of(made: dict[str, Any], account: str, index: int) -> dict[str, list[str]]:
    permissions: dict[str, list[str]] = made[account]["users"][index]["permissions"]
    return permissions


def plain(value: Any) -> Any:  # noqa: ANN401 - a tree of JSON
    """Return a configuration without its reasons, to be changed and dumped."""
    if isinstance(value, Because):
        return plain(value.value)
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def site_of(directory: Path, change: Callable[[dict[str, Any]], None]) -> Site:
    users = write_users(directory / "keys", leaders=["lead-1"], followers=["a"])
    made = plain(accounts(users, USE))
    made[KEYS]["users"].append({"nkey": write_user(directory / "keys", f"{ADMIN}.nk").nkey})
    change(made)
    server = EmbeddedServer(directory / "nats", extra=f"accounts: {json.dumps(made)}")
    server.start()
    return Site(server, directory / "keys")


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[[Callable[[dict[str, Any]], None]], Site]]:
    made: list[Site] = []

    def make(change: Callable[[dict[str, Any]], None]) -> Site:
        made.append(site_of(tmp_path / str(len(made)), change))
        return made[-1]

    yield make
    for site in made:
        site.server.stop()


class Look(NamedTuple):
    """What the doctor sees as one user."""

    needed: tuple[Right, ...]
    excess: tuple[Right, ...]
    shares_account: bool


def connect(site: Site, name: str) -> Connection:
    return Connection(Server(urls=(site.server.url,), node=name, nkey_file=str(site.keys / f"{name}.nk")))


async def prepare(site: Site) -> dict[str, Any]:
    """Make the streams, store a key, and return what each stream holds."""
    operator, leader = connect(site, ADMIN), connect(site, "lead-1")
    try:
        await NatsKeysetStore(operator, bucket="keydist", entry="signing-key").create_bucket()
        await NatsNodeRecords(operator, bucket="keydist").create_bucket()
        await NatsTrailStream(operator, bucket="keydist").create()
        written = await operator.request("$JS.API.STREAM.INFO.KV_keydist")
        if json.loads(written.data)["state"]["last_seq"] == 0:
            try:
                await NatsKeysetStore(leader, bucket="keydist", entry="signing-key").write_first(b"the key")
            except Exception:  # noqa: BLE001 - a leader that lacks that right is a case of its own
                return await held(operator)
        return await held(operator)
    finally:
        await operator.close()
        await leader.close()


async def held(operator: Connection) -> dict[str, Any]:
    found = {}
    for name in STREAMS:
        info = json.loads((await operator.request(f"$JS.API.STREAM.INFO.{name}")).data)
        found[name] = (info["config"], {key: info["state"][key] for key in ("messages", "last_seq", "consumer_count")})
    listed = json.loads((await operator.request("$JS.API.STREAM.NAMES")).data)
    return {**found, "streams": sorted(listed["streams"])}


async def look(site: Site, name: str, role: Role) -> Look:
    """Look as a user, and see that nothing was changed by it."""
    before = await prepare(site)
    connection, names = connect(site, name), Names("keydist", "signing-key", name)
    try:
        needed = await needed_rights(connection, names, role, trail=True, answers=True)
        excess = await excessive_rights(connection, names, role)
        shares = await shares_account(connection, names)
    finally:
        await connection.close()
    assert excess is not None
    assert await prepare(site) == before
    return Look(needed, excess, shares)


def denied(found: tuple[Right, ...]) -> list[str]:
    return [right.what for right in found if right.outcome is not Outcome.ALLOWED]


def allowed(found: tuple[Right, ...]) -> list[str]:
    return [right.what for right in found if right.outcome is Outcome.ALLOWED]


ROLES: Final = {"a": Role.FOLLOWER, "lead-1": Role.LEADER}


@pytest.mark.parametrize("name", NODES)
async def test_the_recommended_accounts_are_exactly_what_is_needed(
    name: str, make_site: Callable[[Callable[[dict[str, Any]], None]], Site]
) -> None:
    found = await look(make_site(lambda _made: None), name, ROLES[name])
    assert denied(found.needed) == []
    assert allowed(found.excess) == []
    assert not found.shares_account
    assert judge.needed(found.needed, missing=(), has_key=True).level is Level.OK
    verdict = judge.excess(found.excess, role=ROLES[name], shares_account=False, is_refused=True)
    assert verdict.level is Level.OK


def without(permissions: dict[str, list[str]], subject: str) -> None:
    """Take a subject away, or where it ends with a dot all that begin with it; with a verb, from that list only."""
    verb, _, rest = subject.rpartition(" ")

    def stays(one: str) -> bool:
        return one != rest and not (rest.endswith(".") and one.startswith(rest))

    for kind in (verb,) if verb else ("publish", "subscribe"):
        permissions[kind] = [one for one in permissions[kind] if stays(one)]


@pytest.mark.parametrize(("subject", "what"), FEWER.items(), ids=FEWER.values())
async def test_what_a_follower_lacks_is_told_by_name(
    subject: str, what: str, make_site: Callable[[Callable[[dict[str, Any]], None]], Site]
) -> None:
    site = make_site(lambda made: without(user_of(made, FLEET, 0), subject))
    found = await look(site, "a", Role.FOLLOWER)
    assert denied(found.needed) == [what]
    verdict = judge.needed(found.needed, missing=(), has_key=True)
    assert (verdict.level, verdict.exit_code) == (Level.FAIL, 77)
    assert what in verdict.detail


@pytest.mark.parametrize(("subject", "what"), FEWER_OF_A_LEADER.items(), ids=FEWER_OF_A_LEADER.values())
async def test_what_a_leader_lacks_is_told_by_name(
    subject: str, what: str, make_site: Callable[[Callable[[dict[str, Any]], None]], Site]
) -> None:
    site = make_site(lambda made: without(user_of(made, LEADERS, 0), subject))
    found = await look(site, "lead-1", Role.LEADER)
    assert denied(found.needed) == [what]


@pytest.mark.parametrize(("subject", "what"), MORE.items(), ids=MORE)
async def test_what_a_follower_may_too_much_is_told_by_name(
    subject: str, what: str, make_site: Callable[[Callable[[dict[str, Any]], None]], Site]
) -> None:
    verb, _, rest = subject.rpartition(" ")
    site = make_site(lambda made: user_of(made, FLEET, 0)["subscribe" if verb else "publish"].append(rest))
    found = await look(site, "a", Role.FOLLOWER)
    assert denied(found.needed) == []
    assert what in allowed(found.excess)
    verdict = judge.excess(found.excess, role=Role.FOLLOWER, shares_account=False, is_refused=True)
    assert (verdict.level, verdict.exit_code) == (Level.FAIL, 77)
    assert what in verdict.detail


@pytest.mark.parametrize(("name", "account", "level"), [("a", FLEET, Level.FAIL), ("lead-1", LEADERS, Level.WARN)])
async def test_a_node_in_the_account_of_the_streams_is_told(
    name: str, account: str, level: Level, make_site: Callable[[Callable[[dict[str, Any]], None]], Site]
) -> None:
    """As keydist's documentation had it for leaders: all works, and the doctor says what it means."""

    def change(made: dict[str, Any]) -> None:
        moved = made[account]["users"].pop()
        moved["permissions"]["publish"] += [USE.leader_get, USE.info, USE.records_info]
        made[KEYS]["users"].append(moved)

    role = ROLES[name]
    found = await look(make_site(change), name, role)
    assert denied(found.needed) == []
    assert found.shares_account
    verdict = judge.excess(found.excess, role=role, shares_account=True, is_refused=True)
    assert verdict.level is level
    assert "every right to ask is one to write and to delete" in verdict.detail


async def test_a_missing_import_is_nobody_and_no_denial(
    make_site: Callable[[Callable[[dict[str, Any]], None]], Site],
) -> None:
    def change(made: dict[str, Any]) -> None:
        made[FLEET]["imports"] = [one for one in made[FLEET]["imports"] if "nodes" not in json.dumps(one)]

    found = await look(make_site(change), "a", Role.FOLLOWER)
    lacking = [right for right in found.needed if right.outcome is not Outcome.ALLOWED]
    assert [(right.what, right.outcome) for right in lacking] == [("write its own record", Outcome.NOBODY)]
    verdict = judge.needed(found.needed, missing=(), has_key=True)
    assert (verdict.level, verdict.exit_code) == (Level.FAIL, 75)
    assert "import" in verdict.fix
    assert judge.needed(found.needed, missing=("KV_keydist-nodes",), has_key=True).level is Level.WARN


async def test_who_may_do_nothing_at_all_is_not_tried(
    make_site: Callable[[Callable[[dict[str, Any]], None]], Site],
) -> None:
    def change(made: dict[str, Any]) -> None:
        user_of(made, FLEET, 0)["publish"] = ["somewhere.else"]

    site = make_site(change)
    connection = connect(site, "a")
    try:
        assert await excessive_rights(connection, Names("keydist", "signing-key", "a"), Role.FOLLOWER) is None
    finally:
        await connection.close()


async def test_a_server_that_would_deliver_what_is_tried_is_left_alone(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stood in for by a reply subject that no server refuses."""
    monkeypatch.setattr(link, "_RESERVED", "somewhere")
    server = start_server()
    listener, heard = Client(), list[str]()

    async def hear(message: Msg) -> None:
        heard.append(message.subject)

    await listener.connect(server.url)
    connection = Connection(Server(urls=(server.url,), node="a"))
    try:
        await listener.subscribe(">", cb=hear)
        await settled(listener)
        assert await excessive_rights(connection, Names("keydist", "signing-key", "a"), Role.FOLLOWER) is None
        await settled(listener)
        assert [subject for subject in heard if not subject.startswith("$JS.EVENT")] == [
            "keydist.doctor.keydist-doctor"
        ]
    finally:
        await connection.close()
        await listener.close()


# --- trying does nothing ------------------------------------------------------------------------

SENT_AT_ALL: Final = {
    "$JS.API.DIRECT.GET.KV_keydist.$KV.keydist.signing-key",
    "$JS.API.STREAM.MSG.GET.KV_keydist",
    "keydist.current",
    "$KV.keydist-nodes.a",
    "keydist.audit.keydist.a",
    "$JS.API.DIRECT.GET.keydist-audit.keydist.audit.keydist.a",
}
"""Reads, and the node's own subjects: all that leaves the server's gate as a follower is tried."""


async def test_of_all_that_is_tried_only_reads_and_own_subjects_are_delivered(start_server: StartServer) -> None:
    server = start_server()  # no accounts: everybody may do everything, and would hear of everything
    listener, heard = Client(), list[tuple[str, bytes]]()

    async def hear(message: Msg) -> None:
        if not message.subject.startswith(("_INBOX", "$JS.EVENT")):
            heard.append((message.subject, message.data))

    await listener.connect(server.url)
    connection = Connection(Server(urls=(server.url,), node="a"))
    try:
        await listener.subscribe(">", cb=hear)
        await settled(listener)
        names = Names("keydist", "signing-key", "a")
        found = await excessive_rights(connection, names, Role.FOLLOWER)
        assert found is not None
        assert {right.outcome for right in found} == {Outcome.ALLOWED}
        await settled(listener)
        assert heard == []
        await needed_rights(connection, names, Role.FOLLOWER, trail=True, answers=True)
        await shares_account(connection, names)
        await settled(listener)
        assert {subject for subject, _ in heard} == SENT_AT_ALL
        assert all(not data or b"last_by_subj" in data for _, data in heard)
    finally:
        await connection.close()
        await listener.close()


PROBES: Final = rights._excess(Names("keydist", "signing-key", "a"), Role.FOLLOWER)


@pytest.mark.parametrize("probe", [one for one in PROBES if not one.hears], ids=lambda probe: probe.what)
async def test_even_if_it_were_delivered_it_would_do_nothing(
    probe: rights._Probe, make_site: Callable[[Callable[[dict[str, Any]], None]], Site]
) -> None:
    """The second wall: what is tried would be refused for its content too."""

    def change(made: dict[str, Any]) -> None:
        user_of(made, KEYS, 0)["publish"] = [">"]

    site = make_site(change)
    before = await prepare(site)
    operator = connect(site, ADMIN)
    try:
        for _ in range(2):
            reply = await operator.request(probe.subject, probe.payload, headers=probe.headers)
            assert b'"error"' in reply.data, reply
        assert await held(operator) == before
    finally:
        await operator.close()
