"""What a report has to say, as samples: label values, and a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from keydist.core.fleet import NodeState
from keydist.core.keyset import LISTED
from keydist.core.report import UNAVAILABLE, VERIFY_REASONS, KeyReport, KeysetReport, Report
from keydist.core.restart import InStore
from keydist.errors import KeydistError, OverdueError

PHASES: Final = ("rotation", "drop", "rehearsal")
"""What may be overdue."""

Sample = tuple[tuple[str, ...], float]


def codes() -> tuple[str, ...]:
    """Return the code of every error that there is: each may be an alarm."""
    return tuple(sorted({error.code for error in _below(KeydistError)}))


def _below(error: type[KeydistError]) -> Iterator[type[KeydistError]]:
    yield error
    for child in error.__subclasses__():
        yield from _below(child)


def one(value: float | None) -> Iterator[Sample]:
    """Yield a number where there is one."""
    if value is not None:
        yield (), value


def counted(names: Iterable[str], counts: Mapping[str, float]) -> Iterator[Sample]:
    """Yield each name with its count; one that is missing at 0 would be missing to an alert too."""
    for name in dict.fromkeys((*names, *counts)):
        yield (name,), counts.get(name, 0)


def of_keyset(value: Callable[[KeysetReport], float | None]) -> Callable[[Report], Iterator[Sample]]:
    """Return what reads a number of the keyset; nothing where there is none."""
    return lambda report: one(None if report.keyset is None else value(report.keyset))


def of_keys(values: Callable[[KeyReport], Iterable[Sample]]) -> Callable[[Report], Iterator[Sample]]:
    """Yield samples of each key, its kid before their labels."""

    def samples(report: Report) -> Iterator[Sample]:
        for key in report.keyset.keys if report.keyset is not None else ():
            for labels, value in values(key):
                yield (key.kid, *labels), value

    return samples


def noted(key: KeyReport) -> Iterator[Sample]:
    """Yield since when the key is held in each of its states."""
    for state in sorted(LISTED):
        if state.value in key.noted:
            yield (key.use, state.value), key.noted[state.value]


def written(key: KeyReport) -> Iterator[Sample]:
    """Yield what the keyset says happened to the key when."""
    for event in ("created", "published", "activated", "retired", "verify_until"):
        at = getattr(key, event)
        if at is not None:
            yield (key.use, event), at


def minted(key: KeyReport) -> Iterator[Sample]:
    """Yield how many JWTs were signed with the key here."""
    if key.use == "sig":
        yield (), key.minted.jwts


def last_expiry(key: KeyReport) -> Iterator[Sample]:
    """Yield the latest expiry of what was signed."""
    if key.minted.last_expiry:
        yield (), key.minted.last_expiry


def store(report: Report) -> Iterator[Sample]:
    """Yield each thing that the store may hold, 1 for the one it does."""
    for found in InStore:
        yield (found.name.lower().replace("_", "-"),), report.store is found


def overdue(report: Report) -> Iterator[Sample]:
    """Yield each phase, 1 for one that is late."""
    late = {alarm.phase for alarm in report.alarms if isinstance(alarm, OverdueError)}
    for phase in PHASES:
        yield (phase,), phase in late


def fleet(report: Report) -> Iterator[Sample]:
    """Yield how many instances are in each state, on a leader."""
    if report.fleet is not None:
        counts = Counter(row.state.value for row in report.fleet.nodes)
        yield from counted((state.value for state in NodeState), counts)


def alarms(report: Report) -> Iterator[Sample]:
    """Yield how many alarms stand of each code that there is."""
    return counted(codes(), Counter(alarm.code for alarm in report.alarms))


def failures(report: Report) -> Iterator[Sample]:
    """Yield how many JWTs were not believed, for each reason that there is."""
    return counted((*VERIFY_REASONS, UNAVAILABLE), report.failures)
