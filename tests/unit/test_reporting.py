"""What an agent reports of itself, from its real parts in virtual time."""

from __future__ import annotations

from keydist.core.keyset import State
from keydist.core.record import Minted
from keydist.core.report import Report
from keydist.core.restart import InStore, Role
from keydist.errors import BusyError
from keydist.services.acknowledged import BOUNDS, Acknowledged
from keydist.services.reporting import Reporter
from tests.fakes.memory_store import Fault
from tests.fakes.virtual_loop import run_virtually
from tests.material import NOW, Change, chain, extend, make_record
from tests.unit.agent_world import HEARTBEAT, Cluster, Member, passes

ONE, TWO, THREE = chain(3)


def reporter_of(member: Member) -> Reporter:
    return Reporter(member.self_(), member.clock, cluster="prod-eu1", role=member.role, failures=lambda: {"expired": 3})


def now_of(reporter: Reporter) -> Report:
    report = reporter.report()
    assert report is not None
    return report


def test_a_leader_reports_its_keyset_its_fleet_and_how_fast_that_took_an_epoch() -> None:
    async def main() -> None:
        cluster = Cluster()
        leader, follower = cluster.member("a", Role.LEADER, ONE), cluster.member("b", Role.FOLLOWER, ONE)
        cluster.bucket.put(ONE.envelope)
        reporter = reporter_of(leader)
        assert reporter.report() is None, "its agent does not run yet"
        async with leader.running(reporter=reporter), follower.running():
            await passes(3 * HEARTBEAT)
            cluster.bucket.put(extend(ONE, Change.ROTATE).envelope)
            await passes(2)
            report = now_of(reporter)
        assert report.store is InStore.SAME
        assert report.alarms == ()
        assert report.keyset is not None
        assert (report.keyset.epoch, report.keyset.confirmed) == (2, report.keyset.loaded)
        assert report.fleet is not None
        assert [(row.record.node, row.state) for row in report.fleet.nodes] == [("a", "current"), ("b", "current")]
        found = report.fleet.propagation
        assert (sum(found.counts), found.waiting) == (2, 0)
        assert found.total < 2
        assert report.failures == {"expired": 3}
        retired = next(key for key in report.keyset.keys if key.state is State.RETIRED)
        assert retired.drops is not None
        assert retired.since == report.keyset.loaded

    run_virtually(main())


def test_a_follower_reports_only_itself_and_one_without_a_keyset_says_so() -> None:
    async def main() -> None:
        member = Cluster().member("a", Role.FOLLOWER)
        member.store.fail_always("read", Fault.UNREACHABLE)
        reporter = reporter_of(member)
        async with member.running(reporter=reporter):
            await passes(5)
            report = now_of(reporter)
            assert (report.keyset, report.fleet) == (None, None)
            assert [alarm.code for alarm in report.alarms] == ["unreachable"]
            assert report.now - report.looked < 5
            member.hold(ONE)
            await passes(60)
            found = now_of(reporter)
            assert found.keyset is not None
            assert (found.keyset.confirmed, found.keyset.lease, found.fleet) == (None, None, None)

    run_virtually(main())


def test_what_is_on_disk_is_read_once_a_second_and_what_cannot_be_read_is_as_before() -> None:
    async def main() -> None:
        reads: list[int] = []
        member = Cluster().member("a", Role.FOLLOWER, ONE)

        def minted() -> dict[str, Minted]:
            reads.append(member.clock.now())
            if len(reads) > 1:
                raise BusyError("somebody else")
            return {ONE.keyset.active.kid: Minted(jwts=5, last_expiry=NOW)}

        own = member.self_()
        reporter = reporter_of(member)
        async with member.running(reporter=reporter):
            object.__setattr__(own, "minted", minted)
            reporter._self = own
            await passes(0)
            for _ in range(3):
                now_of(reporter)
            assert len(reads) == 1
            await passes(2)
            report = now_of(reporter)
            assert len(reads) == 2
            assert report.keyset is not None
            assert [key.minted.jwts for key in report.keyset.keys if key.state is State.ACTIVE] == [5, 0]

    run_virtually(main())


def test_nobody_counts_who_was_down_when_the_epoch_came_or_held_it_at_the_start() -> None:
    found = Acknowledged()
    here, there = make_record(ONE, node="a"), make_record(ONE, node="b")
    found.see(ONE, (here, there), taken=0.0, now=50.0)
    assert found.so_far().counts == (0,) * (len(BOUNDS) + 1)
    found.see(TWO, (here,), taken=100.0, now=100.0)
    assert found.so_far().waiting == 1
    found.see(TWO, (make_record(TWO, node="a"), make_record(TWO, node="b")), taken=100.0, now=100.7)
    assert (sum(found.so_far().counts), found.so_far().waiting) == (1, 0)
    assert found.so_far().counts[BOUNDS.index(1.0)] == 1
    found.see(THREE, (make_record(TWO, node="a"),), taken=200.0, now=200.0)
    found.see(THREE, (make_record(THREE, node="a"),), taken=200.0, now=9000.0)
    assert found.so_far().counts[-1] == 1, "longer than any bound"
