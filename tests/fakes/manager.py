"""A `Manager` that remembers what it was told, and when."""

from __future__ import annotations

import asyncio


class RecordingManager:
    """Keeps each thing it was told as (seconds of the running loop, kind, text)."""

    def __init__(self, *, watchdog_seconds: float | None = None) -> None:
        self._watchdog_seconds = watchdog_seconds
        self.told: list[tuple[float, str, str]] = []
        self.left: list[float] = []
        """The seconds that each wait may still take."""

    @property
    def watchdog_seconds(self) -> float | None:
        return self._watchdog_seconds

    def waiting(self, what: str, *, seconds_left: float) -> None:
        self.left.append(seconds_left)
        self._tell("waiting", what)

    def ready(self, status: str) -> None:
        self._tell("ready", status)

    def status(self, text: str) -> None:
        self._tell("status", text)

    def watchdog(self) -> None:
        self._tell("watchdog", "")

    def named(self, kind: str) -> list[str]:
        """Return the texts of one kind."""
        return [text for _, known, text in self.told if known == kind]

    def times(self, kind: str) -> list[float]:
        """Return when it was told one kind of thing."""
        return [at for at, known, _ in self.told if known == kind]

    def _tell(self, kind: str, text: str) -> None:
        self.told.append((asyncio.get_running_loop().time(), kind, text))
