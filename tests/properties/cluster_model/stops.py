"""Points of a process at which something may happen: the process ends there, or somebody else acts."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TypeVar

from tests.fakes.faulty_system import Crash

T = TypeVar("T")


def finished(coroutine: Coroutine[object, object, T]) -> T:
    """Run a coroutine that touches fakes only, and so never waits, to its end."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise AssertionError("it waits for something that no fake does")


class Stops:
    """Counts the points that a process passes, before and after each call of a port; `plan` strikes at one."""

    def __init__(self) -> None:
        self._left: int | None = None
        self._event: Callable[[], None] | None = None

    def plan(self, points: int, event: Callable[[], None]) -> None:
        """Let `event` happen after so many more points were passed."""
        self._left, self._event = points, event

    def forget(self) -> None:
        self._left = self._event = None

    def point(self) -> None:
        if self._left is None:
            return
        self._left -= 1
        if self._left < 0:
            event = self._event
            self.forget()
            if event is not None:
                event()


def crash() -> None:
    """End the process."""
    raise Crash
