"""How long to wait: within bounds, spread over all of them, longer after each failure."""

from __future__ import annotations

import asyncio

import pytest

from keydist.services.pace import Backoff, jittered, uniform, woken
from tests.fakes.entropy import NumberedEntropy
from tests.fakes.virtual_loop import run_virtually
from tests.unit.agent_world import passes


class Constant:
    """An `Entropy` whose every byte is the same."""

    def __init__(self, byte: int) -> None:
        self._byte = byte

    def random(self, size: int) -> bytes:
        return bytes([self._byte]) * size

    async def signing_key(self, alg: str, bits: int) -> bytes:
        raise NotImplementedError


LOWEST, HIGHEST = Constant(0), Constant(255)


def test_a_random_number_is_at_least_0_and_less_than_1() -> None:
    assert uniform(LOWEST) == 0
    assert 0.999_999 < uniform(HIGHEST) < 1


@pytest.mark.parametrize(("mean", "spread", "least", "most"), [(10, 0.1, 9, 11), (45, 1 / 3, 30, 60), (7, 0, 7, 7)])
def test_jitter_is_around_the_mean(mean: float, spread: float, least: float, most: float) -> None:
    assert jittered(LOWEST, mean, spread=spread) == pytest.approx(least)
    assert jittered(HIGHEST, mean, spread=spread) == pytest.approx(most)
    entropy = NumberedEntropy("jitter")
    found = [jittered(entropy, mean, spread=spread) for _ in range(2000)]
    assert sum(found) / len(found) == pytest.approx(mean, rel=0.02)


def test_pauses_double_up_to_the_most_and_begin_anew_after_progress() -> None:
    backoff = Backoff(HIGHEST, first=0.05, most=2.0)
    found = [backoff.pause() for _ in range(9)]
    assert found == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0])
    backoff.reset()
    assert backoff.pause() == pytest.approx(0.05)


def test_no_pause_is_shorter_than_half_of_the_first_and_jitter_is_full() -> None:
    backoff = Backoff(LOWEST, first=0.05, most=2.0)
    assert [backoff.pause() for _ in range(9)] == [0.025] * 9


def test_a_pause_after_very_many_failures_is_the_most() -> None:
    backoff = Backoff(HIGHEST, first=0.05, most=2.0)
    assert [backoff.pause() for _ in range(5000)][-1] == pytest.approx(2.0)


def test_a_wait_ends_with_its_event_or_its_time_and_tells_which() -> None:
    async def main() -> None:
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        assert not await woken(event, within=5)
        assert loop.time() == 5
        loop.call_later(2, event.set)
        assert await woken(event, within=None)
        assert loop.time() == 7

    run_virtually(main())


@pytest.mark.parametrize("turns", range(5))
def test_a_cancellation_that_comes_with_the_event_is_not_lost(turns: int) -> None:
    async def main() -> None:
        event = asyncio.Event()

        async def for_ever() -> None:
            while True:
                event.clear()
                await woken(event, within=5)

        task = asyncio.get_running_loop().create_task(for_ever())
        await passes(1)
        event.set()
        for _ in range(turns):
            await passes(0)
        task.cancel()
        await passes(20)
        assert task.cancelled()

    run_virtually(main())
