"""The one retry policy: exponential from 50 ms to 2 s with full jitter, transient errors only, under a deadline.

The first attempt is made without tenacity, whose import costs as much as a whole start from disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from keydist.errors import KeydistError, TransientError

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from keydist.ports import Clock

T = TypeVar("T")
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0


class TenacityRetry:
    """Retries by tenacity; see `keydist.ports.Retry`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def __call__(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        deadline: float,
        pause: Callable[[float], Awaitable[None]],
        told: Callable[[KeydistError, float], None],
    ) -> T:
        """Return the first result of `attempt`; raise its last failure at the deadline."""
        try:
            return await attempt()
        except TransientError as exc:
            if self._clock.monotonic() >= deadline:
                raise
            told(exc, deadline - self._clock.monotonic())
        return await self._again(attempt, deadline=deadline, pause=pause, told=told)

    async def _again(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        deadline: float,
        pause: Callable[[float], Awaitable[None]],
        told: Callable[[KeydistError, float], None],
    ) -> T:
        from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential  # noqa: PLC0415 - 37 ms

        def left() -> float:
            return deadline - self._clock.monotonic()

        def before_sleep(state: RetryCallState) -> None:
            failure = state.outcome.exception() if state.outcome else None
            if isinstance(failure, KeydistError):
                told(failure, left())

        async def bounded_pause(seconds: float) -> None:
            await pause(max(0.0, min(seconds, left())))

        await bounded_pause(FIRST_PAUSE)
        return await AsyncRetrying(
            wait=wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
            stop=lambda _state: left() <= 0,
            retry=retry_if_exception_type(TransientError),
            sleep=bounded_pause,
            before_sleep=before_sleep,
            reraise=True,
        )(attempt)
