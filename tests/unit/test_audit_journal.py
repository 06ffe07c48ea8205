"""The audit journal on real files: several processes, files that follow each other, what was shipped, damage."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from keydist.adapters.disk.posix import Directory
from keydist.adapters.disk.system import System
from keydist.adapters.trail import journal as module
from keydist.adapters.trail.auditor import JournalAuditor
from keydist.adapters.trail.journal import FileJournal
from keydist.core.audit import Event, Facts, Link, What
from keydist.core.audit_record import parse_entry
from keydist.errors import BusyError, DiskError, InternalError, KeydistError, MalformedError, UnsafeFileError
from tests.fakes.clock import VirtualClock
from tests.fakes.entropy import NumberedEntropy
from tests.fakes.faulty_system import FaultySystem
from tests.material import NOW
from tests.unit.audit_material import NODE, THREE, WHO, event_of

ONE, TWO, THIRD = THREE


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


def journal(state: Path, name: str = "x") -> FileJournal:
    return FileJournal(str(state), NODE, NumberedEntropy(name), system=FaultySystem(), lock_seconds=0.05)


def fill(kept: FileJournal, count: int) -> list[Link]:
    for _ in range(count):
        kept.append(event_of(ONE), at=NOW, who=WHO)
    return [parse_entry(raw).link for raw in kept.read_after(None, most=1000)]


def files(state: Path) -> list[Path]:
    return sorted((state / "audit").glob("*.jsonl"))


def test_where_nothing_was_written_there_is_nothing(state: Path) -> None:
    for path in (state, state / "none"):
        kept = journal(path)
        assert (kept.last(), kept.read_after(None, most=9), kept.shipped()) == (None, (), None)
        assert (kept.find("00" * 8, 1), kept.mark(), kept.waiting()) == (None, None, 0)
    with pytest.raises(DiskError, match="no audit trail is kept"):
        journal(state / "none").append(event_of(ONE), at=NOW, who=WHO)


def test_records_are_read_behind_a_link_over_all_files(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 1500)
    kept = journal(state)
    links = fill(kept, 7)
    assert len(files(state)) > 2
    assert [link.seq for link in links] == [1, 2, 3, 4, 5, 6, 7]
    for most in (1, 3, 100):
        for at, link in enumerate([None, *links]):
            found = [parse_entry(raw).seq for raw in kept.read_after(link, most=most)]
            assert found == [1, 2, 3, 4, 5, 6, 7][at : at + most]
    assert kept.last() == links[-1]
    for link in links:
        raw = kept.find(link.chain, link.seq)
        assert raw is not None
        assert parse_entry(raw).link == link
    assert kept.find(links[0].chain, 8) is None
    assert kept.find("00" * 8, 1) is None
    assert len(kept.read_after(Link(chain="00" * 8, seq=3), most=100)) == 7  # it is not here: from the first on


def test_a_change_shows_in_the_mark(state: Path) -> None:
    kept = journal(state)
    marks = [kept.mark()]
    for _ in range(3):
        fill(kept, 1)
        marks.append(kept.mark())
    assert len(set(map(str, marks))) == 4
    assert kept.mark() == marks[-1]
    (state / "audit").chmod(0o777)
    assert kept.mark() is None


def test_what_was_taken_goes_once_there_is_too_much(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 1000)
    monkeypatch.setattr(module, "KEPT_BYTES", 3000)
    kept = journal(state)
    links = fill(kept, 8)
    count = len(files(state))
    assert kept.waiting() == count * 1000
    kept.note_shipped(links[1])
    assert parse_entry(kept.read_after(None, most=1)[0]).seq <= 3
    kept.note_shipped(links[-1])
    assert kept.waiting() == 0
    assert len(files(state)) == 3
    assert kept.shipped() == links[-1]._replace(lineage="", digest=b"")
    assert kept.find(links[0].chain, 1) is None
    assert fill(kept, 1)[-1].seq == 9


def test_nothing_goes_that_was_not_taken(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 1000)
    monkeypatch.setattr(module, "KEPT_BYTES", 1000)
    kept = journal(state)
    links = fill(kept, 6)
    kept.note_shipped(Link(chain="00" * 8, seq=9))
    assert len(kept.read_after(None, most=100)) == 6
    kept.note_shipped(links[0])
    assert len(kept.read_after(links[0], most=100)) == 5


@pytest.mark.parametrize("text", [b"{}", b'{"chain":"x","seq":1,"hash":""}', b"["])
def test_a_note_of_what_was_taken_that_cannot_be_read_is_none(state: Path, text: bytes) -> None:
    kept = journal(state)
    fill(kept, 1)
    file = state / "audit" / "shipped.json"
    file.write_bytes(text)
    file.chmod(0o600)
    assert kept.shipped() is None


@pytest.mark.parametrize("end", [b"junk\n", b"\n", b"{}\n"])
def test_behind_a_last_line_that_is_no_record_a_new_chain_begins(state: Path, end: bytes) -> None:
    kept = journal(state)
    first = fill(kept, 2)[0]
    with files(state)[0].open("ab") as file:
        file.write(end)
    assert kept.last() is None
    kept.append(event_of(TWO), at=NOW, who=WHO)
    last = kept.last()
    assert last is not None
    assert (last.seq, last.chain == first.chain) == (1, False)
    assert files(state)[0].read_bytes().endswith(end)  # kept for who looks into it


def test_an_empty_file_is_taken_away(state: Path) -> None:
    kept = journal(state)
    links = fill(kept, 2)
    name = f"00000002-{links[0].chain}-{3:016d}.jsonl"
    (state / "audit" / name).touch(mode=0o600)
    assert fill(kept, 1)[-1].seq == 3
    assert len(files(state)) == 1


def test_others_who_may_write_to_it_are_refused(state: Path) -> None:
    kept = journal(state)
    fill(kept, 1)
    files(state)[0].chmod(0o666)
    with pytest.raises(UnsafeFileError):
        fill(kept, 1)


def test_a_lock_that_is_held_is_waited_for_and_then_told(state: Path) -> None:
    kept = journal(state)
    fill(kept, 1)
    folder = Directory.open_root(str(state / "audit"), mode=0o700, system=System())
    assert folder is not None
    with folder, folder.locked("lock") as given:
        assert given
        with pytest.raises(BusyError, match="audit"):
            fill(kept, 1)
    assert fill(kept, 1)[-1].seq == 2


def test_processes_that_write_at_once_make_one_chain(state: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.unit.test_audit_journal import *;"
        "kept = FileJournal(sys.argv[1], NODE, NumberedEntropy(sys.argv[2]));"
        "[kept.append(event_of(ONE), at=NOW, who=WHO) for _ in range(20)]"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(state), name]) for name in "abc"]
    assert [process.wait() for process in running] == [0, 0, 0]
    links = [parse_entry(raw) for raw in journal(state).read_after(None, most=100)]
    assert [link.seq for link in links] == list(range(1, 61))
    assert all(one.link.hash == other.prev for one, other in itertools.pairwise(links))


# --- who writes into it -------------------------------------------------------------------------


def test_what_keeps_a_record_from_being_written_is_told_and_the_record_waits(state: Path) -> None:
    told: list[KeydistError | None] = []
    kept, clock = journal(state), VirtualClock()
    auditor = JournalAuditor(kept, clock, lambda: WHO, told.append)
    auditor.note(event_of(ONE))
    (state / "audit").chmod(0o777)
    auditor.note(event_of(TWO))
    auditor.note(Event(what=What.MINTED, held=TWO))
    auditor.retry()
    clock.advance(60)
    (state / "audit").chmod(0o700)
    assert [type(trouble) for trouble in told] == [type(None), *[UnsafeFileError] * 3]
    auditor.note(event_of(THIRD))
    auditor.retry()
    assert told[4:] == [None]
    found = [parse_entry(raw) for raw in kept.read_after(None, most=9)]
    assert [(entry.epoch, entry.what, entry.at - NOW) for entry in found] == [
        (1, "epoch", 0),
        (2, "epoch", 0),  # when it happened
        (3, "epoch", 60),
    ]


def test_a_defect_is_told_by_its_name_and_keeps_nothing_back(state: Path) -> None:
    told: list[KeydistError | None] = []
    answers: list[Facts] = [WHO]

    def who() -> Facts:
        return answers.pop() if answers else no_answer()

    def no_answer() -> Facts:
        raise RuntimeError("a secret")

    auditor = JournalAuditor(journal(state), VirtualClock(), who, told.append)
    auditor.note(event_of(ONE))
    auditor.note(event_of(TWO))
    answers.append(WHO)
    auditor.note(event_of(THIRD))
    assert [type(trouble) for trouble in told] == [type(None), InternalError, type(None)]
    assert "secret" not in str(told[1])
    assert [parse_entry(raw).epoch for raw in journal(state).read_after(None, most=9)] == [1, 3]


def test_the_same_refusal_is_noted_once(state: Path) -> None:
    kept = journal(state)
    auditor = JournalAuditor(kept, VirtualClock(), lambda: WHO, lambda _: None)
    for _ in range(3):
        auditor.note(event_of(ONE, What.REFUSED))
    auditor.note(event_of(TWO, What.REFUSED))
    auditor.note(event_of(TWO))
    auditor.note(event_of(TWO, What.REFUSED))
    assert [parse_entry(raw).epoch for raw in kept.read_after(None, most=9)] == [1, 2, 2, 2]


def test_a_refusal_is_noted_once_whatever_was_minted_between(state: Path) -> None:
    kept = journal(state)
    auditor = JournalAuditor(kept, VirtualClock(), lambda: WHO, lambda _: None)
    for _ in range(3):
        auditor.note(event_of(ONE, What.REFUSED))
        auditor.note(Event(what=What.MINTED, held=ONE))
    assert [parse_entry(raw).what for raw in kept.read_after(None, most=9)] == ["refused", *["minted"] * 3]


def test_what_waits_is_not_pushed_out_by_jwts_nor_kept_back_by_what_no_reader_takes(state: Path) -> None:
    told: list[KeydistError | None] = []
    kept = journal(state)
    auditor = JournalAuditor(kept, VirtualClock(), lambda: WHO, told.append)
    auditor.note(event_of(ONE)._replace(how="x" * 300))
    assert [type(trouble) for trouble in told] == [MalformedError]
    (state / "audit").chmod(0o777)
    for _ in range(256):
        auditor.note(event_of(TWO))
    for _ in range(3):
        auditor.note(Event(what=What.MINTED, held=TWO))
    assert type(told[-1]) is UnsafeFileError
    (state / "audit").chmod(0o700)
    auditor.retry()
    assert told.pop() is None
    assert [parse_entry(raw).what for raw in kept.read_after(None, most=999)] == ["epoch"] * 256


def test_where_too_many_wait_refusals_go_first(state: Path) -> None:
    kept = journal(state)
    auditor = JournalAuditor(kept, VirtualClock(), lambda: WHO, lambda _: None)
    auditor.note(event_of(ONE))
    (state / "audit").chmod(0o777)
    for _ in range(200):
        auditor.note(event_of(TWO))
    for number in range(300):
        auditor.note(event_of(ONE, What.REFUSED)._replace(facts={"number": number}))
    auditor.note(event_of(THIRD))
    (state / "audit").chmod(0o700)
    assert auditor.retry()
    found = [parse_entry(raw) for raw in kept.read_after(None, most=999)]
    assert [entry.facts["number"] for entry in found if entry.what == "refused"] == list(range(245, 300))
    assert [entry.epoch for entry in found if entry.what == "epoch"] == [1, *[2] * 200, 3]
    (state / "audit").chmod(0o777)
    for _ in range(256):
        auditor.note(event_of(TWO))
    auditor.note(event_of(THIRD, What.REFUSED))
    (state / "audit").chmod(0o700)
    assert auditor.retry()
    assert {parse_entry(raw).epoch for raw in kept.read_after(found[-1].link, most=999)} == {2}
