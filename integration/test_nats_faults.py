"""NATS fails under a fleet of real agents, one fault at a time: what is promised holds, and everything heals.

kill -9 of the stream's leader at random moments of a genesis, a rotation and a token's replacement, stores lost and put
back, disks full. `KEYDIST_TEST_FAULT_ROUNDS` (1) says how often each of the random moments is drawn, from
`KEYDIST_TEST_SEED`. A long run: 10.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from integration.cluster import Cluster
from integration.fleet import Fleet
from integration.healing import heal
from integration.nodes import Gate, Run
from integration.parted import OVERDUE
from integration.promises import SETTINGS, Promises
from integration.replacement import Replacement
from integration.stores import SmallDisks, copy_store, put_store_back
from keydist.core.accept import Held
from keydist.core.entry import Stored
from keydist.errors import KeydistError
from tests.material import TOKEN

ROUNDS: Final = int(os.environ.get("KEYDIST_TEST_FAULT_ROUNDS", "1"))
SEED: Final = int(os.environ.get("KEYDIST_TEST_SEED") or random.randrange(2**32))
LEADERS: Final = ("lead-1", "lead-2")
FOLLOWERS: Final = ("f-1", "f-2", "f-3")
SERVERS: Final = range(3)
_GENESIS_SECONDS: Final = 0.8
"""About as long as two leaders need for a first key, with all loaded."""
_COMMAND_SECONDS: Final = 1.5
_LATE: Final = 60.0
pytestmark = [pytest.mark.alone, pytest.mark.timeout(180 + 60 * ROUNDS)]


@pytest.fixture(scope="module")
def moments() -> random.Random:
    print(f"KEYDIST_TEST_SEED={SEED}")
    return random.Random(SEED)


class World(NamedTuple):
    """A fleet, watched; `disks` are there where this is root."""

    cluster: Cluster
    fleet: Fleet
    promises: Promises
    disks: SmallDisks | None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    cluster = Cluster(tmp_path_factory.mktemp("faults"), leaders=LEADERS, followers=FOLLOWERS)
    with ExitStack() as stack:
        disks = stack.enter_context(SmallDisks(cluster)) if os.geteuid() == 0 else None
        stack.enter_context(cluster)
        asyncio.run(cluster.make_buckets())
        fleet = stack.enter_context(Fleet(cluster, settings=SETTINGS))
        fleet.start(["lead-1"])
        fleet.start()
        yield World(cluster, fleet, stack.enter_context(Promises(fleet)), disks)


@pytest.fixture
def world(made: World) -> Iterator[World]:
    """Everything runs and is well before a test, and is again after it: one keyset, a rotation, no alarm."""
    yield made
    print(heal(made.cluster))
    made.promises.check()  # a fleet that broke one may come to no rest
    made.promises.wait_rotation(_LATE)
    made.fleet.wait_same(_LATE)
    made.fleet.wait_quiet(_LATE)
    made.promises.check()
    print(made.promises.take())


def stored(cluster: Cluster) -> bytes | None:
    """Return what the stream's leader holds; None where that is nothing, or cannot be had at the moment."""

    async def read() -> bytes | None:
        async with cluster.store("lead-1", request_seconds=1) as store:
            found = await store.read(from_leader=True)
            return found.envelope if isinstance(found, Stored) else None

    try:
        return asyncio.run(read())
    except KeydistError:
        return None


def kill_stream_leader(cluster: Cluster) -> int:
    killed = cluster.wait_stream_leader()
    cluster.kill(killed)
    return killed


def come_back(cluster: Cluster, number: int) -> None:
    cluster.start_server(number)
    cluster.wait_healthy(number)


# --- the stream's leader dies -----------------------------------------------------------------------


def test_the_stream_leader_dies_during_a_genesis(moments: random.Random, tmp_path: Path) -> None:
    with Cluster(tmp_path / "servers", leaders=LEADERS) as cluster:
        for number in range(ROUNDS + 1):
            if number:
                cluster.wipe_all()
            asyncio.run(cluster.make_buckets())
            killed = cluster.wait_stream_leader()
            nodes = [cluster.node(name, directory=tmp_path / str(number) / name) for name in LEADERS]
            gate = Gate(len(nodes))
            runs = [node.start(gate) for node in nodes]
            gate.open()
            time.sleep(moments.uniform(0, _GENESIS_SECONDS))
            cluster.kill(killed)
            had = sum(node.load().held is not None for node in nodes)
            answers = [run.answer() for run in runs]
            print(f"{had} of {len(nodes)} had the key then; {[answer['outcome'] for answer in answers]}")
            held = [node.load().held for node in nodes]
            assert len({one.digest for one in held if one is not None}) == 1, "two first keys"
            assert None not in held
            come_back(cluster, killed)
            assert {node.run()["kid"] for node in nodes} == {answers[0]["kid"]}
            assert stored(cluster) == held[0].envelope if held[0] is not None else None


def lose_stream_leader(world: World, run: Run, moments: random.Random) -> None:
    """Kill the stream's leader while a command runs, which ends with 0 or 75, and bring it back."""
    time.sleep(moments.uniform(0, _COMMAND_SECONDS))
    killed = kill_stream_leader(world.cluster)
    code, answer = run.end()
    print(f"the command ended with {code}: {answer.get('error', {}).get('code', 'done')}")
    assert code in (0, 75)
    come_back(world.cluster, killed)


def test_the_stream_leader_dies_during_a_rotation(world: World, moments: random.Random) -> None:
    for _ in range(ROUNDS):
        before = world.fleet.wait_same()
        run = start_command(world, "key", "rotate", "--wait", "--timeout", "30s")
        lose_stream_leader(world, run, moments)
        world.fleet.until(lambda before=before: has_rotated(world.promises, before), "a rotation", _LATE)  # type: ignore[misc]
        code, answer = start_command(world, "key", "rotate", "--timeout", "30s").end()  # what is next is as good as new
        assert code in (0, 75), answer


def start_command(world: World, *arguments: str) -> Run:
    return world.fleet.members["lead-1"].node.start_command(*arguments)


def has_rotated(promises: Promises, before: Held) -> bool:
    return promises.latest().keyset.active.kid != before.keyset.active.kid


# --- stores are lost, and put back -------------------------------------------------------------------


def test_one_store_is_lost_and_is_as_good_as_the_others_afterwards(world: World) -> None:
    leader = world.cluster.wait_stream_leader()
    lost, other = (leader + 1) % 3, (leader + 2) % 3
    world.cluster.wipe(lost)
    world.promises.wait_rotation(_LATE)
    come_back(world.cluster, lost)
    world.cluster.kill(other)  # from here on nothing is written without the one that had lost everything
    world.promises.wait_rotation(_LATE)
    come_back(world.cluster, other)


def revoke(world: World) -> str:
    """Revoke the key that signs, and return its kid once every node has seen it."""
    kid = world.fleet.wait_same().keyset.active.kid
    answer = start_command(world, "key", "revoke", kid, "--reason", "a test", "--yes").answer()
    world.fleet.wait_epoch(answer["epoch"])
    return kid


def check_revoked(world: World, kid: str) -> None:
    """Every floor has it. That nobody takes its JWTs is looked at all the time (`Promises`)."""
    for name in world.fleet.members:
        floor = world.fleet.load(name).floor
        assert floor is not None
        assert kid in floor.revoked


def lose(world: World, copies: Path | None) -> None:
    """Kill all servers; they come back with nothing, or with earlier copies. The operator makes what is missing."""
    if copies is None:
        world.cluster.wipe_all()
    else:
        for number in SERVERS:
            put_store_back(world.cluster, number, copies / str(number))
        world.cluster.start()
    asyncio.run(world.cluster.make_buckets())


@pytest.mark.parametrize("is_put_back", [False, True], ids=["all wiped", "all put back to an earlier day"])
def test_all_stores_forget_a_revocation(world: World, tmp_path: Path, *, is_put_back: bool) -> None:
    for number in SERVERS:
        copy_store(world.cluster, number, tmp_path / str(number))
    kid = revoke(world)
    before = world.fleet.wait_same()
    lose(world, tmp_path if is_put_back else None)
    found: list[bytes] = []

    def is_healed() -> bool:
        if (envelope := stored(world.cluster)) is not None:
            found.append(envelope)
        known = {held.envelope: held.keyset.epoch for held in world.promises.history.values()}
        return bool(found) and known.get(found[-1], 0) >= before.keyset.epoch

    seconds = world.fleet.until(is_healed, "a leader to put the keyset back", _LATE)
    print(f"put back {seconds:.1f} s after there were buckets again")
    check_revoked(world, kid)
    world.promises.wait_rotation(_LATE)
    check_revoked(world, kid)


# --- disks are full -----------------------------------------------------------------------------------


def restart_with_room(world: World, disks: SmallDisks, number: int) -> None:
    """Make room on a disk. nats-server has turned JetStream off there, and only a start turns it on."""
    world.cluster.stop_server(number)
    disks.free(number)
    world.cluster.start_server(number)


def test_disks_of_the_servers_are_full(world: World) -> None:
    if world.disks is None:
        pytest.skip("disks that fill up take root")
    first = world.cluster.wait_stream_leader()
    world.disks.fill(first)
    world.promises.wait_rotation(_LATE)  # the two others go on
    for number in SERVERS:
        world.disks.fill(number)
    members = world.fleet.members.values()
    world.fleet.until(lambda: all(one.alarms().keys() - {OVERDUE} for one in members), "every node to alarm", _LATE)
    code, answer = start_command(world, "key", "rotate", "--timeout", "3s").end()
    assert (code, answer["error"]["family"]) == (75, "transient"), answer
    assert "a full disk ends it until nats-server is started again" in answer["error"]["fix"]
    before = world.fleet.wait_same()
    for name in ("lead-2", "f-1"):  # with no store at all, a node starts with what it has
        world.fleet.stop(name)
        world.fleet.start_agent(name)
        world.fleet.members[name].wait_started()
    assert world.fleet.wait_same().digest == before.digest
    for number in SERVERS:
        restart_with_room(world, world.disks, number)
    world.cluster.wait_ready()


# --- the token: last, as it is the fleet's first token only once ---------------------------------------


def test_the_stream_leader_dies_while_the_token_is_replaced(world: World, moments: random.Random) -> None:
    replacement = Replacement(world.fleet, world.promises)
    run = start_command(world, "token", "rotate", "--new-token-file", replacement.file, "--wait", "--timeout", "20s")
    lose_stream_leader(world, run, moments)
    replacement.finish()
    for name in world.fleet.members:
        floor = world.fleet.load(name).floor
        assert floor is not None
        assert floor.token_id == replacement.new.token_id
        assert floor.superseded == {TOKEN.token_id}
