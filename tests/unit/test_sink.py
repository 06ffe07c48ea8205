"""Holding a fresh JWT in a file, in virtual time: renewed ahead, by another key too, gone where it helps nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from keydist.core.own_jwt import OwnJwt
from keydist.errors import (
    ConfigError,
    CorruptError,
    DiskError,
    KeydistError,
    LeaseExpiredError,
    UnavailableError,
    UsageError,
)
from keydist.services.sink import Signing, Sink, run_sink
from tests.fakes.entropy import NumberedEntropy
from tests.fakes.journal import RecordingJournal
from tests.fakes.manager import RecordingManager
from tests.fakes.virtual_loop import LoopClock, run_virtually
from tests.material import NOW
from tests.unit.agent_world import passes

LIFETIME, RENEWED = 900, 840
NO_LEASE = LeaseExpiredError("confirmed too long ago")


class World:
    """A file, the key that signs, and everything that may go wrong with either; time is virtual."""

    def __init__(self, *, watchdog: float | None = None) -> None:
        self.file: str | None = None
        self.kid = "key-1"
        self.revoked: frozenset[str] = frozenset()
        self.made = 0
        self.fails: dict[str, Exception] = {}
        self.hangs: set[str] = set()
        self.clock = LoopClock()
        self.back = 0
        self.journal = RecordingJournal()
        self.manager = RecordingManager(watchdog_seconds=watchdog)
        self.stop = asyncio.Event()

    def there(self) -> str | None:
        return self.file

    def now(self) -> int:
        return self.clock.now() - self.back

    def monotonic(self) -> float:
        return self.clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self.clock.sleep(seconds)

    async def _step(self, name: str) -> None:
        if name in self.fails:
            raise self.fails[name]
        if name in self.hangs:
            await passes(10**6)

    async def _mint(self) -> OwnJwt:
        await self._step("mint")
        self.made += 1
        now = self.now()
        return OwnJwt(text=f"jwt {self.made}", kid=self.kid, issued=now, expires=now + LIFETIME)

    async def _signing(self) -> Signing:
        await self._step("signing")
        return Signing(self.kid, self.revoked)

    async def _keep(self, jwt: str) -> str:
        await self._step("keep")
        self.file = jwt
        return jwt

    async def _there(self) -> str | None:
        await self._step("there")
        return self.file

    async def _remove(self) -> None:
        await self._step("remove")
        self.file = None

    def during(self, what_happens: Callable[[], Awaitable[None]], left: OwnJwt | None = None) -> None:
        """Run a sink while something happens, and end it."""
        sink = Sink(
            mint=self._mint,
            signing=self._signing,
            keep=self._keep,
            there=self._there,
            remove=self._remove,
            renew_after=RENEWED,
            clock=self,
            entropy=NumberedEntropy("sink"),
            journal=self.journal,
            manager=self.manager,
        )

        async def run() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(run_sink(sink, left, stop=self.stop))
                await passes(0.5)
                await what_happens()
                self.stop.set()

        run_virtually(run())


@pytest.fixture
def world() -> World:
    return World()


def of_before(*, expires: int, kid: str = "key-1") -> OwnJwt:
    return OwnJwt(text="jwt of before", kid=kid, issued=expires - LIFETIME, expires=expires)


def test_there_is_one_at_once_and_only_then_it_is_ready(world: World) -> None:
    async def happens() -> None:
        assert world.there() == "jwt 1"
        assert len(world.manager.named("ready")) == 1
        await passes(RENEWED - 2)
        assert world.made == 1

    world.during(happens)
    assert world.there() == "jwt 1"  # it stays behind
    assert [fields["kid"] for fields in world.journal.named("jwt-kept")] == ["key-1"]


def test_it_is_renewed_at_14_of_15_minutes(world: World) -> None:
    async def happens() -> None:
        for renewals in range(1, 4):
            await passes(RENEWED - 4)
            assert world.made == renewals
            await passes(5)
            assert world.there() == f"jwt {renewals + 1}"

    world.during(happens)
    assert len(world.manager.named("ready")) == 1
    assert len(world.manager.named("status")) == 3


def test_another_key_that_signs_renews_it_within_seconds(world: World) -> None:
    async def happens() -> None:
        await passes(10)
        world.kid = "key-2"
        await passes(2)
        assert (world.there(), world.made) == ("jwt 2", 2)

    world.during(happens)


def test_a_revoked_key_whose_jwt_cannot_be_replaced_takes_it_away(world: World) -> None:
    async def happens() -> None:
        world.fails["mint"] = NO_LEASE
        await passes(10)
        assert world.there() == "jwt 1"
        world.revoked = frozenset({"key-1"})
        await passes(2)
        assert world.there() is None
        world.fails.clear()
        world.kid = "key-2"
        await passes(31)
        assert world.there() == "jwt 2"

    world.during(happens)
    assert world.journal.named("jwt-removed")[0]["why"] == "its key was revoked"


def test_while_none_can_be_made_the_last_one_stays_until_it_expires_and_then_goes(world: World) -> None:
    async def happens() -> None:
        world.fails["mint"] = NO_LEASE
        await passes(LIFETIME - 2)
        assert world.there() == "jwt 1"
        await passes(3)
        assert world.there() is None
        await passes(60)
        world.fails.clear()
        await passes(31)
        assert world.there() == "jwt 2"

    world.during(happens)
    told = world.journal.named("jwt-not-renewed")
    assert all(fields["reason"] is NO_LEASE for fields in told)
    assert len(told) < 15
    assert {event.level for event in world.journal.events if event.name == "jwt-not-renewed"} == {"warning", "error"}
    assert world.journal.named("jwt-removed")[0]["why"] == "it has expired"
    assert "not renewed: confirmed too long ago" in world.manager.named("status")


def test_it_is_tried_again_soon_and_then_more_and_more_rarely(world: World) -> None:
    world.fails["mint"] = NO_LEASE

    async def happens() -> None:
        await passes(600)

    world.during(happens)
    pauses = [float(str(fields["again_in"])) for fields in world.journal.named("jwt-not-renewed")]
    assert 0.5 <= pauses[0] <= 1
    assert max(pauses) <= 30
    assert 20 < len(pauses) < 100
    assert len(set(pauses)) > len(pauses) / 2  # jittered
    assert world.manager.named("ready") == []
    assert len(world.manager.named("waiting")) == len(pauses)  # a start is not given up


@pytest.mark.parametrize("step", ["mint", "keep"])
@pytest.mark.parametrize(
    "failure", [DiskError("full"), LeaseExpiredError("late"), CorruptError("damaged"), ZeroDivisionError("a secret")]
)
def test_whatever_fails_at_first_it_is_there_once_that_is_over(world: World, step: str, failure: Exception) -> None:
    world.fails[step] = failure

    async def happens() -> None:
        await passes(5)
        assert world.there() is None
        world.fails.clear()
        await passes(31)
        assert world.there() is not None

    world.during(happens)
    assert "a secret" not in str(world.journal.events)


@pytest.mark.parametrize("failure", [UsageError("no issuer"), ConfigError("no file")])
def test_what_no_time_heals_ends_it_at_first_and_never_later(world: World, failure: KeydistError) -> None:
    async def happens() -> None:
        world.fails["mint"] = failure
        await passes(RENEWED + 10)

    world.during(happens)
    assert world.journal.named("jwt-not-renewed")
    begins = World()
    begins.fails["mint"] = failure
    with pytest.raises(ExceptionGroup) as caught:
        begins.during(happens)
    assert caught.group_contains(type(failure))


def test_a_disk_that_does_not_answer_is_told_and_waited_for(world: World) -> None:
    world.hangs |= {"keep", "signing"}

    async def happens() -> None:
        await passes(30)
        world.hangs.clear()
        await passes(31)
        assert world.there() is not None

    world.during(happens)
    assert isinstance(world.journal.named("jwt-not-renewed")[0]["reason"], UnavailableError)


def test_a_clock_that_was_put_back_renews_what_is_dated_ahead(world: World) -> None:
    async def happens() -> None:
        await passes(100)
        world.back = 31
        await passes(2)
        assert world.made == 1
        world.back = 3600
        await passes(2)
        assert world.made == 2

    world.during(happens)


def test_a_disk_that_cannot_be_read_renews_nothing_by_itself(world: World) -> None:
    async def happens() -> None:
        world.fails["signing"] = DiskError("unreadable")
        await passes(60)
        assert (world.made, world.there()) == (1, "jwt 1")

    world.during(happens)


# --- what others do to the file -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by_somebody", "why"), [(None, "somebody removed the file"), ("junk", "somebody changed the file")]
)
def test_a_file_that_somebody_took_is_made_anew_within_seconds(world: World, by_somebody: str | None, why: str) -> None:
    async def happens() -> None:
        for made in (2, 3):
            await passes(100)
            world.file = by_somebody
            await passes(2)
            assert (world.there(), world.made) == (f"jwt {made}", made)

    world.during(happens)
    assert [(fields["kid"], fields["why"]) for fields in world.journal.named("jwt-lost")] == [("key-1", why)] * 2


def test_while_none_can_be_made_a_lost_file_is_told_once_and_made_once_that_is_over(world: World) -> None:
    async def happens() -> None:
        await passes(10)
        world.fails["mint"] = NO_LEASE
        world.file = None
        await passes(100)
        assert world.there() is None
        world.fails.clear()
        await passes(31)
        assert world.there() == "jwt 2"

    world.during(happens)
    assert len(world.journal.named("jwt-lost")) == 1
    assert {fields["keeps"] for fields in world.journal.named("jwt-not-renewed")} == {"nothing"}
    assert world.journal.named("jwt-removed") == []


def test_a_changed_file_still_goes_where_its_key_is_revoked(world: World) -> None:
    async def happens() -> None:
        await passes(10)
        world.fails["mint"] = NO_LEASE
        world.file = "jwt 1, given to a group"
        world.revoked = frozenset({"key-1"})
        await passes(2)
        assert world.there() is None

    world.during(happens)


def test_two_who_fight_for_one_file_do_so_more_and_more_rarely(world: World) -> None:
    async def happens() -> None:
        for _ in range(600):
            world.file = "another sink's"
            await passes(1)
        assert 15 < world.made < 100
        await passes(90)
        before = world.made
        world.file = None
        await passes(2)
        assert world.made == before + 1  # it is long ago

    world.during(happens)


@pytest.mark.parametrize("step", ["there", "keep"])
def test_what_a_slow_disk_does_late_is_nobody_elses_doing(world: World, step: str) -> None:
    async def happens() -> None:
        await passes(10)
        world.hangs.add(step)
        world.kid = "key-2"
        await passes(4)
        world.file = "jwt 2" if step == "keep" else world.file
        await passes(30)
        world.hangs.clear()
        await passes(40)
        assert world.there() == f"jwt {world.made}"

    world.during(happens)
    assert world.journal.named("jwt-lost") == []


# --- what an earlier run left -------------------------------------------------------------------


def test_what_was_left_is_renewed_at_once(world: World) -> None:
    world.file = "jwt of before"

    async def happens() -> None:
        assert world.there() == "jwt 1"

    world.during(happens, of_before(expires=NOW + 800))


@pytest.mark.parametrize(("expires", "kid"), [(NOW, "key-1"), (NOW + 800, "key-0")], ids=["expired", "revoked"])
def test_what_was_left_and_helps_nobody_goes(world: World, expires: int, kid: str) -> None:
    world.file = "jwt of before"
    world.revoked = frozenset({"key-0"})
    world.fails["mint"] = NO_LEASE

    async def happens() -> None:
        assert world.there() is None

    world.during(happens, of_before(expires=expires, kid=kid))


def test_what_was_left_and_is_valid_stays_while_none_can_be_made(world: World) -> None:
    world.file = "jwt of before"
    world.fails["mint"] = NO_LEASE

    async def happens() -> None:
        await passes(90)
        assert world.there() == "jwt of before"
        assert world.manager.named("ready") == []
        await passes(11)
        assert world.there() is None

    world.during(happens, of_before(expires=NOW + 100))


def test_a_file_that_cannot_be_removed_is_told_and_tried_again(world: World) -> None:
    world.file = "jwt of before"
    world.fails |= {"mint": NO_LEASE, "remove": DiskError("read-only")}

    async def happens() -> None:
        await passes(3)
        assert world.there() is not None
        world.fails.pop("remove")
        await passes(2)
        assert world.there() is None

    world.during(happens, of_before(expires=NOW))
    assert world.journal.named("jwt-not-removed")


def test_the_watchdog_is_fed_where_there_is_one() -> None:
    async def happens() -> None:
        await passes(10)

    for seconds in (None, 3.0):
        world = World(watchdog=seconds)
        world.during(happens)
        assert len(world.manager.named("watchdog")) == (0 if seconds is None else 11)
