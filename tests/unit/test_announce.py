"""What a node tells the fleet: when, under which token, with a counter that rises, and that nothing ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from keydist.core.envelope import Place
from keydist.core.record import MAX_ALARMS, Minted, Record, open_record
from keydist.core.restart import Role
from keydist.errors import DiskError, KeydistError, RefusedGenesisError, StoreTimeoutError
from keydist.services.living import refuse_where_living
from tests.fakes.memory_disk import MemoryKeysetDisk
from tests.fakes.memory_records import Fate, MemoryRecords
from tests.fakes.memory_store import Fault
from tests.fakes.virtual_loop import run_virtually
from tests.material import NOW, OTHER_TOKEN, PLACE, TOKEN, Change, chain, extend, first
from tests.unit.agent_world import HEARTBEAT, Cluster, Member, passes

ONE, TWO = chain(2)
KID = ONE.keyset.active.kid


class Watching:
    """Hears every record that is written, with the time."""

    def __init__(self, cluster: Cluster, *tokens: Any) -> None:  # noqa: ANN401 - tokens
        self.heard: list[tuple[float, Record]] = []
        self._tokens = tokens or (TOKEN,)
        self.view = MemoryRecords(cluster.records)
        self.view.listen(heard=self._hear, answer=None)

    def _hear(self, name: str, raw: bytes) -> None:
        record = open_record(raw, node=name, place=PLACE, tokens=self._tokens)
        self.heard.append((asyncio.get_running_loop().time(), record))

    @property
    def records(self) -> list[Record]:
        return [record for _, record in self.heard]

    def pauses(self) -> list[float]:
        return [later - sooner for (sooner, _), (later, _) in pairwise(self.heard)]


def begun(cluster: Cluster, role: Role = Role.FOLLOWER, **options: Any) -> Member:  # noqa: ANN401 - of `Member`
    """Return a member whose disk and store hold the first epoch."""
    cluster.bucket.put(ONE.envelope)
    return cluster.member("a", role, ONE, **options)


def test_a_record_says_who_a_node_is_and_what_it_uses() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = begun(cluster, minted={KID: Minted(3, NOW + 9), "A" * 43: Minted(1, NOW)})
        await passes(5)
        async with member.running():
            await passes(0.1)
        said = cluster.said("a")
        assert (said.node, said.role, said.heartbeat, said.version) == ("a", Role.FOLLOWER, HEARTBEAT, "test")
        assert (said.lineage, said.epoch, said.digest) == (ONE.keyset.lineage, 1, ONE.digest)
        assert (said.kid, said.token, said.tokens) == (KID, TOKEN.token_id, (TOKEN.token_id,))
        assert (said.persisted, said.loaded) == (NOW, NOW + 5)
        assert dict(said.minted) == {KID: Minted(3, NOW + 9)}, "counts of keys that are listed, and of no other"

    run_virtually(main())


def test_a_record_is_written_at_the_start_and_at_each_heartbeat_a_tenth_sooner_or_later() -> None:
    async def main() -> None:
        cluster = Cluster()
        watching = Watching(cluster)
        async with begun(cluster).running(stays=True):
            await passes(3000)
        assert watching.heard[0][0] == 0
        found = watching.pauses()
        assert 0.9 * HEARTBEAT <= min(found) < 0.92 * HEARTBEAT
        assert 1.08 * HEARTBEAT < max(found) <= 1.1 * HEARTBEAT

    run_virtually(main())


def test_a_record_is_written_at_each_change_at_once() -> None:
    async def main() -> None:
        cluster = Cluster()
        watching = Watching(cluster)
        async with begun(cluster).running(stays=True):
            await passes(1)
            cluster.bucket.put(TWO.envelope)
            await passes(0.01)
            assert [record.epoch for record in watching.records] == [1, 2]
            cluster.bucket.put(b"junk")
            await passes(0.01)
            cluster.bucket.put(TWO.envelope)
            await passes(0.01)
            assert [record.alarms for record in watching.records[2:]] == [("malformed",), ()]

    run_virtually(main())


def test_the_counter_rises_over_reloads_and_restarts_and_answers() -> None:
    async def main() -> None:
        cluster = Cluster()
        watching = Watching(cluster)
        member = begun(cluster)
        for stays in (True, False, True):
            async with member.running(stays=stays):
                await passes(25)
                for answer in await watching.view.ask_living(1):
                    watching._hear("a", answer)
        counters = [record.counter for record in watching.records]
        assert counters == sorted(set(counters))
        assert len(counters) > 12
        assert len({record.instance for record in watching.records}) == 1

    run_virtually(main())


def test_a_node_says_that_it_leaves_when_it_stops_and_not_when_it_reloads() -> None:
    async def main() -> None:
        cluster = Cluster()
        watching = Watching(cluster)
        member = begun(cluster)
        async with member.running(stays=True):
            await passes(1)
        assert not any(record.leaving for record in watching.records)
        async with member.running(stays=False):
            await passes(1)
        assert [record.leaving for record in watching.records] == [False, False, True]

    run_virtually(main())


@pytest.mark.parametrize("fault", [Fault.UNREACHABLE, Fault.TIMEOUT, Fault.FORBIDDEN])
def test_a_node_that_cannot_say_that_it_leaves_stops_all_the_same(fault: Fault) -> None:
    async def main() -> None:
        cluster = Cluster()
        member = begun(cluster)
        async with member.running():
            await passes(1)
            member.records.fail_always("publish", fault)
        assert not cluster.said("a").leaving

    run_virtually(main())


def test_a_server_that_hangs_keeps_a_node_from_stopping_for_a_second_at_most() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = begun(cluster)
        async with member.running():
            await passes(1)

            async def hang(name: str, record: bytes) -> None:
                await passes(3600)

            member.records.publish = hang  # type: ignore[method-assign]
        assert member.clock.monotonic() == 2

    run_virtually(main())


@pytest.mark.parametrize("fault", [Fault.UNREACHABLE, Fault.TIMEOUT, Fault.FORBIDDEN, Fault.LOST_ACKNOWLEDGEMENT])
def test_failures_back_off_never_end_and_are_one_alarm(fault: Fault) -> None:
    async def main() -> None:
        cluster = Cluster()
        member = begun(cluster)
        member.records.fail_always("publish", fault)
        async with member.running(stays=True):
            await passes(2)
            soon = len(member.records.calls)
            await passes(598)
            later = len(member.records.calls) - soon
            assert 3 <= soon <= 30
            assert 598 / (HEARTBEAT / 2) <= later <= 4 * 598 / HEARTBEAT
            [alarm] = member.journal.named("alarm")
            assert isinstance(alarm["alarm"], KeydistError)
            member.records.heal()
            await passes(HEARTBEAT / 2)
            assert len(member.journal.named("alarm-over")) == 1
            await passes(1)
            assert cluster.said("a").alarms == ()

    run_virtually(main())


def test_a_record_that_the_server_forgot_is_written_again_at_the_next_heartbeat() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = begun(cluster)
        member.records.befall(Fate.FORGOTTEN)
        async with member.running(stays=True):
            await passes(1)
            assert cluster.records.records == {}
            await passes(1.1 * HEARTBEAT)
            assert cluster.said("a").epoch == 1

    run_virtually(main())


@pytest.mark.parametrize(("role", "alarmed"), [(Role.LEADER, []), (Role.FOLLOWER, ["bucket-missing"])])
def test_a_missing_bucket_is_made_by_a_leader_and_told_by_a_follower(role: Role, alarmed: list[str]) -> None:
    async def main() -> None:
        cluster = Cluster()
        cluster.records.drop()
        member = begun(cluster, role)
        async with member.running(stays=True):
            await passes(1)
            assert [event["alarm"].code for event in member.journal.named("alarm")] == alarmed  # type: ignore[attr-defined]
            assert cluster.records.exists is (role is Role.LEADER)
            cluster.records.exists = True
            await passes(HEARTBEAT / 2)
            assert cluster.said("a").epoch == 1

    run_virtually(main())


def test_without_a_keyset_nothing_is_said_nor_answered() -> None:
    async def main() -> None:
        cluster = Cluster()
        watching = Watching(cluster)
        async with cluster.member("a").running():
            await passes(5 * HEARTBEAT)
            assert await watching.view.ask_living(1) == ()
        assert cluster.records.publishes == []

    run_virtually(main())


def test_without_a_token_nothing_is_said_but_no_first_key_is_made_past_this_node() -> None:
    async def main() -> None:
        cluster = Cluster()
        member = begun(cluster, tokens=())
        cluster.bucket.wipe()
        async with member.running():
            await passes(5 * HEARTBEAT)
            with pytest.raises(RefusedGenesisError, match="cannot be opened"):
                await refuse_where_living(MemoryRecords(cluster.records), place=PLACE, tokens=(TOKEN,))
            async with cluster.member("fresh", Role.LEADER).running():
                await passes(5 * HEARTBEAT)
                assert cluster.bucket.content() is None
            elsewhere = Place(cluster="another", location=PLACE.location)
            await refuse_where_living(MemoryRecords(cluster.records), place=elsewhere, tokens=(TOKEN,))
        assert cluster.records.publishes == []

    run_virtually(main())


def damage(member: Member) -> None:
    member.folder.is_damaged = True


def seal_to_another(member: Member) -> None:
    member.disk = MemoryKeysetDisk(member.folder, sealed=True)
    member.tokens = (OTHER_TOKEN,)


def lose_all_but_the_floor(member: Member) -> None:
    member.folder.live = None


def lose_all_but_the_damage(member: Member) -> None:
    damage(member)
    member.folder.floor = None


SIGNS = {
    "a damaged keyset": damage,
    "a damaged keyset and no floor": lose_all_but_the_damage,
    "a sealed keyset without its token": seal_to_another,
    "only a floor": lose_all_but_the_floor,
}


@pytest.mark.parametrize("lose", SIGNS.values(), ids=SIGNS)
@pytest.mark.parametrize("role", Role)
def test_no_first_key_is_made_past_a_node_with_a_sign_of_an_earlier_keyset(
    lose: Callable[[Member], None], role: Role
) -> None:
    async def main() -> None:
        cluster = Cluster()
        member = begun(cluster, role)
        cluster.bucket.wipe()
        lose(member)
        async with member.running():
            await passes(5 * HEARTBEAT)
            with pytest.raises(RefusedGenesisError, match="cannot be opened") as caught:
                await refuse_where_living(MemoryRecords(cluster.records), place=PLACE, tokens=(TOKEN,))
            assert "node a" in (caught.value.found or "")
            async with cluster.member("fresh", Role.LEADER).running():
                await passes(5 * HEARTBEAT)
                assert cluster.bucket.content() is None
            elsewhere = Place(cluster="another", location=PLACE.location)
            await refuse_where_living(MemoryRecords(cluster.records), place=elsewhere, tokens=(TOKEN,))
        assert cluster.records.publishes == [], "it says nothing unasked"
        assert member.manager.named("ready") == []

    run_virtually(main())


def test_a_node_that_was_damaged_answers_with_its_record_once_it_is_healed() -> None:
    async def main() -> None:
        cluster = Cluster()
        watching = Watching(cluster)
        member = begun(cluster)
        cluster.bucket.wipe()
        lose_all_but_the_floor(member)
        async with member.running():
            await passes(HEARTBEAT)
            cluster.bucket.put(ONE.envelope)
            await passes(5 * HEARTBEAT)
            [answer] = await watching.view.ask_living(1)
        assert open_record(answer, node="a", place=PLACE, tokens=(TOKEN,)).epoch == 1

    run_virtually(main())


@pytest.mark.parametrize(
    ("tokens", "current", "under"),
    [
        pytest.param((TOKEN, OTHER_TOKEN), TOKEN, TOKEN, id="the first line"),
        pytest.param((OTHER_TOKEN, TOKEN), TOKEN, TOKEN, id="the second line"),
        pytest.param((TOKEN, OTHER_TOKEN), OTHER_TOKEN, OTHER_TOKEN, id="the new one"),
        pytest.param((OTHER_TOKEN,), TOKEN, OTHER_TOKEN, id="the only one, where the current is not held"),
    ],
)
def test_a_record_is_sealed_under_the_token_of_the_keyset_whatever_the_order_of_lines(
    tokens: Any,  # noqa: ANN401 - tokens
    current: Any,  # noqa: ANN401 - a token
    under: Any,  # noqa: ANN401 - a token
) -> None:
    async def main() -> None:
        cluster = Cluster()
        held = first(token=current)
        cluster.bucket.put(held.envelope)
        member = cluster.member("a", Role.FOLLOWER, held, tokens=tokens)
        async with member.running():
            await passes(1)
        said = cluster.said("a", under)
        assert (said.token, said.tokens) == (current.token_id, tuple(token.token_id for token in tokens))

    run_virtually(main())


def test_when_the_token_changes_the_next_record_is_under_the_new_one() -> None:
    async def main() -> None:
        cluster = Cluster()
        watching = Watching(cluster, OTHER_TOKEN, TOKEN)
        member = begun(cluster, tokens=(TOKEN, OTHER_TOKEN))
        async with member.running(stays=True):
            await passes(1)
            cluster.bucket.put(extend(ONE, Change.RESEAL, token=OTHER_TOKEN).envelope)
            await passes(1)
        assert [record.token for record in watching.records] == [TOKEN.token_id, OTHER_TOKEN.token_id]
        assert cluster.said("a", OTHER_TOKEN).epoch == 2

    run_virtually(main())


@pytest.mark.parametrize("role", Role)
def test_who_asks_hears_what_a_node_holds_now(role: Role) -> None:
    async def main() -> None:
        cluster = Cluster()
        watching = Watching(cluster)
        async with begun(cluster, role).running():
            await passes(1)
            [answer] = await watching.view.ask_living(1)
        said = open_record(answer, node="a", place=PLACE, tokens=(TOKEN,))
        assert (said.lineage, said.epoch, said.digest) == (ONE.keyset.lineage, 1, ONE.digest)

    run_virtually(main())


def test_a_defect_while_a_record_is_made_is_an_alarm_no_answer_and_no_end() -> None:
    async def main() -> None:
        cluster = Cluster()
        watching = Watching(cluster)
        member = begun(cluster)
        broken = True

        def minted() -> dict[str, Minted]:
            if broken:
                raise ZeroDivisionError
            return {}

        self_ = member.self_()
        object.__setattr__(self_, "minted", minted)
        async with member.running(self_=self_):
            await passes(1)
            with pytest.raises(StoreTimeoutError):  # it lives, and holds a keyset
                await watching.view.ask_living(1)
            [alarm] = member.journal.named("alarm")
            assert alarm["alarm"].code == "internal"  # type: ignore[attr-defined]
            broken = False
            await passes(HEARTBEAT)
            assert cluster.said("a").epoch == 1

    run_virtually(main())


def test_of_many_alarms_a_record_names_some() -> None:
    async def main() -> None:
        cluster = Cluster()
        kinds = [type(f"E{n}", (DiskError,), {"code": f"alarm-{n}"}) for n in range(MAX_ALARMS + 4)]
        async with begun(cluster).running(own_alarms=lambda: tuple(kind("again") for kind in (*kinds, *kinds))):
            await passes(1)
        assert cluster.said("a").alarms == tuple(f"alarm-{n}" for n in range(MAX_ALARMS))

    run_virtually(main())
