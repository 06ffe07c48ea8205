"""A process is stopped before every system call of a record: the journal has the record, whole, or does not have it.

Afterwards the next record is written, and the chain is whole from its first record on.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

import pytest

from keydist.adapters.disk.system import System
from keydist.adapters.trail import journal as module
from keydist.adapters.trail.journal import FileJournal
from keydist.core.audit import Link
from keydist.core.audit_chain import check_next
from keydist.core.audit_record import parse_entry
from keydist.errors import DiskError
from tests.crash.stops import Stop, every_stop
from tests.fakes.entropy import NumberedEntropy
from tests.fakes.faulty_system import CALLS, Call, FaultySystem
from tests.material import NOW
from tests.unit.audit_material import NODE, THREE, WHO, event_of, key_of

ONE, TWO, THIRD = THREE
every_kind_of_stop = pytest.mark.parametrize("stop", Stop)


def journal(base: Path, system: System | None = None) -> FileJournal:
    (base / "state").mkdir(mode=0o700, parents=True, exist_ok=True)
    return FileJournal(str(base / "state"), NODE, NumberedEntropy(base.name), system=system or FaultySystem())


def checked(kept: FileJournal) -> list[int]:
    """Return the epochs that a journal tells of, in one chain that is whole."""
    link: Link | None = None
    epochs = []
    for raw in kept.read_after(None, most=100):
        entry = check_next(raw, link, place=NODE, key_of=key_of).entry
        link = entry.link
        epochs.append(entry.epoch)
    assert kept.last() == link or link is None
    return epochs


def append(kept: FileJournal, *which: int) -> None:
    for epoch in which:
        kept.append(event_of(THREE[epoch - 1]), at=NOW, who=WHO)


@every_kind_of_stop
@pytest.mark.parametrize("before", [0, 1], ids=["the first record", "a later record"])
@pytest.mark.parametrize("size", [1, 1 << 20], ids=["a file for each", "one file"])
def test_a_record_is_there_whole_or_not_at_all(
    folder: Path, stop: Stop, before: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", size)
    monkeypatch.setattr(module, "_MOST", 1 << 21)

    def prepare(base: Path) -> None:
        append(journal(base), *range(1, before + 1))

    def work(base: Path, system: System) -> None:
        append(journal(base, system), before + 1)

    for left in every_stop(folder, stop, prepare, work):
        kept = journal(left.base)
        without, whole = list(range(1, before + 1)), list(range(1, before + 2))
        found = checked(kept)
        assert found in ([whole] if left.finished else [without, whole]), left.where
        append(kept, 3)
        assert checked(kept) == [*found, 3], left.where


def test_a_record_that_is_cut_short_is_taken_away_by_the_next(tmp_path: Path) -> None:
    kept = journal(tmp_path)
    append(kept, 1, 2)
    (file,) = (tmp_path / "state" / "audit").glob("*.jsonl")
    whole = file.read_bytes()
    for size in (len(whole) - 1, len(whole) - 100, whole.index(b"\n") + 2):
        file.write_bytes(whole[:size])
        assert checked(kept) == [1]
        append(kept, 3)
        assert checked(kept) == [1, 3]


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_call_that_fails_is_told_and_leaves_a_chain_that_goes_on(tmp_path: Path, name: str) -> None:
    append(journal(tmp_path), 1)
    counted = FaultySystem()
    append(journal(tmp_path, counted), 2)
    for number in range(1, sum(call.name == name for call in counted.calls) + 1):
        seen: list[Call] = []

        def fault(call: Call, number: int = number, seen: list[Call] = seen) -> OSError | None:
            seen += [call] if call.name == name else []
            return OSError(errno.ENOSPC, "full") if call.name == name and len(seen) == number else None

        before = checked(journal(tmp_path))
        system = FaultySystem(fault, short_writes=True)
        with suppress(DiskError):
            append(journal(tmp_path, system), 3)
        found = checked(journal(tmp_path))
        assert found in (before, [*before, 3])


def test_what_the_stream_took_is_noted_or_not_and_nothing_else_changes(folder: Path) -> None:
    def prepare(base: Path) -> None:
        append(journal(base), 1, 2)

    def work(base: Path, system: System) -> None:
        kept = journal(base, system)
        kept.note_shipped(parse_entry(kept.read_after(None, most=1)[0]).link)

    for left in every_stop(folder, Stop.POWER_CUT, prepare, work):
        kept = journal(left.base)
        noted = kept.shipped()
        assert noted is None or noted.seq == 1
        assert noted is not None or not left.finished
        assert checked(kept) == [1, 2]
