"""Following the store: when it is looked at, what is taken and in which order, and that nothing ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import pytest

from keydist.core.accept import Held
from keydist.core.local import Confirmation
from keydist.core.policy import Policy
from keydist.core.restart import InStore, Role
from keydist.errors import BusyError, CorruptError, DiskError, DiskFullError, UnsafeFileError
from keydist.services.follow import follow
from keydist.services.present import Present
from tests.fakes.memory_disk import MemoryKeysetDisk
from tests.fakes.memory_store import Fault, MemoryBucket
from tests.fakes.virtual_loop import run_virtually
from tests.material import (
    NOW,
    OTHER_LINEAGE,
    OTHER_TOKEN,
    PLACE,
    TOKEN,
    Change,
    altered,
    chain,
    extend,
    first,
    hold,
    make_keyset,
    seal_for,
)
from tests.unit.agent_world import RESYNC, Cluster, Member, passes

ONE, TWO, THREE = chain(3)
OTHER_SIDE = extend(ONE, Change.REPLACE_NEXT, name="other side ")
SOON = 2.1


@asynccontextmanager
async def following(member: Member, *, resync: float = RESYNC) -> AsyncIterator[Present]:
    """Follow meanwhile; it must not end by itself."""
    present = member.present()
    work = follow(
        member.node,
        member.reconciler(),
        present,
        entropy=member.entropy,
        notifier=member.manager,
        resync=resync,
    )
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield present
        assert not task.done(), task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def codes(present: Present) -> list[str]:
    return [alarm.code for alarm in present.alarms]


def pauses(member: Member) -> list[float]:
    """Return the seconds between looks; what one look asks more than once counts once."""
    return [later - sooner for sooner, later in pairwise(member.looks) if later > sooner]


def written_by(member: Member) -> list[int]:
    """Return the times that the confirmations say which a node writes from now on."""
    written: list[int] = []
    confirm = member.disk.confirm

    def noted(confirmation: Confirmation) -> None:
        written.append(confirmation.at)
        confirm(confirmation)

    member.disk.confirm = noted  # type: ignore[method-assign]
    return written


# --- when ---------------------------------------------------------------------------------------


def test_while_nobody_answers_looks_are_soon_and_jittered_and_then_backed_off() -> None:
    async def main() -> None:
        member = Cluster().member("a")
        member.store.fail_always("read", Fault.UNREACHABLE)
        async with following(member):
            await passes(60)
        found = pauses(member)
        assert found[0] <= 0.05
        assert max(found) <= 2
        assert sum(found[-20:]) / 20 > 0.5
        assert len(set(found)) == len(found)

    run_virtually(main())


def test_a_store_that_was_away_is_found_within_two_seconds() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = cluster.member("a")
        member.store.fail_always("read", Fault.TIMEOUT)
        async with following(member) as present:
            await passes(600)
            cluster.bucket.put(ONE.envelope)
            member.store.heal()
            await passes(SOON)
            assert present.held == ONE
            assert codes(present) == []
            member.looks.clear()
            await passes(10)
            assert member.looks == []
            member.store.fail_always("read", Fault.UNREACHABLE)
            await passes(4 / 3 * RESYNC)
            assert codes(present) == ["unreachable"]
            assert pauses(member)[1] < 0.2, "progress makes the pauses short again"

    run_virtually(main())


def test_a_refusal_is_looked_at_again_less_often_and_heals_once_it_is_granted() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(ONE.envelope)
        member = cluster.member("a")
        member.store.fail_always("read", Fault.REFUSED)
        async with following(member) as present:
            await passes(300)
            assert codes(present) == ["credentials-refused"]
            assert 2 < sum(pauses(member)[-10:]) / 10 <= max(pauses(member)) <= 15
            member.store.heal()
            await passes(15)
            assert (present.held, codes(present)) == (ONE, [])
            member.looks.clear()
            member.store.fail_always("read", Fault.REFUSED)
            await passes(4 / 3 * RESYNC + 4)
            assert pauses(member)[0] <= 2, "progress makes the pauses short again"

    run_virtually(main())


def test_where_replicas_answer_and_the_leader_does_not_it_is_not_asked_all_the_time() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(ONE.envelope)
        member = cluster.member("a")
        member.store.fail_always("read_leader", Fault.UNREACHABLE)
        async with following(member) as present:
            await passes(600)
            assert present.held == ONE
            assert codes(present) == ["unconfirmed"]
            assert max(pauses(member)) <= 15
            assert sum(pauses(member)[-40:]) / 40 > 4
            member.store.heal()
            await passes(15)
            assert codes(present) == []

    run_virtually(main())


@pytest.mark.parametrize("kept", [ONE, TWO])
def test_a_mirror_of_a_bucket_that_was_made_anew_since_is_an_alarm_and_hides_nothing(kept: Held) -> None:
    async def main() -> None:
        cluster = Cluster()
        member = cluster.member("a")
        member.store.mirror = MemoryBucket()
        for old in (b"", b"", kept.envelope):
            member.store.mirror.put(old)
        cluster.bucket.put(ONE.envelope)
        cluster.bucket.put(TWO.envelope)
        async with following(member) as present:
            await passes(60)
            assert present.held == TWO
            assert codes(present) == ["stale-mirror"]
            member.store.mirror = None
            await passes(60)
            assert codes(present) == []

    run_virtually(main())


def test_a_replica_that_is_late_is_no_alarm() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = cluster.member("a")
        member.store.mirror = MemoryBucket()
        member.store.mirror.put(ONE.envelope)
        cluster.bucket.put(ONE.envelope)
        cluster.bucket.put(TWO.envelope)
        async with following(member) as present:
            await passes(60)
            assert present.held == TWO
            assert codes(present) == []

    run_virtually(main())


def test_beside_notices_the_store_is_looked_at_between_30_and_60_seconds() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(ONE.envelope)
        member = cluster.member("a", Role.FOLLOWER, ONE)
        async with following(member):
            await passes(6000)
        found = pauses(member)
        assert 30 <= min(found) < 35
        assert 55 < max(found) <= 60

    run_virtually(main())


@pytest.mark.parametrize("accident", [MemoryBucket.purge, MemoryBucket.wipe, MemoryBucket.drop])
def test_a_leader_heals_within_seconds_what_nobody_tells_it_of(accident: Callable[[MemoryBucket], None]) -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(ONE.envelope)
        member = cluster.member("a", Role.LEADER, ONE)
        async with following(member) as present:
            await passes(300)
            accident(cluster.bucket)
            cluster.bucket.exists = True
            await passes(10)
            assert cluster.bucket.content() == ONE.envelope
            assert present.found is InStore.SAME

    run_virtually(main())


def test_a_leader_looks_less_than_seven_seconds_apart_and_not_more_often_than_its_resync() -> None:
    async def looks(resync: float) -> list[float]:
        cluster = Cluster()
        cluster.bucket.put(ONE.envelope)
        member = cluster.member("a", Role.LEADER, ONE)
        async with following(member, resync=resync):
            await passes(600)
        return pauses(member)

    async def main() -> None:
        found = await looks(RESYNC)
        assert 3.3 < min(found) < 4
        assert 6 < max(found) < 6.7
        assert max(await looks(1.0)) < 1.4

    run_virtually(main())


@pytest.mark.parametrize(("freshness", "least"), [(120, 30), (60, 15), (3, 0), (2, 0), (1, 0)])
def test_a_leader_keeps_a_confirmation_while_most_of_the_freshness_is_left(freshness: int, least: int) -> None:
    async def main() -> None:
        cluster = Cluster()
        held = hold(make_keyset(policy=Policy(freshness=freshness)))
        cluster.bucket.put(held.envelope)
        member = cluster.member("a", Role.LEADER, held)
        written = written_by(member)
        async with following(member):
            await passes(1800)
        gaps = [later - sooner for sooner, later in pairwise(written)]
        assert least < min(gaps) <= max(gaps) <= least + 8
        if least == 0:
            assert len(written) == len(member.looks)

    run_virtually(main())


@pytest.mark.parametrize(
    ("kept", "at", "writes"),
    [
        (TWO, 0, False),
        (TWO, -30, False),
        (TWO, -31, True),
        (TWO, 1, True),
        (ONE, 0, True),
        (OTHER_SIDE, 0, True),
        (None, 0, True),
    ],
    ids=["now", "just", "old", "ahead", "another epoch", "another side", "nothing"],
)
@pytest.mark.parametrize("role", Role)
def test_what_is_kept_already_is_not_kept_again(role: Role, kept: Held | None, at: int, *, writes: bool) -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(TWO.envelope)
        member = cluster.member("a", role, ONE, TWO)
        if kept is not None:
            member.disk.confirm(Confirmation(epoch=kept.keyset.epoch, digest=kept.digest, at=member.clock.now() + at))
        written = written_by(member)
        async with following(member) as present:
            await passes(1)
            assert codes(present) == []
        assert written == ([NOW] if writes else [])

    run_virtually(main())


def test_a_confirmation_that_another_process_removes_is_kept_again() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(TWO.envelope)
        member = cluster.member("a", Role.LEADER, ONE, TWO)
        async with following(member):
            await passes(1)
            MemoryKeysetDisk(member.folder).reset()
            await passes(7)
            assert member.folder.confirmation is not None

    run_virtually(main())


def test_a_notice_leads_to_a_look_at_once() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(ONE.envelope)
        member = cluster.member("a", Role.FOLLOWER, ONE)
        async with following(member) as present:
            await passes(1)
            cluster.bucket.put(TWO.envelope)
            await passes(0.01)
            assert present.held == TWO

    run_virtually(main())


def test_who_waits_for_a_first_key_is_told_why_with_time_enough_for_a_slow_look() -> None:
    async def main() -> None:
        member = Cluster().member("a")
        async with following(member) as present:
            await passes(1)
        assert set(member.manager.named("waiting")) == {
            "waiting for a leader to publish the key: nothing was ever written to it"
        }
        assert min(member.manager.left) >= 30
        assert present.held is None

    run_virtually(main())


def test_when_the_store_was_last_looked_at_is_known_whatever_came_of_it() -> None:
    async def main() -> None:
        member = Cluster().member("a", Role.FOLLOWER, ONE)
        member.store.fail_always("read", Fault.UNREACHABLE)
        async with following(member) as present:
            await passes(100)
            assert present.turned == member.looks[-1]

    run_virtually(main())


# --- what ---------------------------------------------------------------------------------------


def test_a_keyset_is_durable_before_anybody_hears_of_it() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = cluster.member("a")
        async with following(member) as present:
            for held in (ONE, TWO, THREE):
                cluster.bucket.put(held.envelope)
                await passes(SOON)
                assert present.held == held
        assert member.hearing.heard == [(1, True), (2, True), (3, True)]

    run_virtually(main())


def test_a_keyset_that_cannot_be_made_durable_is_not_used() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(TWO.envelope)
        member = cluster.member("a", Role.FOLLOWER, ONE)
        member.disk.fail(*[DiskFullError("no space is left")] * 2)
        async with following(member) as present:
            await passes(1)
            assert (present.held, codes(present)) == (ONE, ["disk-full"])
            assert member.hearing.epochs == [1]
            await passes(4 / 3 * RESYNC)
            assert (present.held, codes(present)) == (TWO, [])

    run_virtually(main())


def wiped(bucket: MemoryBucket) -> None:
    bucket.wipe()


def purged(bucket: MemoryBucket) -> None:
    bucket.purge()


@pytest.mark.parametrize(
    ("accident", "code"),
    [
        pytest.param(wiped, "store-lost", id="wiped"),
        pytest.param(purged, "store-lost", id="purged"),
        pytest.param(MemoryBucket.delete, "store-lost", id="deleted"),
        pytest.param(MemoryBucket.drop, "store-lost", id="the bucket is gone"),
        pytest.param(lambda bucket: bucket.put(ONE.envelope), "rollback", id="an ancestor"),
        pytest.param(lambda bucket: bucket.put(OTHER_SIDE.envelope), "fork", id="another side"),
        pytest.param(lambda bucket: bucket.put(first("x", lineage=OTHER_LINEAGE).envelope), "fork", id="a lineage"),
        pytest.param(lambda bucket: bucket.put(altered(THREE.envelope, -9)), "tampered", id="tampered"),
        pytest.param(lambda bucket: bucket.put(b"junk"), "malformed", id="junk"),
        pytest.param(
            lambda bucket: bucket.put(seal_for(make_keyset(3), token=OTHER_TOKEN)), "wrong-token", id="another token"
        ),
        pytest.param(
            lambda bucket: bucket.put(seal_for(make_keyset(3), place=PLACE._replace(cluster="prod-eu2"))),
            "foreign-cluster",
            id="another cluster",
        ),
    ],
)
def test_the_last_good_keyset_stays_in_use_whatever_the_store_holds(
    accident: Callable[[MemoryBucket], None], code: str
) -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(TWO.envelope)
        member = cluster.member("a", Role.FOLLOWER, ONE, TWO)
        async with following(member) as present:
            await passes(1)
            accident(cluster.bucket)
            await passes(4 / 3 * RESYNC)
            assert codes(present) == [code]
            assert present.held == member.folder.live == TWO
            cluster.bucket.exists = True
            cluster.bucket.put(TWO.envelope)
            await passes(1)
            assert (codes(present), present.found) == ([], InStore.SAME)

    run_virtually(main())


def test_a_late_replica_takes_nobody_back_and_alarms_nobody() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(ONE.envelope)
        cluster.bucket.put(TWO.envelope)
        member = cluster.member("a", Role.FOLLOWER, ONE, TWO)
        async with following(member) as present:
            await passes(1)
            member.store.stale_reads = 1
            await passes(4 / 3 * RESYNC)
            assert member.store.stale_reads == 0
            assert (present.held, present.found, codes(present)) == (TWO, InStore.SAME, [])

    run_virtually(main())


def test_each_answered_look_confirms_and_writes_nothing_else() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(ONE.envelope)
        member = cluster.member("a", Role.FOLLOWER, ONE)
        async with following(member):
            await passes(1)
            changes, confirmations = member.folder.changes, member.folder.confirmations
            await passes(3600)
        assert member.folder.changes == changes
        assert 60 <= member.folder.confirmations - confirmations <= 120
        assert member.folder.confirmation is not None
        assert NOW + 3540 <= member.folder.confirmation.at <= NOW + 3601

    run_virtually(main())


# --- other processes on the same directory ------------------------------------------------------


def test_what_another_process_installs_while_it_is_installed_here_is_taken_in() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = cluster.member("a", Role.FOLLOWER, ONE)
        install = member.disk.install

        def meanwhile(new: Held, **given: object) -> None:
            if member.folder.live == ONE:
                member.hold(TWO)
            install(new, **given)  # type: ignore[arg-type]

        member.disk.install = meanwhile  # type: ignore[method-assign]
        cluster.bucket.put(TWO.envelope)
        async with following(member) as present:
            await passes(SOON)
            assert (present.held, codes(present)) == (TWO, [])
            assert member.hearing.epochs == [1, 2]
        assert member.journal.named("alarm") == [], "a command on a node is nothing to alarm about"

    run_virtually(main())


def test_a_side_that_a_person_chose_on_this_node_is_followed_from_the_next_look_on() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(OTHER_SIDE.envelope)
        member = cluster.member("a", Role.FOLLOWER, ONE, TWO)
        async with following(member) as present:
            await passes(1)
            assert codes(present) == ["fork"]
            other = MemoryKeysetDisk(member.folder)
            other.override(OTHER_SIDE, based_on=other.load((TOKEN,)), now=NOW)
            await passes(4 / 3 * RESYNC)
            assert (present.held, codes(present)) == (OTHER_SIDE, [])

    run_virtually(main())


@pytest.mark.parametrize("role", Role)
def test_a_node_that_was_reset_takes_the_keyset_again(role: Role) -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(TWO.envelope)
        member = cluster.member("a", role, ONE, TWO)
        async with following(member) as present:
            await passes(1)
            MemoryKeysetDisk(member.folder).reset()
            await passes(4 / 3 * RESYNC)
            assert present.held == member.folder.live == TWO

    run_virtually(main())


def test_a_leader_that_was_reset_in_an_empty_cluster_begins_with_another_key_not_with_the_one_before() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = cluster.member("a", Role.LEADER)
        async with following(member) as present:
            await passes(3)
            before = present.held
            cluster.bucket.wipe()
            MemoryKeysetDisk(member.folder).reset()
            await passes(4 / 3 * RESYNC)
            assert before is not None
            assert present.held is not None
            assert present.held.keyset.lineage != before.keyset.lineage

    run_virtually(main())


# --- nothing ends it ----------------------------------------------------------------------------


def test_a_defect_is_an_alarm_without_its_text_and_looking_goes_on() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(TWO.envelope)
        member = cluster.member("a", Role.FOLLOWER, ONE)

        def broken(_call: str) -> None:
            raise LookupError("a secret")

        member.store.between = broken
        async with following(member) as present:
            await passes(60)
            [alarm] = present.alarms
            assert alarm.code == "internal"
            assert alarm.found.startswith("LookupError in tests.unit.test_follow:")
            assert "secret" not in str(alarm)
            assert present.held == ONE
            member.store.between = None
            await passes(15)
            assert (present.held, codes(present)) == (TWO, [])

    run_virtually(main())


@pytest.mark.parametrize(
    "failure", [DiskError("i/o error"), BusyError("locked"), UnsafeFileError("mode")], ids=lambda error: error.code
)
def test_a_confirmation_that_cannot_be_kept_is_an_alarm_until_it_can(failure: DiskError) -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(ONE.envelope)
        member = cluster.member("a", Role.FOLLOWER, ONE)
        member.disk.fail(failure)
        async with following(member) as present:
            await passes(0.01)
            assert (present.held, codes(present)) == (ONE, [failure.code])
            await passes(4 / 3 * RESYNC)
            assert (present.held, codes(present)) == (ONE, [])

    run_virtually(main())


def test_a_damaged_disk_is_named_while_the_store_is_away_and_healed_from_it() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(ONE.envelope)
        member = cluster.member("a", Role.FOLLOWER, ONE)
        member.folder.is_damaged = True
        member.store.fail_always("read", Fault.UNREACHABLE)
        async with following(member) as present:
            await passes(10)
            assert codes(present) == ["unreachable", CorruptError.code]
            member.store.heal()
            await passes(SOON)
            assert present.held == ONE
            await passes(4 / 3 * RESYNC)
            assert codes(present) == []

    run_virtually(main())
