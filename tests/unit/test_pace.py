"""How long to wait: within bounds, spread over all of them, longer after each failure."""

from __future__ import annotations

import pytest

from keydist.services.pace import Backoff, jittered, uniform
from tests.fakes.entropy import NumberedEntropy


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
