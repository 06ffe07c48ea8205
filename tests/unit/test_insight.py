"""A window into an agent: a look that is asked for is done, or not waited for."""

from __future__ import annotations

import asyncio

import pytest

from keydist.core.restart import Role
from keydist.services import insight as module
from keydist.services.insight import Insight
from tests.fakes.virtual_loop import LoopClock, run_virtually
from tests.unit.agent_world import Cluster


def test_a_look_that_takes_too_long_is_not_waited_for_and_goes_on() -> None:
    async def work() -> None:
        insight, present = Insight(), Cluster().member("a", Role.FOLLOWER).present()
        looked: list[float] = []
        clock = LoopClock()

        async def look() -> None:
            await clock.sleep(10)
            looked.append(clock.monotonic())

        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(insight.run(present, look, clock))
            assert not await insight.look(3)
            assert looked == []
            assert await insight.look(30)  # the one that runs was asked for before: another follows
            assert len(looked) == 2
            assert insight.present is present
            running.cancel()

    run_virtually(work())


def test_where_many_wait_the_next_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING", 1)

    async def work() -> None:
        insight = Insight()
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(insight.look(5))
            await asyncio.sleep(0)  # noqa: TID251 - it has begun
            assert not await insight.look(5)
            assert not waiting.done()
            assert not await waiting  # nobody looks

    run_virtually(work())
