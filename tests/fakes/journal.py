"""A `Journal` that remembers its events."""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    """One event as it was told."""

    name: str
    level: str
    fields: dict[str, object]


class RecordingJournal:
    """Keeps each event with its level and fields."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def event(self, name: str, /, *, level: str = "info", **fields: object) -> None:
        self.events.append(Event(name, level, fields))

    def named(self, name: str) -> list[dict[str, object]]:
        """Return the fields of each event of one name."""
        return [event.fields for event in self.events if event.name == name]
