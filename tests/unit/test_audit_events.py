"""What the services tell the audit trail: one record for each thing that happens to a node's keyset, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from keydist.adapters.retry import TenacityRetry
from keydist.core.accept import Held
from keydist.core.audit import Link
from keydist.core.audit_record import compose
from keydist.core.local import Local
from keydist.core.restart import InStore, Role
from keydist.core.strict import b64url_encode
from keydist.errors import DiskError, KeydistError
from keydist.services.bootstrap import bootstrap
from keydist.services.change import set_policy
from keydist.services.node import Node
from keydist.services.reconcile import Genesis, Reconciler
from keydist.services.recover import inspect_fork, keep_local, keep_store, republish, restore
from keydist.services.replace_token import Wish, replace_token
from keydist.services.revoke import revoke
from tests.fakes.clock import VirtualClock
from tests.fakes.genesis import genesis_of
from tests.fakes.memory_disk import MemoryKeysetDisk
from tests.fakes.memory_store import Fault, MemoryBucket, MemoryKeysetStore
from tests.fakes.memory_trail import RecordingAuditor
from tests.fakes.notifier import RecordingNotifier
from tests.material import OTHER_TOKEN, TOKEN, Change, altered, chain, demands, extend
from tests.unit.audit_material import CHAIN, NODE, WHO
from tests.unit.command_world import Operator

ONE, TWO, THREE = chain(3)
OTHER = extend(chain(1)[0], Change.ROTATE, name="other ")


class World:
    """A node that holds a history, a bucket, and who hears what is audited."""

    def __init__(self, *history: Held, role: Role = Role.LEADER) -> None:
        self.bucket, self.disk, self.clock = MemoryBucket(), MemoryKeysetDisk(), VirtualClock()
        self.store = MemoryKeysetStore(self.bucket, self.clock)
        self.audit, self.role = RecordingAuditor(), role
        for held in history:
            self.disk.install(held, based_on=self.disk.load((TOKEN,)), now=self.clock.now())

    @property
    def node(self) -> Node:
        return Node(
            store=self.store,
            disk=self.disk,
            clock=self.clock,
            demands=demands(),
            role=self.role,
            audit=self.audit,
        )

    async def start(self) -> None:
        """Bootstrap, as a process that starts does."""

        async def made() -> bytes:
            return ONE.envelope

        await bootstrap(
            self.node,
            self.disk.load((TOKEN,)),
            genesis=genesis_of(made),
            retry=TenacityRetry(self.clock),
            notifier=RecordingNotifier(),
            seconds=5,
        )


STARTS: dict[str, tuple[tuple[Held, ...], bytes | None, Role, list[tuple[str, str, int]]]] = {
    "a first key": ((), None, Role.LEADER, [("genesis", "generated", 1)]),
    "a key that is there": ((), TWO.envelope, Role.LEADER, [("epoch", "adopted", 2)]),
    "a follower's first key": ((), TWO.envelope, Role.FOLLOWER, [("epoch", "retrieved", 2)]),
    "a later epoch": ((ONE,), TWO.envelope, Role.FOLLOWER, [("epoch", "retrieved", 2)]),
    "nothing new": ((ONE,), ONE.envelope, Role.LEADER, []),
    "a store that lost it": ((ONE, TWO), None, Role.LEADER, [("put-back", "", 2)]),
    "a store that lost it, and a follower": ((ONE, TWO), None, Role.FOLLOWER, []),
    "an earlier epoch": ((ONE, TWO), ONE.envelope, Role.LEADER, [("put-back", "", 2)]),
    "a fork": ((ONE, TWO), OTHER.envelope, Role.LEADER, [("refused", "", 2)]),
    "something tampered with": ((ONE,), altered(TWO.envelope, -3), Role.FOLLOWER, [("refused", "", 1)]),
    "something that is none, and no keyset": ((), b"junk", Role.FOLLOWER, []),
}


@pytest.mark.parametrize(("history", "stored", "role", "told"), STARTS.values(), ids=STARTS)
async def test_a_start_tells_what_it_did(
    history: tuple[Held, ...], stored: bytes | None, role: Role, told: list[tuple[str, str, int]]
) -> None:
    world = World(*history, role=role)
    if stored is not None:
        world.bucket.put(stored)
    try:
        await world.start()
    except KeydistError:
        assert not told
    assert world.audit.told() == told
    for event in world.audit.events:
        compose(event, NODE, Link(chain=CHAIN), at=0, who=WHO)  # it fits into a record


async def test_what_is_refused_over_and_over_is_told_once_by_a_process() -> None:
    world = World(ONE, TWO)
    world.bucket.put(OTHER.envelope)

    async def none() -> None:
        raise AssertionError

    work = Reconciler(world.node, world.disk.load((TOKEN,)), Genesis(ask_living=none, first_envelope=none))  # type: ignore[arg-type]
    for _ in range(3):
        await work.attempt()
    (event,) = world.audit.events
    assert event.facts == {"code": "fork", "refused": b64url_encode(OTHER.digest)}


def operator(audit: RecordingAuditor, **options: object) -> tuple[Operator, Callable[[], object]]:
    one = Operator(**options)  # type: ignore[arg-type]
    return one, lambda: replace(one.command, node=replace(one.command.node, audit=audit))


async def test_a_revocation_tells_of_its_keys_and_its_reason() -> None:
    audit = RecordingAuditor()
    one, command = operator(audit)
    kid = one.held.keyset.active.kid
    await revoke(command(), one.local, kids=frozenset({kid}), reason="stolen")  # type: ignore[arg-type]
    (event,) = audit.events
    assert audit.told() == [("epoch", "written", 2)]
    assert (event.facts["revoked"], event.facts["reason"]) == ((kid,), "stolen")
    assert event.held.keyset.active.kid != kid  # which does not sign the record of its own revocation
    await revoke(command(), one.local, kids=frozenset({kid}), reason="again")  # type: ignore[arg-type]
    assert len(audit.events) == 1


async def test_another_token_and_another_policy_are_told() -> None:
    audit = RecordingAuditor()
    one, command = operator(audit, tokens=(TOKEN, OTHER_TOKEN))
    await replace_token(command(), one.local, Wish(OTHER_TOKEN))  # type: ignore[arg-type]
    await set_policy(command(), one.local, {"rotate_every": 7200})  # type: ignore[arg-type]
    assert [event.facts["change"] for event in audit.events] == [("token-replaced",), ("policy",)]
    assert audit.events[0].facts["token"] == OTHER_TOKEN.token_id


async def test_an_epoch_that_was_not_written_is_not_told() -> None:
    audit = RecordingAuditor()
    one, command = operator(audit)
    one.store.fail_always("replace", Fault.FORBIDDEN)
    with pytest.raises(KeydistError):
        await revoke(command(), one.local, kids=None, reason="x")  # type: ignore[arg-type]
    assert audit.events == []


async def test_an_epoch_that_was_written_and_cannot_be_installed_here_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    audit = RecordingAuditor()
    one, command = operator(audit)

    def full(_disk: MemoryKeysetDisk, _new: Held, *, based_on: Local, now: int) -> None:
        raise DiskError(f"the disk is full at {now}", found=str(based_on.held is None))

    monkeypatch.setattr(MemoryKeysetDisk, "install", full)
    with pytest.raises(DiskError):
        await revoke(command(), one.local, kids=None, reason="x")  # type: ignore[arg-type]
    assert audit.told() == [("epoch", "written", 2)]


async def test_what_a_person_puts_back_or_resolves_is_told() -> None:
    world = World(ONE, TWO)
    local = world.disk.load((TOKEN,))
    await republish(world.node, local)
    await republish(world.node, local)  # it is there
    assert world.audit.told() == [("put-back", "", 2)]
    world.bucket.put(OTHER.envelope)
    fork = await inspect_fork(world.node, local)
    assert fork is not None
    await keep_local(world.node, local, fork)
    assert world.audit.told()[1:] == [("resolved", "keep local", 2)]
    assert world.audit.events[1].facts == {"found": InStore.REFUSED.value, "over": b64url_encode(OTHER.digest)}


async def test_the_side_of_a_fork_that_is_given_up_is_told() -> None:
    world = World(ONE, TWO)
    local = world.disk.load((TOKEN,))
    world.bucket.put(OTHER.envelope)
    fork = await inspect_fork(world.node, local)
    assert fork is not None
    keep_store(world.node, local, fork)
    (event,) = world.audit.events
    assert (event.what, event.how, event.held) == ("resolved", "keep store", OTHER)
    assert event.facts["given_up"] == b64url_encode(TWO.digest)


def test_a_restored_backup_is_told() -> None:
    world = World()
    restore(world.node, world.disk.load((TOKEN,)), TWO.envelope)
    restore(world.node, world.disk.load((TOKEN,)), TWO.envelope)  # it is here
    assert world.audit.told() == [("restored", "", 2)]


def test_a_node_without_a_trail_does_everything_all_the_same() -> None:
    world = World()
    node = Node(store=world.store, disk=world.disk, clock=world.clock, demands=demands(), role=Role.LEADER)
    restore(node, node.disk.load((TOKEN,)), TWO.envelope)
    assert node.disk.load((TOKEN,)).held == TWO
