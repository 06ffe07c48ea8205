"""`keydist audit`: what it shows and checks, from the stream of a real server and from a node's own journal."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from keydist import wiring
from keydist.adapters.embedded import EmbeddedServer
from keydist.cli.command import this_node
from keydist.core.audit import Event, Link, Place, What, mint_of
from keydist.core.audit_record import parse_entry
from keydist.core.restart import Role
from keydist.errors import BucketMissingError
from keydist.services.ship_trail import Shipper
from tests.fakes.memory_trail import MemoryTrail, MemoryTrailStream
from tests.material import NOW, PLACE
from tests.unit.audit_material import NODE, THREE, chained, event_of, opening
from tests.unit.cli_node import CliNode

OTHER = Place(cluster=PLACE.cluster, node="node-b")
FOREIGN = Place(cluster="prod-us1", node="node-b")


class Auditing(CliNode):
    """A `CliNode` with its trail; the stream is in memory."""

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401 - of `CliNode`
        super().__init__(*arguments)
        self.trail = MemoryTrail()
        self.stream = MemoryTrailStream(self.trail)
        self._monkeypatch.setattr(wiring, "open_trail", opening(self.stream, self._open_store))

    @property
    def journal(self) -> Any:  # noqa: ANN401
        return wiring.journal(this_node(str(self.config)))

    def ship(self) -> None:
        """Do what its agent does."""
        asyncio.run(Shipper(self.journal, self.stream, node=NODE.node, role=Role.LEADER).ship())

    def audit(self, *arguments: str) -> Any:  # noqa: ANN401
        answer = self.run("audit", "--verify", "--json", *arguments)
        return answer.code, answer.json, answer.err


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Auditing:
    made = Auditing(tmp_path, monkeypatch, capsys)
    made.hold(3)
    for held in THREE:
        made.journal.append(event_of(held), at=NOW + held.keyset.epoch, who={"uid": 7})
    made.ship()
    return made


# --- showing ------------------------------------------------------------------------------------


def test_one_record_a_line(node: Auditing) -> None:
    lines = node.run("audit").out.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("2027-01-15T08:00:02Z  node-a #2  epoch (written)  epoch 2  active=")
    assert lines[1].endswith("by uid=7")
    raw = [json.loads(line) for line in node.run("audit", "--json").out.splitlines()]
    assert raw == [json.loads(record) for record in node.trail.of("node-a")]


@pytest.mark.parametrize(
    ("arguments", "epochs"),
    [
        (("--since", str(NOW + 3)), [3]),
        (("--since", "2027-01-15T08:00:02Z"), [2, 3]),
        (("--since", "3650d"), [1, 2, 3]),
        (("--node", "node-a"), [1, 2, 3]),
        (("--node", "node-b"), []),
        (("--local",), [1, 2, 3]),
        (("--local", "--node", "node-b"), []),
    ],
    ids=str,
)
def test_only_what_was_asked_for(node: Auditing, arguments: tuple[str, ...], epochs: list[int]) -> None:
    found = node.run("audit", "--json", *arguments)
    assert [json.loads(line)["epoch"] for line in found.out.splitlines()] == epochs


def test_a_time_that_is_none_is_refused(node: Auditing) -> None:
    assert node.run("audit", "--since", "soon", "--json").error["code"] == "usage"


def test_without_the_stream_the_nodes_own_journal_is_shown_and_said_so(node: Auditing) -> None:
    node.trail.drop()
    answer = node.run("audit")
    assert (answer.code, len(answer.out.splitlines())) == (0, 3)
    assert "the stream cannot be read" in answer.err
    assert "only what node node-a keeps" in answer.err


@pytest.mark.parametrize("arguments", [(), ("--local",)], ids=str)
def test_people_are_told_that_what_is_shown_was_not_checked(node: Auditing, arguments: tuple[str, ...]) -> None:
    (said,) = node.run("audit", *arguments).err.splitlines()
    assert "not checked; for that: keydist audit --verify" in said
    assert node.run("audit", *arguments, "--json").err == ""
    assert node.run("audit", *arguments, "--since", str(NOW + 99)).err == ""
    assert "not checked" not in node.run("audit", *arguments, "--verify").err


def test_what_was_minted_and_what_is_no_record_are_shown(node: Auditing) -> None:
    jwt = mint_of("a.b.c", {"sub": "al\x1b[2J", "aud": "api", "exp": NOW}, THREE[2].keyset.active.kid)
    both = (jwt, jwt._replace(uid=4242))
    node.journal.append(Event(what=What.MINTED, held=THREE[2], minted=both), at=NOW, who={"uid": 7})
    node.ship()
    node.trail.put("node-b", b"\x1b[2J")
    answer = node.run("audit")
    line = answer.out.splitlines()[3]
    assert "sub='al\\x1b[2J'" in line
    assert line.endswith(f" kid={jwt.kid} uid=4242  by uid=7")
    assert line.count("uid=") == 2  # none where none was kept
    assert "\x1b" not in answer.out + answer.err
    assert "node node-b: something that is no record" in answer.err


def test_no_fact_passes_for_who_did_it(node: Auditing) -> None:
    event = event_of(THREE[2])
    forged = event._replace(facts={"reason": 'lost  by uid=0 user="root', "token": "df82c19be3"})
    node.journal.append(forged, at=NOW, who={"uid": 7, "program": "key revoke"})
    node.ship()
    line = node.run("audit").out.splitlines()[3]
    said = r'''reason="lost  by uid=0 user=\"root" token=df82c19be3  by uid=7 program="key revoke"'''
    assert line.endswith(said)


# --- checking -----------------------------------------------------------------------------------


def test_a_whole_trail(node: Auditing) -> None:
    code, answer, err = node.audit()
    assert (code, answer["whole"], answer["source"], err) == (0, True, "stream", "")
    (one,) = answer["nodes"]
    assert (one["node"], one["records"], one["unproven"], one["broken"]) == ("node-a", 3, 0, None)
    assert one["chains"][0]["seq"] == 3
    assert node.run("audit", "--verify").out == "node-a: 3 records: whole\n"
    assert node.audit("--local")[1]["source"] == "journal"


def test_no_trail_at_all_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = Auditing(tmp_path, monkeypatch, capsys)
    assert (empty.run("audit", "--verify").out, empty.audit()[0]) == ("no records\n", 0)
    assert empty.run("audit").out == ""


def test_the_first_broken_link_is_named(node: Auditing) -> None:
    del node.trail.records[1]
    code, answer, err = node.audit()
    assert (code, answer["whole"]) == (65, False)
    broken = answer["nodes"][0]["broken"]
    assert (broken["node"], broken["seq"], broken["wrong"], broken["code"]) == ("node-a", "2", "gap", "audit-broken")
    chain = answer["nodes"][0]["chains"][0]["chain"]
    assert broken["chain"] == chain
    assert f"node node-a is broken at record 2 of chain {chain[:8]}: " in err
    assert node.run("audit", "--verify").out == "node-a: 3 records: BROKEN\n".replace("3", "2")


@pytest.mark.parametrize("at", [2, 5], ids=["in the first", "in the second"])
def test_of_several_chains_the_broken_one_is_named(node: Auditing, at: int) -> None:
    for record in chained(link=Link(chain="c" * 16)):
        node.trail.put("node-a", record)
    chains = [parse_entry(record).chain for record in node.trail.of("node-a")]
    assert len(set(chains)) == 2
    del node.trail.records[at - 1]
    _, answer, err = node.audit()
    assert answer["nodes"][0]["broken"]["chain"] == chains[at - 1]
    assert f"broken at record 2 of chain {chains[at - 1][:8]}: " in err


def test_another_nodes_broken_link_leaves_this_one_whole(node: Auditing) -> None:
    for record in chained(place=Place(cluster=PLACE.cluster, node="node-b"))[1:]:
        node.trail.put("node-b", record)
    code, answer, _ = node.audit()
    assert (code, [one["broken"] is None for one in answer["nodes"]]) == (65, [True, False])
    assert node.audit("--node", "node-a")[0] == 0
    assert node.audit("--node", "node-b")[1]["broken"][0]["seq"] == "1"


def test_junk_behind_a_chain_is_named_there(node: Auditing) -> None:
    node.trail.put("node-a", b"junk")
    assert node.audit()[1]["broken"][0]["seq"] == "4"


def test_records_that_wait_are_told_and_are_no_damage(node: Auditing) -> None:
    node.journal.append(event_of(THREE[2]), at=NOW, who={"uid": 7})
    code, answer, err = node.audit()
    assert (code, answer["waiting"], answer["whole"]) == (0, 1, True)
    assert "1 records of this node are not in the stream yet" in err


@pytest.mark.parametrize("kept", [0, 2], ids=["all of them", "the last one"])
def test_a_stream_that_lost_records_that_it_had_taken(node: Auditing, kept: int) -> None:
    del node.trail.records[kept:]
    code, answer, err = node.audit()
    (broken,) = answer["broken"]
    assert (code, broken["seq"], broken["wrong"]) == (65, str(kept + 1), "cut-short")
    assert "lost records of node node-a" in err


def test_a_stream_that_holds_another_history_than_the_journal(node: Auditing) -> None:
    """Whoever holds the active key can write a chain that is whole: the journals of the other nodes still differ."""
    first = parse_entry(node.trail.records[0].record).link
    others = chained([event_of(THREE[0]), event_of(THREE[2])], link=first)
    del node.trail.records[1:]
    for record in others:
        node.trail.put("node-a", record)
    code, answer, _ = node.audit()
    assert (code, answer["broken"][0]["wrong"]) == (65, "two-histories")
    node.trail.put("node-a", chained([event_of(THREE[2])], link=parse_entry(others[1]).link)[0])
    assert node.audit()[1]["broken"][0]["wrong"] == "two-histories"


def test_records_by_keys_that_were_never_here_are_not_proven(node: Auditing) -> None:
    shutil.rmtree(node.state / "public")
    code, answer, err = node.audit()
    assert (code, answer["unproven"], answer["whole"]) == (75, 3, False)
    assert "3 records are signed by keys that this node has never held" in err
    (node.state / "public").mkdir(mode=0o700)
    (node.state / "public" / f"{THREE[0].keyset.active.kid}.jwk").write_text("{}")
    assert node.audit()[1]["unproven"] == 3


def test_without_the_stream_only_the_journal_is_checked_which_is_not_enough(node: Auditing) -> None:
    node.trail.drop()
    code, answer, err = node.audit()
    assert (code, answer["source"], answer["broken"], answer["whole"]) == (75, "journal", [], False)
    assert "the stream cannot be read" in err
    file = next((node.state / "audit").glob("*.jsonl"))
    file.write_bytes(file.read_bytes().replace(b'"uid":7', b'"uid":8', 1))
    assert node.audit()[0] == 65
    file.write_bytes(b"junk\n" + file.read_bytes())
    assert node.audit("--local")[1]["broken"][0]["wrong"] == "altered"


async def test_a_jwt_is_found_by_its_hash(node: Auditing) -> None:
    jwts = [f"a.b.{number}" for number in range(5)]
    claims, kid = {"sub": "s", "aud": "a", "exp": NOW}, THREE[2].keyset.active.kid
    here, there, other, forged, _ = [mint_of(jwt, claims, kid) for jwt in jwts]
    machine = this_node(str(node.config))
    node.journal.append(Event(what=What.MINTED, held=THREE[2], minted=(here,)), at=NOW, who={})
    (record,) = chained([Event(what=What.MINTED, held=THREE[2], minted=(there,))], place=OTHER)
    node.trail.put("node-b", record)
    node.trail.put("node-a", record)  # under another's subject it tells nothing
    (record,) = chained([Event(what=What.MINTED, held=THREE[2], minted=(forged,))], place=OTHER)
    node.trail.put("node-b", record.replace(b'"uid":7', b'"uid":8'))
    (record,) = chained([Event(what=What.MINTED, held=THREE[2], minted=(other,))], place=FOREIGN)
    node.trail.put("node-b", record)
    found = [await wiring.in_audit(machine, jwt) for jwt in jwts]
    assert [one and (one.entry.place.node, one.mint, one.is_proven) for one in found] == [
        ("node-a", here, True),
        ("node-b", there, True),
        None,
        None,
        None,
    ]
    shutil.rmtree(node.state / "public")
    again = await wiring.in_audit(machine, jwts[0])
    assert again is not None
    assert not again.is_proven
    node.trail.drop()
    assert await wiring.in_audit(machine, jwts[0]) is not None
    with pytest.raises(BucketMissingError):
        await wiring.in_audit(machine, jwts[1])


# --- on a real server, through the agent's ports --------------------------------------------------


def test_commands_write_it_and_the_stream_holds_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    nats_server: EmbeddedServer,
    bucket: str,
) -> None:
    one = CliNode(tmp_path, monkeypatch, capsys)
    one.use_server(nats_server.url, bucket)
    monkeypatch.setenv("SUDO_USER", "alice")
    assert one.run("store", "init").code == 0
    assert one.run("bootstrap").code == 0
    assert one.run("key", "revoke", "--all", "--reason", "a test", "--yes").code == 0
    machine = this_node(str(one.config))

    async def ship() -> None:
        ports = wiring.open_ports(machine.config)
        await Shipper(wiring.journal(machine), ports.trail, node="node-a", role=Role.LEADER).ship()
        await ports.store.close()

    asyncio.run(ship())
    genesis, revoked = [json.loads(line) for line in one.run("audit", "--json").out.splitlines()]
    assert (genesis["what"], genesis["who"]["program"], genesis["who"]["sudo"]) == ("genesis", "bootstrap", "alice")
    assert (revoked["facts"]["reason"], revoked["who"]["program"]) == ("a test", "key revoke")
    answer = one.run("audit", "--verify", "--json")
    assert (answer.code, answer.json["whole"], answer.json["source"]) == (0, True, "stream")
    assert one.run("reset", "--yes").code == 0
    assert not (one.state / "audit").exists()


def test_a_trail_that_cannot_be_written_is_told_and_stops_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = CliNode(tmp_path, monkeypatch, capsys)
    one.hold(1)
    (one.state / "audit").mkdir(mode=0o777)
    (one.state / "audit").chmod(0o777)
    answer = one.run("key", "revoke", "--all", "--reason", "a test", "--yes")
    assert answer.code == 0
    assert "alarm [unsafe-file]" in answer.err
    assert "audit can be used by others" in answer.err
