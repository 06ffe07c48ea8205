"""A `Notifier` that remembers what it was told."""

from __future__ import annotations


class RecordingNotifier:
    """Keeps each reason for waiting with the seconds that were left."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float]] = []

    def waiting(self, what: str, *, seconds_left: float) -> None:
        self.told.append((what, seconds_left))
