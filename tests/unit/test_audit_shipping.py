"""From the journal into the stream: each record once and in order, whatever is lost, taken away or put back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from keydist.adapters.trail.journal import FileJournal
from keydist.core.accept import Held
from keydist.core.audit import Event, Link, Place, What
from keydist.core.audit_chain import check_next
from keydist.core.audit_record import parse_entry
from keydist.core.restart import Role
from keydist.errors import BrokenTrailError, BucketMissingError, ConflictError, KeydistError, StoreTimeoutError
from keydist.services.read_trail import check, compare, in_journal, in_stream
from keydist.services.ship_trail import Shipper
from tests.fakes.entropy import NumberedEntropy
from tests.fakes.faulty_system import FaultySystem
from tests.fakes.memory_store import Fault
from tests.fakes.memory_trail import MemoryTrail, MemoryTrailStream
from tests.material import NOW
from tests.unit.audit_material import NODE, THREE, WHO, chained, event_of, key_of

ONE = THREE[0]


class Node:
    """A node's journal and what brings it into the stream; `restarted` is the next process."""

    def __init__(self, state: Path, trail: MemoryTrail, *, role: Role = Role.FOLLOWER) -> None:
        state.mkdir(mode=0o700, exist_ok=True)
        self.state, self.trail, self.role = state, trail, role
        self.journal = FileJournal(str(state), NODE, NumberedEntropy(state.name), system=FaultySystem())
        self.stream = MemoryTrailStream(trail)
        self.shipper = Shipper(self.journal, self.stream, node=NODE.node, role=role)

    def restarted(self) -> Node:
        return Node(self.state, self.trail, role=self.role)

    def write(self, count: int, held: Held = ONE) -> None:
        for _ in range(count):
            self.journal.append(event_of(held), at=NOW, who=WHO)

    def shipped(self) -> list[int]:
        """Return the numbers of what the stream holds of it, which is whole chain by chain."""
        links: dict[str, Link] = {}
        found = []
        for raw in self.trail.of(NODE.node):
            chain = parse_entry(raw).chain
            entry = check_next(raw, links.get(chain), place=NODE, key_of=key_of).entry
            links[chain] = entry.link
            found.append(entry.seq)
        return found


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "state", MemoryTrail())


async def test_everything_is_shipped_once_and_in_order(node: Node) -> None:
    await node.shipper.ship()
    assert node.shipped() == []
    node.write(70)
    await node.shipper.ship()
    node.write(2)
    await node.shipper.ship()
    await node.shipper.ship()
    await node.restarted().shipper.ship()
    assert node.shipped() == list(range(1, 73))
    noted = node.journal.shipped()
    assert noted is not None
    assert noted.seq == 72
    assert node.stream.calls.count("last") == 2  # at first, and with nothing to ship


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("restarts", [False, True])
async def test_after_any_failure_it_goes_on_without_a_double(
    node: Node, fault: Fault, number: int, *, restarts: bool
) -> None:
    node.write(3)
    publish, count = node.trail.put, 0

    def counted(name: str, record: bytes) -> int:
        nonlocal count
        count += 1
        if count == number:
            node.stream.fail("publish", fault)
        return publish(name, record)

    node.trail.put = counted  # type: ignore[method-assign, assignment]
    if number == 0:
        node.stream.fail("publish", fault)
    with pytest.raises(KeydistError):
        await node.shipper.ship()
    node.stream.heal()
    await (node.restarted() if restarts else node).shipper.ship()
    assert node.shipped() == [1, 2, 3]


async def test_what_was_stored_and_is_looked_for_in_vain_is_asked_for_again(node: Node) -> None:
    node.write(2)
    node.stream.fail("publish", Fault.LOST_ACKNOWLEDGEMENT)
    with pytest.raises(StoreTimeoutError):
        await node.shipper.ship()
    node.stream.fail("last", Fault.UNREACHABLE)
    with pytest.raises(KeydistError):
        await node.shipper.ship()
    await node.shipper.ship()
    assert node.shipped() == [1, 2]


async def test_a_replica_that_is_late_costs_another_look(node: Node) -> None:
    node.write(2)
    await node.shipper.ship()
    node.write(1)
    again = node.restarted()
    real, late = again.stream.last, [node.trail.records[0]]

    async def last(name: str) -> object:
        return late.pop() if late else await real(name)

    again.stream.last = last  # type: ignore[method-assign, assignment]
    await again.shipper.ship()
    assert node.shipped() == [1, 2, 3]
    late += [node.trail.records[0]] * 9
    node.write(1)
    final = node.restarted()
    final.stream.last = last  # type: ignore[method-assign, assignment]
    with pytest.raises(ConflictError):
        await final.shipper.ship()
    assert node.shipped() == [1, 2, 3]


async def test_only_a_leader_makes_a_stream_that_is_missing(tmp_path: Path) -> None:
    follower = Node(tmp_path / "state", MemoryTrail(exists=False))
    follower.write(1)
    with pytest.raises(BucketMissingError):
        await follower.shipper.ship()
    leader = Node(tmp_path / "state", follower.trail, role=Role.LEADER)
    await leader.shipper.ship()
    assert leader.shipped() == [1]
    follower.trail.drop()
    await leader.restarted().shipper.ship()
    assert leader.shipped() == [1]  # a stream that was lost is written again from the journal


async def test_a_stream_that_lost_everything_gets_it_again(node: Node) -> None:
    node.write(3)
    await node.shipper.ship()
    node.trail.records.clear()
    node.write(1)
    await node.shipper.ship()
    assert node.shipped() == [1, 2, 3, 4]
    del node.trail.records[2:]
    await node.shipper.ship()  # although nothing new happened
    assert node.shipped() == [1, 2, 3, 4]


async def test_a_new_chain_follows_the_one_that_went_with_the_disk(node: Node) -> None:
    node.write(2)
    await node.shipper.ship()
    shutil.rmtree(node.state)
    anew = Node(node.state.parent / "other", node.trail)
    anew.write(2)
    await anew.shipper.ship()
    assert node.shipped() == [1, 2, 1, 2]
    await anew.restarted().shipper.ship()
    assert node.shipped() == [1, 2, 1, 2]


async def test_a_journal_that_was_put_back_to_an_earlier_state_is_told_and_overwrites_nothing(node: Node) -> None:
    node.write(1)
    shutil.copytree(node.state, node.state.parent / "backup")
    node.write(2)
    await node.shipper.ship()
    shutil.rmtree(node.state)
    shutil.copytree(node.state.parent / "backup", node.state)
    for _ in range(3):  # behind the stream, then with other records of the same numbers
        with pytest.raises(BrokenTrailError) as caught:
            await node.restarted().shipper.ship()
        assert (caught.value.seq, caught.value.wrong) == (3, "two-histories")
        node.write(1, THREE[1])
    assert node.shipped() == [1, 2, 3]
    shutil.rmtree(node.state / "audit")  # as the message says
    anew = Node(node.state.parent / "state2", node.trail)
    anew.write(1)
    await anew.shipper.ship()
    assert node.shipped() == [1, 2, 3, 1]


@pytest.mark.parametrize(
    "junk", [b"junk", chained()[0], chained(place=Place(cluster="c", node="b"))[0]], ids=["junk", "a chain", "another"]
)
async def test_what_others_put_between_stops_nothing(node: Node, junk: bytes) -> None:
    node.write(2)
    await node.shipper.ship()
    node.trail.put(NODE.node, junk)
    node.write(1)
    await node.shipper.ship()
    await node.restarted().shipper.ship()
    assert [raw for raw in node.trail.of(NODE.node) if raw != junk] == list(node.journal.read_after(None, most=9))


async def test_a_damaged_record_is_told_and_not_shipped(node: Node) -> None:
    node.write(2)
    (file,) = (node.state / "audit").glob("*.jsonl")
    file.write_bytes(file.read_bytes().replace(b'"seq":2', b'"seq":"2"'))
    with pytest.raises(BrokenTrailError, match="record 2 in this node's audit journal is damaged"):
        await node.shipper.ship()
    assert node.shipped() == [1]


async def test_a_record_that_stands_twice_in_the_journal_is_told_and_shipped_once(node: Node) -> None:
    node.write(3)
    (file,) = (node.state / "audit").glob("*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], *lines]))
    for _ in range(3):
        with pytest.raises(BrokenTrailError, match=r"record 2 .* is damaged: record 1 stands there"):
            await node.restarted().shipper.ship()
    assert node.shipped() == [1]


async def test_records_that_are_gone_from_the_journal_are_not_missed(node: Node) -> None:
    node.write(3)
    await node.shipper.ship()
    del node.trail.records[1:]  # the stream forgot two, and the journal has only one of them still
    (file,) = (node.state / "audit").glob("*.jsonl")
    name = file.name.replace(f"{1:016d}", f"{3:016d}")
    (file.parent / name).write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[2:]))
    (file.parent / name).chmod(0o600)
    file.unlink()
    await node.restarted().shipper.ship()
    assert [parse_entry(raw).seq for raw in node.trail.of(NODE.node)] == [1, 3]  # a gap, which a check names


def test_an_event_of_the_agents_own_is_signed_by_the_key_in_use() -> None:
    (raw,) = chained([Event(what=What.FOUND, held=THREE[1])])
    assert parse_entry(raw).kid == THREE[1].keyset.active.kid


async def test_a_node_of_another_name_begins_a_chain_and_ships_nothing_of_the_old_one(node: Node) -> None:
    """A rename in the configuration, and a machine that was cloned with its state directory."""
    node.write(70)
    await node.shipper.ship()
    node.write(70)  # not shipped before the name changed
    renamed = Place(cluster=NODE.cluster, node="node-z")
    journal = FileJournal(str(node.state), renamed, NumberedEntropy("z"), system=FaultySystem())
    assert journal.last() is None
    journal.append(event_of(ONE), at=NOW, who=WHO)
    shipper = Shipper(journal, node.stream, node="node-z", role=Role.FOLLOWER)
    stream = in_stream(node.stream, node="node-z")
    assert compare(journal, journal.shipped(), None, node="node-z") == (1, None)
    await shipper.ship()
    journal.append(event_of(ONE), at=NOW, who=WHO)
    await shipper.ship()
    assert [parse_entry(raw).seq for raw in node.trail.of("node-z")] == [1, 2]
    assert len(node.trail.of(NODE.node)) == 70
    found = await check(stream, cluster=NODE.cluster, key_of=key_of)
    assert (found["node-z"].records, found["node-z"].broken) == (2, None)
    assert compare(journal, journal.shipped(), found["node-z"], node="node-z") == (0, None)
    mine = await check(in_journal(journal, node="node-z"), cluster=NODE.cluster, key_of=key_of)
    assert {name: (one.records, one.broken) for name, one in mine.items()} == {
        NODE.node: (140, None),
        "node-z": (2, None),
    }
