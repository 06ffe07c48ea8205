"""The one retry policy: transient errors only, growing and jittered pauses, at most one try after the deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from keydist.adapters.retry import LONGEST_PAUSE, TenacityRetry
from keydist.errors import ForbiddenError, KeydistError, NotYetError, TransientError, UnreachableError
from tests.fakes.clock import VirtualClock


class Trial:
    """An attempt that fails so many times, and everything that the retry does around it."""

    def __init__(self, *failures: KeydistError, cost: float = 0.0) -> None:
        self.clock = VirtualClock()
        self.pauses: list[float] = []
        self.told: list[tuple[str, float]] = []
        self.tries = 0
        self._failures = list(failures)
        self._cost = cost

    async def attempt(self) -> str:
        self.tries += 1
        self.clock.advance(self._cost)
        if self._failures:
            raise self._failures.pop(0) if len(self._failures) > 1 else self._failures[0]
        return "done"

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.advance(seconds)

    def run(self, *, deadline: float = 30.0, attempt: Callable[[], Awaitable[str]] | None = None) -> str:
        async def work() -> str:
            return await TenacityRetry(self.clock)(
                attempt or self.attempt,
                deadline=deadline,
                pause=self.pause,
                told=lambda exc, left: self.told.append((exc.message, left)),
            )

        return asyncio.run(work())


def test_a_success_is_returned_at_once() -> None:
    trial = Trial()
    assert trial.run() == "done"
    assert (trial.tries, trial.pauses, trial.told) == (1, [], [])


@pytest.mark.parametrize("successes_after", [1, 2, 5])
def test_transient_failures_are_tried_again(successes_after: int) -> None:
    trial = Trial()

    async def attempt() -> str:
        trial.tries += 1
        if trial.tries <= successes_after:
            raise UnreachableError(f"failure {trial.tries}")
        return "done"

    assert trial.run(attempt=attempt) == "done"
    assert trial.tries == successes_after + 1
    assert [what for what, _ in trial.told] == [f"failure {number + 1}" for number in range(successes_after)]
    assert len(trial.pauses) == successes_after


def test_other_failures_are_raised_at_once() -> None:
    trial = Trial(ForbiddenError("no"))
    with pytest.raises(ForbiddenError):
        trial.run()
    assert trial.tries == 1


def test_other_failures_after_transient_ones_are_raised_at_once() -> None:
    trial = Trial(UnreachableError("one"), NotYetError("two"), ForbiddenError("three"))
    with pytest.raises(ForbiddenError, match="three"):
        trial.run()
    assert trial.tries == 3


def test_the_last_failure_is_raised_at_the_deadline() -> None:
    trial = Trial(UnreachableError("first"), *(NotYetError(f"failure {number}") for number in range(1000)))
    with pytest.raises(NotYetError) as caught:
        trial.run()
    assert caught.value.message == f"failure {trial.tries - 2}"
    assert trial.clock.monotonic() == pytest.approx(30)
    assert all(0 <= left <= 30 for _, left in trial.told)


def test_pauses_grow_are_capped_and_jittered() -> None:
    trial = Trial(TransientError("again"))
    with pytest.raises(TransientError):
        trial.run(deadline=600)
    assert trial.pauses[0] == 0.05
    assert max(trial.pauses) <= LONGEST_PAUSE
    assert all(pause <= 0.05 * 2**number for number, pause in enumerate(trial.pauses[1:6]))
    late = trial.pauses[10:-1]
    assert 0.6 < sum(late) / len(late) < 1.4  # full jitter: half of the cap on average
    assert len(set(late)) == len(late)


def test_no_pause_reaches_past_the_deadline() -> None:
    trial = Trial(TransientError("again"))
    with pytest.raises(TransientError):
        trial.run(deadline=0.06)
    assert sum(trial.pauses) <= 0.06 + 1e-9


@pytest.mark.parametrize("deadline", [0.0, -1.0])
def test_a_deadline_that_has_passed_allows_one_try(deadline: float) -> None:
    trial = Trial(TransientError("again"))
    with pytest.raises(TransientError):
        trial.run(deadline=deadline)
    assert (trial.tries, trial.pauses, trial.told) == (1, [], [])


def test_slow_attempts_count_against_the_deadline() -> None:
    trial = Trial(TransientError("again"), cost=7)
    with pytest.raises(TransientError):
        trial.run(deadline=20)
    assert trial.tries == 3


def test_a_cancellation_is_not_tried_again() -> None:
    trial = Trial()

    async def attempt() -> str:
        trial.tries += 1
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        trial.run(attempt=attempt)
    assert trial.tries == 1
