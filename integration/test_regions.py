"""Regions: what one that is cut off from home goes on doing, what it must not do, and how it catches up.

Real servers with exactly what `keydist store config` writes, with TLS, and real agents. The wire between home and a
region is cut; what its followers and its link must not do is tried with that region.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import nats.errors
import pytest

from integration import monitor
from integration.attacks import everything, leave_traces, of_others, turn_around
from integration.fleet import Member
from integration.forbidden import NOBODYS, PUBLISHED, READ, SUBSCRIBED, USE, planted_at
from integration.leaf import Leaf
from integration.regions import HOME, Regions
from integration.secured import Secured, run_keydist, said_after_handshake
from keydist.adapters.config import TlsConfig
from keydist.adapters.nats.bucket import HOME as HOME_NAME
from keydist.adapters.nats.bucket import IMPORTED_READ, WHO, delivered
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.records import NatsNodeRecords
from keydist.adapters.nats.regions import mirroring, ways
from keydist.cli.operate import NOT_YET
from keydist.core.envelope import parse_envelope
from keydist.core.record import RECORD_TYPE, open_record
from tests.material import TOKEN

pytestmark = pytest.mark.timeout(180)
# Short, so that records and looks are not what the test waits for.
SETTINGS: Final = {"heartbeat": "2s", "resync": "5s"}
AGENTS: Final = ("lead-1", "node-a", "eu-1", "us-1")
MINT: Final = ("jwt", "mint", "--sub", "alice", "--aud", "orders", "--iss", "https://test.example")
MIRROR: Final = mirroring(USE, "eu").link
# What would be of use on the link, and is no way of it.
HOMEWARD: Final = [
    "keydist.home.api.STREAM.DELETE.KV_keydist", "keydist.home.nodes.a.b", mirroring(USE, "us").link,
    *(f"keydist.home.api.CONSUMER.{call}" for call in (
        "CREATE.KV_keydist", "CREATE.KV_keydist.eu", "CREATE.KV_keydist-nodes", "DELETE.KV_keydist.eu",
        "RESET.KV_keydist-nodes.eu",
    )),
]  # fmt: skip
HEARD_BY_NONE: Final = [
    ">", "$KV.>", f"{USE.records}>", "keydist.nodes.>", "keydist.>", "$JS.API.>", "_INBOX_lead-1.>", "$SYS.>",
]  # fmt: skip


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Regions]:
    followers = {"eu": ["eu-1", "eu-2", "eu-3"], "us": ["us-1"]}
    place, leaders = tmp_path_factory.mktemp("regions"), ["lead-1", "lead-2"]
    with Regions(place, followers, leaders=leaders, settings=SETTINGS) as made:
        first = made.member("lead-1").node.run()  # although regions are linked that hold no key: they say so
        assert (first["outcome"], first["alarms"]) == ("generated", [])
        yield made


@pytest.fixture
def still(regions: Regions) -> Regions:
    """The regions without an agent that writes while it is looked whether anything changed."""
    regions.end_agents()
    return regions


def command(member: Member, *arguments: str) -> dict[str, Any]:
    """Run a command as a node; it must succeed."""
    return Secured.answer(*arguments, "--config", str(member.node.config))


def refused(member: Member, *arguments: str) -> tuple[int, str]:
    """Run a command as a node and return its exit code and the code of its error, "done" where there is none."""
    done = run_keydist(*arguments, "--config", str(member.node.config), "--json")
    return done.returncode, json.loads(done.stdout).get("error", {"code": "done"})["code"]


def alarms_of_status(member: Member) -> list[str]:
    """Return the codes of what status says is wrong."""
    done = run_keydist("status", "--config", str(member.node.config), "--json")
    return [alarm["code"] for alarm in json.loads(done.stdout)["alarms"]]


def doctored(member: Member) -> dict[str, dict[str, Any]]:
    """Return what doctor finds of a node, by the name of the check."""
    done = run_keydist("doctor", "--config", str(member.node.config), "--json")
    return {one["name"]: one for one in json.loads(done.stdout)["checks"]}


def until(holds: Callable[[], bool], what: str, *, seconds: float = 30.0) -> float:
    """Return after how many seconds something held."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() < begun + seconds, f"waiting for {what}: not within {seconds:g} s"
        time.sleep(0.05)
    return time.monotonic() - begun


def revoked(leader: Member) -> int:
    """Revoke the key that signs, and return the epoch that says so; again where it says that it must wait."""
    wanted = ("key", "revoke", command(leader, "status")["kid"], "--reason", "a drill")
    done = [run_keydist(*wanted, "--config", str(leader.node.config), "--json")]
    while done[-1].returncode == NOT_YET:
        assert len(done) < 20, done[-1].stderr
        done.append(run_keydist(*done[-1].args[3:]))
    epoch: int = json.loads(done[-1].stdout)["epoch"]
    return epoch


def epoch_of(member: Member) -> int:
    held = member.node.load().held
    return 0 if held is None else held.keyset.epoch


def mint(member: Member) -> str:
    jwt: str = command(member, *MINT)["jwt"]
    return jwt


def verify(member: Member, jwt: str, directory: Path) -> dict[str, Any]:
    file = directory / "jwt"
    file.write_text(jwt, encoding="ascii")
    return command(member, "jwt", "verify", str(file), "--aud", "orders", "--iss", "https://test.example")


def recorded(regions: Regions) -> dict[str, int]:
    """Return the epochs in the nodes' records, as a leader at home reads them."""
    lead, home = regions.member("lead-1").node, regions.places[HOME]

    async def read() -> dict[str, bytes]:
        files = home.directory / lead.name
        tls = TlsConfig(str(files / "server-ca.pem"), str(files / "client.pem"), str(files / "client.key"))
        url = f"tls://{home.hosts[0]}:{home.client_port}"
        connection = Connection(Server(urls=(url,), node=lead.name, nkey_file=str(files / "user.nk"), tls=tls))
        try:
            return await NatsNodeRecords(connection, bucket=lead.bucket).read_all()
        finally:
            await connection.close()

    found = asyncio.run(read()).items()
    return {name: open_record(raw, node=name, place=lead.place, tokens=(TOKEN,)).epoch for name, raw in found}


def links(place: Secured) -> int | None:
    """Return how many links a server has."""
    return monitor.links(place.monitor_port, host=place.hosts[0])


def test_a_region_that_is_cut_off_goes_on_and_catches_up(regions: Regions, tmp_path: Path) -> None:
    lead, node_a, eu_1, us_1 = (regions.member(name) for name in AGENTS)
    for member in (lead, node_a, eu_1, us_1):
        member.start()
    until(lambda: set(recorded(regions)) == set(AGENTS), "the records of all regions at home")
    until(lambda: all(member.confirmed() for member in (node_a, eu_1, us_1)), "everybody's confirmation")

    regions.wires["eu"].hold()
    cut = time.monotonic()
    old = mint(eu_1)  # for the lease
    assert revoked(lead) == 2
    until(lambda: epoch_of(node_a) == epoch_of(us_1) == 2, "home and the other region to follow")
    until(lambda: eu_1.alarms()["unconfirmed"] == 1, "the region to say that it is cut off")
    until(lambda: links(regions.places["eu"]) == 0, "the region to give up a link on which nothing is heard")
    print(f"given up {time.monotonic() - cut:.1f} s after the link was cut off in silence")
    regions.wires["eu"].cut()
    eu_2 = regions.member("eu-2")
    new = eu_2.node.run()
    assert (new["outcome"], new["epoch"]) == ("retrieved", 1)
    assert [alarm["code"] for alarm in new["alarms"]] == ["unconfirmed"]
    assert verify(eu_2, old, tmp_path)["sub"] == "alice"
    assert refused(eu_2, *MINT) == (75, "lease-expired")
    eu_2.start()
    until(lambda: eu_2.alarms()["unconfirmed"] == 1, "the new node's agent to say it")
    assert epoch_of(eu_1) == 1
    assert not eu_1.has_ended()
    assert alarms_of_status(eu_1) == ["unconfirmed"]
    found = doctored(eu_1)
    assert {name for name, one in found.items() if not one["ok"]} == {"store", "permissions"}
    assert all("region" in found[name]["fix"] for name in ("store", "permissions"))

    regions.wires["eu"].mend()
    took = until(lambda: epoch_of(eu_1) == epoch_of(eu_2) == 2, "the region to catch up")
    print(f"caught up {took:.1f} s after the link was mended")
    until(lambda: recorded(regions) == dict.fromkeys((*AGENTS, "eu-2"), 2), "the region's records at home")
    until(lambda: not eu_1.alarms() + eu_2.alarms(), "every alarm to be over")
    assert {row["node"] for row in command(lead, "status", "--fleet")["nodes"]} == {*AGENTS, "eu-2"}
    assert not [one for who in (lead, eu_1) for one in doctored(who).values() if not one["ok"]]
    assert verify(node_a, mint(eu_2), tmp_path)["sub"] == "alice"


async def answered(regions: Regions, asker: str, expected: set[str]) -> None:
    """Return once everybody who is expected has answered somebody at home who asks for the living."""
    missing = set(expected)
    async with regions.places[HOME].client(asker) as client, asyncio.timeout(30):
        answers = await client.subscribe(f"_INBOX_{asker}.who")
        while missing:
            await client.publish(WHO, reply=f"_INBOX_{asker}.who")
            with suppress(nats.errors.TimeoutError):
                while True:
                    answer = await answers.next_msg(timeout=0.5)
                    if answer.data:  # else from the server: nobody listens yet
                        missing.discard(parse_envelope(answer.data, typ=RECORD_TYPE).header.location.rpartition("/")[2])


@pytest.mark.parametrize("asker", ["lead-1", "operator"])
async def test_leaders_followers_and_the_nodes_of_all_regions_say_that_they_live(asker: str, regions: Regions) -> None:
    names = {*AGENTS, "lead-2"}
    for name in names:
        if regions.member(name).pid is None:
            regions.member(name).start()
    await answered(regions, asker, names)


def test_a_region_of_three_servers_goes_on_without_the_one_that_reads_from_home(tmp_path: Path) -> None:
    with Regions(tmp_path, {"eu": ["eu-1"]}, settings=SETTINGS, servers=3) as regions:
        lead, eu_1, region = regions.member("lead-1"), regions.member("eu-1"), regions.places["eu"]
        assert lead.node.run()["outcome"] == "generated"
        eu_1.start()
        until(lambda: epoch_of(eu_1) == 1 and eu_1.confirmed(), "the first key in the region")
        reads = region.stream_leader()
        assert reads is not None, "the mirror has a leader, as it has three replicas"
        region.kill_server(reads)
        assert revoked(lead) == 2
        took = until(lambda: epoch_of(eu_1) == 2, "the region to follow")
        print(f"the region followed {took:.1f} s after the revocation")
        until(lambda: not eu_1.alarms(), "every alarm to be over")


def test_a_mirror_of_a_bucket_that_was_made_anew_is_an_alarm_until_it_is_made_anew_too(tmp_path: Path) -> None:
    with Regions(tmp_path, {"eu": ["eu-1"]}, settings=SETTINGS) as regions:
        lead, eu_1 = regions.member("lead-1"), regions.member("eu-1")
        assert lead.node.run()["outcome"] == "generated"
        revoked(lead)
        eu_1.start()
        until(lambda: epoch_of(eu_1) == 2 and eu_1.confirmed(), "the region to have what home has")
        regions.places[HOME].lose_everything()
        assert lead.node.run()["outcome"] == "republished"
        until(lambda: eu_1.alarms()["stale-mirror"] == 1, "the region to say so")
        assert revoked(lead) == 3
        until(lambda: epoch_of(eu_1) == 3, "the next look of the region")
        region = regions.places["eu"]
        region.kill_server(region.hosts[0])
        regions.places[HOME].make_streams()  # what the mirror reads with begins anew, before there is another mirror
        region.lose_everything()
        until(lambda: not eu_1.alarms(), "every alarm to be over")
        assert revoked(lead) == 4
        until(lambda: epoch_of(eu_1) == 4, "the region to follow")
        assert not eu_1.alarms()


# --- what must not be ------------------------------------------------------------------------------


async def test_what_a_follower_of_a_region_may_not_do_is_denied(still: Regions) -> None:
    async with still.places["eu"].client("eu-3") as follower:
        for subject in [*PUBLISHED["node-a"], *(way.link for way in ways(USE)), *HOMEWARD]:
            said = await follower.denial(follower.publish(subject, b"{}", reply="_INBOX_eu-3.x"), subject)
            assert f'permissions violation for publish to "{subject}"'.lower() in said.lower()
        for heard in [*SUBSCRIBED["node-a"], "keydist.home.>", "$JS.M.>"]:
            subject, _, queue = heard.partition(" ")
            said = await follower.denial(follower.subscribe(subject, queue=queue), subject)
            assert f'permissions violation for subscription to "{subject}"'.lower() in said.lower()


async def test_no_reply_subject_of_a_regions_follower_reaches_anything(still: Regions) -> None:
    home, region = still.places[HOME], still.places["eu"]
    await leave_traces(home, "node-a")
    await leave_traces(region, "eu-2")
    before = await of_others(home, "eu-3")
    places = [start + name for name in ("eu-2", "node-a") for start in (USE.records, USE.trail)]
    async with region.client("eu-3") as follower:
        places += [*(way.link.replace("*", "eu-2") for way in ways(USE)), *HOMEWARD]
        await turn_around(follower, "eu-3", *places, role="node-a")
        assert follower.denied == []
    assert await of_others(home, "eu-3") == before


async def test_what_the_link_of_a_region_may_not_do_is_refused(still: Regions) -> None:
    home, region = still.places[HOME], still.places["eu"]
    shown, seed = region.context(region.hosts[0], pair="server"), region.directory / "eu" / "user.nk"
    before, let = await everything(home), set[str]()
    published = [*NOBODYS, USE.entry, USE.leader_get, f"{USE.records}eu-1", "keydist.who", *HOMEWARD]
    for subject in published:
        async with Leaf(home.leaf_port, seed=seed, context=shown) as thief:
            if b"Permissions Violation for Publish" not in await thief.publish(subject, b"{}"):
                let.add(subject)
    # Servers let answers and acknowledgements through by their beginning. An answer comes to who waits under a name
    # that cannot be guessed, at a leader that asks for the living too; nothing here waits for an acknowledgement.
    assert let == {"_R_.x", "$JS.ACK.KV_keydist.c.1.1.1.1.0", "_INBOX_lead-2.x"}
    assert await everything(home) == before


async def test_the_link_of_a_region_hears_the_question_to_the_living_and_nothing_else(still: Regions) -> None:
    home, region = still.places[HOME], still.places["eu"]
    shown, seed = region.context(region.hosts[0], pair="server"), region.directory / "eu" / "user.nk"
    async with Leaf(home.leaf_port, seed=seed, context=shown) as thief, home.client("lead-1") as leader:
        for subject in HEARD_BY_NONE:
            await thief.subscribe(subject)  # a wildcard is taken, and what is not allowed is not delivered
        await leave_traces(home, "node-a", "lead-1")
        for subject in (USE.direct_get, IMPORTED_READ, USE.imported_info):
            await leader.request(subject, b"", timeout=10)
        await leader.publish(WHO, reply="_INBOX_lead-1.x")
        await leader.flush()
        said = await thief.heard(b"PONG")
    assert set(re.findall(rb"MSG (\S+)", said)) == {WHO.encode()}
    async with Leaf(home.leaf_port, seed=seed, context=shown) as thief:
        said = await thief.subscribe(delivered(USE.bucket, "us"))
    assert b"Permissions Violation for Subscription" in said, "what another region's mirror reads"


def test_nobody_links_without_a_certificate_of_the_servers_ca(still: Regions) -> None:
    home = still.places[HOME]
    for shown in (home.context("node-a"), home.context("lead-1")):
        assert said_after_handshake("127.0.0.1", home.leaf_port, shown) == b""
    server = home.context("127.0.0.1", pair="server")
    assert said_after_handshake("127.0.0.1", home.leaf_port, server).startswith(b"INFO ")


async def test_no_reply_subject_of_a_regions_link_reaches_anything(still: Regions) -> None:
    home, region = still.places[HOME], still.places["eu"]
    shown, seed = region.context(region.hosts[0], pair="server"), region.directory / "eu" / "user.nk"
    await leave_traces(home, "node-a", "lead-1")
    await leave_traces(region, "eu-2")
    asked = {f"{HOME_NAME}.current": READ, f"{HOME_NAME}.nodes.eu-3": b"planted"}
    asked |= {f"{HOME_NAME}.trail.eu-3": b"", f"{USE.trail}eu-3": b"planted"}
    asked |= dict.fromkeys(("_INBOX_lead-1.x", "_INBOX_operator.x", "$JS.FC.KV_keydist.eu.x"), b"")
    places = [start + name for name in ("eu-2", "node-a") for start in (USE.records, USE.trail)]
    before = await of_others(home, "eu-3")
    async with Leaf(home.leaf_port, seed=seed, context=shown) as thief:
        for subject, data in asked.items():
            for reply in (*planted_at("node-a"), *places):
                assert b"-ERR" not in await thief.publish(subject, data, reply=reply)
        # The mirror's own request, which chooses where it reads from and not where what it reads is delivered.
        consumer = {"seq": 1, "config": {"deliver_subject": f"{USE.records}node-a", "headers_only": True}}
        consumer |= {"deliver_subject": f"{USE.records}node-a", "stream_name": USE.streams[0]}
        await thief.subscribe("$JSC.R.x")
        for reply in (*planted_at("node-a"), *places):
            assert b"-ERR" not in await thief.publish(MIRROR, json.dumps(consumer).encode(), reply=reply)
        said = await thief.publish(MIRROR, json.dumps(consumer).encode(), reply="$JSC.R.x")
        if b"consumer_reset_response" not in said:
            said += await thief.heard(b"consumer_reset_response")
        assert delivered(USE.bucket, "eu").encode() in said
    assert await of_others(home, "eu-3") == before


# --- the last one: home loses everything ---------------------------------------------------------------


def test_no_first_key_is_made_where_a_node_of_a_region_holds_one(still: Regions) -> None:
    us_1, lead_2 = still.member("us-1"), still.member("lead-2")
    us_1.start()
    until(lambda: epoch_of(us_1) > 0, "a keyset in a region")
    still.places[HOME].lose_everything()
    asyncio.run(answered(still, "lead-1", {"us-1"}))
    shutil.rmtree(lead_2.node.state, ignore_errors=True)
    assert refused(lead_2, "bootstrap", "--timeout", "10s") == (65, "refused-genesis")
    still.end_agents()
    assert command(lead_2, "bootstrap", "--timeout", "30s")["outcome"] == "generated"
