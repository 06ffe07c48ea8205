"""What a leader does unasked and when it holds back: whole agents in virtual time, and what only one step shows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import pytest

from keydist.core.accept import Held
from keydist.core.envelope import parse_envelope
from keydist.core.keyset import State
from keydist.core.policy import Policy
from keydist.core.record import Minted, Record
from keydist.core.restart import Role
from keydist.errors import DiskError
from tests.fakes.memory_disk import MemoryKeysetDisk
from tests.fakes.memory_records import MemoryRecords
from tests.fakes.memory_store import Fault
from tests.fakes.virtual_loop import run_virtually
from tests.material import (
    NOW,
    OTHER_LINEAGE,
    OTHER_TOKEN,
    TOKEN,
    Change,
    enc_key,
    extend,
    first,
    hold,
    make_keyset,
    make_record,
    sealed_record,
    sig_key,
    standing_keys,
)
from tests.unit.agent_world import HEARTBEAT, RESYNC, Cluster, Member, passes

EVERY, D = 3600, 900
POLICY = Policy(rotate_every=EVERY)
HELD = hold(make_keyset(1, policy=POLICY))
LATER = extend(HELD, Change.ROTATE)
QUIET = 3 * HEARTBEAT
SPAN = 60 + 604_800 + 86_400 + 60 + 4 * 30
"""R + G + L + λ + 4S: for how long a retired key stays."""


class Ghost:
    """A node that is heard, and that does nothing else; its counter rises with each record."""

    def __init__(self, cluster: Cluster, name: str = "ghost", **members: Any) -> None:  # noqa: ANN401 - of a record
        self._view = MemoryRecords(cluster.records)
        self._counter = count(1)
        self.name, self.held, self.members, self.token = name, HELD, members, TOKEN

    def record(self) -> Record:
        said = {"heartbeat": HEARTBEAT} | self.members
        return make_record(self.held, node=self.name, counter=next(self._counter), **said)

    async def say(self) -> None:
        await self._view.publish(self.name, sealed_record(self.record(), token=self.token))

    async def live(self, seconds: float) -> None:
        """Say it at each heartbeat for so long."""
        for _ in range(int(seconds / HEARTBEAT)):
            await self.say()
            await passes(HEARTBEAT)

    def answer(self, raw: Callable[[], bytes]) -> None:
        self._view.listen(heard=None, answer=raw)


def leading(cluster: Cluster, *history: Held, name: str = "lead", at: int = NOW - EVERY, put: bool = True) -> Member:
    """Return a leader that has held its keyset since `at`, so long that a rotation is due."""
    history = history or (HELD,)
    if put:
        cluster.bucket.put(history[-1].envelope)
    member = cluster.member(name, Role.LEADER)
    member.hold(*history, at=at)
    return member


def epoch_in(cluster: Cluster) -> int:
    """Return the epoch in the store."""
    return parse_envelope(cluster.bucket.content() or b"").header.epoch


def codes(member: Member) -> list[str]:
    """Return the codes of the alarms that stand."""
    told = [event["alarm"].code for event in member.journal.named("alarm")]  # type: ignore[attr-defined]
    for event in member.journal.named("alarm-over"):
        told.remove(event["code"])
    return told


def alarmed(member: Member, code: str) -> Any:  # noqa: ANN401 - a `KeydistError`
    """Return the last alarm of a code."""
    return [event["alarm"] for event in member.journal.named("alarm") if event["alarm"].code == code][-1]  # type: ignore[attr-defined]


def reconnected(cluster: Cluster) -> None:
    """Let everybody look, as after a loss of the connection."""
    for watcher in cluster.bucket._watchers:
        watcher.set()


# --- what is done -------------------------------------------------------------------------------


RETIRED = (sig_key("old", State.RETIRED), enc_key("old", State.RETIRED))
NEVER = Policy(rotate_every=0)
DROPS = hold(make_keyset(2, keys=(*standing_keys(), *RETIRED), policy=NEVER))
ACTIVE_ONLY = tuple(key for key in standing_keys() if key.state is State.ACTIVE)
COUNTED = Policy(rotate_every=0, max_tokens_per_key=5)


class Due(NamedTuple):
    """What a leader holds, what its record says was minted, and what it does about it."""

    held: Held
    does: str
    since: int
    minted: int = 0


DUE = {
    "its time came": Due(HELD, "rotate", NOW - EVERY),
    "it signed enough": Due(hold(make_keyset(1, policy=COUNTED)), "rotate", NOW - D, minted=5),
    "another algorithm waits": Due(
        hold(make_keyset(1, keys=(*ACTIVE_ONLY, sig_key("B", State.NEXT, alg="ES256"), enc_key("B", State.NEXT)))),
        "rotate",
        NOW - D,
    ),
    "retired keys may go": Due(DROPS, "drop", NOW - SPAN),
    "no next key is published": Due(hold(make_keyset(1, keys=ACTIVE_ONLY, policy=NEVER)), "publish", NOW),
}


@pytest.mark.parametrize("due", DUE.values(), ids=DUE)
def test_nothing_is_written_before_three_heartbeats_of_listening_and_then_what_is_due(due: Due) -> None:
    async def main() -> None:
        cluster = Cluster()
        member = leading(cluster, due.held, at=due.since)
        member.minted = {due.held.keyset.active.kid: Minted(due.minted, NOW)} if due.minted else {}
        async with member.running():
            await passes(QUIET - 0.01)
            assert cluster.bucket.writes == 1
            await passes(1.5 * HEARTBEAT)
            assert epoch_in(cluster) == due.held.keyset.epoch + 1
            assert member.journal.named("keyset-taken")[-1]["how"] == due.does
            assert codes(member) == []
            await passes(10 * HEARTBEAT)
            assert cluster.bucket.writes == 2, "once"

    run_virtually(main())


def test_a_rotation_lets_the_next_key_sign_and_publishes_one_of_its_kind() -> None:
    async def main() -> None:
        cluster = Cluster()
        held = DUE["another algorithm waits"].held
        member = leading(cluster, held, at=NOW - D)
        async with member.running():
            await passes(2 * QUIET)
        after = member.folder.live
        assert after is not None
        assert after.keyset.active.kid == sig_key("B", State.NEXT, alg="ES256").kid
        assert [key.alg for key in after.keyset.signing_keys() if key.state is State.NEXT] == ["ES256"]
        assert member.entropy.keys == [("ES256", 0)]

    run_virtually(main())


def test_a_cluster_rotates_on_schedule_and_every_node_follows() -> None:
    async def main() -> None:
        cluster = Cluster()
        leader, follower = cluster.member("lead", Role.LEADER, policy=POLICY), cluster.member("b")
        async with leader.running(), follower.running():
            await passes(4 * EVERY)
        assert leader.folder.live == follower.folder.live
        assert epoch_in(cluster) == 4
        assert leader.hearing.epochs == follower.hearing.epochs
        assert codes(leader) == codes(follower) == []

    run_virtually(main())


def test_two_leaders_at_once_write_one_epoch_and_neither_alarms() -> None:
    async def main() -> None:
        cluster = Cluster()
        one, other = leading(cluster), leading(cluster, name="other", put=False)
        for each in (one, other):  # both read the store before either writes
            make = each.entropy.signing_key

            async def slow(alg: str, bits: int, make: Any = make) -> bytes:  # noqa: ANN401 - as it is
                await passes(2 * HEARTBEAT)
                return bytes(await make(alg, bits))

            each.entropy.signing_key = slow  # type: ignore[method-assign]
        async with one.running(), other.running():
            await passes(QUIET + 6 * HEARTBEAT)
            assert len(one.entropy.keys) == len(other.entropy.keys) == 1
            assert (epoch_in(cluster), cluster.bucket.writes) == (2, 2)
            assert one.folder.live == other.folder.live
            assert codes(one) == codes(other) == []

    run_virtually(main())


def test_a_leader_that_loses_the_race_takes_what_the_other_wrote_without_an_alarm() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = leading(cluster)

        def faster(call: str) -> None:
            if call == "replace" and epoch_in(cluster) == 1:
                cluster.bucket.put(LATER.envelope)

        member.store.between = faster
        async with member.running():
            await passes(2 * QUIET)
            assert member.folder.live == LATER
            assert member.journal.named("alarm") == []

    run_virtually(main())


# --- what holds it back -------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [0, 2], ids=["noted", "the disk takes no note"])
def test_nothing_is_written_for_three_heartbeats_after_the_keyset_was_put_back(failures: int) -> None:
    async def main() -> None:
        cluster = Cluster()
        member = leading(cluster, hold(make_keyset(1, keys=ACTIVE_ONLY)), at=NOW)
        async with member.running():
            await passes(QUIET - HEARTBEAT)
            cluster.bucket.wipe()
            member.disk.fail(*[DiskError("i/o error")] * failures)
            reconnected(cluster)
            await passes(QUIET - 0.01)
            assert epoch_in(cluster) == 1
            await passes(1.5 * HEARTBEAT)
            assert epoch_in(cluster) == 2

    run_virtually(main())


def foreign() -> Held:
    return first("other ", lineage=OTHER_LINEAGE)


@pytest.mark.parametrize(
    ("shown", "code"),
    [
        pytest.param(lambda: hold(make_keyset(3, policy=NEVER)), "outdated", id="ahead"),
        pytest.param(foreign, "fork", id="another lineage"),
    ],
)
@pytest.mark.parametrize("ends", ["it leaves", "it dies"])
def test_nothing_is_written_while_a_live_node_is_ahead_or_of_another_lineage(
    shown: Callable[[], Held], code: str, ends: str
) -> None:
    async def main() -> None:
        cluster = Cluster()
        ghost = Ghost(cluster)
        ghost.held = shown()
        member = leading(cluster, DROPS, at=NOW - SPAN)
        async with member.running():
            await ghost.live(300)
            assert epoch_in(cluster) == 2
            assert codes(member) == [code]
            assert "ghost" in alarmed(member, code).message
            if ends == "it leaves":
                ghost.members = {"leaving": True}
                await ghost.say()
            await passes(QUIET + 1.5 * HEARTBEAT)
            assert epoch_in(cluster) == 3
            assert codes(member) == []

    run_virtually(main())


def test_after_a_republication_who_only_answers_and_is_ahead_holds_it_back_too() -> None:
    async def main() -> None:
        cluster = Cluster()
        ghost = Ghost(cluster, heartbeat=10 * HEARTBEAT)
        ghost.held = hold(make_keyset(3, policy=NEVER))
        ghost.answer(lambda: sealed_record(ghost.record()))
        Ghost(cluster, "junk").answer(lambda: b"junk")
        member = leading(cluster, hold(make_keyset(2, keys=ACTIVE_ONLY, policy=NEVER)), at=NOW, put=False)
        async with member.running():
            await passes(QUIET + 4 * HEARTBEAT)
            assert epoch_in(cluster) == 2
            assert "outdated" in codes(member)
            assert member.records.calls.count("ask_living") == 1

    run_virtually(main())


@pytest.mark.parametrize("fault", [Fault.FORBIDDEN, Fault.TIMEOUT, Fault.UNREACHABLE])
@pytest.mark.parametrize("at", [NOW - EVERY, NOW], ids=["a rotation is due", "nothing is due"])
def test_while_records_cannot_be_read_nothing_is_written_and_there_is_an_alarm(fault: Fault, at: int) -> None:
    async def main() -> None:
        cluster = Cluster()
        member = leading(cluster, at=at)
        member.records.fail_always("read_all", fault)
        async with member.running():
            await passes(10 * HEARTBEAT)
            assert epoch_in(cluster) == 1
            assert len(codes(member)) == 1
            member.records.heal()
            await passes(2 * HEARTBEAT)
            assert codes(member) == []
            assert epoch_in(cluster) == (2 if at < NOW else 1)

    run_virtually(main())


def test_records_that_become_unreadable_before_a_rotation_hold_it_back() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = leading(cluster, at=NOW + 100 - EVERY)
        async with member.running():
            await passes(50)
            member.records.fail_always("read_all", Fault.FORBIDDEN)
            await passes(100)
            assert (epoch_in(cluster), codes(member)) == (1, ["forbidden"])

    run_virtually(main())


def test_a_store_that_is_away_or_holds_something_else_is_not_written_to() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = leading(cluster)
        member.store.fail_always("read", Fault.UNREACHABLE)
        async with member.running():
            await passes(10 * HEARTBEAT)
            member.store.heal()
            cluster.bucket.put(foreign().envelope)
            await passes(10 * HEARTBEAT)
        assert cluster.bucket.content() == foreign().envelope
        assert "replace" not in member.store.calls

    run_virtually(main())


def test_a_rotation_waits_for_a_live_node_that_lacks_the_epoch_and_comes_when_that_acknowledges() -> None:
    async def main() -> None:
        cluster = Cluster()
        ghost = Ghost(cluster)
        ghost.held = hold(make_keyset(1))
        member = leading(cluster, at=NOW - EVERY - D)
        async with member.running():
            await ghost.live(300)
            assert epoch_in(cluster) == 1
            assert codes(member) == ["overdue"]
            assert "ghost" in alarmed(member, "overdue").found
            ghost.held = HELD
            await ghost.say()
            await passes(1)
            assert epoch_in(cluster) == 2

    run_virtually(main())


def test_a_node_that_was_not_heard_counts_once_its_record_is_read() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = leading(cluster)
        async with member.running():
            await passes(QUIET - HEARTBEAT)
            ahead = sealed_record(make_record(hold(make_keyset(3)), node="ghost", heartbeat=100))
            cluster.records.put("ghost", ahead, told=False)
            await passes(5 * HEARTBEAT)
            assert epoch_in(cluster) == 1
            assert "outdated" in codes(member)

    run_virtually(main())


def slow_keys(member: Member, meanwhile: Callable[[], object]) -> None:
    """Let something happen while a key is made."""
    make = member.entropy.signing_key

    async def slow(alg: str, bits: int) -> bytes:
        meanwhile()
        await passes(1)
        return await make(alg, bits)

    member.entropy.signing_key = slow  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "what",
    [
        "a faster leader",
        "a command on this node",
        "a loss of the store",
        "a reset",
        "a node that is ahead",
        "a node that is behind",
    ],
)
def test_what_happens_while_keys_are_made_counts(what: str) -> None:
    async def main() -> None:
        cluster = Cluster()
        member = leading(cluster)
        done: list[float] = []

        def meanwhile() -> None:
            if done:
                return
            done.append(member.clock.monotonic())
            if what == "a faster leader":
                cluster.bucket.put(LATER.envelope)
            elif what == "a command on this node":
                member.hold(LATER)
            elif what == "a node that is ahead":
                cluster.records.put("ghost", sealed_record(make_record(LATER, node="ghost", heartbeat=100)))
            elif what == "a node that is behind":
                lacking = make_record(HELD, node="ghost", heartbeat=100, digest=bytes(16))
                cluster.records.put("ghost", sealed_record(lacking))
            elif what == "a reset":
                MemoryKeysetDisk(member.folder).reset()
            else:
                cluster.bucket.wipe()
                reconnected(cluster)

        slow_keys(member, meanwhile)
        async with member.running():
            await passes(QUIET + 2 * RESYNC)
            assert done
            is_written = what in ("a faster leader", "a command on this node")  # which the agent puts into the store
            assert cluster.bucket.content() == (LATER if is_written else HELD).envelope

    run_virtually(main())


# --- what it alarms about -----------------------------------------------------------------------


def test_two_instances_under_one_name_are_an_alarm_while_both_live() -> None:
    async def main() -> None:
        cluster = Cluster()
        clone = Ghost(cluster, "lead", instance="c" * 32)
        member = leading(cluster, at=NOW)
        async with member.running():
            await clone.live(60)
            assert codes(member) == ["two-instances"]
            assert "lead" in alarmed(member, "two-instances").message
            await passes(QUIET + 1.5 * HEARTBEAT)
            assert codes(member) == []

    run_virtually(main())


def test_a_record_that_cannot_be_opened_is_an_alarm_until_it_can_or_is_gone() -> None:
    async def main() -> None:
        cluster = Cluster()
        ghosts = [Ghost(cluster, f"ghost-{number}") for number in range(6)]
        member = leading(cluster, at=NOW)
        async with member.running():
            for ghost in ghosts:
                ghost.token = OTHER_TOKEN
                await ghost.say()
            await passes(1.5 * HEARTBEAT)
            assert codes(member) == ["record-unreadable"] * 4, "some stand for many"
            for ghost in ghosts[:5]:
                ghost.token = TOKEN
                await ghost.say()
            await passes(1.5 * HEARTBEAT)
            assert codes(member) == ["record-unreadable"]
            assert "ghost-5" in alarmed(member, "record-unreadable").message
            del cluster.records.records["ghost-5"]
            await passes(3 * HEARTBEAT)
            assert codes(member) == []

    run_virtually(main())


def test_records_are_read_once_where_nothing_is_wrong_or_due() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = leading(cluster, at=NOW)
        async with member.running():
            await passes(100 * HEARTBEAT)
        assert member.records.calls.count("read_all") == 1

    run_virtually(main())


def test_a_defect_is_an_alarm_and_leading_goes_on() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = leading(cluster)
        make = member.entropy.signing_key
        broken = True

        async def defective(alg: str, bits: int) -> bytes:
            if broken:
                raise ZeroDivisionError
            return await make(alg, bits)

        member.entropy.signing_key = defective  # type: ignore[method-assign]
        async with member.running():
            await passes(5 * HEARTBEAT)
            assert codes(member) == ["internal"]
            broken = False
            await passes(2 * HEARTBEAT)
            assert (codes(member), epoch_in(cluster)) == ([], 2)

    run_virtually(main())


def test_what_is_wrong_with_a_new_epoch_on_disk_is_told() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = leading(cluster)
        async with member.running():
            await passes(QUIET - 1)

            def once(_confirmation: object) -> None:
                member.disk.confirm = confirm  # type: ignore[method-assign]
                raise DiskError("i/o error")

            confirm = member.disk.confirm

            def spoil(call: str) -> None:
                if call == "replace":
                    member.disk.confirm = once  # type: ignore[assignment,method-assign]

            member.store.between = spoil
            await passes(1.5 * HEARTBEAT)
            assert epoch_in(cluster) == 2
            assert "disk" in [event["alarm"].code for event in member.journal.named("alarm")]  # type: ignore[attr-defined]
            await passes(2 * HEARTBEAT)
            assert codes(member) == []

    run_virtually(main())
