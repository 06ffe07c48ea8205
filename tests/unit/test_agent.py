"""The long-running part of a node in virtual time: what its service manager hears, and that no part ends the others."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from keydist.core.local import Confirmation
from keydist.core.policy import Policy
from keydist.core.restart import Role
from keydist.errors import DiskError, HookFailedError, InternalError, KeydistError, TokenError
from tests.fakes.memory_store import Fault
from tests.fakes.virtual_loop import run_virtually
from tests.material import DAY, NOW, chain, hold, make_keyset
from tests.unit.agent_world import HEARTBEAT, RESYNC, Cluster, passes

ONE, TWO = chain(2)


def test_it_is_ready_once_and_only_with_a_keyset_on_disk_and_then_tells_how_it_stands() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = cluster.member("a")
        async with member.running(stays=True):
            await passes(60)
            assert member.manager.named("ready") == member.manager.named("status") == []
            cluster.bucket.put(ONE.envelope)
            await passes(0.01)
            assert member.manager.named("ready") == ["epoch 1, healthy"]
            cluster.bucket.put(TWO.envelope)
            await passes(0.01)
            cluster.bucket.put(b"junk")
            await passes(0.01)
        assert member.manager.named("status")[-2:] == [
            "epoch 2, healthy",
            "epoch 2, 1 alarm(s): " + member.journal.named("alarm")[-1]["alarm"].message,  # type: ignore[attr-defined]
        ]
        assert len(member.manager.named("ready")) == 1
        async with member.running(stays=True):
            await passes(1)
        assert len(member.manager.named("ready")) == 2, "again after a reload, which it ends"

    run_virtually(main())


def test_with_a_keyset_on_disk_it_is_ready_before_the_store_is_asked() -> None:
    async def main() -> None:
        member = Cluster().member("a", Role.FOLLOWER, ONE)
        member.store.fail_always("read", Fault.UNREACHABLE)
        async with member.running():
            await passes(0)
            await passes(0)
            assert member.manager.times("ready") == [0]

    run_virtually(main())


@pytest.mark.parametrize("watchdog_seconds", [3.0, 30.0, 600.0])
def test_the_watchdog_is_told_more_than_twice_in_its_time(watchdog_seconds: float) -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(ONE.envelope)
        member = cluster.member("a", watchdog_seconds=watchdog_seconds)
        async with member.running():
            await passes(3 * watchdog_seconds)
        found = [0.0, *member.manager.times("watchdog")]
        assert max(later - sooner for sooner, later in pairwise(found)) < watchdog_seconds / 2

    run_virtually(main())


def test_the_watchdog_is_no_longer_told_where_the_store_is_no_longer_looked_at() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = cluster.member("a", Role.FOLLOWER, ONE, watchdog_seconds=30.0)

        async def hang(seconds: float) -> None:
            await passes(10 * DAY)

        member.store.wait_for_notice = hang  # type: ignore[method-assign]
        async with member.running():
            await passes(DAY)
        assert 2 * RESYNC <= member.manager.times("watchdog")[-1] <= 2 * RESYNC + 60

    run_virtually(main())


def test_a_leader_alone_begins_a_cluster_and_a_follower_joins_it() -> None:
    async def main() -> None:
        cluster = Cluster()
        leader, follower = cluster.member("lead", Role.LEADER), cluster.member("b")
        async with follower.running(), leader.running():
            await passes(5)
            assert leader.folder.live is not None
            assert leader.folder.live == follower.folder.live
            assert {cluster.said(name).epoch for name in ("lead", "b")} == {1}
        assert cluster.said("lead").leaving

    run_virtually(main())


def test_a_first_key_is_not_made_while_a_live_node_holds_one_and_that_is_told() -> None:
    async def main() -> None:
        cluster = Cluster()
        follower, leader = cluster.member("b", Role.FOLLOWER, ONE), cluster.member("lead", Role.LEADER)
        async with follower.running(), leader.running():
            await passes(100)
            assert cluster.bucket.writes == 0
            assert [event["alarm"].code for event in leader.journal.named("alarm")] == ["refused-genesis"]  # type: ignore[attr-defined]
            cluster.bucket.put(ONE.envelope)
            await passes(1)
            assert leader.folder.live == ONE

    run_virtually(main())


def test_what_keeps_a_node_from_following_is_an_alarm_from_the_start() -> None:
    async def main() -> None:
        member = Cluster().member("a", Role.FOLLOWER, ONE, tokens=())
        async with member.running(own_alarms=lambda: (TokenError("there is no token"),)):
            await passes(0.01)
            [said] = member.manager.named("ready")
            assert said.startswith("epoch 1, ")
            assert said.endswith(" alarm(s): there is no token")

    run_virtually(main())


def test_what_runs_beside_it_alarms_while_it_has_something_to_say() -> None:
    async def main() -> None:
        cluster, said = Cluster(), list[KeydistError]()
        cluster.bucket.put(ONE.envelope)
        member = cluster.member("a")
        async with member.running(own_alarms=lambda: tuple(said)):
            await passes(40)
            said.append(HookFailedError("the hook fails"))
            await passes(40)
            said.clear()
            await passes(40)
        assert [event["alarm"].code for event in member.journal.named("alarm")] == ["hook-failed"]  # type: ignore[attr-defined]
        assert [event["code"] for event in member.journal.named("alarm-over")] == ["hook-failed"]

    run_virtually(main())


def test_what_only_time_brings_about_is_an_alarm_when_its_time_comes() -> None:
    async def main() -> None:
        cluster = Cluster()
        held = hold(make_keyset(1, policy=Policy(rotate_every=3600)))
        cluster.bucket.put(held.envelope)
        member = cluster.member("a")
        member.hold(held, at=NOW - 3600)
        member.disk.note_done(rehearsed=NOW - 100)
        async with member.running(rehearse_every=2000):
            await passes(900 + 880)  # a follower allows for a leader that waits anew
            assert member.journal.named("alarm") == []
            await passes(2 * HEARTBEAT + 20)
            assert [event["alarm"].code for event in member.journal.named("alarm")] == ["overdue"]  # type: ignore[attr-defined]
            await passes(200)
            told = [event["alarm"].message for event in member.journal.named("alarm")]  # type: ignore[attr-defined]
            assert told == ["a rotation is overdue: its time came", "the last rehearsal of a backup is too long ago"]

    run_virtually(main())


def test_a_clock_behind_the_last_confirmation_is_an_alarm() -> None:
    async def main() -> None:
        member = Cluster().member("a", Role.FOLLOWER, ONE)
        member.disk.confirm(Confirmation(epoch=1, digest=ONE.digest, at=NOW + 3600))
        member.store.fail_always("read", Fault.UNREACHABLE)
        async with member.running():
            await passes(1)
            told = [event["alarm"].code for event in member.journal.named("alarm")]  # type: ignore[attr-defined]
            assert set(told) == {"clock-behind", "unreachable"}

    run_virtually(main())


def test_each_part_that_fails_beside_an_agent_has_an_alarm_of_its_own() -> None:
    async def main() -> None:
        member = Cluster().member("a")

        async def full() -> None:
            raise DiskError("no room")

        async def broken() -> None:
            raise ZeroDivisionError

        member.others = (full, broken)
        async with member.running():
            await passes(3.5 * HEARTBEAT)
            told = [event["alarm"] for event in member.journal.named("alarm")]
            assert {DiskError, InternalError} <= {type(alarm) for alarm in told}
            assert {"disk", "internal"}.isdisjoint(event["code"] for event in member.journal.named("alarm-over"))

    run_virtually(main())


def test_what_runs_beside_an_agent_stops_nothing_and_is_run_again() -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.bucket.put(ONE.envelope)
        member = cluster.member("a")
        runs: list[float] = []

        async def other() -> None:
            runs.append(member.clock.monotonic())
            if len(runs) == 1:
                raise ZeroDivisionError
            if len(runs) == 2:
                raise DiskError("i/o error")
            if len(runs) == 4:
                await asyncio.Event().wait()

        member.others = (other,)
        async with member.running():
            await passes(3.5 * HEARTBEAT)
            assert runs == [0, HEARTBEAT, 2 * HEARTBEAT, 3 * HEARTBEAT]
            told = [event["alarm"] for event in member.journal.named("alarm")]
            assert [type(alarm) for alarm in told] == [InternalError, DiskError]
            assert member.journal.named("alarm-over") == [{"code": "internal"}], "the last one stands"
            await passes(HEARTBEAT)
            assert member.journal.named("alarm-over")[1:] == [{"code": "disk"}], "until it lasts for a heartbeat"
            assert cluster.said("a").epoch == 1

    run_virtually(main())
